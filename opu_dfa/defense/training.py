"""Training of a defence: the readout by exact gradients, the features by what a gradient rule pulls back to h.

The rule is the same object that an attacker uses (`opu_dfa.defense.rules`). "dfa" projects the error at the logits by
the model's own B, which is what `opu_dfa.dfa.DirectFeedback` does at the block `standardised`; "straight-through" takes
the head's own derivative, which without a binarisation is backpropagation. Adversarial training shows each batch as an
attack changed it: Madry et al., ICLR 2018 (arXiv 1706.06083).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from opu_dfa.defense.model import OpticalDefense
from opu_dfa.defense.rules import PulledBack, StraightThrough, TrueFeedback
from opu_dfa.defense.target import Attack, GradientRule, Target, check_images
from opu_dfa.errors import ConfigError, DataError, DivergedError

RULES = {"straight-through": StraightThrough, "dfa": TrueFeedback}


@dataclass(frozen=True)
class Recipe:
    """How to train; the same for a defence and its undefended twin, or their comparison means nothing.

    rule: "dfa" or "straight-through"; optimiser: "adam" (AdamW) or "sgd" (momentum 0.9); learning_rate: the largest,
    that of a cosine which falls to 0 over the epochs, but for a linear rise over the first tenth; augment: random
    crops, padded by an eighth of the side, and flips.

    Raises:
        ConfigError: an unknown name, a number out of its range.
    """

    epochs: int = 30
    batch: int = 128
    rule: str = "dfa"
    optimiser: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    augment: bool = False

    def __post_init__(self) -> None:
        for name, choices in (("rule", tuple(RULES)), ("optimiser", ("adam", "sgd"))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is one of {', '.join(choices)}; got {getattr(self, name)!r}")
        if self.epochs < 0 or self.batch < 2:
            raise ConfigError(f"epochs >= 0 and batch >= 2 (for its statistics), got {self.epochs} and {self.batch}")
        if not (0 < self.learning_rate < math.inf and 0 <= self.weight_decay < math.inf):
            raise ConfigError(
                f"learning_rate > 0 and weight_decay >= 0, got {self.learning_rate} and {self.weight_decay}"
            )


@dataclass(frozen=True)
class Adversary:
    """Who changes each batch before it is learned from: an attack of at most eps in any pixel, and its gradient rule,
    the training's own if None."""

    attack: Attack
    eps: float
    rule: GradientRule | None = None


@dataclass(frozen=True)
class Epoch:
    """An epoch that is done, from 1: mean loss and accuracy of its batches as they were met, and seconds it took."""

    number: int
    loss: float
    accuracy: float
    seconds: float


