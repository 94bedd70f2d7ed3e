"""What a two-layer student learns, and where it stands: the teacher, and the overlaps of student and teacher.

f_c = Σ_j V_cj g(λ_j),   y_c = Σ_m A_cm g(ν_m) + σ ζ_c,   λ_j = w_j·x/√N,   ν_m = w̃_m·x/√N
Q = W Wᵀ/N (K, K),   R = W W̃ᵀ/N (K, M),   T = W̃ W̃ᵀ/N (M, M)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.theory.dynamics.fields import PAIRS, Array, activation, points
from opu_dfa.theory.gaussian import root

_NEGATIVE = -1e-9  # of the trace: eigenvalues below are no rounding


@dataclass(frozen=True)
class Teacher:
    """Output weights A `(O, M)`, overlaps T `(M, M)`, standard deviation σ of label noise, and g of both networks."""

    head: Array
    overlaps: Array
    noise: float = 0.0
    activation: str = "erf"

    def __post_init__(self) -> None:
        if self.head.ndim != 2 or self.overlaps.shape != 2 * self.head.shape[1:]:
            raise ConfigError(
                f"a teacher has a head (O, M) and overlaps (M, M), got {self.head.shape} and {self.overlaps.shape}"
            )
        if not 0 <= self.noise < math.inf:
            raise ConfigError(f"label noise is a standard deviation, 0 or more; got {self.noise}")
        activation(self.activation)


@dataclass(frozen=True)
class Overlaps:
    """A student: Q `(K, K)`, R `(K, M)` and output weights V `(O, K)`."""

    q: Array
    r: Array
    v: Array


def covariance(state: Overlaps, teacher: Teacher) -> Array:
    """Of all fields, C = [[Q, R], [Rᵀ, T]], `(K + M, K + M)`."""
    return np.block([[state.q, state.r], [state.r.T, teacher.overlaps]])


def joint(state: Overlaps, teacher: Teacher) -> Array:
    """The same, of overlaps that were checked.

    Raises:
        ConfigError: shapes that do not fit, or no covariance: overlaps that no weights have.

    >>> teacher = Teacher(np.ones((1, 1)), np.eye(1))
    >>> joint(Overlaps(np.eye(2), np.zeros((2, 1)), np.zeros((1, 2))), teacher).shape
    (3, 3)
    """
    k, (o, m) = len(state.q), teacher.head.shape
    if state.q.shape != (k, k) or state.r.shape != (k, m) or state.v.shape != (o, k):
        raise ConfigError(
            f"to a teacher of M={m} units and O={o} outputs belong Q (K, K), R (K, {m}) and V ({o}, K); "
            f"got {state.q.shape}, {state.r.shape}, {state.v.shape}"
        )
    c = covariance(state, teacher)
    if not np.allclose(c, c.T) or np.linalg.eigvalsh(c)[0] < _NEGATIVE * np.trace(c):
        raise ConfigError(
            f"no weights have these overlaps: [[Q, R], [Rᵀ, T]] has the eigenvalue {np.linalg.eigvalsh(c)[0]:.3g} or "
            "is not symmetric; take smaller R or larger Q"
        )
    return c


def generalisation(state: Overlaps, teacher: Teacher) -> float:
    """E Σ_c (f_c - y_c)²/2 over inputs, without label noise.

    >>> teacher = Teacher(np.ones((1, 1)), np.eye(1))
    >>> generalisation(Overlaps(np.eye(1), np.eye(1), np.ones((1, 1))), teacher)
    0.0
    """
    c, u = covariance(state, teacher), np.hstack([state.v, -teacher.head])
    if teacher.activation in PAIRS:
        return float(np.einsum("oa,ob,ab->", u, u, PAIRS[teacher.activation](c)) / 2)
    g = activation(teacher.activation)
    rule = points(len(c), g.degree)
    return float(rule.weights @ ((g.value(rule.nodes @ root(c)) @ u.T) ** 2).sum(axis=1) / 2)


def alignment(v: Array, feedback: Array) -> float:
    """Cosine of the angle between Vᵀ and B, as vectors of K·O numbers; 0 where either vanishes.

    >>> alignment(np.array([[1.0, 0.0]]), np.array([[1.0], [1.0]])).__round__(4)
    0.7071
    """
    size = float(np.linalg.norm(v) * np.linalg.norm(feedback))
    return float((v.T * feedback).sum()) / size if size > 0 else 0.0
