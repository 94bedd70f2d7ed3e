"""The scattering medium: a fixed random complex matrix that a seed determines on any machine.

Its entries are discretised Gaussians held as int8: a 16-bit word of a counter-based generator (Philox) picks one of
65,536 equal-probability quantiles of N(0, 30²), rounded to an integer. Sums of such integers over a binary pattern are
exact in float32 up to 2²⁴, so a field is the same to the last bit whatever the batch size, the tile or the number of
threads. Every output has counters of its own: the first m outputs do not change when more are asked for.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from hardware.opu import DeviceInputError

SIGMA = 30  # integer standard deviation: ±127 lies beyond four sigma, and rounding adds 1/12 to a variance of 900
_MAX_EXACT_FEATURES = 2**24 // 127


@lru_cache(maxsize=1)
def _quantiles() -> np.ndarray:
    """int8 value of each 16-bit word: the inverse distribution function of the rounded Gaussian."""
    edges = [round(65536 * 0.5 * (1 + math.erf((k - 0.5) / (SIGMA * math.sqrt(2))))) for k in range(-127, 128)]
    edges[0] = 0
    counts = np.diff([*edges, 65536])
    return np.repeat(np.arange(-127, 128), counts).astype(np.int8)


@lru_cache(maxsize=1)
def _deviation() -> float:
    """Exact standard deviation of the integer entries."""
    return float(_quantiles().astype(np.float64).std())


def integer_entries(seed: int, n_features: int, start: int, stop: int) -> np.ndarray:
    """Rows `start:stop` of the medium, int8 `(stop - start, 2, n_features)`: real and imaginary parts.

    The same seed and n_features give the same rows, whichever range they are asked in.
    """
    blocks = math.ceil(2 * n_features / 16)  # a Philox counter yields 256 bits: sixteen 16-bit words
    philox = np.random.Philox(key=seed)
    philox.advance(start * blocks)
    words = np.asarray(philox.random_raw(4 * blocks * (stop - start)), dtype="<u8").view("<u2")
    rows = words.reshape(stop - start, -1)[:, : 2 * n_features]
    return _quantiles()[rows].reshape(stop - start, 2, n_features)


class DenseMedium:
    """The matrix R held in memory, `(n_components, n_features)` complex, real and imaginary variance 1/n_features.

    >>> DenseMedium(n_features=8, n_components=3, seed=0).field(torch.ones(2, 8))[0].shape
    torch.Size([2, 3])
    """

    def __init__(self, n_features: int, n_components: int, seed: int) -> None:
        if n_features > _MAX_EXACT_FEATURES:
            raise DeviceInputError(
                f"a dense medium is exact up to n_features = {_MAX_EXACT_FEATURES}, got {n_features}"
            )
        entries = torch.from_numpy(integer_entries(seed, n_features, 0, n_components))
        self._parts = entries.permute(1, 2, 0).float().contiguous()  # (2, n_features, n_components)
        self.scale = 1 / (_deviation() * math.sqrt(n_features))

    def field(self, patterns: Tensor) -> tuple[Tensor, Tensor]:
        """Real and imaginary part of Rx, float32 `(batch, n_components)` each, for binary rows."""
        real, imaginary = self._on(patterns.device)
        x = patterns.float()
        return (x @ real) * self.scale, (x @ imaginary) * self.scale

    def in_phase(self, patterns: Tensor) -> Tensor:
        """Re(R)x alone, float32 `(batch, n_components)`."""
        return (patterns.float() @ self._on(patterns.device)[0]) * self.scale

    def _on(self, device: torch.device) -> Tensor:
        if self._parts.device != device:
            self._parts = self._parts.to(device)
        return self._parts
