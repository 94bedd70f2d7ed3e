"""APGD: gradient ascent that finds its own step sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from opu_dfa.defense.attacks.losses import margin
from opu_dfa.defense.attacks.search import Restarted, Search

SHORT = {"cross-entropy": "ce"}


@dataclass(frozen=True, kw_only=True)
class APGD(Restarted):
    """Projected ascent with momentum that halves an image's step where it no longer helps.

    z = project(x + η sign(∇)), x ← project(x + 0.75 (z - x) + 0.25 (x - x_before)), η = 2 eps at first. At
    checkpoints an image's η is halved, and it returns to its best point, if no more than `rho` of the steps since the
    last one raised the loss, or if neither its η nor its best loss changed.

    Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", 2020.

    Args:
        steps: of each restart.
        loss: "cross-entropy", "dlr" (three classes or more) or "margin".
        rho: share of steps that must raise the loss.
    """

    needs_gradient = True
    steps: int = 100
    loss: str = "cross-entropy"
    rho: float = 0.75

    @property
    def name(self) -> str:
        """apgd-ce, apgd-dlr or apgd-margin."""
        return f"apgd-{SHORT.get(self.loss, self.loss)}"

    def run(self, search: Search) -> tuple[Tensor, Tensor]:
        """One restart; of all its points, the one of largest margin."""
        window, shorter, least = (max(int(share * self.steps), 1) for share in (0.22, 0.03, 0.06))
        x = before = search.anywhere()
        loss, gradient, margins = self.look(search, x)
        found = x
        best, best_loss, best_gradient = x, loss, gradient  # by loss: where an image returns to when its step is halved
        size = torch.full_like(loss, 2 * search.eps)
        rises = torch.zeros_like(loss)
        checked_loss, halved = best_loss, torch.ones_like(loss, dtype=torch.bool)
        since = 0
        for step in range(self.steps):
            moved = search.project(x + pixels(size) * gradient.sign())
            keep = 0.75 if step else 1.0
            x, before = search.project(x + keep * (moved - x) + (1 - keep) * (x - before)), x
            last_loss = loss
            loss, gradient, new_margins = self.look(search, x, (step + 1) / self.steps)
            found = torch.where(pixels(new_margins > margins), x, found)
            margins = torch.maximum(margins, new_margins)
            better = loss > best_loss
            best, best_gradient = (
                torch.where(pixels(better), x, best),
                torch.where(pixels(better), gradient, best_gradient),
            )
            best_loss = torch.maximum(loss, best_loss)
            rises += loss > last_loss
            since += 1
            if since == window:
                stuck = ~halved & (best_loss <= checked_loss)
                halved = (rises <= self.rho * window) | stuck
                size = torch.where(halved, size / 2, size)
                x, gradient = torch.where(pixels(halved), best, x), torch.where(pixels(halved), best_gradient, gradient)
                checked_loss, rises, since = best_loss, torch.zeros_like(rises), 0
                window = max(window - shorter, least)
        return found, search.loss(found)  # asked again: a rule's own logits may be a surrogate's

    def look(self, search: Search, x: Tensor, done: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, gradient and margin at x, with so much of the restart done."""
        step = search.step(x, self.loss, done)
        return step.loss, step.gradient, margin(step.logits, search.labels)


def pixels(values: Tensor) -> Tensor:
    """One value per image `(batch,)`, shaped to meet its pixels `(batch, 1, 1, 1)`."""
    return values[:, None, None, None]
