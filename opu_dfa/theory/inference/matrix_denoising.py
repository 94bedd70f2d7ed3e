"""Symmetric matrices with rotation-invariant laws: denoising them, and learning them from quadratic measurements.

    Y = S + √Δ G:   Ŝ = Σ_i (λ_i - 2Δ Re g(λ_i)) u_i u_iᵀ,   F(Δ) = E|S - Ŝ|²/d = Δ - (4π²/3) Δ² ∫ ρ³

λ_i and u_i are Y's eigenvalues and vectors, ρ and g density and resolvent of the free sum of S's law and a semicircle
of variance Δ, and G is symmetric with entries of variance 1/d off the diagonal, 2/d on it. No function of Y does
better than Ŝ, which keeps Y's vectors (Bun, Allez, Bouchaud and Potters 2016).

A network of m = κd neurons with quadratic activations sees its inputs through S = W Wᵀ/m alone. From n = αd² labels

    y_i = Tr Z_i S + √δ ξ_i,   Z_i = (x_i x_iᵀ - I)/√d,   x_i ~ N(0, I_d)

the least mean square error mse = E|S - Ŝ|²/d solves mse = F((δ + 2 mse)/(4α)), and message passing whose denoiser is
the one above has that for its fixed point (Maillard, Troiani, Martin, Krzakala and Zdeborová, arXiv 2408.03733).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from scipy import optimize

from opu_dfa.errors import ConfigError
from opu_dfa.theory.spectra.freeprob import FreeLaw, marchenko_pastur, semicircle

Array = np.ndarray
Measurements = Literal["network", "normal"]
_NODES = 200  # of a piece of the support: F to 1e-4 of it, where two pieces meet, and to 1e-8 elsewhere
_ABOVE = 1e-7  # the real axis, where the resolvent is told from the other roots of its equation


def wishart(kappa: float) -> FreeLaw:
    """The law of W Wᵀ/m, W of d x κd entries N(0, 1), m = κd: of mean 1 and variance 1/κ.

    Raises:
        ConfigError: κ that is not positive.

    >>> wishart(0.5).cumulants(2)
    (1.0, 2.0)
    """
    if not 0 < kappa < math.inf:
        raise ConfigError(f"the width κ = m/d is positive, got {kappa}")
    return marchenko_pastur(kappa, 1 / kappa)


def resolvent(law: FreeLaw, x: Array) -> Array:
    """g(x + i0) = ∫ ρ(λ)/(x - λ), complex, `(n,)`; inside the support and out of it.

    Just above the real axis the polynomial equation of g has one root below it.

    >>> resolvent(semicircle(1.0), np.array([0.0, 2.5])).round(5).tolist()  # (x - √(x² - 4))/2
    [-1j, (0.5-0j)]
    """
    upper, lower = law._inverse
    degree = max(len(upper), len(lower)) - 1
    above, below = (np.pad(p.coef, (0, degree + 1 - len(p))) for p in (upper, lower))
    z = np.asarray(x, dtype=complex)[:, None] + 1j * _ABOVE
    coefficients = above - z * np.asarray(below, dtype=complex)
    companion = np.zeros((len(x), degree, degree), dtype=complex)
    companion[:, np.arange(1, degree), np.arange(degree - 1)] = 1.0
    companion[:, :, -1] = -coefficients[:, :-1] / coefficients[:, -1:]
    roots = np.linalg.eigvals(companion)
    return np.asarray(roots[np.arange(len(x)), roots.imag.argmin(axis=1)])


def denoise(noisy: Array, prior: FreeLaw, delta: float) -> Array:
    """Ŝ, `(d, d)`, of a matrix with noise of variance Δ.

    >>> y = np.diag([-1.0, 0.5, 2.0])
    >>> bool(np.allclose(denoise(y, semicircle(1.0), 0.5), y / 1.5, atol=1e-6))  # of a GOE matrix, Wiener's filter
    True
    """
    values, vectors = np.linalg.eigh(noisy)
    shrunk = values - 2 * delta * resolvent(prior + semicircle(delta), values).real
    return np.asarray((vectors * shrunk) @ vectors.T)


def denoising_error(prior: FreeLaw, delta: float) -> float:
    """F(Δ), the least mean square error per d.

    Raises:
        ConfigError: Δ that is not positive.

    >>> round(denoising_error(semicircle(1.0), 0.5), 6)  # Δ/(1 + Δ)
    0.333333
    """
    if not 0 < delta < math.inf:
        raise ConfigError(f"the noise's variance is positive, got {delta}")
    law = prior + semicircle(delta)
    cubed = 0.0
    angle = (np.arange(_NODES) + 0.5) * math.pi / _NODES  # takes the roots at the edges
    for low, high in law.support:
        density = law.density((low + high) / 2 - (high - low) / 2 * np.cos(angle))
        cubed += float((density**3 * np.sin(angle)).sum()) * (high - low) / 2 * math.pi / _NODES
    return delta - 4 * math.pi**2 / 3 * delta**2 * cubed


@dataclass(frozen=True)
class QuadraticNetwork:
    """κd neurons with quadratic activations, αd² samples, and labels with noise of variance δ.

    Raises:
        ConfigError: κ or α that is not positive, or a negative δ.

    >>> round(QuadraticNetwork(kappa=0.5, alpha=0.2, noise=0.25).error, 4)
    0.9348
    """

    kappa: float
    alpha: float
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not (self.kappa > 0 and self.alpha > 0 and self.noise >= 0):
            raise ConfigError(f"κ and α are positive and noise is not negative, got {self}; raise what is below")

    @property
    def recovery(self) -> float:
        """α above which labels without noise determine S: the parameters of S, of rank κd, per d²."""
        return self.kappa - self.kappa**2 / 2 if self.kappa < 1 else 0.5

    @property
    def error(self) -> float:
        """The least mean square error, E|S - Ŝ|²/d."""
        if self.noise == 0 and self.alpha >= self.recovery:
            return 0.0
        prior = wishart(self.kappa)

        def excess(log: float) -> float:
            delta = math.exp(log)
            return (self.noise + 2 * denoising_error(prior, delta)) / (4 * self.alpha * delta) - 1

        low = math.log((1e-6 + self.noise) / (8 * self.alpha))
        high = math.log((self.noise + 2 / self.kappa) / (4 * self.alpha)) + 1
        if excess(low) <= 0:  # within a millionth of the threshold
            return 0.0
        return denoising_error(prior, math.exp(float(optimize.brentq(excess, low, high, xtol=1e-12))))

    def observe(self, rng: np.random.Generator, d: int, by: Measurements = "network") -> QuadraticData:
        """A network of width round(κd), and round(αd²) samples; or as many measurements by normal matrices."""
        m, n = max(1, round(self.kappa * d)), max(1, round(self.alpha * d * d))
        weights = rng.standard_normal((d, m))
        inputs = rng.standard_normal((n, d) if by == "network" else (n, d, d))
        kind = QuadraticData if by == "network" else NormalData
        data = kind(wishart(m / d), self.noise, inputs, np.zeros(n), weights @ weights.T / m)
        labels = data.measure(data.truth) + math.sqrt(self.noise) * rng.standard_normal(n)
        return replace(data, labels=labels)


class QuadraticState(NamedTuple):
    """Ŝ `(d, d)`, the variance of a label's field Tr Z Ŝ, those fields `(n,)` and their scores `(n,)`."""

    matrix: Array
    variance: float
    fields: Array
    score: Array


