"""Generalised linear models: message passing on a known design, and its state evolution.

    z_il = W·x_il in R^p,   x_il ~ N(0, I_d/d),   l = 1..L tokens,   y_i ~ P(y | z_i1, ..., z_iL),   i = 1..n = αd

    ω_l = X_l w - g_l V,   g = score(y, ω, V),   A = Σ_il g_il g_ilᵀ / d   (or -Σ ∂g / d),   b = Σ_l X_lᵀ g_l + w A
    w, V = mean and average covariance of the prior given b and A
    state evolution:  M̂ = α Î(M),   M = E[w ŵᵀ] at the precision M̂

(Rangan 2011; with p outputs Aubin et al. 2018; with tokens Troiani et al. 2025.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.theory.gaussian import root
from opu_dfa.theory.inference.channels import Channel
from opu_dfa.theory.inference.priors import Prior

Array = np.ndarray
_MOST = 1 - 1e-8  # overlap at which weights are known
_NODES = 2048  # of the law's precision, which is of a step


@dataclass(frozen=True)
class GeneralisedLinear:
    """The law: prior of the weights, channel of the labels, and α = n/d.

    Raises:
        ConfigError: an α that is not positive.

    >>> from opu_dfa.theory.inference.channels import GaussianNoise
    >>> from opu_dfa.theory.inference.iterate import branches
    >>> from opu_dfa.theory.inference.priors import Gaussian
    >>> law = GeneralisedLinear(Gaussian(), GaussianNoise(0.25), alpha=1.0)
    >>> ends = branches(law.evolve, law.nothing, law.truth)
    >>> float(ends.uninformed[0, 0].round(6)), float(ends.informed[0, 0].round(6))
    (0.609612, 0.609612)
    """

    prior: Prior
    channel: Channel
    alpha: float

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ConfigError(f"α = n/d is positive, got {self.alpha}")

    @property
    def nothing(self) -> Array:
        """The overlap of an estimate that knows the prior alone, `(p, p)`."""
        return np.outer(self.prior.mean, self.prior.mean)

    @property
    def truth(self) -> Array:
        """The overlap of the truth with itself."""
        return self.prior.second

    def evolve(self, overlap: Array) -> Array:
        """A step of state evolution of a channel that is matched to its labels."""
        return self.prior.overlap(self.alpha * self.channel.information(overlap, self.prior.second))

    def observe(self, rng: np.random.Generator, d: int) -> RegressionData:
        """A design of round(αd) samples, its labels and the weights."""
        n = max(1, round(self.alpha * d))
        weights = self.prior.sample(rng, d)
        x = rng.standard_normal((n * self.channel.tokens, d)) / np.sqrt(d)
        z = (x @ weights).reshape(n, self.channel.tokens, -1)
        return RegressionData(self.prior, self.channel, x, self.channel.sample(rng, z), weights)


class RegressionState(NamedTuple):
    """Weights w `(d, p)`, their average covariance V `(p, p)`, and the scores g `(n, L, p)` of the step before."""

    weights: Array
    covariance: Array
    score: Array


@dataclass(frozen=True)
class RegressionData:
    """A design `(n L, d)`, the tokens of a sample in a row, labels `(n, ...)`, and the weights `(d, p)`.

    damping: the share of its new value that a step takes, of weights and scores; 1 is message passing itself.
    precision: A is summed over the samples' scores, or is the law's α Î(ρ - V), which state evolution has. Where labels
    have no noise, scores of an estimate that is not aligned yet tell of more than is known, and a start from samples
    may end sure of a wrong answer; the law's precision does not.

    >>> from opu_dfa.theory.inference.channels import GaussianNoise
    >>> from opu_dfa.theory.inference.iterate import iterate
    >>> from opu_dfa.theory.inference.priors import Gaussian
    >>> rng = np.random.default_rng(0)
    >>> data = GeneralisedLinear(Gaussian(), GaussianNoise(0.25), alpha=2.0).observe(rng, 400)
    >>> w = iterate(data.step, data.start(rng)).state.weights
    >>> ridge = np.linalg.solve(data.design.T @ data.design + 0.25 * np.eye(400), data.design.T @ data.labels)
    >>> bool(np.abs(w - ridge).max() < 1e-5)
    True
    """

    prior: Prior
    channel: Channel
    design: Array
    labels: Array
    truth: Array
    damping: float = 1.0
    precision: Literal["samples", "law"] = "samples"

    def start(self, rng: np.random.Generator, planted: float = 0.0, noise: float = 0.03) -> RegressionState:
        """The prior's mean with a little noise, and a share of the truth."""
        d, p = self.truth.shape
        weights = self.prior.mean + planted * self.truth + noise * rng.standard_normal((d, p))
        tokens = self.channel.tokens
        return RegressionState(weights, self.prior.second, np.zeros((len(self.design) // tokens, tokens, p)))

    def knowing(self, rng: np.random.Generator, overlap: Array) -> RegressionState:
        """A start that knows as much as an overlap M `(p, p)` says, from data unlike these, and knows that it does."""
        d, p = self.truth.shape
        share = np.linalg.solve(self.prior.second, overlap)
        noise = rng.standard_normal((d, p)) @ root(overlap - share.T @ self.prior.second @ share)
        before = np.zeros((len(self.labels), self.channel.tokens, p))
        return RegressionState(self.truth @ share + noise, self.prior.second - overlap, before)

    def step(self, state: RegressionState) -> RegressionState:
        """One step of message passing."""
        w, v, before = state
        omega = (self.design @ w).reshape(before.shape) - before @ v
        g = self.channel.score(self.labels, omega, v)
        a = self._precision(omega, g, v)
        g = before + self.damping * (g - before)
        field = self.design.T @ g.reshape(len(self.design), -1) + w @ a
        posterior = self.prior.denoise(field, (a + a.T) / 2)
        return RegressionState(
            w + self.damping * (posterior.mean - w), np.asarray(posterior.covariance.mean(axis=0)), g
        )

    def _precision(self, omega: Array, g: Array, v: Array) -> Array:
        d, second = len(self.truth), self.prior.second
        if self.precision == "law":
            values, vectors = np.linalg.eigh(second - v)
            known = (vectors * np.clip(values, 0, _MOST * float(np.linalg.eigvalsh(second)[0]))) @ vectors.T
            return len(self.labels) / d * self.channel.information(known, second, _NODES)
        stiffness = self.channel.stiffness(self.labels, omega, v)
        return np.tensordot(g, g, ((0, 1), (0, 1))) / d if stiffness is None else stiffness.sum(axis=0) / d

    def products(self, state: RegressionState) -> Array:
        """ŵᵀw/d `(p, p)`: the overlap M of state evolution."""
        return np.asarray(state.weights.T @ self.truth / len(self.truth))
