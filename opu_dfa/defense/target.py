"""What an attacker is given, and what an attack is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from opu_dfa.errors import ConfigError, DataError

Loss = Callable[[Tensor], Tensor]  # of logits (batch, n_classes) to (batch,): what an attack raises


class Step(NamedTuple):
    """What a gradient rule finds: logits `(batch, n_classes)`, losses `(batch,)`, the gradient at the images."""

    logits: Tensor
    loss: Tensor
    gradient: Tensor


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within, the model is in evaluation mode; then each of its modules as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class Target:
    """A classifier as its attacker meets it: images in, logits out, every image asked for counted.

    Args:
        model: takes pixels in [0, 1], `(batch, channels, height, width)`, and normalises them itself.
        chunk: images of one call of the model.
        measurements: over which each answer is averaged, where answers vary; every one is a query.

    Attributes:
        queries: images that were classified so far.
        broken_at: queries after which the last attack first saw each image classified wrongly, -1 where it never did,
            int64 `(n_images,)`; None if that attack does not live on its queries.
    """

    broken_at: Tensor | None = None

    def __init__(self, model: nn.Module, chunk: int = 250, measurements: int = 1) -> None:
        if measurements < 1:
            raise ConfigError(f"an answer is averaged over at least 1 measurement, got {measurements}")
        self.model = model
        self.chunk = chunk
        self.measurements = measurements
        self.queries = 0

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits `(batch, n_classes)`, in evaluation mode, without a gradient."""
        self.queries += len(images) * self.measurements
        with evaluating(self.model):
            return torch.cat([self._measured(part) for part in images.split(self.chunk)])

    def _measured(self, images: Tensor) -> Tensor:
        """The mean answer; features, which do not vary, are computed once."""
        model: Any = self.model
        if self.measurements == 1:
            answer: Tensor = model(images)
            return answer
        apart = hasattr(model, "hidden") and hasattr(model, "head")
        ask, asked = (model.head, model.hidden(images)) if apart else (model, images)
        at_once = max(1, self.chunk // len(images))
        total: Tensor | float = 0.0
        for begin in range(0, self.measurements, at_once):
            times = min(at_once, self.measurements - begin)
            answers = ask(asked.repeat(times, *[1] * (asked.ndim - 1)))
            total = total + answers.unflatten(0, (times, len(images))).sum(dim=0)
        return torch.as_tensor(total / self.measurements)


class GradientRule(ABC):
    """How an attacker, or a trainer, comes by a gradient through a model that may have none."""

    queries_per_image = 1  # what one call counts in `Target.queries`, for each image

    @abstractmethod
    def __call__(self, images: Tensor, loss: Loss) -> Step:
        """Logits, losses and the gradient of the sum of losses at the images `(batch, channels, height, width)`."""

    def at(self, done: float) -> GradientRule:
        """The rule when so much of an attack is done, of 1: itself, but for those that change on the way."""
        return self


class Attack(ABC):
    """A search for a change of the images, of at most eps in any pixel, that the target classifies wrongly.

    Subclasses are frozen dataclasses of the attack's own parameters.
    """

    needs_gradient = False

    @property
    def name(self) -> str:
        """Its name in tables and settings."""
        return type(self).__name__.lower()

    @abstractmethod
    def __call__(
        self,
        target: Target,
        images: Tensor,
        labels: Tensor,
        eps: float,
        generator: torch.Generator,
        rule: GradientRule | None = None,
    ) -> Tensor:
        """Changed images, within eps of `images` in every pixel and within [0, 1]."""


def check_images(images: Tensor, labels: Tensor, n_classes: int, eps: float) -> None:
    """Refuse what is not pixels, labels and a budget.

    Raises:
        DataError: pixels outside [0, 1] or not finite, another shape, labels out of range or of another number, eps
            negative or above 1.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise DataError(f"images are floating point (batch, channels, height, width), got {tuple(images.shape)}")
    if labels.shape != images.shape[:1]:
        raise DataError(f"{len(images)} images have as many labels, got {tuple(labels.shape)}")
    if len(images) and not (images.min() >= 0 and images.max() <= 1):
        raise DataError(
            f"pixels are in [0, 1], got {images.min().item():g} to {images.max().item():g}: normalise inside the model"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < n_classes):
        raise DataError(f"labels are 0 to {n_classes - 1}, got {labels.min().item()} to {labels.max().item()}")
    if not 0 <= eps <= 1:
        raise DataError(f"eps is in units of pixels in [0, 1], for instance 8/255; got {eps}")
