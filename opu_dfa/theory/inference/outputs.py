"""Matrices of which every entry is seen through an output channel of its own: y_ij ~ P(y | w_ij), w ~ x xᵀ small.

Of any channel what counts is the first order at which it answers to w at all,

    P(y | w) = P(y | 0) (1 + S(y) w^k + ...),   1/Δ_k = E S² at w = 0,   w_ij = (λ/N)^(1/2k) x_i·x_j

(of lower orders nothing, averaged over y): the scores are a spiked Wigner matrix in disguise, of the unknowns u = x^k,
Δ_k S = √(λ/N) u uᵀ + √Δ_k Z, whose signal-to-noise ratio is λ/Δ_k (Lesieur, Krzakala and Zdeborová 2015 for k = 1;
Mergny, Ko, Krzakala and Zdeborová, arXiv 2403.04234, for all k).

At finite N the next order, relative to this one of size √(λ/N), counts as well: `EntrywiseOutput.error_at`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from opu_dfa.errors import ConfigError
from opu_dfa.theory.inference.iterate import settled
from opu_dfa.theory.inference.low_rank import LowRankData, SpikedWigner
from opu_dfa.theory.inference.priors import Discrete, Prior, nodes

Array = np.ndarray


class Output(ABC):
    """A channel of one entry.

    Attributes:
        order: k. bend, excess: b and c of the next order, E S = (w^k + b w^2k)/Δ_k and Var S = (1 + c w^k)/Δ_k.
    """

    order: int = 1
    bend: float = 0.0
    excess: float = 0.0

    @property
    @abstractmethod
    def fisher(self) -> float:
        """1/Δ_k."""

    @abstractmethod
    def sample(self, rng: np.random.Generator, w: Array) -> Array:
        """y of each w."""

    @abstractmethod
    def score(self, y: Array) -> Array:
        """S(y) = ∂_w^k P(y | w) / (k! P(y | 0)) at w = 0."""


class Linear(Output):
    """y = w + ξ."""

    fisher = 1.0

    def sample(self, rng: np.random.Generator, w: Array) -> Array:
        return np.asarray(w + rng.standard_normal(w.shape))

    def score(self, y: Array) -> Array:
        return y


@dataclass(frozen=True)
class Quantised(Output):
    """The cell of w + ξ between levels, 0 to len(levels): a sign of one level 0, a camera's bits of more.

    >>> sign = Quantised()
    >>> round(sign.fisher * np.pi, 6), sign.score(np.array([0, 1])).round(4).tolist()
    (2.0, [-0.7979, 0.7979])
    """

    levels: Sequence[float] = (0.0,)

    def __post_init__(self) -> None:
        if not len(self.levels) or (np.diff(self.levels) <= 0).any():
            raise ConfigError(f"levels are one or more, in rising order, got {list(self.levels)}")

    @property
    def fisher(self) -> float:
        weights, scores, _ = self._cells
        return float(weights @ scores**2)

    @property
    def bend(self) -> float:  # type: ignore[override]
        weights, scores, second = self._cells
        return float(weights @ (scores * second)) / self.fisher

    @property
    def excess(self) -> float:  # type: ignore[override]
        weights, scores, _ = self._cells
        return float(weights @ scores**3) / self.fisher

    def sample(self, rng: np.random.Generator, w: Array) -> Array:
        return np.searchsorted(np.asarray(self.levels), w + rng.standard_normal(w.shape))

    def score(self, y: Array) -> Array:
        return np.asarray(self._cells[1][y])

    @property
    def _cells(self) -> tuple[Array, Array, Array]:
        """P(cell), the score E[ξ | cell], and that of order two, E[ξ² - 1 | cell]/2."""
        levels = np.asarray(self.levels, dtype=np.float64)
        weights = np.diff(special.ndtr(np.concatenate([[-np.inf], levels, [np.inf]])))
        heights = np.concatenate([[0.0], np.exp(-(levels**2) / 2) / math.sqrt(2 * math.pi), [0.0]])
        moments = np.concatenate([[0.0], levels, [0.0]]) * heights
        return weights, -np.diff(heights) / weights, -np.diff(moments) / (2 * weights)


class Cauchy(Output):
    """y = w + noise of a density 1/(π(1 + y²)), whose variance is infinite; but Δ = 2."""

    fisher = 0.5

    def sample(self, rng: np.random.Generator, w: Array) -> Array:
        return np.asarray(w + rng.standard_cauchy(w.shape))

    def score(self, y: Array) -> Array:
        return 2 * y / (1 + y * y)


@dataclass(frozen=True)
class Counts(Output):
    """Poisson counts, as of photons, of a rate `rate` · e^w."""

    rate: float = 2.0
    bend = 0.5
    excess = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf:
            raise ConfigError(f"a rate of counts is positive, got {self.rate}")

    @property
    def fisher(self) -> float:
        return self.rate

    def sample(self, rng: np.random.Generator, w: Array) -> Array:
        return rng.poisson(self.rate * np.exp(w))

    def score(self, y: Array) -> Array:
        return np.asarray(y - self.rate)


@dataclass(frozen=True)
class Edges(Output):
    """Edges of a dense graph, 0 or 1, of log odds log(p/(1 - p)) + w: communities."""

    probability: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.probability < 1:
            raise ConfigError(f"a probability of edges is between 0 and 1, got {self.probability}")

    @property
    def fisher(self) -> float:
        return self.probability * (1 - self.probability)

    @property
    def bend(self) -> float:  # type: ignore[override]
        return 0.5 - self.probability

    @property
    def excess(self) -> float:  # type: ignore[override]
        return 1 - 2 * self.probability

    def sample(self, rng: np.random.Generator, w: Array) -> Array:
        return (rng.random(w.shape) < special.expit(special.logit(self.probability) + w)).astype(float)

    def score(self, y: Array) -> Array:
        return np.asarray(y - self.probability)


class Absolute(Output):
    """y = |w + ξ|, which does not know w's sign: k = 2, S = (y² - 1)/2, Var S = (1 + 2 w²)/2."""

    order = 2
    fisher = 0.5
    excess = 2.0

    def sample(self, rng: np.random.Generator, w: Array) -> Array:
        return np.abs(w + rng.standard_normal(w.shape))

    def score(self, y: Array) -> Array:
        return np.asarray((y * y - 1) / 2)


