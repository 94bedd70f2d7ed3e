"""Online gradient descent of two-layer networks, one new input a step, as ordinary differential equations.

    w_k ← w_k - (η/√N) v_k Δ g'(λ_k) x,   λ_k = w_k·x/√N,   Δ = Σ_k v_k g(λ_k) - y,   time t = steps/N

Inputs from a generator (Goldt et al. 2022, arXiv 2006.14709): fields of student and teacher are jointly normal by the
covariances Ω = E x xᵀ and Φ = E x cᵀ alone, and for g = erf(·/√2) all averages are closed (Saad and Solla 1995). Inputs
from clusters (Refinetti et al. 2021, arXiv 2102.11742): fields are normal in each, averages are taken on Sobol points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import integrate

from opu_dfa.errors import ConfigError, NotConverged
from opu_dfa.features import nonlinearity
from opu_dfa.features.pointwise import Nonlinearity
from opu_dfa.theory.dynamics.fields import i4 as _four
from opu_dfa.theory.gaussian import sobol

Array = np.ndarray


@dataclass(frozen=True)
class Clusters:
    """Means μ_c as a Gram matrix μ_c·μ_c', `(C, C)`; labels y_c and probabilities, `(C,)`; variance σ²."""

    gram: Array
    labels: Array
    weights: Array
    variance: float = 1.0


class Generated(NamedTuple):
    """Ω `(N, N)`, Φ `(N, D)`, and the mean of each layer, `(N_l,)`, which is taken off before the next."""

    omega: Array
    phi: Array
    means: tuple[Array, ...]


def generated(layers: Sequence[Array], f: Nonlinearity | str) -> Generated:
    """Covariances of x_L, where x_l = f(F_l x_(l-1)/√N_(l-1)) less its mean, and x_0 = c ~ N(0, I_D).

    Exact for one layer; beyond, fields of wide layers are taken as normal.

    Args:
        layers: F_1 `(N_1, D)`, F_2 `(N_2, N_1)`, ..., of entries of order 1.

    Raises:
        ConfigError: no layer, shapes that do not follow, or an f of complex fields.

    >>> found = generated([np.eye(2) * math.sqrt(2)], "sign")
    >>> [round(float(v), 4) for v in (found.omega[0, 0], found.omega[0, 1], found.phi[0, 0])]
    [1.0, 0.0, 0.7979]
    """
    known = nonlinearity(f)
    if not layers or any(b.shape[1] != a.shape[0] for a, b in pairwise(layers)):
        raise ConfigError(f"layers are (N1, D), (N2, N1), ...; got {[layer.shape for layer in layers]}")
    if known.field == "complex" or known.random_phase:
        raise ConfigError(f"a generator takes a nonlinearity of a real field, not {known.name}")
    omega = phi = np.eye(layers[0].shape[1])
    means = []
    for weights in layers:
        w = weights / math.sqrt(weights.shape[1])
        c, phi = w @ omega @ w.T, w @ phi
        variance = np.diag(c).copy()
        mean, first = known.coefficients(variance, 2)
        omega = known.kernel(variance[:, None], variance[None], c) - np.outer(mean, mean)
        phi = (first / np.sqrt(variance))[:, None] * phi
        means.append(mean)
    return Generated(omega, phi, tuple(means))


def generator_dynamics(
    omega: Array,
    phi: Array,
    teacher: Array,
    student: Array,
    heads: tuple[Array, Array],
    rate: float,
    times: Sequence[float],
) -> Array:
    """E Δ²/2 at some times, of an erf student that learns an erf teacher of the latent variables.

    Args:
        omega, phi: of `generated`; teacher: first layer, `(M, D)`, of fields ν = w·c/√D; student: at t = 0, `(K, N)`;
            heads: second layers of the student, `(K,)`, and the teacher, `(M,)`, both fixed; rate: η; times: ascending
            from 0 or later.

    Raises:
        ConfigError: shapes that do not fit; NotConverged: the rate is too large, and the error diverges.
    """
    (k, n), (m, d) = student.shape, teacher.shape
    if omega.shape != (n, n) or phi.shape != (n, d) or heads[0].shape != (k,) or heads[1].shape != (m,):
        raise ConfigError(f"of a student {student.shape} and a teacher {teacher.shape}, Ω is ({n}, {n}), Φ ({n}, {d})")
    rho, u = np.linalg.eigh(omega)
    w, t = u.T @ student.T, math.sqrt(n / d) * u.T @ (phi @ teacher.T)  # modes: (N, K), (N, M)
    signs = np.concatenate([heads[0], -heads[1]])
    own, pairs = teacher @ teacher.T / d, t[:, :, None] * t[:, None]
    v, level, size = heads[0], rho[:, None, None], n * k * k

    def unpacked(x: Array) -> tuple[Array, Array, Array]:
        s, r = x[:size].reshape(n, k, k), x[size:].reshape(n, k, m)
        q, cross = (level * s).mean(axis=0), r.mean(axis=0)
        return s, r, np.block([[q, cross], [cross.T, own]])

    def slope(_: float, x: Array) -> Array:
        s, r, c = unpacked(x)
        one = 1 + np.diag(c)
        a = 2 / (math.pi * np.sqrt(np.outer(one, one) - c * c))[:k] * signs
        pull = -rate * v[:, None] * a
        stay = pull[:, :k] + np.diag(((-pull * c[:k]).sum(axis=1)) / one[:k])
        noise = rate**2 * np.outer(v, v) * np.einsum("klcd,c,d->kl", _four(c, k), signs, signs)
        moved = level * (stay @ s) + pull[:, k:] @ r.transpose(0, 2, 1)
        ds = moved + moved.transpose(0, 2, 1) + level * noise
        return np.concatenate([ds.ravel(), (level * (stay @ r) + pull[:, k:] @ pairs).ravel()])

    start = np.concatenate([(w[:, :, None] * w[:, None]).ravel(), (w[:, :, None] * t[:, None]).ravel()])
    found = []
    for x in _integrated(slope, start, times):
        c = unpacked(x)[2]
        one = 1 + np.diag(c)
        found.append(float(signs @ np.arcsin(c / np.sqrt(np.outer(one, one))) @ signs) / math.pi)
    return np.array(found)


