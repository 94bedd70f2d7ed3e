"""What of an output error reaches the hidden units: how it is encoded, and the noise of the device that projects it.

A unit j of the student receives

    s_j = (1 + r ξ_j) Σ_c B_jc φ(e)_c + σ_s |φ(e)| ξ'_j + σ_d ξ''_j + σ_c ξ,   ξ ~ N(0, 1), new for every sample.

A code says the first two moments of φ(e)_c given the error without label noise, δ, where e = δ - σζ. Codes are those of
`hardware.encoding`; with `level` given, they have one scale for all samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from scipy import special

from opu_dfa.errors import ConfigError

Array = np.ndarray


@runtime_checkable
class Code(Protocol):
    """φ, by its moments and by the number, threshold and level that compiled loops know it by."""

    def moments(self, delta: Array, noise: float, xi: Array) -> tuple[Array, Array]:
        """E φ_c and E φ_c², `(n, O)`, given δ `(n, O)`; xi are normal nodes for label noise without a closed form.

        Given δ and xi, components are independent of each other.
        """

    @property
    def compiled(self) -> tuple[int, float, float]: ...


@dataclass(frozen=True)
class Exact:
    """φ(e) = e."""

    def moments(self, delta: Array, noise: float, xi: Array) -> tuple[Array, Array]:
        return delta, delta**2 + noise**2

    @property
    def compiled(self) -> tuple[int, float, float]:
        return 0, 0.0, 0.0


@dataclass(frozen=True)
class Clipped:
    """φ(e) = e between ± level, and ± level beyond."""

    level: float

    def __post_init__(self) -> None:
        _positive("level", self.level)

    def moments(self, delta: Array, noise: float, xi: Array) -> tuple[Array, Array]:
        return _clipped(delta, noise, self.level)[:2]

    @property
    def compiled(self) -> tuple[int, float, float]:
        return 1, 0.0, self.level


@dataclass(frozen=True)
class ThresholdTernary:
    """φ(e) = level · sign(e) where |e| > threshold, and 0 elsewhere: biased.

    Without a level, as `hardware.ThresholdTernary`: the threshold is a fraction of a sample's largest |e_c|, and the
    level is what keeps its norm. Of one output that is the error itself.
    """

    threshold: float = 0.2
    level: float | None = None

    def __post_init__(self) -> None:
        if self.level is not None:
            _positive("level", self.level)
        if not 0 <= self.threshold < (1 if self.level is None else math.inf):
            raise ConfigError(f"a threshold is 0 or more, and below 1 without a level; got {self.threshold}")

    def moments(self, delta: Array, noise: float, xi: Array) -> tuple[Array, Array]:
        if self.level is None:
            e = delta + noise * xi
            on = np.abs(e) > self.threshold * np.abs(e).max(axis=1, keepdims=True)
            scale = np.sqrt((e**2).sum(axis=1, keepdims=True) / np.maximum(on.sum(axis=1, keepdims=True), 1))
            sent = scale * on * np.sign(e)
            return sent, sent**2
        above, below = (_exceeds(sign * delta - self.threshold, noise) for sign in (1, -1))
        return self.level * (above - below), self.level**2 * (above + below)

    @property
    def compiled(self) -> tuple[int, float, float]:
        return 2, self.threshold, self.level or 0.0


@dataclass(frozen=True)
class StochasticTernary:
    """φ(e) = ± level with probability |e| / level: unbiased up to the level, of variance |e| (level - |e|).

    Without a level, as `hardware.StochasticTernary`: that of a sample's positive (negative) components is the largest
    of them, so that it is never clipped. Of one output that is the error itself.
    """

    level: float | None = None

    def __post_init__(self) -> None:
        if self.level is not None:
            _positive("level", self.level)

    def moments(self, delta: Array, noise: float, xi: Array) -> tuple[Array, Array]:
        if self.level is None:
            e = delta + noise * xi
            scale = np.where(e > 0, *(np.maximum(s * e, 0).max(axis=1, keepdims=True) for s in (1, -1)))
            return e, np.abs(e) * scale
        mean, _, size = _clipped(delta, noise, self.level)
        return mean, self.level * size

    @property
    def compiled(self) -> tuple[int, float, float]:
        return 3, 0.0, self.level or 0.0


@dataclass(frozen=True)
class Device:
    """Standard deviations of the noise a read-out adds to what a unit receives.

    Of every unit its own: additive, σ_d; relative, r, in units of its signal; shown, σ_s, in units of the norm of what
    is shown, as of a camera, which sees as much noise as there is light. Of all units together: common, σ_c, as of a
    laser.
    """

    additive: float = 0.0
    relative: float = 0.0
    common: float = 0.0
    shown: float = 0.0

    def __post_init__(self) -> None:
        if not all(0 <= v < math.inf for v in (self.additive, self.relative, self.common, self.shown)):
            raise ConfigError(f"noise is a standard deviation, 0 or more; got {self}")

    def diffusion(self, signal: Array, slopes: Array, shown: Array) -> Array:
        """E[s_j s_k g'_j g'_k] of that without noise and E[g'_j g'_k], both `(K, K)`, and E[|φ|² g'_j²], `(K,)`."""
        own = self.relative**2 * np.diag(signal) + self.additive**2 * np.diag(slopes) + self.shown**2 * shown
        return np.asarray(signal + np.diag(own) + self.common**2 * slopes)


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ConfigError(f"the {name} of a code is positive and finite, got {value}")


def _exceeds(margin: Array, noise: float) -> Array:
    """P(margin + noise ζ > 0)."""
    return special.ndtr(margin / noise) if noise > 0 else (margin > 0).astype(np.float64)


def _clipped(delta: Array, noise: float, level: float) -> tuple[Array, Array, Array]:
    """E x, E x² and E |x| of x = δ + noise ζ cut to ± level."""
    if noise == 0:
        x = np.clip(delta, -level, level)
        return x, x**2, np.abs(x)
    # E min(max(x, a), b) and so on from the partial moments of a normal variable between a and b.
    cuts = [(edge - delta) / noise for edge in (-level, 0.0, level)]
    mass, density = (
        [f(t) for t in cuts] for f in (special.ndtr, lambda t: np.exp(-t * t / 2) / math.sqrt(2 * math.pi))
    )
    lower, upper = mass[0], special.ndtr(-cuts[2])
    inside = [mass[k + 1] - mass[k] for k in (0, 1)]
    first = [delta * p + noise * (density[k] - density[k + 1]) for k, p in enumerate(inside)]
    total = inside[0] + inside[1]
    second = (delta**2 + noise**2) * total
    second += noise * (density[0] * (delta - level) - density[2] * (delta + level))
    mean = first[0] + first[1] + level * (upper - lower)
    return mean, second + level**2 * (upper + lower), first[1] - first[0] + level * (upper + lower)
