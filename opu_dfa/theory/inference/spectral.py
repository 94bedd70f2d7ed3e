"""Eigenvectors of low-rank matrices in noise of blocks: where the bulk ends, what leaves it, and what that knows.

    M = diag(s) + U K Uᵀ + X,   X symmetric with E X_ij² = v_g(i)g(j)/N,   rows ρ_b of them in block b

The resolvent of M without its signal is diagonal, -u_b(z) on block b, and with P_ba = v_ba ρ_a

    u_b (z - s_b - Σ_a P_ba u_a) = 1                    (quadratic vector equation)
    right edge of the bulk = min over u > 0 of max_b [s_b + 1/u_b + (P u)_b]            (Lehner 1999)
    an eigenvalue z leaves it where the largest one of √u K √u, K_ab = k_ab √(ρ_a ρ_b), is 1 at some z beyond the edge

Of the spiked Wigner model, `plain` is Y/√N, whose principal component is PCA's, and `linearised` is message passing
close to knowing nothing, S - diag(d), d_b = Σ_a ρ_a/Δ_ba, whose threshold is the best one (arXiv 2403.03695).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import linalg, optimize
from scipy.sparse.linalg import eigsh

from opu_dfa.errors import ConfigError, NotConverged
from opu_dfa.theory.inference.low_rank import LowRankData, SpikedWigner

Array = np.ndarray
_TOLERANCE, _MOST = 1e-9, 20_000
_TRACY_WIDOM = (-1.2065336, -3.2624279)  # means of the first and second eigenvalue at GOE's edge


class Outlier(NamedTuple):
    """An eigenvalue and cos² of the angle between its eigenvector and the truth."""

    value: float
    overlap: float


@dataclass(frozen=True)
class Blocks:
    """The law of M: shifts s `(blocks,)`, variances v and signals k `(blocks, blocks)`, fractions ρ `(blocks,)`.

    The signal is Σ_ab k_ab x_a x_bᵀ/N, x_a the truth's entries, of variance 1, on block a.

    Raises:
        ConfigError: variances that are not symmetric and positive.

    >>> wigner = Blocks(np.zeros(1), np.eye(1), 2 * np.eye(1), np.ones(1))
    >>> round(wigner.edge, 6), [round(float(each), 6) for each in wigner.outlier()]
    (2.0, [2.5, 0.75])
    """

    shifts: Array
    variances: Array
    signals: Array
    fractions: Array

    def __post_init__(self) -> None:
        if (self.variances != self.variances.T).any() or not (self.variances > 0).all():
            raise ConfigError(f"variances of blocks are symmetric and positive, got {self.variances.tolist()}")

    @property
    def edge(self) -> float:
        """The right end of the bulk."""
        return self._end[0]

    @property
    def strength(self) -> float:
        """The largest eigenvalue of √u K √u at the edge: one leaves the bulk where it is above 1."""
        return self._strength(self._end[1])

    def resolvent(self, z: float) -> Array:
        """u `(blocks,)` at a real z beyond the edge.

        Raises:
            ConfigError: a z inside the bulk.
        """
        if z < self.edge:
            raise ConfigError(f"z is beyond the bulk's edge {self.edge:.6g}, got {z:.6g}")
        u = np.zeros(len(self.shifts))
        for _ in range(_MOST):  # Newton's steps from 0 rise to the least solution
            slack = z - self.shifts - self._profile @ u
            step = np.linalg.solve(np.diag(slack) - u[:, None] * self._profile, 1 - u * slack)
            u = u + step
            if np.abs(step).max() < 1e-13 * u.max() or (step < 0).all():
                return u
        raise NotConverged(f"the resolvent at {z:.9g} has not converged", float(np.abs(step).max()))

    def outlier(self) -> Outlier:
        """What leaves the bulk to the right; without it the edge, and an overlap of 0."""
        if self.strength <= 1:
            return Outlier(self.edge, 0.0)
        far = self.edge + 1.0
        while self._strength(self.resolvent(far)) > 1:
            far = self.edge + 2 * (far - self.edge)
        near = self.edge + 1e-9 * (far - self.edge)
        z = near
        if self._strength(self.resolvent(near)) > 1:
            z = float(optimize.brentq(lambda z: self._strength(self.resolvent(z)) - 1, near, far, xtol=1e-13))
        u = self.resolvent(z)
        slope = np.linalg.solve(np.diag(1 / u**2) - self._profile, np.ones(len(u)))  # -du/dz
        along = np.sqrt(u) * np.linalg.eigh(self._coupling(u))[1][:, -1]  # of the eigenvector, on each block's truth
        norm = float(along**2 @ (slope / u**2))
        return Outlier(z, float((np.sqrt(self.fractions) @ along) ** 2 / norm))

    def largest(self, n: int, rank: int = 1) -> float:
        """The mean of the bulk's largest eigenvalue at a size n, or of the next: Tracy and Widom's law of GOE.

        edge + c (a n)^(-2/3), where the density vanishes as (a/π) √(edge - x), and c = -1.2065 or -3.2624
        (Bornemann 2010).
        """
        _, u, kernel, left = self._end
        a = float(self.fractions @ kernel) * np.sqrt(left.sum() / float(left @ (kernel**2 / u**3)))
        return self.edge + _TRACY_WIDOM[rank - 1] * float(a * n) ** (-2 / 3)

    def density(self, x: Array, height: float = 1e-3) -> Array:
        """The bulk's density at points `(n,)`, blurred by a Lorentzian of a width `height`."""
        z = np.asarray(x, dtype=np.float64)[:, None] + 1j * height
        m = np.full((len(z), len(self.shifts)), 1j)
        for _ in range(_MOST):
            after = (m + 1 / (self.shifts - z - m @ self._profile.T)) / 2
            m, change = after, float(np.abs(after - m).max())
            if change < _TOLERANCE:
                return np.asarray((m @ self.fractions).imag / np.pi)
        raise NotConverged(f"the density at a height of {height:g} has not converged: raise it", change)

    @cached_property
    def _profile(self) -> Array:
        return np.asarray(self.variances * self.fractions)

    @cached_property
    def _end(self) -> tuple[float, Array, Array, Array]:
        """The edge, u there, and its right and left kernel, along which u splits in two inside the bulk.

        It is the least t that all heights s_b + 1/u_b + (P u)_b are below, a convex problem in (u, t).
        """
        count, profile = len(self.shifts), self._profile
        scale = 1 / np.sqrt(profile.sum(axis=1).max())

        def heights(u: Array) -> Array:
            return np.asarray(self.shifts + 1 / u + profile @ u)

        near = optimize.minimize(
            lambda p: p[-1],
            np.append(np.full(count, scale), heights(np.full(count, scale)).max()),
            jac=lambda p: np.append(np.zeros(count), 1.0),
            bounds=[(1e-3 * scale, None)] * count + [(None, None)],
            constraints={
                "type": "ineq",
                "fun": lambda p: p[-1] - heights(p[:-1]),
                "jac": lambda p: np.hstack([np.diag(1 / p[:-1] ** 2) - profile, np.ones((count, 1))]),
            },
            method="SLSQP",
            options={"ftol": 1e-10, "maxiter": 1000},
        ).x[:-1]

        def conditions(p: Array) -> Array:  # of a double root: all heights are t, and their derivative is singular
            u, kernel, t = p[:count], p[count:-1], p[-1]
            return np.concatenate([heights(u) - t, kernel / u**2 - profile @ kernel, [kernel.sum() - 1]])

        kernel = np.abs(linalg.svd(np.diag(1 / near**2) - profile)[2][-1])
        start = np.concatenate([near, kernel / kernel.sum(), [heights(near).max()]])
        found = optimize.root(conditions, start, tol=1e-13)
        u, kernel, residual = found.x[:count], found.x[count:-1], float(np.abs(conditions(found.x)).max())
        if residual > 1e-8 * (1 + abs(found.x[-1])) or (found.x[:-1] <= 0).any():
            raise NotConverged("no edge of the bulk: the variances of the blocks are too far apart", residual)
        # diag(1/u²) - v diag(ρ) is symmetric once multiplied by ρ: its left kernel is ρ times the right one.
        return float(found.x[-1]), u, kernel, self.fractions * kernel

    def _coupling(self, u: Array) -> Array:
        weights = np.sqrt(u * self.fractions)
        return np.asarray(weights[:, None] * self.signals * weights)

    def _strength(self, u: Array) -> float:
        return float(np.linalg.eigvalsh(self._coupling(u))[-1])


