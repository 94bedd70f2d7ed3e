"""What one attack comes to, and what all of them together leave of a model's accuracy."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from opu_dfa.defense.target import Target
from opu_dfa.defense.threats import KNOWLEDGE, UNSTATED, Threat
from opu_dfa.errors import DataError
from opu_dfa.seeds import stream

_ROUNDING = 1e-6


@dataclass(frozen=True)
class Outcome:
    """What one attack came to.

    Attributes:
        name: of its row; threat: the attack, its rule and what its attacker knows.
        rate: of right answers over fresh measurements of the final images, `(n_images,)`.
        right: by majority of them, and without the attack, too, bool `(n_images,)`.
        queries: of the attack, and before it for its rule; seconds: of the attack.
        images: the changed images, as given.
        broken_at: of an attack without a gradient: queries after which it first saw each image classified wrongly, -1
            where it never did, int64 `(n_images,)`. One measurement of a noisy device says so: see `right`.
        frames: that the model's device showed for the attack and the fresh measurements; 0 if nobody counted.
    """

    name: str
    threat: Threat
    rate: Tensor
    right: Tensor
    queries: int
    seconds: float
    images: Tensor
    broken_at: Tensor | None = None
    frames: int = 0


@dataclass(frozen=True)
class Check:
    """A test of the evaluation itself: whether it holds (None: not run), and the numbers that say so."""

    name: str
    holds: bool | None
    detail: str


@dataclass(frozen=True)
class Report:
    """An evaluation at one eps.

    An image counts as broken when a majority of fresh measurements of it is wrong: what an attack selected on a single
    lucky measurement of a noisy device does not count. Images that are wrong unattacked are wrong under every attack.

    Attributes:
        eps: in units of pixels in [0, 1]; seed; n_classes; repeats: fresh measurements of each image.
        labels, prediction: `(n_images,)`, the prediction by the mean logits without attack.
        clean_rate, clean_right: as `rate` and `right` of an `Outcome`.
        outcomes: of the attacks, in the order run; checks: of the evaluation.
    """

    eps: float
    seed: int
    n_classes: int
    repeats: int
    labels: Tensor
    prediction: Tensor
    clean_rate: Tensor
    clean_right: Tensor
    outcomes: tuple[Outcome, ...]
    checks: tuple[Check, ...] = ()

    @property
    def accuracy(self) -> dict[str, float]:
        """Fraction of all images that an attack leaves right, by the attack's name."""
        return {outcome.name: fraction(outcome.right) for outcome in self.outcomes}

    @property
    def clean_accuracy(self) -> float:
        return fraction(self.clean_right)

    @cached_property
    def worst_case(self) -> Tensor:
        """Whether each image is right without attack and under each, bool `(n_images,)`."""
        return self.worst_of([outcome.name for outcome in self.outcomes])

    @property
    def robust_accuracy(self) -> float:
        """The mean of `worst_case`."""
        return fraction(self.worst_case)

    def worst_of(self, names: Sequence[str]) -> Tensor:
        """As `worst_case`, over some of the attacks."""
        right = [outcome.right for outcome in self.outcomes if outcome.name in names]
        return torch.stack([self.clean_right, *right]).all(dim=0)

    def by_knowledge(self) -> dict[str, float]:
        """Robust accuracy against an attacker who knows no more than each of `KNOWLEDGE` that some attack takes."""
        found = {}
        for level, knowledge in enumerate((*KNOWLEDGE, UNSTATED)):
            if any(outcome.threat.knowledge == knowledge for outcome in self.outcomes):
                within = (*KNOWLEDGE, UNSTATED)[: level + 1]
                found[knowledge] = fraction(
                    self.worst_of([o.name for o in self.outcomes if o.threat.knowledge in within])
                )
        return found

    def standard_error(self, accuracy: float) -> float:
        """√(p(1 - p)/n): of the draw of the images alone, not of the seeds."""
        return math.sqrt(accuracy * (1 - accuracy) / max(1, len(self.labels)))


def attacked(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    name: str,
    threat: Threat,
    seed: int,
    repeats: int,
    chunk: int,
) -> Outcome:
    """One attack and the fresh measurements of what it made; `right` says nothing yet of the images unattacked.

    Raises:
        DataError: the attack left the ball, or the range of pixels.
    """
    target = Target(model, chunk, threat.measurements)
    began = time.perf_counter()
    found = threat.attack(target, images, labels, eps, stream(seed, name), threat.rule).detach()
    seconds, queries = time.perf_counter() - began, target.queries
    if found.shape != images.shape or not found.isfinite().all():
        raise DataError(f"{name} made images {tuple(found.shape)} of {tuple(images.shape)}, or such as are not numbers")
    far = (found - images).abs().max().item()
    if far > eps + _ROUNDING or found.min() < -_ROUNDING or found.max() > 1 + _ROUNDING:
        raise DataError(
            f"{name} changed pixels by {far:g}, to {found.min().item():g} ... {found.max().item():g}; it may change "
            f"them by eps = {eps:g} within [0, 1]: mend the attack"
        )
    _, rate = measured(Target(model, chunk), found, labels, repeats)
    return Outcome(name, threat, rate, rate > 0.5, queries + threat.queries, seconds, found, target.broken_at)


def measured(target: Target, images: Tensor, labels: Tensor, repeats: int) -> tuple[Tensor, Tensor]:
    """Mean logits `(n, n_classes)` and the rate of right answers `(n,)` over fresh measurements."""
    logits = torch.stack([target(images) for _ in range(repeats)])
    return logits.mean(dim=0), (logits.argmax(dim=2) == labels).float().mean(dim=0)


def fraction(right: Tensor) -> float:
    """The mean of booleans."""
    return right.double().mean().item()