def cluster_dynamics(
    clusters: Clusters,
    means: Array,
    q: Array,
    head: Array,
    rate: float,
    times: Sequence[float],
    nodes: int = 1024,
) -> tuple[Array, Array]:
    """P(sign of the output ≠ label) and E Δ²/2 at some times, of a relu student that learns the labels of clusters.

    Args:
        means: w_k·μ_c/√N at t = 0, `(K, C)`; q: w_k·w_l/N, `(K, K)`; head: second layer, `(K,)`, fixed; nodes: Sobol
            points, a power of two.

    Raises:
        ConfigError: shapes that do not fit; NotConverged: the rate is too large.
    """
    k, count = means.shape
    if q.shape != (k, k) or head.shape != (k,) or clusters.gram.shape != (count, count):
        raise ConfigError(
            f"of means {means.shape}, q is ({k}, {k}), head ({k},) and the Gram matrix ({count}, {count})"
        )
    few, many, sigma = sobol(k, nodes).nodes, sobol(k, 16_384).nodes, math.sqrt(clusters.variance)
    p, labels = clusters.weights, clusters.labels[:, None]

    def fields(x: Array, xi: Array) -> tuple[Array, Array, Array, Array, Array]:
        m, root = x[: k * count].reshape(k, count), np.linalg.cholesky(x[k * count :].reshape(k, k))
        apart = sigma * xi @ root.T  # (nodes, K)
        seen = m.T[:, None] + apart  # (C, nodes, K)
        return m, root, apart, seen, np.maximum(seen, 0) @ head - labels

    def slope(_: float, x: Array) -> Array:
        m, root, apart, seen, delta = fields(x, few)
        force = delta[:, :, None] * (seen > 0) / nodes
        first = force.sum(axis=1) * p[:, None]  # (C, K)
        total = np.tensordot(p, force, 1)  # (nodes, K): clusters differ in their means alone
        second = total.T @ apart
        # Stein: what a field says of the weights' overlaps is second C⁻¹ σ² M, with C = σ² Q.
        turn = np.linalg.solve(root @ root.T, second.T).T @ m
        dm = -rate * head[:, None] * (first.T @ clusters.gram + turn)
        half = -rate * head[:, None] * (second + first.T @ m.T)
        noise = np.einsum("c,cnk,cnl->kl", p * nodes, force, force, optimize=True)
        dq = half + half.T + rate**2 * clusters.variance * np.outer(head, head) * noise
        return np.concatenate([dm.ravel(), dq.ravel()])

    errors, squares = [], []
    for x in _integrated(slope, np.concatenate([means.ravel(), q.ravel()]), times):
        delta = fields(x, many)[4]  # an error jumps, and takes more points
        wrong = (delta + labels) * labels < 0
        errors.append(float(p @ wrong.mean(axis=1)))
        squares.append(float(p @ (delta**2).mean(axis=1)) / 2)
    return np.array(errors), np.array(squares)


def _integrated(slope: Callable[[float, Array], Array], start: Array, times: Sequence[float]) -> list[Array]:
    wanted = np.asarray(times, dtype=np.float64)
    if wanted.ndim != 1 or not len(wanted) or wanted[0] < 0 or (np.diff(wanted) <= 0).any():
        raise ConfigError(f"times ascend from 0 or later, got {list(times)}")
    if wanted[-1] == 0:
        return [start]
    with np.errstate(all="ignore"):
        try:
            done = integrate.solve_ivp(slope, (0, wanted[-1]), start, t_eval=wanted, rtol=1e-4, atol=1e-6)
        except (np.linalg.LinAlgError, ValueError) as error:
            raise NotConverged(
                f"the dynamics leave what they may be ({error}); take a smaller rate", math.inf
            ) from error
    if not done.success or not np.isfinite(done.y).all():
        raise NotConverged(f"the dynamics diverge: {done.message} Take a smaller rate", math.inf)
    return list(done.y.T)