def plain(law: SpikedWigner) -> Blocks:
    """Y/√N of truths of variance 1, one unknown a row.

    >>> from opu_dfa.theory.inference.priors import rademacher
    >>> found = plain(SpikedWigner(rademacher(), noise=np.array([[0.25]]))).outlier()
    >>> [round(each, 6) for each in found]
    [1.25, 0.75]
    """
    _of_one_unknown(law)
    return Blocks(np.zeros(len(law.fractions)), law.noise, np.ones_like(law.noise), law.fractions)


def linearised(law: SpikedWigner) -> Blocks:
    """S - diag(d): its largest eigenvalue is 1, that of message passing with a Gaussian prior, wherever snr > 1.

    >>> from opu_dfa.theory.inference.priors import rademacher
    >>> found = linearised(SpikedWigner(rademacher(), noise=np.array([[0.25]]))).outlier()
    >>> [round(each, 6) for each in found]
    [1.0, 0.75]
    """
    _of_one_unknown(law)
    inverse = 1 / law.noise
    return Blocks(-inverse @ law.fractions, inverse, inverse, law.fractions)


def operator(data: LowRankData) -> Array:
    """The matrix of `linearised`, `(N, N)`."""
    drift = ((1 / data.law.noise) @ data.law.fractions)[data.groups]
    return np.asarray(data.score - np.diag(drift))


def leading(matrix: Array, count: int = 1) -> tuple[Array, Array]:
    """The largest eigenvalues of a symmetric matrix, in falling order, and their vectors in columns."""
    start = np.ones(len(matrix)) / np.sqrt(len(matrix))  # ARPACK's own is drawn from a global generator
    values, vectors = eigsh(matrix, k=count, which="LA", v0=start)
    order = np.argsort(-values)
    return values[order], vectors[:, order]


def cosine(vector: Array, truth: Array) -> float:
    """cos² of the angle between two vectors."""
    return float((vector.ravel() @ truth.ravel()) ** 2 / (linalg.norm(vector) * linalg.norm(truth)) ** 2)


def _of_one_unknown(law: SpikedWigner) -> None:
    second = law.prior.second
    if second.shape != (1, 1) or abs(second[0, 0] - 1) > 1e-9 or np.abs(law.prior.mean).max() > 1e-9:
        raise ConfigError(
            f"spectra are known of one unknown a row, of mean 0 and variance 1, got mean {law.prior.mean.tolist()} and "
            f"E xxᵀ {second.tolist()}: scale the unknown, and the noise by its variance squared"
        )
