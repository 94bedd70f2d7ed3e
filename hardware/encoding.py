"""Numbers to mirror patterns, and back: a mirror is on or off, so a real vector is shown as several binary patterns.

Every encoding turns rows `x` into binary patterns b_k and weights w_k with x ≈ Σ_k w_k b_k, so that a linear device
gives Rx ≈ Σ_k w_k R b_k. Each is a frozen dataclass: call it with rows and a generator, get `Patterns`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from hardware.errors import DeviceInputError


@dataclass(frozen=True)
class Patterns:
    """Binary patterns and what each is worth.

    bits: uint8 `(n_patterns, batch, n_features)` of {0, 1}; weights: float32 `(n_patterns, batch)`.
    """

    bits: Tensor
    weights: Tensor

    def decode(self, projected: Tensor) -> Tensor:
        """Σ_k w_k y_k: projections `(n_patterns, batch, n_components)` -> `(batch, n_components)`."""
        return torch.einsum("kb,kbm->bm", self.weights, projected)

    def values(self) -> Tensor:
        """The rows these patterns stand for, Σ_k w_k b_k, `(batch, n_features)`."""
        return torch.einsum("kb,kbn->bn", self.weights, self.bits.float())


class Encoding(ABC):
    """Rows of real numbers as binary patterns."""

    @property
    @abstractmethod
    def n_patterns(self) -> int:
        """Binary patterns a row costs."""

    @abstractmethod
    def __call__(self, x: Tensor, generator: torch.Generator) -> Patterns:
        """Encode float rows `(batch, n_features)`; random encodings draw from `generator`."""


def _row_scale(x: Tensor) -> Tensor:
    """The largest entry of each row, `(batch, 1)`, with 1 for rows of zeros so that it can divide."""
    largest = x.amax(dim=1, keepdim=True)
    return torch.where(largest > 0, largest, torch.ones_like(largest))


@dataclass(frozen=True)
class StochasticTernary(Encoding):
    """Two patterns a row, one for each sign, unbiased: E[Σ_k w_k b_k] = x.

    A positive entry's mirror is on with probability x_i / max(x⁺), a negative one's with |x_i| / max(x⁻); the weights
    are max(x⁺) and -max(x⁻). The two signs are separate patterns, so each may have its own scale: the variance,
    Σ_i |x_i| (max(x^±) - |x_i|), is never above that of one common scale, and is zero on a sign whose entries agree.

    >>> encode = StochasticTernary()
    >>> patterns = encode(torch.tensor([[0.5, -0.25, 0.0]]), torch.Generator().manual_seed(0))
    >>> patterns.values()
    tensor([[ 0.5000, -0.2500,  0.0000]])
    """

    @property
    def n_patterns(self) -> int:
        return 2

    def __call__(self, x: Tensor, generator: torch.Generator) -> Patterns:
        signs = torch.stack((x, -x)).clamp_(min=0)
        scale = _row_scale(signs.flatten(0, 1)).view(2, -1, 1)
        draw = torch.rand(signs.shape, generator=generator, device=x.device)
        bits = (draw * scale < signs).to(torch.uint8)
        worth = signs.amax(dim=2) * torch.tensor([[1.0], [-1.0]], device=x.device)  # nothing where a sign is absent
        return Patterns(bits, worth)


@dataclass(frozen=True)
class ThresholdTernary(Encoding):
    """Two patterns a row: sign(x_i) where |x_i| > threshold · max|x|, rescaled to the norm of x. Biased.

    The encoding of the first optical DFA experiments (Launay et al. 2020, arXiv 2006.01475).
    """

    threshold: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise DeviceInputError(f"threshold is a fraction of a row's largest entry, in [0, 1); got {self.threshold}")

    @property
    def n_patterns(self) -> int:
        return 2

    def __call__(self, x: Tensor, generator: torch.Generator) -> Patterns:
        cut = self.threshold * x.abs().amax(dim=1, keepdim=True)
        bits = torch.stack((x > cut, x < -cut)).to(torch.uint8)
        on = bits.sum(dim=(0, 2)).clamp(min=1)
        scale = x.norm(dim=1) / on.sqrt()
        return Patterns(bits, torch.stack((scale, -scale)))


@dataclass(frozen=True)
class BitPlanes(Encoding):
    """`2 · n_bits` patterns a row: each sign's magnitude in binary, after a random dither that makes it unbiased.

    Magnitudes are u = |x| / max|x| · (2^n_bits - 1), rounded up with probability u - floor(u).
    """

    n_bits: int = 8

    def __post_init__(self) -> None:
        if not isinstance(self.n_bits, int) or not 1 <= self.n_bits <= 16:
            raise DeviceInputError(f"n_bits must be an integer from 1 to 16, got {self.n_bits}")

    @property
    def n_patterns(self) -> int:
        return 2 * self.n_bits

    def __call__(self, x: Tensor, generator: torch.Generator) -> Patterns:
        levels = 2**self.n_bits - 1
        scale = _row_scale(x.abs())
        dither = torch.rand(x.shape, generator=generator, device=x.device)
        magnitude = (x.abs() / scale * levels + dither).floor_().clamp_(max=levels).to(torch.int32)
        planes = [(magnitude >> k) & 1 for k in range(self.n_bits)]
        bits = torch.stack([p * on for on in (x > 0, x < 0) for p in planes]).to(torch.uint8)
        worth = torch.tensor([sign * 2.0**k for sign in (1, -1) for k in range(self.n_bits)], device=x.device)
        return Patterns(bits, worth[:, None] * x.abs().amax(dim=1) / levels)


def n_levels(x: Tensor) -> int:
    """2 if each row of `x` holds {0, s} with s > 0, 3 if {-s, 0, s}, else 0."""
    scale = _row_scale(x.abs())
    if ((x == 0) | (x == scale)).all():
        return 2
    return 3 if ((x == 0) | (x.abs() == scale)).all() else 0


def exact_or_bit_planes(x: Tensor, generator: torch.Generator, n_bits: int = 8) -> Patterns:
    """The cheapest patterns for these rows: one if each row holds {0, s}, two if {-s, 0, s}, else bit planes."""
    levels = n_levels(x)
    if levels == 0:
        return BitPlanes(n_bits)(x, generator)
    scale = x.abs().amax(dim=1)[None]  # nothing for a row of zeros
    if levels == 2:
        return Patterns((x > 0).to(torch.uint8)[None], scale)
    return Patterns(torch.stack((x > 0, x < 0)).to(torch.uint8), torch.cat((scale, -scale)))
