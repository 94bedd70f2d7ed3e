"""The scattering medium: a fixed random complex matrix R that a seed determines on any machine.

Three kinds meet one contract. *Dense* holds its entries, *streamed* draws the same entries again at every product, and
*structured* (`hardware.structured`) replaces them by Walsh-Hadamard transforms and random phases. Real and imaginary
parts have variance 1/n_features each. The first m rows of a medium do not change when more are asked for.

The entries of the first two are discretised Gaussians held as int8: a 16-bit word of a counter-based generator picks
one of 65,536 equally likely quantiles of N(0, 30²), rounded to an integer. Their moments are those of a Gaussian up to
that rounding: variance 900.04 (which the scale divides out), kurtosis 2.999, largest entry
4.2 standard deviations. Sums of integers have no rounding, so a field has the same bits whatever the batch, the tile,
the number of threads or the machine.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hardware.errors import DeviceInputError

SIGMA = 30  # integer standard deviation: ±127 lies beyond four sigma, and rounding adds 1/12 to a variance of 900
LANES = 64  # rows of R a tile; the compiled product's width
_SLICE = 32  # features are padded to a multiple: the compiled product's depth
_FIXED_POINT = 127 * 2**16  # levels of a real input's largest entry: the precision of float32, in three digits
_SMALL = 2**21  # multiply-accumulates below which a second thread costs more than it saves


@lru_cache(maxsize=1)
def quantiles() -> np.ndarray:
    """int8 value of each 16-bit word: the inverse distribution function of the rounded Gaussian, `(65536,)`."""
    edges = [round(65536 * 0.5 * (1 + math.erf((k - 0.5) / (SIGMA * math.sqrt(2))))) for k in range(-127, 128)]
    edges[0] = 0
    counts = np.diff([*edges, 65536])
    return np.repeat(np.arange(-127, 128), counts).astype(np.int8)


@lru_cache(maxsize=1)
def _deviation() -> float:
    """Exact standard deviation of the integer entries."""
    return float(quantiles().astype(np.float64).std())


@dataclass(frozen=True)
class Packed:
    """Binary rows as the compiled product reads them: uint8 `(padded features / 32, batch, 8)`."""

    indices: np.ndarray


class Medium(ABC):
    """A fixed complex matrix R of `n_rows` rows, drawn from `seed`.

    Raises:
        DeviceInputError: a seed or a size out of range.
    """

    kind: ClassVar[str]

    def __init__(self, n_features: int, n_rows: int, seed: int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
            raise DeviceInputError(f"a seed is an integer from 0 to 2^63 - 1, got {seed!r}")
        self.n_features, self.n_rows, self.seed = n_features, n_rows, int(seed)

    @property
    @abstractmethod
    def tile(self) -> int:
        """Rows that are cheapest asked for together; start a range at a multiple of it."""

    @abstractmethod
    def field(self, x: Tensor | Packed, start: int, stop: int, parts: int = 2) -> Tensor:
        """Rows `start:stop` of Rx: float32 `(parts, batch, stop - start)`, the real part or real and imaginary.

        x: `(batch, n_features)`, uint8 of {0, 1}, int8 or floating point; or what `prepare` made of it.
        """

    def prepare(self, x: Tensor) -> Tensor | Packed:
        """The input in the form that is multiplied, for several calls of `field`."""
        return x

    @abstractmethod
    def adjoint(self, g: Tensor, start: int, stop: int) -> Tensor:
        """Σ_p R_pᵀ g_p over rows `start:stop`, R_0 real and R_1 imaginary part: the derivative of `field`.

        g: float32 `(parts, batch, stop - start)`; returns float32 `(batch, n_features)`.
        """


class StreamedMedium(Medium):
    """R drawn again, a tile of 64 rows at a time, at every product: the memory of one tile, any size.

    >>> StreamedMedium(n_features=8, n_rows=100, seed=0).field(torch.ones(2, 8), 97, 100).shape
    torch.Size([2, 2, 3])
    """

    kind = "streamed"

    def __init__(self, n_features: int, n_rows: int, seed: int) -> None:
        super().__init__(n_features, n_rows, seed)
        self.scale = 1 / (_deviation() * math.sqrt(n_features))
        self._padded = math.ceil(n_features / _SLICE) * _SLICE

    @property
    def tile(self) -> int:
        return LANES

    def entries(self, tile: int, part: int) -> np.ndarray:
        """Integer entries of rows 64·tile … of Re R (part 0) or Im R (1), int8 `(padded features, 64)`."""
        drawn = np.zeros((self._padded, LANES), np.int8)
        self._draw(drawn, tile, part)
        return drawn

    def _draw(self, out: np.ndarray, tile: int, part: int) -> None:
        from hardware import kernels

        kernels.fill_entries(out, self.seed, self.n_features, part, tile * LANES, quantiles())

    def prepare(self, x: Tensor) -> Tensor | Packed:
        if x.dtype != torch.uint8 or x.device.type != "cpu":
            return x
        from hardware import kernels

        indices = np.empty((self._padded // _SLICE, len(x), 8), np.uint8)
        kernels.pack(x.contiguous().numpy(), indices)
        return Packed(indices)

    def field(self, x: Tensor | Packed, start: int, stop: int, parts: int = 2) -> Tensor:
        x = x if isinstance(x, Packed) else self.prepare(x)
        if isinstance(x, Packed):
            return self._binary_field(x.indices, start, stop, parts)
        digits, weights, largest = _digits(x)
        depth = 2**24 // (128 * largest)  # sums this deep are exact in float32
        out = torch.empty(parts, len(x), stop - start, device=x.device)
        for rows, part in self._pieces(start, stop, parts, x.device):
            total = torch.zeros(parts, len(x), part.shape[2], dtype=torch.float64, device=x.device)
            for first in range(0, self.n_features, depth):
                block = part[:, first : min(first + depth, self.n_features)].float()
                for digit, worth in zip(digits, weights, strict=True):
                    total += worth * (digit[:, first : first + depth] @ block)
            out[:, :, rows] = total.float() * self.scale
        return out

    def _binary_field(self, indices: np.ndarray, start: int, stop: int, parts: int) -> Tensor:
        from hardware import kernels

        batch = indices.shape[1]
        out = np.empty((parts, batch, stop - start), np.float32)

        def multiply(tile: int) -> None:
            sums = np.empty((batch, LANES), np.int32)
            first, last = max(start, tile * LANES), min(stop, (tile + 1) * LANES)
            for part in range(parts):
                kernels.binary_product(indices, self.entries(tile, part), sums)
                kernels.scale_into(
                    out[part][:, first - start : last - start], sums, first - tile * LANES, np.float32(self.scale)
                )

        in_threads(multiply, _tiles(start, stop), batch * self.n_features * (stop - start))
        return torch.from_numpy(out)

    def adjoint(self, g: Tensor, start: int, stop: int) -> Tensor:
        total = torch.zeros(g.shape[1], self.n_features, device=g.device)
        for rows, part in self._pieces(start, stop, len(g), g.device):
            for coefficients, matrix in zip(g[:, :, rows], part[:, : self.n_features], strict=True):
                total += coefficients @ matrix.float().T
        return total * self.scale

    def _pieces(self, start: int, stop: int, parts: int, device: torch.device) -> Iterable[tuple[slice, Tensor]]:
        """Entries of rows `start:stop`, some tiles at a time, with the places of those rows in the range."""
        together = max(1, min(64, 2**25 // (self._padded * LANES)))
        tiles = list(_tiles(start, stop))
        for k in range(0, len(tiles), together):
            group = [
                torch.cat([self._on(device, tile, part) for tile in tiles[k : k + together]], dim=1)
                for part in range(parts)
            ]
            first = tiles[k] * LANES
            entries = torch.stack(group)[:, :, max(start - first, 0) : stop - first]
            begin = max(first, start) - start
            yield slice(begin, begin + entries.shape[2]), entries

    def _on(self, device: torch.device, tile: int, part: int) -> Tensor:
        return torch.from_numpy(self.entries(tile, part)).to(device)


class DenseMedium(StreamedMedium):
    """R drawn once and held, n_features · n_rows bytes for each of its parts; the imaginary one when first needed.

    >>> DenseMedium(n_features=8, n_rows=3, seed=0).field(torch.ones(2, 8), 0, 3).shape
    torch.Size([2, 2, 3])
    """

    kind = "dense"

    def __init__(self, n_features: int, n_rows: int, seed: int) -> None:
        super().__init__(n_features, n_rows, seed)
        n_tiles = math.ceil(n_rows / LANES)
        needed, present = n_tiles * 2 * self._padded * LANES, _physical_memory()
        if needed > 0.8 * present:
            raise DeviceInputError(
                f"a dense medium of {n_features} x {n_rows} takes {needed / 2**30:.1f} GiB of the "
                f'{present / 2**30:.1f} GiB here; choose medium="structured", or "streamed" for the same numbers'
            )
        self._n_tiles = n_tiles
        self._held: dict[int, np.ndarray] = {}
        self._elsewhere: dict[tuple[torch.device, int], Tensor] = {}
        self._hold(0)

    def entries(self, tile: int, part: int) -> np.ndarray:
        return self._hold(part)[tile]

    def field(self, x: Tensor | Packed, start: int, stop: int, parts: int = 2) -> Tensor:
        for part in range(parts):
            self._hold(part)  # before threads ask for it
        return super().field(x, start, stop, parts)

    def _hold(self, part: int) -> np.ndarray:
        if part not in self._held:
            drawn = np.zeros((self._n_tiles, self._padded, LANES), np.int8)
            in_threads(
                lambda tile: self._draw(drawn[tile], tile, part), range(self._n_tiles), self.n_features * self.n_rows
            )
            self._held[part] = drawn
        return self._held[part]

    def _on(self, device: torch.device, tile: int, part: int) -> Tensor:
        if device.type == "cpu":
            return super()._on(device, tile, part)
        if (device, part) not in self._elsewhere:
            self._elsewhere[device, part] = torch.from_numpy(self._hold(part)).to(device)
        return self._elsewhere[device, part][tile]


def _digits(x: Tensor) -> tuple[list[Tensor], list[Tensor], int]:
    """Rows as integers small enough for exact products: x = Σ_k weights_k · digits_k, and the largest digit.

    Binary and int8 rows are one digit; real rows are rounded to 2^-23 of their largest entry, in three signed digits.
    """
    if not x.is_floating_point():
        largest_digit = 1 if x.dtype == torch.uint8 else 128
        return [x.float()], [torch.ones(1, 1, dtype=torch.float64, device=x.device)], largest_digit
    exact = x.double()
    largest = exact.abs().amax(dim=1, keepdim=True)
    unit = torch.where(largest > 0, largest, torch.ones_like(largest)) / _FIXED_POINT
    rest = (exact / unit).round_().to(torch.int32)
    digits: list[Tensor] = []
    for _ in range(3):
        low = ((rest + 128) & 255) - 128
        digits.append(low.float())
        rest = (rest - low) >> 8
    return digits, [unit * 256.0**k for k in range(3)], 128


def _tiles(start: int, stop: int) -> range:
    return range(start // LANES, math.ceil(stop / LANES))


def in_threads(task: Callable[..., None], items: Iterable[object], work: int) -> None:
    """Run the task on every item, on torch's number of threads when there is enough to do."""
    workers = torch.get_num_threads() if work > _SMALL else 1
    if workers == 1:
        for item in items:
            task(item)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(task, items))


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return 2**62