class Training:
    """The training of a model, epoch by epoch, that can be left between two and taken up to the same bits.

    Parameters that ask for no gradient stay as they are: freeze `model.features` to fit a head to a pretrained stack.

    Args:
        images: pixels in [0, 1], `(n, channels, height, width)`, where they fit; labels: `(n,)`.
        generator: on the CPU: orders, augments and attacks.

    Raises:
        DataError: images or labels are not what `check_images` wants, or fewer than 2.
        ConfigError: nothing of the model is trainable.
    """

    def __init__(
        self,
        model: OpticalDefense,
        images: Tensor,
        labels: Tensor,
        recipe: Recipe,
        generator: torch.Generator,
        adversary: Adversary | None = None,
    ) -> None:
        check_images(images, labels, model.n_classes, 0.0 if adversary is None else adversary.eps)
        if len(images) < 2:
            raise DataError(f"training needs at least 2 images, got {len(images)}")
        self.model, self.images, self.labels, self.recipe = model, images, labels, recipe
        self.generator, self.adversary = generator, adversary
        self.rule = RULES[recipe.rule](model)
        self.optimiser = _optimiser(model, recipe)
        self.epochs: list[Epoch] = []

    @property
    def done(self) -> bool:
        return len(self.epochs) >= self.recipe.epochs

    def epoch(self) -> Epoch:
        """Show every image once; the model is left in evaluation mode.

        Raises:
            DivergedError: the loss is no longer a number.
        """
        begun = time.perf_counter()
        number, batch = len(self.epochs) + 1, min(self.recipe.batch, len(self.images))
        batches = list(torch.randperm(len(self.images), generator=self.generator).split(batch))
        if len(batches[-1]) < batch:
            del batches[-1]  # what is left over of a batch would have statistics of its own
        total, right = 0.0, 0
        self.model.train()
        for i, rows in enumerate(batches):
            self._set_rate((number - 1 + (i + 0.5) / len(batches)) / self.recipe.epochs)
            loss, hits = self._step(rows)
            if not math.isfinite(loss):
                raise DivergedError(
                    f"the loss of epoch {number} is {loss}: lower learning_rate, which is {self.recipe.learning_rate:g}"
                )
            total, right = total + loss, right + hits
        self.model.eval()
        seen = len(batches) * batch
        self.epochs.append(Epoch(number, total / seen, right / seen, time.perf_counter() - begun))
        return self.epochs[-1]

    def state_dict(self) -> dict[str, Any]:
        """All that the remaining epochs depend on but the arguments."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "epochs": [asdict(epoch) for epoch in self.epochs],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        self.epochs = [Epoch(**epoch) for epoch in state["epochs"]]

    def _step(self, rows: Tensor) -> tuple[float, int]:
        """Learn from some images: their summed loss, and how many were right."""
        where = self.model.mean.device
        x, y = self.images[rows].to(where), self.labels[rows].to(where)
        if self.recipe.augment:
            x = augmented(x, self.generator)
        if self.adversary is not None:
            against = self.adversary
            x = against.attack(Target(self.model), x, y, against.eps, self.generator, against.rule or self.rule)
        self.optimiser.zero_grad()
        logits = teach(self.model, self.rule, x, y)
        self.optimiser.step()
        return F.cross_entropy(logits, y, reduction="sum").item(), int((logits.argmax(1) == y).sum())

    def _set_rate(self, part: float) -> None:
        """The learning rate when this part of the training is done."""
        rate = self.recipe.learning_rate * min(10 * part, 1) * (1 + math.cos(math.pi * part)) / 2
        for group in self.optimiser.param_groups:
            group["lr"] = rate


def train(
    model: OpticalDefense,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    generator: torch.Generator,
    adversary: Adversary | None = None,
) -> list[Epoch]:
    """All epochs of a `Training` of the same arguments; the model is left in evaluation mode.

    >>> from opu_dfa.defense.model import vgg_features
    >>> model = OpticalDefense(vgg_features([[4]], (1, 8, 8)), 2, None, "plain", n_mirrors=16, image_shape=(1, 8, 8))
    >>> images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> epochs = train(model, images, (images.mean((1, 2, 3)) > 0.5).long(), Recipe(epochs=2), torch.Generator())
    >>> [epoch.number for epoch in epochs]
    [1, 2]
    """
    training = Training(model, images, labels, recipe, generator, adversary)
    while not training.done:
        training.epoch()
    model.eval()
    return training.epochs


def teach(model: OpticalDefense, rule: PulledBack, images: Tensor, labels: Tensor) -> Tensor:
    """Add to `.grad` the gradients of the mean cross-entropy, those before h by the rule; the logits."""
    h = model.hidden(images)
    with torch.enable_grad():
        logits = model.head(h.detach())
        loss = F.cross_entropy(logits, labels)
    (error,) = torch.autograd.grad(loss, logits, retain_graph=True)
    loss.backward()
    if h.requires_grad:
        h.backward(rule.pull(h.detach(), error).to(h.dtype))
    return logits.detach()


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image shifted by up to an eighth of its side, with zeros moving in, and mirrored or not."""
    n, _, height, width = images.shape
    margin = max(1, min(height, width) // 8)
    padded = F.pad(images, [margin] * 4)
    down, right = torch.randint(0, 2 * margin + 1, (2, n, 1), generator=generator)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    index = (torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :])
    return padded.permute(0, 2, 3, 1)[tuple(i.to(images.device) for i in index)].permute(0, 3, 1, 2).contiguous()


def _optimiser(model: OpticalDefense, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ConfigError("no parameter of the model asks for a gradient: leave at least the readout trainable")
    if recipe.optimiser == "adam":
        return torch.optim.AdamW(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(parameters, recipe.learning_rate, momentum=0.9, weight_decay=recipe.weight_decay)
