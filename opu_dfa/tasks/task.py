"""The contract that every task meets: where examples come from, what is lost by an output, and what else to report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Split = Literal["validation", "test"]
Batch = tuple[Any, Any]


class Task(ABC):
    """Batches `(x, y)`, a loss, and scores. x and y are tensors or tuples of tensors; a tuple x is a model's arguments.

    Attributes that a task sets: `title`; `unit` of the loss; `item`, what one prediction is called (plural);
    `items_per_example`, predictions an example asks for; `fingerprint` of the data, so that a run resumes on the same.
    Sizes that models ask for (`n_outputs`, `image_shape`, ...) are further attributes, named by each task.
    """

    title: str
    unit: str
    item: str = "examples"
    items_per_example: int = 1
    fingerprint: str
    splits: tuple[Split, ...] = ("validation", "test")

    @property
    @abstractmethod
    def description(self) -> str:
        """One sentence of what is trained on, without a full stop."""

    @abstractmethod
    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """`size` training examples drawn at random."""

    @abstractmethod
    def examples(self, split: Split, size: int, at_most: int | None = None) -> Iterator[Batch]:
        """The held-out examples of a split in batches of `size`; or about `at_most` of them, evenly spread."""

    @abstractmethod
    def loss(self, out: Any, y: Any) -> Tensor:
        """The mean loss of a batch, a scalar."""

    def scores(self, out: Any, y: Any) -> dict[str, float]:
        """Further means over a batch, by name; none by default."""
        return {}

    def error_of_target(self, y: Any) -> Tensor:
        """What target projection feeds back in the error's place, shaped like the output: the part of the error that
        is known before the forward pass.

        Raises:
            NotImplementedError: the task has no such part.
        """
        raise NotImplementedError(f"{type(self).__name__} has no target to project; choose another feedback.error_at")

    def evaluate(self, forward: Callable[[Any], Any], split: Split, at_most: int | None = None) -> dict[str, float]:
        """Mean loss and scores over a split, each example weighing the same; `forward` maps x to outputs."""
        totals: dict[str, float] = {}
        count = 0
        for x, y in self.examples(split, 64, at_most):
            out = forward(x)
            n = len(x[0] if isinstance(x, tuple) else x)
            for name, value in ({"loss": self.loss(out, y).item()} | self.scores(out, y)).items():
                totals[name] = totals.get(name, 0.0) + value * n
            count += n
        return {name: total / count for name, total in totals.items()}

    def text_sample(self, model: nn.Module, generator: torch.Generator, length: int) -> dict[str, str] | None:
        """A prompt and the model's continuation, for tasks of text."""
        return None

    def figure(self, model: nn.Module, generator: torch.Generator) -> Figure | None:
        """What a trained model does, as a picture: samples, a rendered view. None by default."""
        return None


def error_of_uniform(classes: Tensor, n_classes: int) -> Tensor:
    """The error of a mean cross-entropy at uniform predictions, (1/n - onehot) / N, `(..., n_classes)`.

    It is what DRTP projects: the targets, less their mean over classes, which would push all examples alike.

    >>> error_of_uniform(torch.tensor([1]), 2)
    tensor([[ 0.5000, -0.5000]])
    """
    return (1 / n_classes - F.one_hot(classes, n_classes).float()) / classes.numel()


def evenly(count: int, at_most: int | None) -> Tensor:
    """Indices of all of `count` examples, or of about `at_most` evenly spread ones.

    >>> evenly(10, 4)
    tensor([0, 3, 6, 9])
    """
    if at_most is None or at_most >= count:
        return torch.arange(count)
    return torch.linspace(0, count - 1, at_most).long()
