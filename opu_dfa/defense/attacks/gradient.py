"""Attacks that follow the sign of a gradient: FGSM, PGD and MI-FGSM."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from opu_dfa.defense.attacks.search import Restarted, Search
from opu_dfa.errors import ConfigError


def ascend(
    search: Search, start: Tensor, steps: int, step_size: float, loss: str, momentum: float = 0.0
) -> tuple[Tensor, Tensor]:
    """x ← project(x + step_size sign(g)), g ← momentum g + ∇ / mean|∇|; the last x and its margin.

    The last and not the best: the best of many noisy evaluations would be the luckiest.
    """
    images, direction = start, torch.zeros_like(start)
    for step in range(steps):
        gradient = search.step(images, loss, step / steps).gradient
        if momentum:
            gradient = gradient / gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-30)  # 1e-30: no 0 / 0
            direction = gradient = momentum * direction + gradient
        images = search.project(images + step_size * gradient.sign())
    return images, search.loss(images)


@dataclass(frozen=True, kw_only=True)
class FGSM(Restarted):
    """x + eps sign(∇): one step.

    Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial examples", 2015.
    """

    needs_gradient = True
    loss: str = "cross-entropy"

    def run(self, search: Search) -> tuple[Tensor, Tensor]:
        """One step from the images."""
        return ascend(search, search.images, 1, search.eps, self.loss)


@dataclass(frozen=True, kw_only=True)
class PGD(Restarted):
    """Projected gradient ascent from a random start.

    Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018.

    Args:
        steps: of each restart.
        step_size: in pixels; None is 2.5 eps / steps, which reaches the ball's border from anywhere within it.
        loss: "cross-entropy", "margin" or "dlr".
        start: "random", uniform in the ball, or "image".
    """

    needs_gradient = True
    steps: int = 50
    step_size: float | None = None
    loss: str = "cross-entropy"
    start: str = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start not in ("random", "image"):
            raise ConfigError(f"PGD: start is 'random' or 'image', got {self.start!r}")

    def run(self, search: Search) -> tuple[Tensor, Tensor]:
        """All steps of one restart."""
        start = search.anywhere() if self.start == "random" else search.images
        return ascend(search, start, self.steps, self.step_size or 2.5 * search.eps / self.steps, self.loss)


@dataclass(frozen=True, kw_only=True)
class MIFGSM(Restarted):
    """Ascent with momentum from the image itself, the usual source of images that transfer to other models.

    Dong et al., "Boosting adversarial attacks with momentum", 2018.

    Args:
        steps: of size eps / steps if `step_size`, in pixels, is None.
        momentum: what is kept of the direction, of gradients that are scaled to a mean absolute value of one.
    """

    needs_gradient = True
    steps: int = 10
    step_size: float | None = None
    momentum: float = 1.0
    loss: str = "cross-entropy"

    def run(self, search: Search) -> tuple[Tensor, Tensor]:
        """All steps."""
        step_size = self.step_size or search.eps / self.steps
        return ascend(search, search.images, self.steps, step_size, self.loss, self.momentum)
