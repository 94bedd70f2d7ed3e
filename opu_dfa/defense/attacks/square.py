"""Square: random search over squares of pixels, by the model's scores alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from opu_dfa.defense.attacks.search import Restarted, Search

SHRINKS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # shares of all queries after which the squares halve


@dataclass(frozen=True, kw_only=True)
class Square(Restarted):
    """Sets a random square of each image to ±eps, a sign per channel, and keeps it where the margin rose.

    Starts from vertical stripes. Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack
    via random search", 2020; but every image gets a square of its own place.

    Args:
        restarts: runs from stripes of their own; those but the first ask for what still stands.
        queries: of each image and restart; an image that is classified wrongly asks no more.
        share: of the image's area, what the first squares cover; halved after each of `SHRINKS`.
    """

    skips_wrong: ClassVar[bool] = True
    restarts: int = 2
    queries: int = 5000
    share: float = 0.8

    def run(self, search: Search) -> tuple[Tensor, Tensor]:
        """One restart: stripes, then squares."""
        batch, channels, _, width = search.images.shape
        found = search.project(search.images + search.eps * search.signs(batch, channels, 1, width))
        margins = search.loss(found)
        for query in range(1, self.queries):
            left = (margins <= 0).nonzero().flatten()
            if not len(left):
                break
            standing = search.of(left)
            inside = squares(standing, self.side(query, search.images))
            moved = standing.project(standing.images + search.eps * search.signs(len(left), channels, 1, 1))
            moved = torch.where(inside, moved, found[left])
            moved_margins = standing.loss(moved)
            better = moved_margins > margins[left]
            found[left[better]], margins[left[better]] = moved[better], moved_margins[better]
        return found, margins

    def side(self, query: int, images: Tensor) -> int:
        """Side of the squares, in pixels, at a query."""
        halvings = sum(query > share * self.queries for share in SHRINKS)
        height, width = images.shape[-2:]
        return min(max(round((self.share / 2**halvings * height * width) ** 0.5), 1), height, width)


def squares(search: Search, side: int) -> Tensor:
    """True in one square per image, of random place: `(batch, 1, height, width)`."""
    batch, _, height, width = search.images.shape

    def strip(length: int) -> Tensor:
        begin = (search.uniform(batch, 1) * (length - side + 1)).long()
        place = torch.arange(length, device=begin.device)
        return (place >= begin) & (place < begin + side)

    return strip(height)[:, None, :, None] & strip(width)[:, None, None, :]
