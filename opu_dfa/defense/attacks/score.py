"""Gradients estimated from scores at random points nearby: NES and SPSA."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from opu_dfa.defense.attacks.search import Restarted, Search
from opu_dfa.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Estimated(Restarted):
    """Ascent along g = mean over u of (L(x + sigma u) - L(x - sigma u)) u / (2 sigma), L evaluated within [0, 1].

    Args:
        queries: of each image and restart; an image that is classified wrongly asks no more.
        samples: queries of one estimate, an even number.
        sigma: in pixels. Smaller follows a smooth model more closely; larger sees over the steps of a binarised one.
        step_size: in pixels; a default in proportion to eps if None.
        loss: what is raised.
    """

    skips_wrong: ClassVar[bool] = True
    queries: int = 5000
    samples: int = 50
    sigma: float = 0.01
    step_size: float | None = None
    loss: str = "margin"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples % 2 or self.queries <= self.samples:
            raise ConfigError(
                f"{type(self).__name__}: samples is even and queries above samples, got {self.samples}, {self.queries}"
            )

    @abstractmethod
    def draw(self, search: Search, number: int) -> Tensor:
        """Directions u, `(number, *images.shape)`."""

    @abstractmethod
    def move(self, gradient: Tensor, moments: Tensor, time: int, eps: float) -> Tensor:
        """The step at a time from 1 on; updates the two moments `(2, batch, channels, height, width)` in place."""

    def run(self, search: Search) -> tuple[Tensor, Tensor]:
        """One restart: estimate, step, look whether that was enough."""
        found = search.images.clone()
        moments = torch.zeros_like(found).repeat(2, 1, 1, 1, 1)
        left = torch.arange(len(found), device=found.device)
        margins = torch.full_like(found[:, 0, 0, 0], -torch.inf)
        for time in range(1, self.queries // (self.samples + 1) + 1):
            standing = search.of(left)
            part = moments[:, left]
            step = self.move(self.estimate(standing, found[left]), part, time, search.eps)
            moments[:, left] = part
            found[left] = standing.project(found[left] + step)
            margins[left] = standing.loss(found[left])
            left = (margins <= 0).nonzero().flatten()
            if not len(left):
                break
        return found, margins

    def estimate(self, search: Search, images: Tensor) -> Tensor:
        """g at the images."""
        total = torch.zeros_like(images)
        for number in search.slices(self.samples // 2):
            u = self.draw(search, number)
            ends = torch.cat([images + self.sigma * u, images - self.sigma * u]).clamp(0, 1)
            above, below = search.loss(ends, self.loss).chunk(2)
            total += torch.einsum("nb,nbchw->bchw", above - below, u)
        return total / (self.sigma * self.samples)


@dataclass(frozen=True, kw_only=True)
class NES(Estimated):
    """Gaussian u, and steps along the sign of a running mean of g.

    Ilyas et al., "Black-box adversarial attacks with limited queries and information", 2018.

    Args:
        step_size: 2.5 eps / number of steps if None.
        momentum: what is kept of the running mean.
    """

    momentum: float = 0.9

    def draw(self, search: Search, number: int) -> Tensor:
        """Gaussian, by Box and Muller from the search's uniform numbers."""
        shape = (number, *search.images.shape)
        radius = (-2 * (1 - search.uniform(*shape)).log()).sqrt()
        return radius * (2 * torch.pi * search.uniform(*shape)).cos()

    def move(self, gradient: Tensor, moments: Tensor, time: int, eps: float) -> Tensor:
        """step_size sign(mean of g)."""
        moments[0] = self.momentum * moments[0] + (1 - self.momentum) * gradient
        return (self.step_size or 2.5 * eps / (self.queries // (self.samples + 1))) * moments[0].sign()


@dataclass(frozen=True, kw_only=True)
class SPSA(Estimated):
    """u of random signs, and Adam's steps along g.

    Uesato et al., "Adversarial risk and the dangers of evaluating against weak attacks", 2018.

    Args:
        step_size: Adam's; eps / 4 if None.
    """

    samples: int = 128

    def draw(self, search: Search, number: int) -> Tensor:
        """-1 or 1."""
        return search.signs(number, *search.images.shape)

    def move(self, gradient: Tensor, moments: Tensor, time: int, eps: float) -> Tensor:
        """Adam's step."""
        moments[0] = 0.9 * moments[0] + 0.1 * gradient
        moments[1] = 0.999 * moments[1] + 0.001 * gradient**2
        mean, square = moments[0] / (1 - 0.9**time), moments[1] / (1 - 0.999**time)
        return (self.step_size or eps / 4) * mean / (square.sqrt() + 1e-8)
