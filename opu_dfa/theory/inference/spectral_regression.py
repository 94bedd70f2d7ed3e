"""Spectral estimators of multi-index models: message passing, linearised around knowing nothing.

    asymmetric  L = (X Xᵀ - diag |x_i|²) G      on R^(n p),   w = Xᵀ G v
    symmetric   T = Σ_i x_i x_iᵀ ⊗ (1 - (1 + G(y_i))⁻¹)  on R^(d p)

of x_i ~ N(0, I/d) and the curvature G(y) = E[zzᵀ | y] - I of a channel with E[z | y] = 0. Where all G(y) have the same
eigenvectors both fall into blocks with a number g(y) each. Above α_c = 1/E g² an eigenvalue leaves the bulk, at α/α_c
outside the disc of radius √(α/α_c), or at 1. (Defilippis et al. 2502.02545; Lu and Li 2020; Mondelli and Montanari
2018.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs, eigsh

from opu_dfa.errors import ConfigError, NotConverged
from opu_dfa.theory.inference.channels import Channel
from opu_dfa.theory.inference.regression import RegressionData

Array = np.ndarray


class Block(NamedTuple):
    """A direction u `(p,)` of the fields, and its g(y) = E[(u·z)² | y] - 1 of labels with weights."""

    direction: Array
    values: Array
    weights: Array

    @property
    def threshold(self) -> float:
        """α_c."""
        return float(1 / (self.weights @ self.values**2))


class Outlier(NamedTuple):
    """A leading eigenvalue, the edge of the others, and the squared cosine of its eigenvector; 0 below α_c."""

    eigenvalue: float
    edge: float
    overlap: float


def blocks(channel: Channel) -> list[Block]:
    """The common eigenvectors of all G(y), of samples of one token.

    Raises:
        ConfigError: curvatures that do not commute, several tokens, or E[z | y] that is not zero.

    >>> from opu_dfa.theory.inference.index_channels import SignProduct
    >>> [[round(float(g), 4) for g in block.values] for block in blocks(SignProduct())]
    [[-0.6366, 0.6366], [0.6366, -0.6366]]
    """
    if channel.tokens > 1:
        raise ConfigError(f"spectral theory is of one token a sample, got {channel.tokens}")
    y, weights = channel.outcomes()
    nothing, one = np.zeros((len(weights), 1, channel.size)), np.eye(channel.size)
    if weights @ (channel.score(y, nothing, one)[:, 0] ** 2).sum(axis=1) > 1e-6:
        raise ConfigError("labels have E[z | y], which one step of message passing learns: no spectrum is needed")
    g = channel.curvature(y, nothing, one)
    mixed = np.tensordot(weights * np.random.default_rng(0).standard_normal(len(weights)), g, 1)
    _, vectors = np.linalg.eigh(mixed)
    values = np.einsum("ia,nij,jb->nab", vectors, g, vectors, optimize=True)
    diagonal = np.einsum("naa->na", values)
    off = weights @ ((values**2).sum(axis=(1, 2)) - (diagonal**2).sum(axis=1))
    if off > 1e-6 * (weights @ (diagonal**2).sum(axis=1)):
        raise ConfigError("the curvatures G(y) do not commute, and theory is of those that do: use the estimator alone")
    return [Block(vectors[:, k], diagonal[:, k], weights) for k in range(channel.size)]


def asymmetric_theory(block: Block, alpha: float) -> Outlier:
    """overlap² = (α - α_c) / (α + α_c² E g³) above α_c; the edge is the radius of the disc.

    >>> from opu_dfa.theory.inference.index_channels import SignProduct
    >>> [round(float(value), 5) for value in asymmetric_theory(blocks(SignProduct())[0], 4.0)]
    [1.62114, 1.27324, 0.38315]
    """
    critical = block.threshold
    radius = np.sqrt(alpha / critical)
    if alpha <= critical:
        return Outlier(float(radius), float(radius), 0.0)
    skew = float(block.weights @ block.values**3)
    return Outlier(alpha / critical, float(radius), (alpha - critical) / (alpha + critical**2 * skew))


def symmetric_theory(block: Block, alpha: float) -> Outlier:
    """With T = g/(1 + g): φ(λ) = λ E[T (1 + g)/(λ - T)], ψ(λ) = λ (1/α + E[T/(λ - T)]), ψ(λ*) = φ(λ*).

    The eigenvalue is α ψ(λ*), which is 1, the edge α ψ where ψ' = 0, and overlap² = ψ'/(ψ' - φ') at λ*.

    >>> from opu_dfa.theory.inference.index_channels import SignProduct
    >>> [round(float(value), 5) for value in symmetric_theory(blocks(SignProduct())[0], 4.0)]
    [1.0, 0.91741, 0.4292]
    """
    g, weights = block.values, block.weights
    keep = (1 + g > 1e-12) & (weights > 0)
    g, weights = g[keep], weights[keep] / weights[keep].sum()
    t = g / (1 + g)
    top = float(t.max())

    def psi(at: float) -> float:
        return at * (1 / alpha + float(weights @ (t / (at - t))))

    def slope(at: float) -> float:
        return 1 / alpha - float(weights @ (t / (at - t)) ** 2)

    low, high = top + 1e-9 * (1 + abs(top)), top + 10.0
    while slope(high) < 0:
        high = top + 2 * (high - top)
    turn = float(optimize.brentq(slope, low, high, xtol=1e-14)) if slope(low) < 0 else low
    edge = alpha * psi(turn)
    if alpha <= block.threshold:
        return Outlier(edge, edge, 0.0)
    # ψ - φ = λ (1/α - E[T g/(λ - T)]), which grows with λ, and is not positive at 1.
    low, high = 1.0, 2.0 + abs(top)
    while float(weights @ (t * g / (high - t))) > 1 / alpha:
        high *= 2
    found = float(optimize.brentq(lambda at: 1 / alpha - float(weights @ (t * g / (at - t))), low, high, xtol=1e-14))
    fall = float(weights @ (t**2 * (1 + g) / (found - t) ** 2))  # -φ'
    return Outlier(alpha * psi(found), edge, slope(found) / (slope(found) + fall))


class Spectrum(NamedTuple):
    """Leading eigenvalues, largest first, and orthonormal estimates `(d p, k)` of them."""

    values: Array
    estimates: Array

    def overlap(self, truths: Array) -> float:
        """The mean squared cosine between truths `(k, d, p)` and the span of the estimates."""
        flat = truths.reshape(len(truths), -1)
        flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        return float(((flat @ self.estimates) ** 2).sum() / len(truths))


def symmetric_spectrum(data: RegressionData, leading: int, rng: np.random.Generator) -> Spectrum:
    """The leading eigenvalues of T, by Lanczos' iteration.

    >>> from opu_dfa.theory.inference.sequence_channels import PhaseRetrieval
    >>> from opu_dfa.theory.inference.priors import Gaussian
    >>> from opu_dfa.theory.inference.regression import GeneralisedLinear
    >>> rng = np.random.default_rng(0)
    >>> data = GeneralisedLinear(Gaussian(), PhaseRetrieval(), 3.0).observe(rng, 400)
    >>> found = symmetric_spectrum(data, 1, rng)
    >>> bool(abs(found.values[0] - 1) < 0.1), bool(found.overlap(data.truth[None]) > 0.5)
    (True, True)
    """
    p, x, g = data.channel.size, data.design, _curvatures(data)
    t = np.eye(p) - np.linalg.inv(np.eye(p) * (1 + 1e-9) + g)

    def apply(flat: Array) -> Array:
        fields = x @ flat.reshape(-1, p)
        return np.asarray((x.T @ np.einsum("nij,nj->ni", t, fields)).ravel())

    size = x.shape[1] * p
    values, vectors = _arpack(eigsh, LinearOperator((size, size), apply, dtype=np.float64), leading, "LA", rng)
    order = np.argsort(-values)
    return Spectrum(values[order], vectors[:, order])


def asymmetric_spectrum(data: RegressionData, leading: int, rng: np.random.Generator) -> Spectrum:
    """The eigenvalues of L of largest real part (others may be negative), by Arnoldi's iteration; w = XᵀG v."""
    p, x, g = data.channel.size, data.design, _curvatures(data)
    own = (x**2).sum(axis=1)[:, None]

    def apply(flat: Array) -> Array:
        turned = np.einsum("nij,nj->ni", g, flat.reshape(-1, p))
        return np.asarray((x @ (x.T @ turned) - own * turned).ravel())

    size = len(x) * p
    values, vectors = _arpack(eigs, LinearOperator((size, size), apply, dtype=np.float64), leading, "LR", rng)
    order = np.argsort(-values.real)
    turned = np.einsum("nij,njk->nik", g, vectors[:, order].reshape(len(x), p, -1)).reshape(len(x), -1)
    estimates = (x.T @ turned).reshape(-1, vectors.shape[1])
    # Of a pair of conjugates both parts span what both vectors do.
    span, sizes, _ = np.linalg.svd(np.concatenate([estimates.real, estimates.imag], axis=1), full_matrices=False)
    return Spectrum(values[order], span[:, : max(leading, int((sizes > 1e-6 * sizes[0]).sum()))])


def truths(data: RegressionData, directions: Sequence[Array]) -> Array:
    """u ⊗ W u of directions u, `(k, d, p)`: what the leading eigenvectors estimate."""
    return np.stack([np.outer(data.truth @ u, u) for u in directions])


def _curvatures(data: RegressionData) -> Array:
    """G(y_i) `(n, p, p)`."""
    n, p = len(data.labels), data.channel.size
    if data.channel.tokens > 1:
        raise ConfigError(f"spectral estimators are of one token a sample, got {data.channel.tokens}")
    return data.channel.curvature(data.labels, np.zeros((n, 1, p)), np.eye(p))


def _arpack(
    solve: Callable[..., tuple[Array, Array]],
    operator: LinearOperator,
    leading: int,
    which: str,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    size = operator.shape[0]
    try:
        start, basis = rng.standard_normal(size), min(size, max(40, 4 * leading))
        values, vectors = solve(operator, leading, which=which, v0=start, tol=1e-5, ncv=basis)
    except ArpackNoConvergence as error:
        raise NotConverged(
            f"the {leading} leading eigenvalues have not settled, and may be in the bulk: take more samples", np.inf
        ) from error
    return np.asarray(values), np.asarray(vectors)
