"""HopSkipJump: along the decision boundary, by the predicted class alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from opu_dfa.defense.attacks.search import Restarted, Search

TRIES = 10  # starting points of one kind: chance images, then other images of the batch
HALVINGS = 10  # of one step along the boundary's normal


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(Restarted):
    """Walks along the decision boundary towards the image, until within eps of it in every pixel.

    From a wrongly classified start: bisect towards the image; estimate the boundary's normal, g = mean of
    (phi - mean phi) u with phi = ±1 for wrong or right at x + δu; step along sign(g) by distance / √t, halved until
    wrong; again.
    Chen, Jordan and Wainwright, "HopSkipJumpAttack: a query-efficient decision-based attack", 2020. The bisection
    stops at 1/d of the distance and |δu| is the distance (there 1/d² and distance / d), d pixels: smaller changes of
    a pixel than that are below what an 8-bit image, or a binarised layer, passes on.

    Args:
        queries: of each image and restart; an image that is within eps asks no more.
        samples: u of the first estimate; √t times as many of the t-th.
    """

    skips_wrong: ClassVar[bool] = True
    queries: int = 5000
    samples: int = 100

    def run(self, search: Search) -> tuple[Tensor, Tensor]:
        """One restart, of a fresh starting point."""
        bisections = math.ceil(math.log2(search.images[0].numel())) + 2
        at, spent = start(search, min(TRIES, self.queries))
        found, margins = search.images.clone(), torch.full_like(at[:, 0, 0, 0], -torch.inf)
        left = (distance(search, at) > 0).nonzero().flatten()
        time = 0
        while len(left):
            standing, x = search.of(left), at[left]
            if spent + bisections + 1 > self.queries:
                break
            x = bisect(standing, x, bisections)
            close = standing.project(x)
            found[left], margins[left] = close, standing.loss(close)
            spent += bisections + 1
            time += 1
            samples = min(int(self.samples * time**0.5), self.queries - spent - HALVINGS)
            if samples < 1:
                break
            size = 0.1 if time == 1 else None
            at[left] = jump(standing, x, normal(standing, x, samples, size).sign(), time)
            spent += samples + HALVINGS
            left = left[margins[left] <= 0]
        return found, margins


def distance(search: Search, images: Tensor) -> Tensor:
    """Largest change of a pixel, `(batch,)`."""
    return (images - search.images).abs().amax((1, 2, 3))


def wrong(search: Search, images: Tensor) -> Tensor:
    """The answer that a decision-based attacker gets."""
    return search.loss(images) > 0


def start(search: Search, tries: int) -> tuple[Tensor, int]:
    """Wrongly classified images, or the images themselves where none was found; queries of an image at most."""
    at = search.images.clone()
    left = torch.arange(len(at), device=at.device)
    spent = 0
    for attempt in range(tries):
        if not len(left):
            break
        standing = search.of(left)
        if attempt % 2:  # other images of the batch, which may be of other classes
            others = search.uniform(len(left)).mul(len(at)).long()
            trial = search.images[others]
        else:
            trial = search.uniform(*standing.images.shape)
        fooled = wrong(standing, trial)
        at[left[fooled]] = trial[fooled]
        left = left[~fooled]
        spent += 1
    return at, spent


def bisect(search: Search, images: Tensor, steps: int) -> Tensor:
    """The wrongly classified images, moved towards the search's images in every pixel that is farther than a radius."""
    low, high = torch.zeros_like(images[:, 0, 0, 0]), distance(search, images)

    def cut(radius: Tensor) -> Tensor:
        reach = radius[:, None, None, None]
        return images.clamp(search.images - reach, search.images + reach)

    for _ in range(steps):
        middle = (low + high) / 2
        fooled = wrong(search, cut(middle))
        low, high = torch.where(fooled, low, middle), torch.where(fooled, middle, high)
    return cut(high)


def normal(search: Search, images: Tensor, samples: int, size: float | None) -> Tensor:
    """Direction towards wrong answers, from those at `samples` points at a Euclidean size, or the images' distance."""
    signed, plain, answers = torch.zeros_like(images), torch.zeros_like(images), torch.zeros_like(images[:, 0, 0, 0])
    reach = distance(search, images) if size is None else torch.full_like(answers, size)
    for number in search.slices(samples):
        u = 2 * search.uniform(number, *images.shape) - 1
        u = u / u.flatten(2).norm(dim=2)[..., None, None, None]
        nearby = (images + reach[:, None, None, None] * u).clamp(0, 1)
        phi = wrong(search, nearby).to(u.dtype) * 2 - 1
        signed += torch.einsum("nb,nbchw->bchw", phi, u)
        plain += u.sum(0)
        answers += phi.sum(0)
    mean = answers / samples
    one_sided = mean.abs() == 1  # all answers alike: no baseline to compare with
    return signed - torch.where(one_sided, 0.0, mean)[:, None, None, None] * plain


def jump(search: Search, images: Tensor, direction: Tensor, time: int) -> Tensor:
    """Images moved by distance / √time in a direction, halved until wrong; where they never are, not moved."""
    size = distance(search, images) / time**0.5
    moved = images.clone()
    left = torch.arange(len(images), device=images.device)
    for _ in range(HALVINGS):
        if not len(left):
            break
        trial = (images[left] + size[left][:, None, None, None] * direction[left]).clamp(0, 1)
        fooled = wrong(search.of(left), trial)
        moved[left[fooled]] = trial[fooled]
        left = left[~fooled]
        size = size / 2
    return moved
