"""Sampling spin glasses by denoising: overlaps on the way, where a first-order jump blocks it, and samplers to compare.

A flow or diffusion that ends in a sample x* of a p-spin glass of temperature² Δ asks, on its way, for the mean of x
given y = g x* + √g z, with g from 0 to ∞. In a planted model (the same as the glass's own law where nothing condenses)
the Bayes-optimal overlap m of that mean with x* is a fixed point of

    m = E over posterior at signal X,    X = m^(p-1) / Δ + g
    spherical x: X / (1 + X);    Ising x: E tanh(X + √X z)

AMP starts from m = 0 and finds the smallest one: between two spinodals g it is not the right one.

Ghio, Dandi, Krzakala, Zdeborová, Sampling with flows, diffusion and autoregressive neural networks: a spin-glass
perspective (arXiv 2308.14085).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
from scipy import optimize

from opu_dfa.errors import ConfigError, NotConverged
from opu_dfa.theory.gaussian import Rule, panels

Array = np.ndarray
Prior = Literal["spherical", "ising"]
TRICRITICAL = 8 / 27  # Δ of the spherical 3-spin glass above which no jump blocks a flow
DYNAMICAL = 1 / 4  # Δ below which Langevin dynamics is trapped


class Window(NamedTuple):
    """Signals g between which AMP from m = 0 stops at a wrong fixed point, and the overlaps where branches end."""

    low: float
    high: float
    informed: float
    uninformed: float


def denoised(prior: Prior, signal: float) -> float:
    """The overlap with x* of its mean, given X x* + √X z.

    >>> denoised("spherical", 1.0), round(denoised("ising", 1.0), 5)
    (0.5, 0.5504)
    """
    if prior not in get_args(Prior):
        raise ConfigError(f"there is no prior {prior!r}; choose one of {', '.join(get_args(Prior))}")
    if prior == "spherical":
        return signal / (1 + signal)
    rule = _rule()
    return float(rule.weights @ np.tanh(signal + math.sqrt(signal) * rule.nodes))


@lru_cache
def _rule() -> Rule:
    return panels()  # Gauss-Hermite's rule has 7 digits where the tanh is steep


def overlap(
    delta: float,
    signal: float,
    start: float = 0.0,
    prior: Prior = "spherical",
    order: int = 3,
    revealed: float = 0.0,
    most: int = 100_000,
) -> float:
    """m at which the iteration of an AMP that starts from an overlap ends.

    Args:
        delta: Δ; signal: g; start: 0 of a flow's way, 1 of an informed one; order: p of the p-spin glass.
        revealed: the share of x* that an autoregressive sampler knows, in place of a signal or besides it.

    Raises:
        ConfigError: Δ not positive, a negative signal, p < 2 or a share beyond [0, 1]. NotConverged.

    >>> round(overlap(0.2, 0.05), 5), round(overlap(0.2, 0.05, start=1.0), 5)
    (0.06834, 0.73166)
    """
    if not (delta > 0 and signal >= 0 and order >= 2 and 0 <= revealed <= 1 and 0 <= start <= 1):
        raise ConfigError(
            f"delta > 0, a signal >= 0, p >= 2 and shares in [0, 1] are wanted, got delta={delta}, signal={signal}, "
            f"order={order}, revealed={revealed}, start={start}"
        )
    m, moved = start, math.inf
    for _ in range(most):
        new = revealed + (1 - revealed) * denoised(prior, m ** (order - 1) / delta + signal)
        m, moved = new, abs(new - m)
        if moved < 1e-12:
            return m
    raise NotConverged(f"the overlap still moves by {moved:.2g} after {most} iterations; leave the spinodal", moved)


def window(delta: float) -> Window | None:
    """The blocked signals of the spherical 3-spin glass, None at Δ >= 8/27.

    On its fixed points g(m) = m/(1 - m) - m²/Δ, which turns where 2m (1 - m)² = Δ.

    >>> [round(v, 5) for v in window(0.26)]
    [0.03692, 0.09623, 0.47909, 0.20643]
    """
    if not delta > 0:
        raise ConfigError(f"delta is above 0, got {delta}")
    if delta >= TRICRITICAL:
        return None

    def turning(m: float) -> float:
        return 2 * m * (1 - m) ** 2 - delta

    ends = optimize.brentq(turning, 1 / 3, 1), optimize.brentq(turning, 0, 1 / 3)
    informed, uninformed = (m / (1 - m) - m**2 / delta for m in ends)
    return Window(max(0.0, informed), uninformed, *ends)


def free_entropy(delta: float, signal: float, m: float) -> float:
    """ln Z per spin of the spherical 3-spin glass as a function of m; the largest of its maxima is the right overlap.

    >>> round(free_entropy(0.2, 0.05, overlap(0.2, 0.05)), 6)
    0.919689
    """
    x = m**2 / delta + signal
    return x / 2 + 0.5 * math.log(2 * math.pi / (1 + x)) - m**3 / (3 * delta)


def correlation(delta: float, time: float, steps: int = 800) -> Array:
    """C(t) = x(0)·x(t) / N of Langevin dynamics in equilibrium, at `steps + 1` times up to one; spherical, p = 3.

        C'(t) = -C(t) - ∫₀ᵗ (C(t - s)² / Δ) C'(s) ds,    C(0) = 1

    Crisanti, Horner, Sommers (1993). It falls to 0 for Δ > 1/4; below, to the larger root of C (1 - C) = Δ.

    >>> bool(correlation(10.0, 2.0)[-1] < 1.2 * math.exp(-2.0))  # a free spin forgets at the rate 1
    True
    """
    if not (delta > 0 and time > 0 and steps >= 1):
        raise ConfigError(f"delta, time and steps are above 0, got {delta}, {time} and {steps}")
    h = time / steps
    c, moves = np.ones(steps + 1), np.zeros(steps)
    for k in range(steps):  # implicit in C_{k+1}, memory by the midpoints of C²
        kernel = (c[: k + 1] ** 2) / delta
        middle = (kernel[1:] + kernel[:-1]) / 2  # of t between 0 and t_k
        history = middle[::-1] @ moves[:k]
        first = (1 + kernel[0]) / 2 if k == 0 else (kernel[0] + kernel[1]) / 2
        c[k + 1] = (c[k] * (1 + h * first) - h * history) / (1 + h + h * first)
        moves[k] = c[k + 1] - c[k]
    return c


class PlantedTensor:
    """S = x x x / N² and symmetric Gaussian noise of variance Δ/(2N²), asked only for S_ijk m_j m_k at a few m.

    The noise's law is the same in any orthonormal basis. Its entries are drawn when a question needs them, in the basis
    that the questions span: those between two directions asked for and all others, a vector for each pair of them.
    T questions take T² N / 2 numbers instead of N³, and the answers have exactly the law of those of a whole tensor.

    >>> x = np.ones(500)
    >>> field = PlantedTensor(x, 0.1, np.random.default_rng(0)).contract(x)
    >>> bool(abs(field @ x / 500 - 1) < 0.1)
    True
    """

    def __init__(self, x: Array, delta: float, rng: np.random.Generator) -> None:
        if not delta > 0:
            raise ConfigError(f"delta is above 0, got {delta}")
        self.x, self.rng = x, rng
        self.scale = math.sqrt(delta / 2) / len(x)
        self.basis = np.empty((0, len(x)))
        self.pairs: list[Array] = []  # of direction t with each up to t, `(t + 1, N)`

    def contract(self, m: Array) -> Array:
        """Σ_jk S_ijk m_j m_k, `(N,)`."""
        rest = m
        for _ in range(2):  # Gram and Schmidt, twice is enough
            rest = rest - (self.basis @ rest) @ self.basis
        length = float(np.linalg.norm(rest))
        if length > 1e-6 * float(np.linalg.norm(m)):
            self._reveal(rest / length)
        parts = self.basis @ m
        field = self.x * (self.x @ m / len(m)) ** 2
        for t, block in enumerate(self.pairs):
            twice = 2 * parts[t] * parts[: t + 1]
            twice[t] /= 2
            field += twice @ block
        return field

    def _reveal(self, e: Array) -> None:
        """Draw a new direction's entries; those with three directions in common with earlier ones are known.

        An entry with two equal indices is the mean of 3 numbers instead of 6, and one with three of 1.
        """
        t, old = len(self.basis), self.basis
        known = np.zeros((t, t))
        for c, block in enumerate(self.pairs):
            known[c, : c + 1] = known[: c + 1, c] = block @ e
        self.basis = np.vstack([old, e])
        new = self.scale * self.rng.standard_normal((t + 1, len(e)))
        new[t] *= math.sqrt(2)
        new -= (new @ self.basis.T) @ self.basis
        along = math.sqrt(2) * self.scale * self.rng.standard_normal(t)
        new[:t] += known @ old + np.outer(along, e)
        new[t] += along @ old + math.sqrt(6) * self.scale * self.rng.standard_normal() * e
        self.pairs.append(new)


def spherical_amp(tensor: PlantedTensor, delta: float, signal: float, y: Array, start: Array, steps: int) -> Array:
    """The mean of x given S and y = g x + √g z, from an estimate `start`: with X = (|m|²/N)²/Δ + g and V = 1/(1 + X),

    h = S m m / Δ + y - (2/Δ) V (m·m'/N) m',    m <- V h.
    """
    n, m, before, spread = len(y), start, np.zeros_like(start), 1.0
    for _ in range(steps):
        h = tensor.contract(m) / delta + y - 2 / delta * spread * float(m @ before) / n * before
        spread = 1 / (1 + (float(m @ m) / n) ** 2 / delta + signal)
        m, before = h * spread, m
    return m


def langevin(
    tensor: PlantedTensor, delta: float, start: Array, time: float, steps: int, rng: np.random.Generator
) -> Array:
    """x after steps of dx = S x x / Δ dt + √2 dW on the sphere |x|² = N: temperature 1.

    A step is half of the noise, all of the force, half of the noise; the noise turns x by the law of free motion.
    """
    n, x, h = len(start), start, time / steps

    def turned(x: Array) -> Array:
        x = math.exp(-h / 2) * x + math.sqrt(-math.expm1(-h)) * rng.standard_normal(n)
        return x * math.sqrt(n / (x @ x))

    for _ in range(steps):
        x = turned(x)
        force = tensor.contract(x) / delta
        x = x + h * (force - force @ x / n * x)
        x = turned(x * math.sqrt(n / (x @ x)))
    return x


def sherrington_kirkpatrick(n: int, rng: np.random.Generator) -> Array:
    """Couplings J, symmetric, of variance 1/N and without a diagonal; the law is exp(β x·J x / 2)."""
    j = np.triu(rng.standard_normal((n, n)), 1) / math.sqrt(n)
    return j + j.T


def localise(j: Array, beta: float, time: float, step: float, rng: np.random.Generator) -> Array:
    """⟨x⟩ at the end of dy = ⟨x⟩_y dt + dW, whose mean comes from AMP, m = tanh(β J m + y - β²(1 - q) m').

    Alaoui, Montanari, Sellke (2022): as t → ∞ it is a sample of the Sherrington-Kirkpatrick model at β < 1.
    """
    if not 0 < beta < 1:
        raise ConfigError(f"AMP samples the Sherrington-Kirkpatrick model at 0 < beta < 1, got {beta}; lower beta")
    n = len(j)
    y, m, before = np.zeros(n), np.zeros(n), np.zeros(n)

    def mean(field: Array) -> Array:
        nonlocal m, before
        for _ in range(3):  # from where it was
            m, before = np.tanh(beta * (j @ m) + field - beta**2 * (1 - float(m @ m) / n) * before), m
        return m

    for _ in range(round(time / step)):
        kick = math.sqrt(step) * rng.standard_normal(n)
        now = m
        ahead = mean(y + now * step + kick)
        y = y + (now + ahead) / 2 * step + kick  # Heun's step: Euler's would lag
        mean(y)
    return m
