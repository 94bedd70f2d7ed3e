"""Two kinds of unknowns seen in one rectangular matrix: features v_j and samples u_i, each with a prior of its own.

    Y = √(snr/d) v uᵀ + Z,   Z (d, n) of N(0, 1),   v_j, u_i in R^p,   n = αd

Message passing goes from one side to the other, features first (Lesieur, Krzakala and Zdeborová 2017):

    B_v = √(snr/d) Y u - (snr/d) v(before) Σ_i U_i,   A_v = (snr/d) Σ_i u_i u_iᵀ,   v, V = mean, covariance of its prior
    B_u = √(snr/d) Yᵀ v - (snr/d) u(before) Σ_j V_j,  A_u = (snr/d) Σ_j v_j v_jᵀ,   u, U = mean, covariance of its prior
    state evolution:  Q_v ← E[v v̂ᵀ] at the precision α snr Q_u,   Q_u ← E[u ûᵀ] at the precision snr Q_v
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import optimize

from opu_dfa.errors import ConfigError
from opu_dfa.theory.gaussian import legendre, root
from opu_dfa.theory.inference.iterate import spinodals
from opu_dfa.theory.inference.priors import Prior

Array = np.ndarray
_EDGES = np.concatenate([[0.0], np.geomspace(1e-3, 1, 9)])  # of precisions, finer where a sparse prior wakes up


@dataclass(frozen=True)
class Bipartite:
    """The law: priors of features (d rows) and samples (n = αd rows), both of p unknowns without mean, and the snr.

    Overlaps are `(2, p, p)`: of samples Q_u, and of features Q_v.

    Raises:
        ConfigError: an snr or α that is not positive, priors of other sizes than each other's or with a mean.

    >>> from opu_dfa.theory.inference.iterate import growth
    >>> from opu_dfa.theory.inference.priors import GaussBernoulli, rademacher
    >>> law = Bipartite(GaussBernoulli(0.5), rademacher(), snr=2.0, alpha=2.0)
    >>> round(growth(law.evolve, law.nothing), 4), law.threshold  # α snr² ρ², 1 at the threshold
    (2.0, 1.414213562373095)
    """

    features: Prior
    samples: Prior
    snr: float
    alpha: float

    def __post_init__(self) -> None:
        if not (0 < self.snr < math.inf and 0 < self.alpha < math.inf):
            raise ConfigError(f"snr and α = n/d are positive, got {self.snr} and {self.alpha}")
        if self.features.mean.shape != self.samples.mean.shape:
            raise ConfigError(
                "a row has as many unknowns on either side, got "
                f"{len(self.features.mean)} of features and {len(self.samples.mean)} of samples"
            )
        if self.features.mean.any() or self.samples.mean.any():
            raise ConfigError("priors of both sides have no mean here; subtract it from the matrix")

    @property
    def nothing(self) -> Array:
        """Overlaps of an estimate that knows the priors alone."""
        return np.zeros_like(self.truth)

    @property
    def truth(self) -> Array:
        """Overlaps of the truth with itself."""
        return np.stack([self.samples.second, self.features.second])

    @property
    def threshold(self) -> float:
        """The snr above which message passing learns anything: 1/(√α ‖E uuᵀ‖ ‖E vvᵀ‖)."""
        return 1 / math.sqrt(self.alpha) / float(np.prod([np.linalg.norm(second, 2) for second in self.truth]))

    def evolve(self, overlaps: Array) -> Array:
        """A step of state evolution, features first."""
        v = self.features.overlap(self.alpha * self.snr * overlaps[0])
        return np.stack([self.samples.overlap(self.snr * v), v])

    def potential(self, overlaps: Array) -> float:
        """Minus the free energy per feature, over that of knowing nothing: the posterior is where it is largest.

        φ = α Ψ_u(snr Q_v) + Ψ_v(α snr Q_u) - (α snr/2) tr Q_u Q_v,  Ψ(R) = ½ ∫₀¹ tr[R E x x̂ᵀ at sR] ds = E log Z(R);
        its stationary points are the fixed points of state evolution.
        """
        u, v = overlaps
        gained = self.alpha * _gained(self.samples, self.snr * v)
        gained += _gained(self.features, self.alpha * self.snr * u)
        return gained - self.alpha * self.snr / 2 * float(np.trace(u @ v))

    def snr_of(self, overlap: float) -> float:
        """The snr at which Q_u has this value at a fixed point, stable or not, of one unknown a row.

        Raises:
            ConfigError: of more unknowns, or an overlap that is not between 0 and that of the truth.
        """
        most = float(self.truth[0, 0, 0])
        if self.truth.shape[1] != 1 or not 0 < overlap < most:
            raise ConfigError(f"an overlap of one unknown lies between 0 and {most}, got {overlap}")
        q = np.full((2, 1, 1), overlap)

        def excess(log_snr: float) -> float:
            return float(replace(self, snr=math.exp(log_snr)).evolve(q)[0, 0, 0]) - overlap

        middle = math.log(self.threshold)
        return math.exp(optimize.brentq(excess, middle - 12, middle + 12, xtol=1e-9))

    @cached_property
    def transitions(self) -> Transitions:
        """The snr where knowing becomes possible and where message passing does it, of one unknown a row.

        >>> from opu_dfa.theory.inference.priors import GaussBernoulli, rademacher
        >>> found = Bipartite(GaussBernoulli(0.02), rademacher(), snr=1.0, alpha=2.0).transitions
        >>> [round(each / found.algorithm, 3) for each in found]
        [0.46, 0.479, 1.0]
        """
        most = float(self.truth[0, 0, 0])
        turns = [turn for turn in spinodals(self.snr_of, 0.002 * most, 0.98 * most, 40) if turn[1] < self.threshold]
        if not turns:
            return Transitions(self.threshold, self.threshold, self.threshold)
        overlap, spinodal = min(turns, key=lambda turn: turn[1])

        def gain(m: float) -> float:
            law = replace(self, snr=self.snr_of(m))
            return law.potential(law.evolve(np.full((2, 1, 1), m)))

        known = optimize.brentq(gain, overlap, 0.999 * most, xtol=1e-6)
        return Transitions(spinodal, self.snr_of(known), self.threshold)

    def observe(self, rng: np.random.Generator, d: int) -> BipartiteData:
        """A matrix of d rows and round(αd) columns.

        Unknowns are scaled to their prior's second moment, from which d sparse features may stray by tens of percent.
        """
        v, u = (_scaled(p.sample(rng, k), p.second) for p, k in ((self.features, d), (self.samples, self.columns(d))))
        y = rng.standard_normal((d, len(u)), dtype=np.float32)
        y += (math.sqrt(self.snr / d) * v).astype(np.float32) @ u.astype(np.float32).T
        return BipartiteData(self, y, u, v)

    def columns(self, d: int) -> int:
        """Samples of d features."""
        return max(1, round(self.alpha * d))


class Transitions(NamedTuple):
    """Three snr: above `spinodal` message passing that starts at the truth stays near it, above `information` the
    posterior does too, and above `algorithm` message passing finds it. They are one where a transition is continuous.
    """

    spinodal: float
    information: float
    algorithm: float


class BipartiteState(NamedTuple):
    """Means of samples `(n, p)` and features `(d, p)`, and the sum over samples of their covariances `(p, p)`."""

    u: Array
    v: Array
    spread: Array


@dataclass(frozen=True)
class BipartiteData:
    """A matrix Y `(d, n)` of float32, and the truth: samples `(n, p)` and features `(d, p)`.

    >>> from opu_dfa.theory.inference.iterate import iterate
    >>> from opu_dfa.theory.inference.priors import GaussBernoulli, rademacher
    >>> rng = np.random.default_rng(0)
    >>> data = Bipartite(GaussBernoulli(0.5), rademacher(), snr=4.0, alpha=2.0).observe(rng, 400)
    >>> history = iterate(data.step, data.start(rng), data.overlap, most=100)
    >>> bool(history.measured[-1, 0] > 0.7)
    True
    """

    law: Bipartite
    matrix: Array
    u: Array
    v: Array

    def start(self, rng: np.random.Generator, planted: float = 0.0, noise: float = 0.03) -> BipartiteState:
        """A little noise, and a share of the truth on both sides."""
        u, v = (planted * truth + noise * rng.standard_normal(truth.shape) for truth in (self.u, self.v))
        return BipartiteState(u, v, np.zeros((u.shape[1], u.shape[1])))

    def step(self, state: BipartiteState) -> BipartiteState:
        """One step of message passing: features from samples, then samples from features."""
        weight = self.law.snr / len(self.v)
        field = math.sqrt(weight) * _product(self.matrix, state.u) - weight * state.v @ state.spread
        v, covariance = self.law.features.denoise(field, weight * state.u.T @ state.u)
        field = math.sqrt(weight) * _product(self.matrix.T, v) - weight * state.u @ covariance.sum(axis=0)
        u, covariance = self.law.samples.denoise(field, weight * v.T @ v)
        return BipartiteState(u, v, covariance.sum(axis=0))

    def overlap(self, state: BipartiteState) -> Array:
        """|Σ û·u|/n and |Σ v̂·v|/d, `(2,)`, of one unknown a row up to a sign that both sides share."""
        pairs = ((state.u, self.u), (state.v, self.v))
        return np.array([abs(float((mean * truth).sum())) / len(truth) for mean, truth in pairs])


def _gained(prior: Prior, precision: Array) -> float:
    """Ψ(R) of a prior: what a field of that precision is expected to gain in log-likelihood over a field of noise."""
    nodes, weights = legendre(6)
    half = np.diff(_EDGES)[:, None] / 2
    at, weight = (_EDGES[:-1, None] + half * (1 + nodes)).ravel(), (half * weights).ravel()
    return (
        float(sum(w * np.trace(precision @ prior.overlap(s * precision)) for s, w in zip(at, weight, strict=True))) / 2
    )


def _scaled(rows: Array, second: Array) -> Array:
    """Rows of which the mean of xxᵀ is `second`; as drawn where they are too few for that."""
    found = rows.T @ rows / len(rows)
    if np.linalg.matrix_rank(found) < len(found):
        return rows
    return np.asarray(rows @ np.linalg.inv(root(found)) @ root(second))


def _product(matrix: Array, mean: Array) -> Array:
    return np.asarray((matrix @ mean.astype(np.float32)).astype(np.float64))
