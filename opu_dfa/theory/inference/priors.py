"""What is known of an unknown before it is measured, and after: priors and their posteriors.

A row x in R^p of the unknowns is seen through message passing as a field with a precision,

    B = A x + A^(1/2) ξ,  ξ ~ N(0, I)      posterior ∝ P(x) exp(B·x - xᵀA x / 2)

and its posterior mean x̂ has E[x x̂ᵀ] = E[x̂ x̂ᵀ], the overlap of state evolution.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.theory.gaussian import Rule, hermite, panels, root, sobol, tensor

Array = np.ndarray


class Posterior(NamedTuple):
    """Means of rows, `(n, p)`, and their covariances, `(n, p, p)`."""

    mean: Array
    covariance: Array


class Prior(ABC):
    """The law of a row of p unknowns."""

    @property
    @abstractmethod
    def second(self) -> Array:
        """E x xᵀ, `(p, p)`."""

    @property
    @abstractmethod
    def mean(self) -> Array:
        """E x, `(p,)`."""

    @abstractmethod
    def sample(self, rng: np.random.Generator, n: int) -> Array:
        """Rows, `(n, p)`."""

    @abstractmethod
    def denoise(self, field: Array, precision: Array) -> Posterior:
        """The posterior given B, `(n, p)`, and A, `(p, p)` or one for each row, `(n, p, p)`."""

    @abstractmethod
    def overlap(self, precision: Array) -> Array:
        """E[x x̂ᵀ] at A `(p, p)`: a step of state evolution."""


@dataclass(frozen=True)
class Gaussian(Prior):
    """N(0, variance I_p): as the penalty |x|²/(2 variance), its posterior mean is ridge's minimiser.

    >>> float(Gaussian().overlap(np.array([[3.0]]))[0, 0])
    0.75
    """

    size: int = 1
    variance: float = 1.0

    def __post_init__(self) -> None:
        if not (self.size >= 1 and 0 < self.variance < math.inf):
            raise ConfigError(f"a Gaussian prior has size >= 1 and a positive variance, got {self}")

    @property
    def second(self) -> Array:
        return self.variance * np.eye(self.size)

    @property
    def mean(self) -> Array:
        return np.zeros(self.size)

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        return math.sqrt(self.variance) * rng.standard_normal((n, self.size))

    def denoise(self, field: Array, precision: Array) -> Posterior:
        covariance = self._covariance(precision)
        return Posterior(times(covariance, field), np.broadcast_to(covariance, (len(field), self.size, self.size)))

    def overlap(self, precision: Array) -> Array:
        return self.second - self._covariance(precision)

    def _covariance(self, precision: Array) -> Array:
        return np.linalg.inv(precision + np.eye(self.size) / self.variance)


class Discrete(Prior):
    """Points x_s in R^p, `(s, p)`, of probabilities w_s.

    Args:
        points: rows of equal length; weights: positive, of sum 1; equal ones by default.

    Raises:
        ConfigError: weights that are none.

    >>> posterior = rademacher().denoise(np.array([[0.7]]), np.array([[2.0]]))
    >>> bool(abs(posterior.mean[0, 0] - np.tanh(0.7)) < 1e-12)
    True
    """

    def __init__(self, points: Array, weights: Array | None = None) -> None:
        self.points = np.asarray(points, dtype=np.float64)
        if self.points.ndim != 2:
            raise ConfigError(f"points of a prior are (s, p), got shape {self.points.shape}")
        count = len(self.points)
        self.weights = np.full(count, 1 / count) if weights is None else np.asarray(weights, dtype=np.float64)
        if self.weights.shape != (count,) or (self.weights <= 0).any() or abs(self.weights.sum() - 1) > 1e-9:
            raise ConfigError(f"{count} points have as many positive weights of sum 1, got {self.weights}")
        self.size = self.points.shape[1]

    @property
    def second(self) -> Array:
        return np.asarray((self.points * self.weights[:, None]).T @ self.points)

    @property
    def mean(self) -> Array:
        return np.asarray(self.weights @ self.points)

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        return self.points[rng.choice(len(self.points), size=n, p=self.weights)]

    def denoise(self, field: Array, precision: Array) -> Posterior:
        mean, probabilities = self._posterior(field, precision)
        second = np.einsum("ns,si,sj->nij", probabilities, self.points, self.points, optimize=True)
        return Posterior(mean, second - mean[:, :, None] * mean[:, None])

    def overlap(self, precision: Array) -> Array:
        rule = nodes(self.size)
        noise = rule.nodes @ root(precision)
        total = np.zeros((self.size, self.size))
        for point, weight in zip(self.points, self.weights, strict=True):
            mean = self._posterior(precision @ point + noise, precision)[0]
            total += weight * np.outer(point, rule.weights @ mean)
        return (total + total.T) / 2

    def _posterior(self, field: Array, precision: Array) -> tuple[Array, Array]:
        quadratic = np.einsum("si,...ij,sj->...s", self.points, precision, self.points, optimize=True)
        exponent = field @ self.points.T - quadratic / 2 + np.log(self.weights)
        probabilities = np.exp(exponent - exponent.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return probabilities @ self.points, probabilities


def rademacher(size: int = 1) -> Discrete:
    """p independent signs."""
    return Discrete(np.array(list(product((1.0, -1.0), repeat=size))))


def independent(one: Discrete, size: int) -> Discrete:
    """p independent unknowns of the same law.

    >>> independent(rademacher(), 3).points.shape
    (8, 3)
    """
    if one.size != 1:
        raise ConfigError(f"independent copies are made of one unknown a row, got {one.size}")
    points = np.array(list(product(one.points[:, 0], repeat=size)))
    return Discrete(points, np.prod(list(product(one.weights, repeat=size)), axis=1))


def activity(fraction: float) -> Discrete:
    """1 with probability `fraction`, else 0, shifted and scaled to mean 0 and variance 1."""
    if not 0 < fraction < 1:
        raise ConfigError(f"a fraction of active units is between 0 and 1, got {fraction}")
    active, silent = math.sqrt((1 - fraction) / fraction), -math.sqrt(fraction / (1 - fraction))
    return Discrete(np.array([[active], [silent]]), np.array([fraction, 1 - fraction]))


def sparse_signs(density: float) -> Discrete:
    """0, or with probability `density` a sign."""
    if not 0 < density <= 1:
        raise ConfigError(f"a density is above 0 and up to 1, got {density}")
    if density == 1:
        return rademacher()
    return Discrete(np.array([[1.0], [-1.0], [0.0]]), np.array([density / 2, density / 2, 1 - density]))


@dataclass(frozen=True)
class GaussBernoulli(Prior):
    """N(0, 1) with probability `density`, else 0; one unknown a row.

    >>> round(float(GaussBernoulli(0.5).overlap(np.array([[1e6]]))[0, 0]), 3)
    0.5
    """

    density: float

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ConfigError(f"a density is above 0 and up to 1, got {self.density}")

    @property
    def second(self) -> Array:
        return np.array([[self.density]])

    @property
    def mean(self) -> Array:
        return np.zeros(1)

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        return np.where(rng.random((n, 1)) < self.density, rng.standard_normal((n, 1)), 0.0)

    def denoise(self, field: Array, precision: Array) -> Posterior:
        a = np.broadcast_to(np.asarray(precision, dtype=np.float64).reshape(-1, 1), field.shape)
        slope = 1 / (1 + a)
        on = self.density * np.sqrt(slope)
        share = on / (on + (1 - self.density) * np.exp(-field * field * slope / 2))  # P(x is not 0)
        mean = share * field * slope
        return Posterior(mean, (share * (slope + (field * slope) ** 2) - mean * mean)[:, :, None])

    def overlap(self, precision: Array) -> Array:
        # Where x is not 0, B = √(A(1 + A)) z; E[x | B] = B / (1 + A).
        a = float(np.asarray(precision).reshape(()))
        if a <= 0:
            return np.zeros((1, 1))
        width = math.sqrt(1 / a)
        rule = panels((-5 * width, 5 * width), width=width, order=24)
        field = math.sqrt(a * (1 + a)) * rule.nodes[:, None]
        mean = self.denoise(field, np.array([[a]])).mean[:, 0]
        return np.array([[self.density * float(rule.weights @ (mean * field[:, 0])) / (1 + a)]])


@lru_cache
def nodes(dims: int) -> Rule:
    """Nodes of N(0, I_dims): panels of one dimension, Hermite's grids of two and three, Sobol's points of more."""
    if dims == 1:
        rule = panels(order=32)
        return Rule(rule.nodes[:, None], rule.weights)
    if dims > 3:
        return sobol(dims, 16_384)
    return tensor(hermite(61 if dims == 2 else 25), dims)


def times(matrices: Array, rows: Array) -> Array:
    """A matrix for all rows, or one for each, times the rows."""
    return np.asarray(np.einsum("...ij,nj->ni" if matrices.ndim == 2 else "nij,nj->ni", matrices, rows))
