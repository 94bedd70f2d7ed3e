"""What `scripts/defense_attempts.py` found, read from its folder, and how two rows of it compare."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from defense_attempts_rows import FRONTIER, ROWS, SEEDS, Row, Setting

ABOVE, BELOW, SAME = "above", "below", "no different from"


@dataclass(frozen=True)
class Found:
    """A row over the seeds: clean accuracy of each, and what each attack in turn leaves, `(n_seeds, n_images)`."""

    row: Row
    clean: list[float]
    left: dict[str, np.ndarray]

    @property
    def standing(self) -> np.ndarray:
        """What all attacks leave."""
        return list(self.left.values())[-1]

    @property
    def robust(self) -> list[float]:
        return [float(each) for each in self.standing.mean(1)]


@dataclass(frozen=True)
class Difference:
    """A mean and its standard error, over the images and the seeds."""

    mean: float
    error: float

    @property
    def verdict(self) -> str:
        return ABOVE if self.mean > 2 * self.error else BELOW if self.mean < -2 * self.error else SAME


def finished(at: Setting) -> dict[str, Found]:
    """The rows that every seed is through with, by name; none before adversarial training alone is."""
    found = {row.name: _found(at, row) for row in ROWS if all(_path(at, row, seed).exists() for seed in SEEDS)}
    return found if {row.name for row in FRONTIER} < set(found) else {}


def _path(at: Setting, row: Row, seed: int) -> Path:
    return at.folder / f"seed-{seed}" / f"{row.name}.json"


def _found(at: Setting, row: Row) -> Found:
    records = [json.loads(_path(at, row, seed).read_text()) for seed in SEEDS]
    left = {name: np.array([record["left"][name] for record in records], float) for name in records[0]["left"]}
    return Found(row, [record["clean"] for record in records], left)


def matched(clean: float, found: dict[str, Found]) -> np.ndarray:
    """What adversarial training alone leaves of each image at a clean accuracy, `(n_seeds, n_images)`.

    The best of its models that are at least as accurate, and of two of them mixed to that accuracy: an image meets
    either by chance. Its most accurate model, where none is.
    """
    points = [(statistics.mean(found[row.name].clean), found[row.name].standing) for row in FRONTIER]
    over = [point for point in points if point[0] >= clean] or [max(points, key=lambda point: point[0])]
    candidates = [standing for _, standing in over]
    for high, upper in over:
        for low, lower in points:
            if low < clean < high:
                share = (clean - low) / (high - low)
                candidates.append(share * upper + (1 - share) * lower)
    return max(candidates, key=lambda each: float(each.mean()))


def difference(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """Of the same images and seeds: the errors over the images, of means over seeds, and over the seeds, together."""
    each = ours - theirs
    n_seeds, n_images = each.shape
    of_images = each.mean(0).std(ddof=1) / n_images**0.5
    of_seeds = each.mean(1).std(ddof=1) / n_seeds**0.5
    return Difference(float(each.mean()), float(np.hypot(of_images, of_seeds)))
