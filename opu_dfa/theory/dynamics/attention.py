"""Sequences seen along one direction: gradient descent on the sphere, for attention and for feed-forward networks.

A sequence has L tokens x_l ~ N(0, I_d), of which targets see t_l = w*·x_l and students s_l = w·x_l, |w| = 1. One-pass
gradient descent of rate γ/d, with w put back on the sphere, moves the overlaps in time = steps γ/d as

    dm/dt = -∂_m R + m (m ∂_m R + e ∂_e R) - (γ/2) m E δ²      and likewise e,      δ² = Σ_l (∂ℓ/∂s_l)²

where R(m, e) = E ℓ is the risk. The last term is the noise of single samples, which a small rate takes away. Arnaboldi,
Loureiro, Stephan, Krzakala and Zdeborová 2025.

Attention (L = 2): tokens carry positions ±p, so s = m t + √(1 - m²) z ± e with e = w·p. The target mixes a semantic and
a positional matrix, T = (1 - ω) softmax(t tᵀ) + ω softmax(a), a = ±level², the student is S = softmax(s sᵀ), and
ℓ = |T - S|²/2: w learns w* or p. For any ω < 1 the best w of m = 0 is a saddle, that m leaves at a rate which goes to 0
with 1 - ω; above ω = 0.96 or so it is passed by on the way, and the noise of a rate that is not small keeps w there.

Feed-forward: the student h_k(Σ_l w_l·x_l/√L), h_k the normalised Hermite polynomial, has one w for all tokens (tied) or
one for each (untied), Σ|w_l|² = L. Of the target h_k(Σ_l t_l/√L) (mean) or Σ_l h_k(t_l)/√L (sum) it sees k powers of
m = Σ_l w_l·w*/L. The untied network is the tied one slowed down L times: each token moves one w of L.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
from scipy import integrate, special

from opu_dfa.errors import ConfigError, NotConverged
from opu_dfa.theory.dynamics.sequences import attention as _attention
from opu_dfa.theory.dynamics.sequences import forward as _forward
from opu_dfa.theory.gaussian import Rule, hermite, tensor

Array = np.ndarray
Target = Literal["mean", "sum"]
_STEP, _REACH = 0.2, 7.0  # of trapezoids, in standard deviations
_NARROWEST = 0.06  # law of t given s that is resolved, of m = 0.998


class Force(NamedTuple):
    """What an average over samples gives: the risk, its slopes by the overlaps, and E δ²."""

    risk: float
    slopes: Array
    noise: float


class Model(ABC):
    """A student with its target, of which overlaps are followed."""

    slowdown = 1  # weights that share what a sample tells

    @abstractmethod
    def force(self, overlaps: Array) -> Force:
        """Averages at given overlaps: m, and e if tokens carry positions."""

    @abstractmethod
    def descend(self, rng: np.random.Generator, start: Array, d: int, rate: float, times: Array) -> Array:
        """Overlaps at given times `(times, overlaps)` of gradient descent in d dimensions, from given overlaps."""


@dataclass(frozen=True)
class Attention(Model):
    """Two tokens of positions ±p before a target that is positional by a share ω.

    Args:
        omega: ω; level: of the positional matrix.

    Raises:
        ConfigError: an ω outside 0 to 1.

    >>> round(Attention(0.1).force(np.array([0.2, 0.2])).risk, 4)  # of m, e
    0.1334
    """

    omega: float
    level: float = 0.75

    def __post_init__(self) -> None:
        if not 0 <= self.omega <= 1:
            raise ConfigError(f"ω, the positional share of the target, is from 0 to 1, got {self.omega}")

    @property
    def positional(self) -> float:
        """How much of its own token a position attends to."""
        return float(special.expit(2 * self.level**2))

    def force(self, overlaps: Array) -> Force:
        """Of overlaps (m, e) with the target's direction and with the position.

        Averages over s are sums over a grid, those over t given s two products with the law of one given the other,
        and ∂_m of an average is that of slopes in both (Price). A row's two entries add up to 1.
        """
        m, e = (float(x) for x in overlaps)
        line, density = _line(_STEP)
        weights = np.outer(density, density)
        a, b = line[:, None] + e, line - e  # of the two tokens
        first, second = _attends(a, b), _attends(b, a)
        seen, law = _given(line, m)

        def given(values: Array) -> Array:
            return law @ values @ law.T

        raw = [_attends(seen[:, None], seen), _attends(seen, seen[:, None])]
        share, shift = 1 - self.omega, self.omega * self.positional
        targets = [shift + share * each[0] for each in raw]
        expected = [given(t) for t in targets]
        squares = [given(t * t) for t in targets]
        errors = [first[0] - expected[0], second[0] - expected[1]]
        spread = [square - mean**2 for square, mean in zip(squares, expected, strict=True)]
        both = errors[0] * errors[1] + given(targets[0] * targets[1]) - expected[0] * expected[1]
        sizes = [error**2 + var for error, var in zip(errors, spread, strict=True)]
        # By symmetry both rows have the same risk and slopes.
        by_e = 2 * errors[0] * (first[1] - first[2])
        by_m = -2 * share * (first[1] * given(raw[0][1]) + first[2] * given(raw[0][2]))
        noise = sizes[0] * (first[1] ** 2 + first[2] ** 2) + sizes[1] * (second[1] ** 2 + second[2] ** 2)
        noise += 2 * both * (first[1] * second[2] + first[2] * second[1])
        return Force(
            float(2 * (weights * sizes[0]).sum()),
            np.array([2 * (weights * by_m).sum(), 2 * (weights * by_e).sum()]),
            float(4 * (weights * noise).sum()),
        )

    def descend(self, rng: np.random.Generator, start: Array, d: int, rate: float, times: Array) -> Array:
        """See `Model`."""
        steps = _steps(times, d, rate)
        return np.asarray(_attention(rng, _placed(start, 1, d)[0], rate, self.omega, self.positional, steps))


@dataclass(frozen=True)
class FeedForward(Model):
    """A network of h_k, k the order, over L tokens, and its target.

    Raises:
        ConfigError: an order that is not 2 or 3, fewer than one token, or an unknown target.

    >>> FeedForward("sum", 4, 2).speed, FeedForward("sum", 4, 2, tied=False).speed
    (1.0, 0.25)
    """

    target: Target
    tokens: int
    order: int = 2
    tied: bool = True

    def __post_init__(self) -> None:
        if self.target not in get_args(Target):
            raise ConfigError(f"there is no target {self.target!r}; choose one of {', '.join(get_args(Target))}")
        if self.order not in (2, 3) or not 1 <= self.tokens <= 6:
            raise ConfigError(f"polynomials are of order 2 or 3, over 1 to 6 tokens, got {self}")

    @property
    def correlation(self) -> float:
        """E[target · student] at m = 1: 1, or of a sum L^((1 - k)/2)."""
        return 1.0 if self.target == "mean" else self.tokens ** ((1 - self.order) / 2)

    @property
    def slowdown(self) -> int:  # type: ignore[override]
        return 1 if self.tied else self.tokens

    @property
    def speed(self) -> float:
        """c of dm/dt = c m^(k - 1) at small m and rates: to escape takes a time of 1/c."""
        return self.order * self.correlation / self.slowdown

    def force(self, overlaps: Array) -> Force:
        """Of the overlap (m,)."""
        m = float(overlaps[0])
        k, slope = self.order, -self.order * self.correlation * float(overlaps[0]) ** (self.order - 1)
        return Force(1 - self.correlation * m**k, np.array([slope]), self._noise(m))

    def descend(self, rng: np.random.Generator, start: Array, d: int, rate: float, times: Array) -> Array:
        """See `Model`."""
        w = _placed(start, self.tokens, d)
        mean = self.target == "mean"
        return np.asarray(_forward(rng, w, rate, self.order, mean, self.tied, _steps(times, d, rate)))

    def _noise(self, m: float) -> float:
        """E[(h(S) - y)² h'(S)²], S = m τ + √(1 - m²) z, τ = Σ_l t_l/√L, on a grid that is exact for polynomials."""
        k, tokens = self.order, 1 if self.target == "mean" else self.tokens
        fields, weights = _grid(tokens + 1, 2 * k)
        t = fields[:, :tokens]
        s = m * t.sum(axis=1) / math.sqrt(tokens) + math.sqrt(max(1 - m * m, 0.0)) * fields[:, tokens]
        y = _hermite(t, k).sum(axis=1) / math.sqrt(tokens)
        return float(weights @ ((_hermite(s, k) - y) * math.sqrt(k) * _hermite(s, k - 1)) ** 2)


def flow(model: Model, start: Sequence[float], times: Array, rate: float = 0.0) -> Array:
    """Overlaps at given times `(times, overlaps)`, from those at time 0.

    Raises:
        ConfigError: overlaps of more than unit length, a negative rate, or times that do not grow.
        NotConverged: the integrator gave up.

    >>> flow(FeedForward("mean", 2), [0.1], np.array([0.5, 1.0])).round(4).ravel().tolist()
    [0.2635, 0.5962]
    """
    origin, times = _checked(start, times, rate)

    def rates(_: float, overlaps: Array) -> Array:
        force = model.force(overlaps)
        tangent = -force.slopes + overlaps * float(overlaps @ force.slopes)
        return np.asarray((tangent - rate / 2 * force.noise * overlaps) / model.slowdown)

    solved = integrate.solve_ivp(rates, (0.0, float(times[-1])), origin, t_eval=times, rtol=1e-6, atol=1e-8)
    if not solved.success:
        raise NotConverged(f"the flow stops at time {solved.t[-1]:g}: {solved.message}", float("nan"))
    return np.asarray(solved.y.T)


def descent(model: Model, start: Sequence[float], times: Array, rate: float, d: int, rng: np.random.Generator) -> Array:
    """The same of one-pass gradient descent in d dimensions, from exactly these overlaps.

    Raises:
        ConfigError: as of `flow`, and a rate of 0 or fewer than 4 dimensions.
    """
    origin, times = _checked(start, times, rate)
    if not (rate > 0 and d >= 4):
        raise ConfigError(f"gradient descent takes a positive rate and 4 dimensions or more, got {rate} and {d}")
    return model.descend(rng, origin, d, rate, times)


def _checked(start: Sequence[float], times: Array, rate: float) -> tuple[Array, Array]:
    origin, times = np.asarray(start, dtype=np.float64), np.asarray(times, dtype=np.float64)
    if not (origin @ origin < 1 and rate >= 0 and len(times) and (np.diff(times, prepend=0.0) >= 0).all()):
        raise ConfigError(
            "overlaps at first have a length below 1, rates are 0 or more and times grow from 0, got "
            f"{origin.tolist()}, {rate} and {times.tolist()}"
        )
    return origin, times


def _steps(times: Array, d: int, rate: float) -> Array:
    return np.round(times * d / rate).astype(np.int64)


def _placed(overlaps: Array, tokens: int, d: int) -> Array:
    """Weights `(tokens, d)`, one for each token, of given overlaps with the first axes: w*, and p if there is one."""
    w = np.zeros((tokens, d))
    w[:, : len(overlaps)] = overlaps
    for token in range(tokens):
        w[token, len(overlaps) + token % (d - len(overlaps))] = math.sqrt(1 - float(overlaps @ overlaps))
    return w


@lru_cache(maxsize=16)
def _grid(dims: int, order: int) -> Rule:
    """A tensor grid of standard normal nodes."""
    return tensor(hermite(order), dims)


def _line(step: float) -> tuple[Array, Array]:
    """Trapezoids over a normal variable: of functions without poles nearby they are exact to rounding."""
    line = np.arange(-round(_REACH / step), round(_REACH / step) + 1) * step
    density = np.exp(-line * line / 2)
    return line, density / density.sum()


def _given(line: Array, m: float) -> tuple[Array, Array]:
    """Values of t, and their probabilities given each s of a line, `(s, t)`, of normal variables of covariance m."""
    width = max(math.sqrt(max(1 - m * m, 0.0)), _NARROWEST)
    t, _ = _line(min(_STEP, width / 2.5))
    law = np.exp(-(((t - m * line[:, None]) / width) ** 2) / 2)
    return t, law / law.sum(axis=1, keepdims=True)


def _attends(own: Array, other: Array) -> tuple[Array, Array, Array]:
    """How much of itself a token attends to, σ(s(s - s')), and its slopes by s and s'."""
    value = special.expit(own * (own - other))
    slope = value * (1 - value)
    return value, slope * (2 * own - other), -slope * own


def _hermite(x: Array, order: int) -> Array:
    """h_k = He_k/√k! of k up to 3."""
    powers = (np.ones_like(x), x, (x * x - 1) / math.sqrt(2), (x**3 - 3 * x) / math.sqrt(6))
    return powers[order]
