"""What the attacks share: the ball that they search, what they may ask, and starting again on what still stands."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from opu_dfa.defense.attacks.losses import LOSSES, margin
from opu_dfa.defense.target import Attack, GradientRule, Loss, Step, Target, check_images
from opu_dfa.errors import ConfigError

ROUNDING = 1e-6  # of a pixel's value


@dataclass(frozen=True)
class Progress:
    """How often some of an attack's images were asked for, and when each was first seen broken; int64 `(n_images,)`.

    The tensors are those of all images and change as the attack goes on; rows are of those meant here.
    """

    asked: Tensor
    broken_at: Tensor  # -1: never
    rows: Tensor

    @classmethod
    def begin(cls, wrong: Tensor, measurements: int) -> Progress:
        """After the first look at the images, some of which are wrong as they are."""
        asked = torch.full(wrong.shape, measurements, device=wrong.device)
        return cls(asked, torch.where(wrong, measurements, -1), torch.arange(len(wrong), device=wrong.device))

    def of(self, index: Tensor) -> Progress:
        """The same of some of the rows."""
        return replace(self, rows=self.rows[index])

    def note(self, broken: Tensor, measurements: int) -> None:
        """One more look at each row."""
        self.asked[self.rows] += measurements
        first = self.rows[broken & (self.broken_at[self.rows] < 0)]
        self.broken_at[first] = self.asked[first]


@dataclass(frozen=True)
class Search:
    """Images `(batch, channels, height, width)` under attack, their labels `(batch,)`, eps; pixels in [0, 1].

    What it asks is noted in `progress`, if there is one.
    """

    target: Target
    images: Tensor
    labels: Tensor
    eps: float
    generator: torch.Generator
    rule: GradientRule | None = None
    progress: Progress | None = None

    @cached_property
    def lower(self) -> Tensor:
        """Least value that each pixel may take."""
        return (self.images - self.eps).clamp_min(0)

    @cached_property
    def upper(self) -> Tensor:
        """Largest value that each pixel may take."""
        return (self.images + self.eps).clamp_max(1)

    def project(self, images: Tensor) -> Tensor:
        """The nearest images within eps and [0, 1]."""
        return images.clamp(self.lower, self.upper)

    def of(self, index: Tensor) -> Search:
        """The same search of some of the images."""
        progress = None if self.progress is None else self.progress.of(index)
        return replace(self, images=self.images[index], labels=self.labels[index], progress=progress)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), drawn where the generator lives."""
        drawn = torch.rand(shape, generator=self.generator, device=self.generator.device, dtype=self.images.dtype)
        return drawn.to(self.images.device)

    def signs(self, *shape: int) -> Tensor:
        """-1 or 1, equally likely."""
        return (self.uniform(*shape) < 0.5).to(self.images.dtype) * 2 - 1

    def anywhere(self) -> Tensor:
        """Uniform in the ball, before [0, 1] cuts it."""
        return self.project(self.images + self.eps * (2 * self.uniform(*self.images.shape) - 1))

    def loss(self, images: Tensor, name: str = "margin") -> Tensor:
        """Losses `(batch,)`, or `(n, batch)` of n changed batches, by one query of each image."""
        logits = self.target(images.reshape(-1, *images.shape[-3:]))
        labels = self.labels.repeat(len(logits) // max(1, len(self.labels)))
        if self.progress is not None:
            self._note(images, margin(logits, labels).reshape(images.shape[:-3]) > 0)
        return LOSSES[name](logits, labels).reshape(images.shape[:-3])

    def _note(self, images: Tensor, wrong: Tensor) -> None:
        """What was asked, in turn, and whether it was both wrong and allowed."""
        assert self.progress is not None, "loss has looked"
        allowed = ((images >= self.lower - ROUNDING) & (images <= self.upper + ROUNDING)).flatten(-3).all(-1)
        for broken in (wrong & allowed).reshape(-1, len(self.labels)):
            self.progress.note(broken, self.target.measurements)

    def step(self, images: Tensor, loss: str, done: float = 0.0) -> Step:
        """What the gradient rule finds at the images, with so much of the attack done; its queries are counted."""
        assert self.rule is not None, "Restarted has checked that there is one"
        rule = self.rule.at(done)
        self.target.queries += len(images) * rule.queries_per_image

        def raised(labels: Tensor) -> Loss:
            return lambda logits: LOSSES[loss](logits, labels)

        chunk = self.target.chunk
        pairs = zip(images.split(chunk), self.labels.split(chunk), strict=True)
        parts = [rule(part, raised(labels)) for part, labels in pairs]
        return Step(*(torch.cat(column).detach() for column in zip(*parts, strict=True)))

    def slices(self, samples: int) -> Iterator[int]:
        """Numbers that sum to `samples`: so many copies of the images as fit into 64 MB at a time."""
        size = max(1, 2**24 // max(1, self.images.numel()))
        for begin in range(0, samples, size):
            yield min(size, samples - begin)


@dataclass(frozen=True, kw_only=True)
class Restarted(Attack):
    """An attack that may start again; of all it found for an image, it returns what has the largest margin.

    The image itself is among these, so no attack makes the attacker worse off than doing nothing. The margin is that of
    one evaluation: on a noisy device, evaluate what is returned afresh.

    Args:
        restarts: runs; every run but the first leaves out what is already classified wrongly.
    """

    restarts: int = 1
    skips_wrong: ClassVar[bool] = False  # leaves out of the first run, too, what is classified wrongly unchanged

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int | float) and not (value > 0 or (value == 0 and name == "momentum")):
                raise ConfigError(f"{type(self).__name__}: {name} is above zero, got {value}")
        loss = getattr(self, "loss", "margin")
        if loss not in LOSSES:
            raise ConfigError(f"{type(self).__name__}: loss is one of {', '.join(LOSSES)}, got {loss!r}")

    @abstractmethod
    def run(self, search: Search) -> tuple[Tensor, Tensor]:
        """One run: changed images and their margins, above zero where it succeeded."""

    def __call__(
        self,
        target: Target,
        images: Tensor,
        labels: Tensor,
        eps: float,
        generator: torch.Generator,
        rule: GradientRule | None = None,
    ) -> Tensor:
        """Changed images, within eps of `images` in every pixel and within [0, 1].

        Raises:
            ConfigError: the attack needs a gradient and has no rule for it.
            DataError: images, labels or eps are out of their ranges.
        """
        if self.needs_gradient and rule is None:
            raise ConfigError(
                f"{self.name} needs a gradient, got rule=None: give one, for instance rule=Autograd(model)"
            )
        check_images(images, labels, sys.maxsize, eps)
        if not len(images):
            return images.clone()
        logits = target(images)
        check_images(images, labels, logits.shape[1], eps)  # now that the number of classes is known
        best, margins = images.detach().clone(), margin(logits, labels)
        progress = Progress.begin(margins > 0, target.measurements) if self.skips_wrong else None
        target.broken_at = None if progress is None else progress.broken_at
        search = Search(target, images.detach(), labels, eps, generator, rule, progress)
        for restart in range(self.restarts):
            everyone = restart == 0 and not self.skips_wrong
            left = (torch.ones_like(margins) if everyone else margins <= 0).nonzero().flatten()
            if not len(left):
                break
            found, found_margins = self.run(search.of(left))
            better = found_margins > margins[left]
            best[left[better]], margins[left[better]] = found[better], found_margins[better]
        return best
