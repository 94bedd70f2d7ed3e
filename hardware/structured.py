"""A medium without a matrix: Walsh-Hadamard transforms and random phases, O(n log n) time and O(n) memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from hardware.medium import Medium, Packed, in_threads


class StructuredMedium(Medium):
    """R as blocks of H D₃ H D₂ H D₁: Walsh-Hadamard transforms H and diagonals D of random quarter turns.

    The input is padded to N, a power of two from 64; every N outputs are a block with phases of its own. D₁ turns by
    0 or a half, D₂ and D₃ by any of the four quarters, so that E[R²] = 0 as for a circular Gaussian. Entries are sums
    of N random phases: Gaussian to O(1/N); products of intensities have N/(N + 1) of a Gaussian medium's mean. Within
    a block the rows are orthogonal up to the padding.
    Source: Choromanski, Rowland, Weller, "The unreasonable effectiveness of structured random orthogonal embeddings",
    NeurIPS 2017 (arXiv 1703.00864), where three factors are enough.

    >>> StructuredMedium(n_features=8, n_rows=100, seed=0).field(torch.ones(2, 8), 0, 64).shape
    torch.Size([2, 2, 64])
    """

    kind = "structured"

    def __init__(self, n_features: int, n_rows: int, seed: int) -> None:
        super().__init__(n_features, n_rows, seed)
        self.padded = max(64, 1 << (n_features - 1).bit_length())
        self.scale = math.sqrt(2 / n_features) / self.padded

    @property
    def tile(self) -> int:
        return self.padded

    def quarters(self, block: int) -> np.ndarray:
        """Phases of D₁, D₂, D₃ in quarter turns, int8 `(3, N)`."""
        from hardware import kernels

        drawn = np.empty((3, self.padded), np.int8)
        kernels.fill_words(drawn, self.seed, 3 * block, 1, 0, (np.arange(65536) % 4).astype(np.int8))
        drawn[0] &= 2
        return drawn

    def field(self, x: Tensor | Packed, start: int, stop: int, parts: int = 2) -> Tensor:
        assert isinstance(x, Tensor)
        out = torch.empty(parts, len(x), stop - start, device=x.device)
        for block, inside, rows in self._blocks(start, stop):
            place = out[:, :, rows]
            if x.device.type == "cpu":
                self._compiled_block(place, x, self.quarters(block), inside.start)
            else:
                place.copy_(self._block(x.float(), self.quarters(block), parts)[:, :, inside])
        return out

    def _blocks(self, start: int, stop: int) -> Iterator[tuple[int, slice, slice]]:
        """The blocks that rows `start:stop` lie in: which, its rows that are meant, and their places in the range."""
        for block in range(start // self.padded, math.ceil(stop / self.padded)):
            begin = block * self.padded
            first, last = max(start, begin), min(stop, begin + self.padded)
            yield block, slice(first - begin, last - begin), slice(first - start, last - start)

    def _compiled_block(self, out: Tensor, x: Tensor, quarters: np.ndarray, start: int) -> None:
        from hardware import kernels

        rows = (x if x.dtype == torch.uint8 else x.float()).contiguous().numpy()
        places = out.numpy()

        def multiply(some: range) -> None:
            part = slice(some.start, some.stop)
            kernels.structured_product(places[:, part], rows[part], quarters, start, np.float32(self.scale))

        share = math.ceil(len(x) / torch.get_num_threads())
        shares = [range(k, min(k + share, len(x))) for k in range(0, len(x), share)]
        in_threads(multiply, shares, len(x) * self.padded * 32)

    def _block(self, x: Tensor, quarters: np.ndarray, parts: int) -> Tensor:
        """One block in torch operations: the same sums in the same order as the compiled one."""
        d1, d2, d3 = _phases(quarters, x.device)
        spread = walsh_hadamard(torch.nn.functional.pad(x, (0, self.padded - x.shape[1])) * d1.real)
        turned = walsh_hadamard(torch.stack((spread * d2.real, spread * d2.imag)))
        both = torch.stack((turned[0] * d3.real - turned[1] * d3.imag, turned[0] * d3.imag + turned[1] * d3.real))
        return walsh_hadamard(both[:parts]) * self.scale

    def adjoint(self, g: Tensor, start: int, stop: int) -> Tensor:
        total = torch.zeros(g.shape[1], self.n_features, device=g.device)
        for block, inside, rows in self._blocks(start, stop):
            both = torch.zeros(2, g.shape[1], self.padded, device=g.device)
            both[: len(g), :, inside] = g[:, :, rows]
            d1, d2, d3 = _phases(self.quarters(block), g.device)
            u = walsh_hadamard(both)
            turned = torch.stack((u[0] * d3.real + u[1] * d3.imag, u[1] * d3.real - u[0] * d3.imag))
            v = walsh_hadamard(turned)
            total += (walsh_hadamard(v[0] * d2.real + v[1] * d2.imag) * d1.real)[:, : self.n_features]
        return total * self.scale


def walsh_hadamard(x: Tensor) -> Tensor:
    """The unnormalised Walsh-Hadamard transform of the last dimension, float32, a power of two from 16.

    >>> walsh_hadamard(torch.eye(16)[1])[:4]
    tensor([ 1., -1.,  1., -1.])
    """
    if x.device.type == "cpu":
        from hardware import kernels

        rows = x.float().clone(memory_format=torch.contiguous_format)
        kernels.walsh_hadamard_rows(rows.view(-1, x.shape[-1]).numpy())
        return rows
    return plain_walsh_hadamard(x)


def plain_walsh_hadamard(x: Tensor) -> Tensor:
    """`walsh_hadamard` in torch operations, for devices other than the CPU: the same sums in the same order."""
    n, h = x.shape[-1], 1
    while h < n:
        a, b = x.reshape(*x.shape[:-1], n // (2 * h), 2, h).unbind(-2)
        x = torch.stack((a + b, a - b), dim=-2).reshape(x.shape)
        h *= 2
    return x


def _phases(quarters: np.ndarray, device: torch.device) -> Tensor:
    """Quarter turns as complex numbers, `(3, N)`."""
    turns = torch.tensor([1, 1j, -1, -1j], dtype=torch.complex64, device=device)
    return turns[torch.from_numpy(quarters).long().to(device)]
