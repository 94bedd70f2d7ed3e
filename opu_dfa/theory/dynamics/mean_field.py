"""Gradient descent on the same data again and again, d → ∞: dynamical mean-field theory, forward in time.

The weights move along v_0 = w*, v_1 = w_0 less its part in w*, v_2, ...: every step adds the one that ξ_t pulls to, the
part of the forces F_t = ∂ℓ/∂h orthogonal to all before. Along these directions the samples' fields are

    φ = (h*, z_0, z_1 + ξ_0/√α, z_2 + ξ_1/√α, ...),   z ~ N(0, 1) independent, E ξ_s ξ_t = δ_st

as samples that have pulled weights somewhere stand out along there, and with w_t in these coordinates

    h_t = w_t·φ,    w_(t+1) = (1 - ηλ) w_t - η α E[F_t φ] - η √α |F_t - Σ_(s<t) ξ_s E ξ_s F_t| v_(t+2)

(`opu_dfa.theory.dynamics.descent` has the rest of the notation.) It is the theory of Gerbelot, Troiani, Mignacco,
Krzakala and Zdeborová, Rigorous dynamical mean-field theory for stochastic gradient descent methods (arXiv 2210.06591),
h_t = g_t - η Σ_s R(t,s) F_s: g is the part in z, the memory that in ξ. There the response R asks for E ∂F_t/∂g_s; here
no force is differentiated, and that of a relu, which jumps, needs no care. Averages are over what came before alone:
one pass is exact, and points z of covariance 1 solve quadratic losses to rounding.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import linalg

from opu_dfa.errors import ConfigError, NotConverged
from opu_dfa.theory.dynamics.descent import Descent, Loss, Overlaps, root
from opu_dfa.theory.gaussian import marchenko_pastur, sobol

Array = np.ndarray


def mean_field(loss: Loss, descent: Descent, nodes: int = 4096, seed: int = 0) -> Overlaps:
    """Overlaps of gradient descent that sees its n samples at every step, d → ∞.

    Args:
        nodes: points of the fields, a power of two above 2p·(T+1) + 2k; time grows as nodes·T²p².

    Raises:
        ConfigError: shapes that do not fit; NotConverged: the rate is too large, and weights diverge.

    >>> from opu_dfa.theory.dynamics.descent import Committee
    >>> ridge = Committee("linear", (1.0,), lambda teacher: teacher[0])
    >>> start = Descent(3.0, 0.1, 5, np.array([[0.2]]), np.array([[1.04]]), ridge=0.5)
    >>> mean_field(ridge, start, 64).teacher[[1, 5], 0, 0].round(5)  # of the eigenvalues' law: .43000, .71226
    array([0.43   , 0.71226])
    """
    total, keep = descent.steps + 1, 1 - descent.rate * descent.ridge
    (p, k), fields = loss.units, _nodes(loss, descent, total, nodes, seed)
    masks, new = np.random.default_rng(seed), np.zeros((p * total, nodes))  # ξ
    w, losses = np.zeros((total, p, len(fields))), np.zeros(total)
    w[0, :, :k] = descent.teacher_overlap
    w[0, :, k : k + p] = root(descent.norm - w[0, :, :k] @ w[0, :, :k].T)
    for t in range(total):
        known, after = k + p * (t + 1), k + p * (t + 2)  # directions
        with np.errstate(over="ignore", invalid="ignore"):
            each, force = loss(w[t, :, :known] @ fields[:known], fields[:k])
        losses[t] = _finite(each, descent.rate, t)
        if t == descent.steps:
            break
        pull = np.zeros_like(w[t])
        # Neither fields nor ξ know this step's minibatch: averages with them are taken over it, E s = 1.
        pull[:, :known] = descent.alpha * force @ fields[:known].T / nodes
        drawn, past = force * _mask(masks, nodes, descent.batch), new[: p * t]
        for _ in range(2):  # once leaves rounding errors of the size of what is new when little is
            drawn = drawn - (drawn @ past.T / nodes) @ past
        size = root(drawn @ drawn.T / nodes)
        new[p * t : p * (t + 1)] = np.linalg.pinv(size) @ drawn
        pull[:, known:after] = math.sqrt(descent.alpha) * size
        fields[known:after] += new[p * t : p * (t + 1)] / math.sqrt(descent.alpha)
        w[t + 1] = keep * w[t] - descent.rate * pull
    return Overlaps(w[:, :, :k], w @ w.transpose(0, 2, 1), losses)


def one_pass(loss: Loss, descent: Descent, nodes: int = 4096, seed: int = 0) -> Overlaps:
    """The same where every step draws n new samples: fields have no memory, and (M, C) are a map from step to step.

        C ← (1 - ηλ)² C - (1 - ηλ) ηα (E F hᵀ + E h Fᵀ) + η² (α E F Fᵀ / b + α² B Σ⁻¹ Bᵀ)

    for Σ the covariance of all fields (h, h*) and B = E F (h, h*)ᵀ: the mean gradient lies in their span.

    Raises:
        ConfigError: shapes that do not fit; NotConverged: the rate is too large, and weights diverge.
    """
    (p, k), points = loss.units, _nodes(loss, descent, 1, nodes, seed)
    rate, alpha, keep = descent.rate, descent.alpha, 1 - descent.rate * descent.ridge
    m, c, teachers = np.atleast_2d(descent.teacher_overlap), np.atleast_2d(descent.norm), points[:k]
    steps: list[tuple[Array, Array, float]] = []
    for t in range(descent.steps + 1):
        h = m @ teachers + root(c - m @ m.T) @ points[k:]
        with np.errstate(over="ignore", invalid="ignore"):
            each, force = loss(h, teachers)
        steps.append((m, c, _finite(each, rate, t)))
        fields = np.concatenate([h, teachers])
        pulls = force @ fields.T / nodes
        covariance = np.block([[c, m], [m.T, np.eye(k)]])
        spread = alpha * force @ force.T / (nodes * descent.batch)
        spread += alpha**2 * pulls @ np.linalg.lstsq(covariance, pulls.T, rcond=1e-12)[0]
        c = keep**2 * c - keep * rate * alpha * (pulls[:, :p] + pulls[:, :p].T) + rate**2 * spread
        m = keep * m - rate * alpha * pulls[:, p:]
    return Overlaps(*(np.array(each) for each in zip(*steps, strict=True)))


def ridge_descent(descent: Descent, order: int = 200) -> tuple[Array, Array]:
    """M and C of a linear student of a linear teacher, one field each, b = 1: each eigenvalue of X Xᵀ/d on its own.

    With φ = (1 - η (λ + s))^t the weights along an eigenvector are s/(λ + s) (1 - φ) w* + φ w_0, and s is of the law of
    Marchenko and Pastur. Exact: the check of `mean_field`.

    >>> start = Descent(3.0, 0.1, 20, np.array([[0.2]]), np.array([[1.04]]), ridge=0.5)
    >>> [x[20].round(5).item() for x in ridge_descent(start)]
    [0.8089, 0.66636]
    """
    law = marchenko_pastur(1 / descent.alpha, order)
    s = descent.alpha * law.nodes
    ratio = np.divide(s, descent.ridge + s, out=np.zeros_like(s), where=s > 0)
    phi = (1 - descent.rate * (descent.ridge + s)) ** np.arange(descent.steps + 1)[:, None]
    m0, q0 = float(np.squeeze(descent.teacher_overlap)), float(np.squeeze(descent.norm))
    along = phi * m0 + ratio * (1 - phi)
    return along @ law.weights, (along**2 + phi**2 * (q0 - m0**2)) @ law.weights


def _nodes(loss: Loss, descent: Descent, times: int, nodes: int, seed: int) -> Array:
    """Normal numbers `(k + times·p, N)` whose mean is 0 and whose covariance is 1 over the points, to rounding."""
    (p, k), m = loss.units, np.atleast_2d(descent.teacher_overlap)
    if m.shape != (p, k):
        raise ConfigError(f"a loss of {p} fields and {k} teachers starts from overlaps ({p}, {k}), got {m.shape}")
    dims = k + times * p
    if nodes <= 2 * dims:
        raise ConfigError(f"{dims} normal numbers a point need more than {2 * dims} points, got nodes={nodes}")
    points = sobol(dims, nodes, seed).nodes  # symmetric, and so of mean 0
    return np.asarray(linalg.solve_triangular(np.linalg.cholesky(points.T @ points / nodes), points.T, lower=True))


def _mask(rng: np.random.Generator, nodes: int, batch: float) -> Array:
    """1/b at a share b of the points, else 0."""
    return np.ones(nodes) if batch == 1 else rng.permutation(np.arange(nodes) < round(batch * nodes)) / batch


def _finite(loss: Array, rate: float, step: int) -> float:
    mean = float(loss.mean())
    if not (math.isfinite(mean) and mean < 1e12):
        raise NotConverged(f"gradient descent of rate {rate:g} diverges at step {step}; lower the rate", np.inf)
    return mean
