"""Output channels y ~ P(y | z) of fields z = x·W, and what message passing asks of them.

Of a sample with L tokens and p outputs the fields are z `(L, p)`. Given that each is N(ω_l, V) before y is seen,

    score  g_l = V⁻¹ (E[z_l | y] - ω_l)        information  Î = E Σ_l g_l g_lᵀ,  ω ~ N(0, M), V = ρ - M

A channel that is matched to the labels has -E ∂g = E g gᵀ (Nishimori); that of a loss, g = V⁻¹(prox - ω), has not, and
says its slope itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from scipy import special

from opu_dfa.theory.gaussian import sobol
from opu_dfa.theory.inference.priors import root

Array = np.ndarray


class Channel(ABC):
    """A law of labels. All fields are `(n, tokens, p)`.

    Attributes:
        size: p. tokens: L. noises: random numbers of N(0, 1) that a label takes besides its fields.
    """

    size: int = 1
    tokens: int = 1
    noises: int = 0

    @abstractmethod
    def labels(self, z: Array, noise: Array) -> Array:
        """y, `(n, ...)`, of fields and of noise `(n, noises)`."""

    @abstractmethod
    def score(self, y: Array, omega: Array, v: Array) -> Array:
        """g, in the shape of ω; V is `(p, p)`."""

    def stiffness(self, y: Array, omega: Array, v: Array) -> Array | None:
        """-Σ_l ∂g_l/∂ω_l of each sample, `(n, p, p)`, of a channel that is not matched; else nothing."""
        return None

    def sample(self, rng: np.random.Generator, z: Array) -> Array:
        """Labels of fields."""
        return self.labels(z, rng.standard_normal((len(z), self.noises)))

    def information(self, overlap: Array, second: Array, nodes: int = 16_384) -> Array:
        """Î `(p, p)` at an overlap M and ρ = E zzᵀ, on Sobol points, the same ones for every M."""
        count = self.tokens * self.size
        draws = sobol(2 * count + self.noises, nodes).nodes
        shape = (nodes, self.tokens, self.size)
        v = second - overlap
        omega = draws[:, :count].reshape(shape) @ root(overlap)
        z = omega + draws[:, count : 2 * count].reshape(shape) @ root(v)
        g = self.score(self.labels(z, draws[:, 2 * count :]), omega, v)
        found = np.einsum("nli,nlj->ij", g, g) / nodes
        return np.asarray((found + found.T) / 2)


class GaussianNoise(Channel):
    """y = z + √Δ ξ of one output.

    >>> float(GaussianNoise(0.5).information(np.array([[0.2]]), np.eye(1))[0, 0].round(6))
    0.769231
    """

    noises = 1

    def __init__(self, variance: float) -> None:
        self.variance = variance

    def labels(self, z: Array, noise: Array) -> Array:
        return np.asarray(z[:, 0] + np.sqrt(self.variance) * noise)

    def score(self, y: Array, omega: Array, v: Array) -> Array:
        return np.asarray((y[:, None] - omega) / (self.variance + v[0, 0]))

    def information(self, overlap: Array, second: Array, nodes: int = 16_384) -> Array:
        return np.array([[1 / (self.variance + second[0, 0] - overlap[0, 0])]])


class Sign(Channel):
    """y = sign(z + √Δ ξ) of one output: probit labels."""

    noises = 1

    def __init__(self, variance: float = 0.0) -> None:
        self.variance = variance

    def labels(self, z: Array, noise: Array) -> Array:
        return np.sign(z[:, 0] + np.sqrt(self.variance) * noise)

    def score(self, y: Array, omega: Array, v: Array) -> Array:
        scale = np.sqrt(v[0, 0] + self.variance)
        t = y[:, None] * omega / scale
        return np.asarray(y[:, None] * np.exp(-t * t / 2 - special.log_ndtr(t)) / (np.sqrt(2 * np.pi) * scale))
