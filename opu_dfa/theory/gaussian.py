"""Quadratures of expectations over Gaussian variables, and of the spectra of Gaussian matrices.

    E f(ξ) ≈ Σ_i w_i f(ξ_i),   ξ ~ N(0, 1)

Rules of few nodes (Gauss-Hermite) lose all their digits where f jumps or bends, and where it varies over a width that
shrinks, as the posterior of a label does when a student comes to know its teacher (q → 1). `panels` puts the edges of a
composite rule there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy import polynomial
from scipy import stats

from opu_dfa.errors import ConfigError

Array = np.ndarray
_REACH = 9.0  # standard deviations: the normal law beyond has a weight of 2e-19


class Rule(NamedTuple):
    """Nodes, `(n,)` or `(n, dims)`, and weights `(n,)` that sum to 1."""

    nodes: Array
    weights: Array


def panels(edges: Iterable[float] = (), width: float = 1.0, order: int = 16) -> Rule:
    """E over N(0, 1) by Gauss-Legendre rules between edges.

    Args:
        edges: where f, or a derivative of it, jumps; those out of reach are left out.
        width: on which f varies around 0, if that is less than 1: panels shrink towards 0 in halves until they are it.

    >>> rule = panels([0.3])
    >>> float((rule.weights * (rule.nodes > 0.3)).sum().round(12))  # Φ(-0.3)
    0.382088577811
    """
    found = {float(e) for e in edges if abs(e) < _REACH}
    halvings = max(0, min(60, math.ceil(-math.log2(max(width, 1e-300)))))
    fine = [0.5**k for k in range(1, halvings + 1)]
    cuts = np.array(sorted(found | {*np.arange(-_REACH, _REACH + 1)} | {s * f for f in fine for s in (1, -1)} | {0.0}))
    nodes, weights = legendre(order)
    half = np.diff(cuts)[:, None] / 2
    at = (cuts[:-1, None] + half) + half * nodes
    density = np.exp(-at * at / 2) / math.sqrt(2 * math.pi)
    return Rule(at.ravel(), (half * weights * density).ravel())


@lru_cache
def hermite(n: int = 101) -> Rule:
    """Gauss and Hermite's rule of N(0, 1), exact for polynomials of degree 2n - 1.

    >>> rule = hermite(5)
    >>> float((rule.weights * rule.nodes**4).sum().round(12))
    3.0
    """
    nodes, weights = polynomial.hermite_e.hermegauss(n)
    return Rule(nodes, weights / weights.sum())


def sobol(dims: int, n: int = 4096, seed: int = 0) -> Rule:
    """Scrambled Sobol points of N(0, I), with their mirror images: n in all, a power of two, of equal weight."""
    if n < 2 or n & (n - 1):
        raise ConfigError(f"Sobol's points are balanced in powers of two, got n={n}: take 1024, 2048, 4096, ...")
    points = stats.norm.ppf(stats.qmc.Sobol(dims, seed=seed).random(n // 2))
    return Rule(np.concatenate([points, -points]), np.full(n, 1 / n))


def correlated(covariance: Array, n: int = 81) -> Rule:
    """A grid of pairs that are jointly normal with a covariance `(2, 2)`, which may be singular."""
    values, vectors = np.linalg.eigh(np.asarray(covariance, dtype=np.float64))
    root = vectors * np.sqrt(np.maximum(values, 0))
    grid = tensor(hermite(n), 2)
    return Rule(grid.nodes @ root.T, grid.weights)


def tensor(rule: Rule, dims: int) -> Rule:
    """The grid of a rule of one dimension in several, `(n**dims, dims)`.

    >>> tensor(hermite(3), 2).nodes.shape
    (9, 2)
    """
    nodes, weights = (np.stack(np.meshgrid(*[of] * dims, indexing="ij"), axis=-1).reshape(-1, dims) for of in rule)
    return Rule(nodes, weights.prod(axis=1))


def root(matrix: Array) -> Array:
    """The symmetric square root of a positive semi-definite matrix, `(..., p, p)`, which may be singular."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))[..., None, :]) @ np.swapaxes(vectors, -1, -2))


def marchenko_pastur(ratio: float, n: int = 200) -> Rule:
    """The eigenvalues of F Fᵀ / d for F of p x d entries N(0, 1), ratio = p / d; weights are fractions of all p.

    density √((b - z)(z - a)) / (2π ratio z) between (1 ∓ √ratio)², and 1 - 1/ratio of them at 0 if that is positive.
    Smooth functions are integrated to rounding; those that diverge towards an edge at 0 (ratio = 1) are not.

    >>> rule = marchenko_pastur(2.0)
    >>> float(rule.weights.sum().round(12)), float((rule.weights * rule.nodes).sum().round(12))
    (1.0, 1.0)
    """
    if not 0 < ratio < math.inf:
        raise ConfigError(f"the ratio p / d of a Marchenko-Pastur law is positive, got {ratio}")
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    angle = (np.arange(n) + 0.5) * math.pi / n  # Chebyshev's rule takes the roots at both edges
    z = (low + high) / 2 + (high - low) / 2 * np.cos(angle)
    weights = ((high - low) / 2 * np.sin(angle)) ** 2 / (2 * math.pi * ratio * z) * math.pi / n
    if ratio > 1:
        z, weights = np.append(z, 0.0), np.append(weights, 1 - 1 / ratio)
    return Rule(z, weights)


@lru_cache
def legendre(order: int) -> tuple[Array, Array]:
    """Gauss and Legendre's nodes on [-1, 1], and weights that sum to 2."""
    nodes, weights = polynomial.legendre.leggauss(order)
    return nodes, weights
