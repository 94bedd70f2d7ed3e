"""Random numbers addressed by name, frame and pixel, so that a measurement's noise is a pure function of its place.

Each effect of the instrument has a stream of its own, keyed by the noise seed and the effect's name; within it frame f
and pixel p always see the same number, however frames are batched or pixels tiled.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Frames:
    """`count` camera frames: number `first`, `first + apart`, …"""

    first: int
    count: int
    apart: int = 1

    def numbers(self, device: torch.device) -> Tensor:
        """float64 `(count,)`."""
        return self.first + self.apart * torch.arange(self.count, dtype=torch.float64, device=device)

    def part(self, start: int, stop: int) -> Frames:
        """The frames `start:stop` of these."""
        return Frames(self.first + start * self.apart, stop - start, self.apart)

    def step(self, k: int) -> Frames:
        """The k-th of several frames that each of these stands for."""
        return Frames(self.first + k, self.count, self.apart)


@lru_cache(maxsize=1)
def _gaussian() -> np.ndarray:
    """The standard Gaussian's value in each of 65,536 equally likely cells, scaled to unit variance."""
    cells = (np.arange(65536) + 0.5) / 65536
    values = torch.special.ndtri(torch.from_numpy(cells)).numpy()
    return (values / values.std()).astype(np.float32)


@lru_cache(maxsize=1)
def _uniform() -> np.ndarray:
    return ((np.arange(65536) + 0.5) / 65536).astype(np.float32)


@dataclass(frozen=True)
class Noise:
    """Random fields of a seed. Every method gives float32 `(frames, width)` for pixels from `first_pixel`."""

    seed: int

    def key(self, effect: str) -> int:
        """What selects an effect's stream: hashed, so that neighbouring seeds share nothing."""
        return int(np.random.SeedSequence([self.seed, zlib.crc32(effect.encode())]).generate_state(1, np.uint64)[0])

    def normal(self, effect: str, frames: Frames, first_pixel: int, width: int, device: torch.device) -> Tensor:
        """Standard Gaussian numbers, in 65,536 levels out to 4.3 standard deviations."""
        return self._words(effect, frames, first_pixel, width, _gaussian()).to(device)

    def uniform(self, effect: str, frames: Frames, first_pixel: int, width: int, device: torch.device) -> Tensor:
        """Uniform numbers in (0, 1), in 65,536 levels."""
        return self._words(effect, frames, first_pixel, width, _uniform()).to(device)

    def _words(self, effect: str, frames: Frames, first_pixel: int, width: int, table: np.ndarray) -> Tensor:
        from hardware import kernels

        out = np.empty((frames.count, width), np.float32)
        kernels.fill_words(out, np.uint64(self.key(effect)), frames.first, frames.apart, first_pixel, table)
        return torch.from_numpy(out)
