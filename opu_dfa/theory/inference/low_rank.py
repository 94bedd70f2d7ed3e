"""Low-rank matrices in noise whose strength may vary from block to block: the spiked Wigner model.

    Y = x xᵀ/√N + √Δ_g(i)g(j) Z,   Z symmetric of N(0, 1),   x_i ~ P0 in R^p,   a fraction ρ_b of rows in block b

Message passing on the score S = Y/(Δ√N), and its state evolution, with R_b = Σ_a ρ_a Q_a / Δ_ab:

    B_i = (S m)_i - (Σ_j V_j/(NΔ_ij)) m_i(before),   A_i = Σ_j m_j m_jᵀ/(NΔ_ij),   m, V = mean, covariance given B, A
    Q_b ← E[x x̂ᵀ] at the precision R_b

An entrywise output channel is equivalent to Gaussian noise: its Fisher score takes the place of Y/Δ. (Lesieur, Krzakala
and Zdeborová 2017; in blocks Pak, Ko and Krzakala, arXiv 2302.06665.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.theory.inference.priors import Prior, times

Array = np.ndarray


@dataclass(frozen=True)
class SpikedWigner:
    """The law: a prior, noise variances Δ `(blocks, blocks)` and the fraction of rows in each block.

    Raises:
        ConfigError: noise that is not symmetric and positive, fractions that do not sum to 1.

    >>> from opu_dfa.theory.inference.iterate import growth
    >>> from opu_dfa.theory.inference.priors import rademacher
    >>> law = SpikedWigner(rademacher(), noise=np.array([[0.8]]))
    >>> round(growth(law.evolve, law.nothing), 4), law.snr
    (1.25, 1.25)
    """

    prior: Prior
    noise: Array = field(default_factory=lambda: np.ones((1, 1)))
    fractions: Array = field(default_factory=lambda: np.ones(1))

    def __post_init__(self) -> None:
        blocks = len(self.fractions)
        if self.noise.shape != (blocks, blocks) or not (self.noise > 0).all() or (self.noise != self.noise.T).any():
            raise ConfigError(f"noise of {blocks} blocks is symmetric and positive, got {self.noise.tolist()}")
        if not (self.fractions > 0).all() or abs(self.fractions.sum() - 1) > 1e-9:
            raise ConfigError(f"fractions of blocks are positive and of sum 1, got {self.fractions.tolist()}")

    @property
    def nothing(self) -> Array:
        """Overlaps of an estimate that knows the prior alone, `(blocks, p, p)`."""
        return np.repeat(np.outer(self.prior.mean, self.prior.mean)[None], len(self.fractions), axis=0)

    @property
    def truth(self) -> Array:
        """Overlaps of the truth with itself."""
        return np.repeat(self.prior.second[None], len(self.fractions), axis=0)

    @property
    def snr(self) -> float:
        """‖√ρ_a ρ_b / Δ_ab‖ times ‖E xxᵀ‖²: of a prior without mean, something is learned where it is above 1."""
        weights = np.sqrt(np.outer(self.fractions, self.fractions)) / self.noise
        return float(np.linalg.norm(weights, 2) * np.linalg.norm(self.prior.second, 2) ** 2)

    def precision(self, overlaps: Array) -> Array:
        """R `(blocks, p, p)` of overlaps Q `(blocks, p, p)`."""
        return np.einsum("ba,aij->bij", self.fractions / self.noise, overlaps)

    def evolve(self, overlaps: Array) -> Array:
        """A step of state evolution."""
        return np.stack([self.prior.overlap(r) for r in self.precision(overlaps)])

    def total(self, overlaps: Array) -> Array:
        """Overlap of all rows, `(p, p)`."""
        return np.einsum("b,bij->ij", self.fractions, overlaps)

    def groups(self, n: int) -> Array:
        """The block of each of n rows."""
        edges = np.round(np.cumsum(self.fractions) * n).astype(int)
        return np.searchsorted(edges, np.arange(n), side="right")

    def observe(self, rng: np.random.Generator, n: int) -> LowRankData:
        """A matrix of n rows."""
        groups = self.groups(n)
        x = self.prior.sample(rng, n)
        noise = self.noise[np.ix_(groups, groups)]
        z = np.triu(rng.standard_normal((n, n)), 1)
        y = x @ x.T / math.sqrt(n) + np.sqrt(noise) * (z + z.T)
        score = y / (noise * math.sqrt(n))
        np.fill_diagonal(score, 0.0)
        return LowRankData(self, score, x, groups)


class LowRankState(NamedTuple):
    """Means m `(N, p)`, the step's before, and covariances V `(N, p, p)`."""

    mean: Array
    before: Array
    covariance: Array


@dataclass(frozen=True)
class LowRankData:
    """A score matrix S `(N, N)` with zero diagonal, the truth `(N, p)` and the block of each row.

    >>> from opu_dfa.theory.inference.iterate import iterate
    >>> from opu_dfa.theory.inference.priors import rademacher
    >>> rng = np.random.default_rng(0)
    >>> data = SpikedWigner(rademacher(), noise=np.array([[0.2]])).observe(rng, 300)
    >>> history = iterate(data.step, data.start(rng), data.overlap, most=50)
    >>> bool(history.measured[-1] > 0.9)
    True
    """

    law: SpikedWigner
    score: Array
    truth: Array
    groups: Array

    def start(self, rng: np.random.Generator, planted: float = 0.0, noise: float = 0.03) -> LowRankState:
        """The prior's mean with a little noise, and a share of the truth."""
        n, p = self.truth.shape
        mean = self.law.prior.mean + planted * self.truth + noise * rng.standard_normal((n, p))
        return LowRankState(mean, np.zeros((n, p)), np.zeros((n, p, p)))

    def step(self, state: LowRankState) -> LowRankState:
        """One step of message passing."""
        back = self._profiled(state.covariance)[self.groups]
        precision = self._profiled(state.mean[:, :, None] * state.mean[:, None])[self.groups]
        field = self.score @ state.mean - times(back, state.before)
        return LowRankState(*_ordered(self.law.prior.denoise(field, precision), state.mean))

    def overlap(self, state: LowRankState) -> float:
        """|Σ_k x̂_k·x_k| / N, of one unknown a row up to its sign."""
        return float(abs((state.mean * self.truth).sum()) / len(self.truth))

    @cached_property
    def _weights(self) -> Array:
        """Rows that average a quantity of all rows by what each block sees of them: 1/(N Δ), `(blocks, N)`."""
        return (1 / self.law.noise)[:, self.groups] / len(self.groups)

    def _profiled(self, values: Array) -> Array:
        """Σ_j value_j / (N Δ_bj) for each block b, `(blocks, p, p)`."""
        return np.tensordot(self._weights, values, 1)


def _ordered(posterior: tuple[Array, Array], before: Array) -> tuple[Array, Array, Array]:
    return posterior[0], before, posterior[1]
