"""Two-player games with a linear field: the methods that look for their equilibrium, and their factors in closed form.

    min over x, max over y of  xᵀA y + (μ/2)(|x|² - |y|²),        F(x, y) = (μx + A y, μy - Aᵀx) = M z

has its equilibrium at z = 0. On every pair of singular vectors of A, seen as a complex number, F multiplies by
λ = μ - iσ, so that after k steps z_k = f_k(λ) z_0 with a number f_k that depends on the method only.

Wadia, Dandi, Jordan, A gentle introduction to gradient-based optimization and variational inequalities for machine
learning (arXiv 2309.04877).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.theory.gaussian import Rule, marchenko_pastur

Array = np.ndarray
Method = Literal["gradient", "proximal", "extragradient", "optimistic"]


def factor(method: Method, eigenvalues: Array, rate: float, steps: int) -> Array:
    """f_k(λ): what multiplies z after k steps, complex in the shape of the eigenvalues.

        gradient       z - η F(z)                    (1 - ηλ)^k
        proximal       (1 + η F)⁻¹ z                 (1 + ηλ)^-k
        extragradient  z - η F(z - η F(z))           (1 - ηλ + η²λ²)^k
        optimistic     z - 2η F(z) + η F(z_before)   powers of the roots of r² - (1 - 2ηλ) r - ηλ

    The first optimistic step is one of the gradient.

    >>> one = np.array([-1j])  # x y: F turns by a quarter
    >>> [float(abs(factor(m, one, 0.3, 50)[0]).round(7)) for m in ("gradient", "extragradient", "optimistic")]
    [8.6230807, 0.1180999, 0.0807635]

    Raises:
        ConfigError: an unknown method, a rate that is not positive, or fewer than 0 steps.
    """
    _check(method, rate, steps)
    step = rate * np.asarray(eigenvalues, dtype=complex)
    if method == "gradient":
        return (1 - step) ** steps
    if method == "proximal":
        return (1 + step) ** -steps
    if method == "extragradient":
        return (1 - step + step**2) ** steps
    pair = np.stack([np.stack([1 - 2 * step, step], -1), np.stack([np.ones_like(step), np.zeros_like(step)], -1)], -2)
    return np.linalg.matrix_power(pair, steps)[..., 0, :].sum(axis=-1)


def contraction(method: Method, eigenvalue: complex, rate: float) -> float:
    """lim |f_k|^(1/k): the equilibrium attracts if it is below 1.

    >>> round(contraction("optimistic", -1j, 0.3), 7)
    0.9486833
    """
    if method == "optimistic":
        step = rate * eigenvalue
        return float(np.abs(np.roots([1, 2 * step - 1, -step])).max())
    return float(abs(factor(method, np.array(eigenvalue), rate, 1)))


def singular_values(ratio: float) -> Rule:
    """The singular values of a large A `(ratio·n, n)` with entries N(0, 1/n): from 1 - √ratio to 1 + √ratio.

    Raises:
        ConfigError: a ratio above 1, whose zeros are not counted here: exchange the players.
    """
    if not 0 < ratio <= 1:
        raise ConfigError(f"the ratio of rows to columns is above 0 and at most 1, got {ratio}; exchange the players")
    squares = marchenko_pastur(ratio, 800)
    return Rule(np.sqrt(squares.nodes), squares.weights)


def distance(method: Method, values: Rule, rate: float, steps: int, convexity: float = 0.0) -> float:
    """|z_k| / |z_0|, of a z_0 spread evenly over the singular pairs.

    >>> round(distance("extragradient", Rule(np.array([1.0]), np.array([1.0])), 0.3, 100), 7)
    0.0139476
    """
    return math.sqrt(values.weights @ np.abs(factor(method, convexity - 1j * values.nodes, rate, steps)) ** 2)


def averaged_gap(values: Rule, rate: float, steps: int, convexity: float = 0.0) -> float:
    """|F(z̄)| / |z_0| at the average z̄ of the points z - η F(z) whose field the first k extragradient steps followed.

    Each step adds -η times that field, which is linear: F(z̄) = (z_0 - z_k) / (ηk) exactly, so the gap is O(1/k)
    whatever the smallest singular value. For μ = 0, |F(z̄)| |z_0| is the duality gap over the ball of radius |z_0|.
    """
    if steps < 1:
        raise ConfigError(f"an average wants one step or more, got {steps}")
    moved = 1 - factor("extragradient", convexity - 1j * values.nodes, rate, steps)
    return math.sqrt(values.weights @ np.abs(moved) ** 2) / (rate * steps)


def field_of(payoff: Array, convexity: float = 0.0) -> Array:
    """M `(p + n, p + n)` of a payoff A `(p, n)`."""
    p, n = payoff.shape
    return np.block([[convexity * np.eye(p), payoff], [-payoff.T, convexity * np.eye(n)]])


def play(method: Method, field: Array, start: Array, rate: float, steps: int) -> tuple[Array, Array]:
    """k steps of a method with z ↦ M z: the last z, and the average of the points at which steps took the field.

    >>> last, _ = play("gradient", field_of(np.eye(1)), np.array([1.0, 0.0]), 0.3, 10)
    >>> float(np.linalg.norm(last).round(10))  # (1 + η²)^(k/2)
    1.5386239549
    """
    _check(method, rate, steps)
    resolvent = np.linalg.inv(np.eye(len(field)) + rate * field) if method == "proximal" else None
    z, before, total = start, field @ start, np.zeros_like(start)
    for _ in range(steps):
        if resolvent is not None:
            z = resolvent @ z
            total += z
            continue
        here = field @ z
        if method == "optimistic":
            total += z
            z, before = z - 2 * rate * here + rate * before, here
        else:
            at = z - rate * here if method == "extragradient" else z
            total += at
            z = z - rate * (field @ at if method == "extragradient" else here)
    return z, total / max(steps, 1)


def _check(method: Method, rate: float, steps: int) -> None:
    if method not in get_args(Method):
        raise ConfigError(f"there is no method {method!r}; choose one of {', '.join(get_args(Method))}")
    if not (rate > 0 and math.isfinite(rate)):
        raise ConfigError(f"the rate of a method is above 0, got {rate}")
    if steps < 0:
        raise ConfigError(f"the number of steps is 0 or more, got {steps}")