@dataclass(frozen=True)
class EntrywiseOutput:
    """The law: a prior of x, the output of each entry and the strength λ.

    Raises:
        ConfigError: a strength that is not positive, or a power of a prior whose power is not known.

    >>> from opu_dfa.theory.inference.priors import rademacher
    >>> law = EntrywiseOutput(rademacher(), Quantised(), strength=3.0)
    >>> round(law.equivalent.snr * np.pi, 6)
    6.0
    """

    prior: Prior
    output: Output
    strength: float

    def __post_init__(self) -> None:
        if not self.strength > 0:
            raise ConfigError(f"the strength λ of a signal is positive, got {self.strength}")

    @property
    def equivalent(self) -> SpikedWigner:
        """The spiked Wigner model of u = x^k with noise Δ_k/λ."""
        noise = np.array([[1 / (self.output.fisher * self.strength)]])
        return SpikedWigner(power(self.prior, self.output.order), noise)

    def observe(self, rng: np.random.Generator, n: int) -> LowRankData:
        """Scores of a matrix of n rows, as data of the equivalent model: their truth is x^k."""
        k = self.output.order
        x = self.prior.sample(rng, n)
        upper = np.triu_indices(n, 1)
        w = (self.strength / n) ** (1 / (2 * k)) * (x @ x.T)[upper]
        score = np.zeros((n, n))
        score[upper] = math.sqrt(self.strength / n) * self.output.score(self.output.sample(rng, w))
        return LowRankData(self.equivalent, score + score.T, x**k, np.zeros(n, dtype=int))

    def error_at(self, n: float) -> float:
        """E|u - û|² of message passing at n rows, to order √(λ/n), or of infinitely many.

        Scores are taken for those of the equivalent model, whereas the field of a row of u is

            B = λ_e (E[m u'] u + b ε E[m u'²] u²) + √(λ_e (E m² + c ε E[m² u'] u)) z,   ε = √(λ/n),   λ_e = λ/Δ_k

        >>> from opu_dfa.theory.inference.priors import Discrete
        >>> law = EntrywiseOutput(Discrete(np.sqrt([[0.2], [1.8]])), Absolute(), strength=3.0)
        >>> round(law.error_at(math.inf), 5), round(law.error_at(1000), 5)
        (0.22488, 0.26383)
        """
        prior = self.equivalent.prior
        if not isinstance(prior, Discrete) or prior.size != 1:
            raise ConfigError(f"errors at finite size are known of Discrete priors of one unknown, got {prior}")
        u, weights = prior.points[:, 0], prior.weights
        rule = nodes(1)
        z = rule.nodes[:, 0]
        effective, small = self.output.fisher * self.strength, math.sqrt(self.strength / n)
        bend, excess = small * self.output.bend, small * self.output.excess

        def evolve(moments: Array) -> Array:  # E mu, E mu², E m², E m²u, and the error
            mu, muu, mm, mmu, _ = moments
            mean = effective * (mu * u + bend * muu * u * u)
            spread = np.sqrt(effective * np.maximum(mm + excess * mmu * u, 0.0))
            field = mean[:, None] + spread[:, None] * z
            m = prior.denoise(field.reshape(-1, 1), np.array([[effective * mm]])).mean.reshape(field.shape)
            first, second, error = m @ rule.weights, m**2 @ rule.weights, (m - u[:, None]) ** 2 @ rule.weights
            return np.array([weights @ each for each in (first * u, first * u * u, second, second * u, error)])

        mean = float(prior.mean[0])
        start = np.array([mean * mean, mean * float(prior.second[0, 0]), mean * mean, mean**3, 1.0])
        return float(settled(evolve, start + np.array([1e-6, 0.0, 1e-6, 0.0, 0.0])).x[-1])


def power(prior: Prior, k: int) -> Prior:
    """The law of x^k, of one unknown a row unless k = 1.

    >>> from opu_dfa.theory.inference.priors import Discrete
    >>> power(Discrete(np.array([[1.0], [2.0]])), 2).points.ravel().tolist()
    [1.0, 4.0]
    """
    if k == 1:
        return prior
    if not isinstance(prior, Discrete) or prior.size != 1:
        kind = type(prior).__name__ if not isinstance(prior, Discrete) else f"Discrete of {prior.size} unknowns a row"
        raise ConfigError(f"powers are known of Discrete priors of one unknown a row, got {kind}; make points of it")
    return Discrete(prior.points**k, prior.weights)
