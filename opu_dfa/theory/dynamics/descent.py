"""Full gradient descent of a committee of hidden units on n samples: what it is, and finite networks that do it.

    w ← (1 - ηλ) w - (η/√d) Σ_μ s_μ F(h_μ, h*_μ) x_μ,   h = w·x/√d ∈ ℝᵖ,   h* = w*·x/√d ∈ ℝᵏ,   μ = 1 ... n = αd

of forces F = ∂ℓ/∂h and minibatches s ~ Bernoulli(b)/b, on the same samples again and again or on new ones at
every step. `opu_dfa.theory.dynamics.mean_field` has the limit d → ∞.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np

from opu_dfa.errors import ConfigError

Array = np.ndarray
Activation = Literal["linear", "tanh", "relu"]


class Pull(NamedTuple):
    """ℓ `(N,)` and its slope F = ∂ℓ/∂h `(p, N)` at N fields."""

    loss: Array
    force: Array


class Loss(Protocol):
    """ℓ(h, h*) of p fields of the student and k of the teacher."""

    @property
    def units(self) -> tuple[int, int]:
        """p and k."""

    def __call__(self, h: Array, teacher: Array) -> Pull:
        """At fields `(p, N)` and `(k, N)`."""


@dataclass(frozen=True)
class Committee:
    """(Σ_j a_j f(h_j) - y(h*))² / 2 of hidden units with fixed heads a.

    Args:
        activation: f; heads: a, p of them; target: y, of `(k, N)` to `(N,)`; teachers: k.

    Raises:
        ConfigError: an activation there is not.

    >>> found = Committee("relu", (1.0, -1.0), lambda teacher: teacher[0])(np.array([[2.0], [1.0]]), np.array([[0.5]]))
    >>> found.loss, found.force.ravel()
    (array([0.125]), array([ 0.5, -0.5]))
    """

    activation: Activation
    heads: tuple[float, ...]
    target: Callable[[Array], Array]
    teachers: int = 1

    def __post_init__(self) -> None:
        if self.activation not in get_args(Activation):
            known = ", ".join(get_args(Activation))
            raise ConfigError(f"there is no activation {self.activation!r}; choose one of {known}")

    @property
    def units(self) -> tuple[int, int]:
        return len(self.heads), self.teachers

    def __call__(self, h: Array, teacher: Array) -> Pull:
        if self.activation == "tanh":
            value = np.tanh(h)
            slope = 1 - value**2
        elif self.activation == "relu":
            value, slope = np.maximum(h, 0), (h > 0) * 1.0
        else:
            value, slope = h, np.ones_like(h)
        error = np.asarray(self.heads) @ value - self.target(teacher)
        return Pull(error**2 / 2, np.asarray(self.heads)[:, None] * slope * error)


@dataclass(frozen=True)
class Descent:
    """n = alpha·d samples; `rate` η, ridge λ, `batch` b: the share of samples a step sees; from overlaps M and C at 0.

    Args:
        teacher_overlap: M at t = 0, `(p, k)`, of teachers orthogonal to each other and of norm √d; norm: C, `(p, p)`.

    Raises:
        ConfigError: what cannot be: shares outside (0, 1], or overlaps that no weights have.
    """

    alpha: float
    rate: float
    steps: int
    teacher_overlap: Array
    norm: Array
    ridge: float = 0.0
    batch: float = 1.0

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and self.rate > 0 and self.steps >= 1 and self.ridge >= 0 and 0 < self.batch <= 1):
            raise ConfigError(
                "alpha > 0, rate > 0, steps >= 1, ridge >= 0 and a batch in (0, 1] are wanted, got "
                f"{self.alpha}, {self.rate}, {self.steps}, {self.ridge} and {self.batch}"
            )
        m, q = (np.atleast_2d(x) for x in (self.teacher_overlap, self.norm))
        if q.shape != (len(m), len(m)) or np.linalg.eigvalsh(q - m @ m.T).min() < -1e-9:
            raise ConfigError(f"norms C of shape (p, p) with C - M Mᵀ >= 0 are wanted, got C = {q} and M = {m}")


class Overlaps(NamedTuple):
    """At steps 0 ... T: M `(T+1, p, k)`, w_t·w_t/d `(T+1, p, p)`, and the mean loss on the samples `(T+1,)`."""

    teacher: Array
    own: Array
    loss: Array


def simulate(loss: Loss, descent: Descent, d: int, seed: int = 0, fresh: bool = False) -> Overlaps:
    """One network in d dimensions, from exactly the overlaps that are asked for; `fresh`: new samples at every step.

    >>> start = Descent(2.0, 0.1, 3, np.array([[0.2]]), np.array([[1.0]]))
    >>> found = simulate(Committee("tanh", (1.0,), lambda teacher: np.tanh(teacher[0])), start, d=50)
    >>> found.teacher[0].round(6), found.own.shape
    (array([[0.2]]), (4, 1, 1))
    """
    rng, (p, k), n = np.random.default_rng(seed), loss.units, round(descent.alpha * d)
    m0 = np.atleast_2d(descent.teacher_overlap)
    if d < p + k or n < 1:
        raise ConfigError(
            f"{p + k} weight vectors and a sample need d >= {p + k} and alpha·d >= 1, got d = {d}, n = {n}"
        )
    frame = np.linalg.qr(rng.standard_normal((d, p + k)))[0].T * math.sqrt(d)
    teacher, w = frame[:k], m0 @ frame[:k] + root(descent.norm - m0 @ m0.T) @ frame[k:]
    overlaps: list[tuple[Array, Array, float]] = []
    for t in range(descent.steps + 1):
        if fresh or t == 0:
            x = rng.standard_normal((n, d), dtype=np.float32) / np.float32(math.sqrt(d))
            target = teacher.astype(np.float32) @ x.T
        each, force = loss(w.astype(np.float32) @ x.T, target)
        overlaps.append((w @ teacher.T / d, w @ w.T / d, float(each.mean())))
        if descent.batch < 1:
            force = force * (rng.random(n) < descent.batch) / descent.batch
        w = (1 - descent.rate * descent.ridge) * w - descent.rate * (force.astype(np.float32) @ x)
    return Overlaps(*(np.array(each) for each in zip(*overlaps, strict=True)))


def root(covariance: Array) -> Array:
    """A root of what may be singular: weights that converge move nowhere new, and rounding is not a move."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    return vectors * np.sqrt(np.where(values > 1e-10, values, 0))
