"""Training of a defence: the readout by exact gradients, the features by what a gradient rule pulls back to h.

The rule is the same object that an attacker uses (`opu_dfa.defense.rules`). "dfa" projects the error at the logits by
the model's own B, which is what `opu_dfa.dfa.DirectFeedback` does at the block `linear`; "straight-through" takes the
head's own derivative, which without a binarisation is backpropagation. Adversarial training shows each batch as an
attack changed it: Madry et al., ICLR 2018 (arXiv 1706.06083).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from opu_dfa.defense.model import OpticalDefense
from opu_dfa.defense.rules import PulledBack, StraightThrough, TrueFeedback
from opu_dfa.defense.target import Attack, GradientRule, Target, check_images
from opu_dfa.errors import ConfigError, DataError, DivergedError

RULES = {"dfa": TrueFeedback, "straight-through": StraightThrough}


@dataclass(frozen=True)
class Recipe:
    """How to train; the same for a defence and its undefended twin, or their comparison means nothing.

    rule: "dfa" or "straight-through"; optimiser: "adam" (AdamW) or "sgd" (momentum 0.9); learning_rate: at first,
    falling to 0 as a cosine over the epochs; augment: random crops, padded by an eighth of the side, and flips.

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


def train(
    model: OpticalDefense,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    generator: torch.Generator,
    adversary: Adversary | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train in place on the cross-entropy; the model is left in evaluation mode.

    Parameters that ask for no gradient stay as they are: freeze `model.features` to fit a head to a pretrained stack.

    Args:
        images: pixels in [0, 1], `(n, channels, height, width)`, where they fit; labels: `(n,)`.
        generator: on the CPU: orders, augments and attacks.
        on_epoch: called after each epoch.

    Raises:
        DataError: images or labels are not what `check_images` wants, or fewer than 2.
        DivergedError: the loss is no longer a number.

    >>> from opu_dfa.defense.model import vgg_features
    >>> model = OpticalDefense(vgg_features([[4]], (1, 8, 8)), 2, None, "plain", n_mirrors=16, image_shape=(1, 8, 8))
    >>> images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> epochs = train(model, images, (images.mean((1, 2, 3)) > 0.5).long(), Recipe(epochs=2), torch.Generator())
    >>> [epoch.number for epoch in epochs]
    [1, 2]
    """
    check_images(images, labels, model.n_classes, 0.0 if adversary is None else adversary.eps)
    if len(images) < 2:
        raise DataError(f"training needs at least 2 images, got {len(images)}")
    rule = RULES[recipe.rule](model)
    optimiser = _optimiser(model, recipe)
    batch = min(recipe.batch, len(images))
    where = model.mean.device
    epochs = []
    for number in range(1, recipe.epochs + 1):
        begun = time.perf_counter()
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * (1 + math.cos(math.pi * (number - 1) / recipe.epochs)) / 2
        total, right, seen = 0.0, 0, 0
        model.train()
        for rows in torch.randperm(len(images), generator=generator).split(batch):
            if len(rows) < batch and seen:
                break  # what is left over of a batch would have statistics of its own
            x, y = images[rows].to(where), labels[rows].to(where)
            if recipe.augment:
                x = augmented(x, generator)
            if adversary is not None:
                x = adversary.attack(Target(model), x, y, adversary.eps, generator, adversary.rule or rule)
            optimiser.zero_grad()
            logits = teach(model, rule, x, y)
            loss = F.cross_entropy(logits, y, reduction="sum").item()
            if not math.isfinite(loss):
                raise DivergedError(
                    f"the loss of epoch {number} is {loss}: lower learning_rate, which is {recipe.learning_rate:g}"
                )
            optimiser.step()
            total, right, seen = total + loss, right + int((logits.argmax(1) == y).sum()), seen + len(rows)
        epochs.append(Epoch(number, total / seen, right / seen, time.perf_counter() - begun))
        if on_epoch is not None:
            on_epoch(epochs[-1])
    model.eval()
    return epochs


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