@dataclass(frozen=True)
class QuadraticData:
    """Inputs `(n, d)`, labels `(n,)` and the matrix S behind them.

    damping: the share of their new values that fields and their variance take in a step. x xᵀ of a few hundred
    dimensions is far from a matrix of normal entries: scores are measured rather than expected, and steps are damped.
    Where the least eigenvalue comes and goes at the edge of its law, whose resolvent has a root there, the iteration
    may end in a small oscillation.

    >>> from opu_dfa.theory.inference.iterate import iterate
    >>> data = QuadraticNetwork(kappa=0.5, alpha=0.5, noise=0.25).observe(np.random.default_rng(0), 40)
    >>> history = iterate(data.step, data.start(), data.error, most=40)
    >>> bool(history.measured[-1] < 0.4 < 1.5 < history.measured[0])
    True
    """

    prior: FreeLaw
    noise: float
    inputs: Array
    labels: Array
    truth: Array
    damping: float = 0.5

    def measure(self, matrix: Array) -> Array:
        """Tr Z_i S = (x_iᵀ S x_i - Tr S)/√d, without the n matrices Z_i."""
        quadratic = np.einsum("ij,ij->i", self.inputs @ matrix, self.inputs)
        return np.asarray((quadratic - np.trace(matrix)) / math.sqrt(len(matrix)))

    def gather(self, score: Array) -> Array:
        """Σ_i g_i Z_i, `(d, d)`."""
        d = len(self.truth)
        return np.asarray(((self.inputs.T * score) @ self.inputs - score.sum() * np.eye(d)) / math.sqrt(d))

    def start(self) -> QuadraticState:
        """The prior's mean."""
        mean, variance = self.prior.cumulants(2)
        matrix = mean * np.eye(len(self.truth))
        return QuadraticState(matrix, 2 * variance, self.measure(matrix), np.zeros(len(self.labels)))

    def step(self, state: QuadraticState) -> QuadraticState:
        """One step of message passing: scores of the labels, their sum as a noisy S, and that denoised."""
        n, d = len(self.labels), len(self.truth)
        fields = self.measure(state.matrix) - state.variance * state.score
        fields = state.fields + self.damping * (fields - state.fields)
        score = (self.labels - fields) / (self.noise + state.variance)
        strength = max(float(score @ score) / n, 1e-300)
        delta = d * d / (4 * n * strength)
        matrix = denoise(state.matrix + d / (2 * n * strength) * self.gather(score), self.prior, delta)
        variance = 2 * denoising_error(self.prior, delta)
        return QuadraticState(matrix, state.variance + self.damping * (variance - state.variance), fields, score)

    def error(self, state: QuadraticState) -> float:
        """|S - Ŝ|²/d."""
        return float(((state.matrix - self.truth) ** 2).sum()) / len(self.truth)


class NormalData(QuadraticData):
    """The same with Z_i = (G_i + G_iᵀ)/√(2d) in place of x xᵀ, G_i `(d, d)` of entries N(0, 1): its equal for d → ∞."""

    def measure(self, matrix: Array) -> Array:
        return np.asarray(self.inputs.reshape(len(self.inputs), -1) @ matrix.ravel() * math.sqrt(2 / len(matrix)))

    def gather(self, score: Array) -> Array:
        total = (score @ self.inputs.reshape(len(score), -1)).reshape(self.truth.shape)
        return np.asarray((total + total.T) / math.sqrt(2 * len(total)))
