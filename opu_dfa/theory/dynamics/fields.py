"""Expectations over Gaussian fields: closed forms of erf, exact grids of polynomials, fixed Sobol points of the rest.

Student and teacher see an input x ~ N(0, I_N) by fields z = (λ, ν), λ_j = w_j·x/√N and ν_m = w̃_m·x/√N, which are
jointly normal with the overlaps of their weights as covariance C. All that gradient descent does to these overlaps is
made of four averages (Saad and Solla 1995), with i, k units of the student, a, b any units, and d_a = 1 + C_aa:

    I2 = E[g(z_a) g(z_b)]   J2 = E[g'(z_i) g'(z_k)]   I3 = E[g'(z_i) z_b g(z_a)]   I4 = E[g'(z_i) g'(z_k) g(z_a) g(z_b)]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

from opu_dfa.errors import ConfigError
from opu_dfa.theory.gaussian import Rule, hermite, sobol, tensor

Array = np.ndarray
_GRID = 20_000  # nodes above which a tensor grid is no longer taken
_SOBOL = 2**14


@dataclass(frozen=True)
class Activation:
    """g with its derivative; of a polynomial its degree, which says how many nodes are exact."""

    name: str
    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    degree: int | None = None


def _gauss(z: Array) -> Array:
    return math.sqrt(2 / math.pi) * np.exp(-z * z / 2)


ACTIVATIONS = {
    each.name: each
    for each in (
        Activation("linear", lambda z: z, np.ones_like, 1),
        Activation("erf", lambda z: special.erf(z / math.sqrt(2)), _gauss),
        Activation("relu", lambda z: np.maximum(z, 0), lambda z: np.heaviside(z, 0.5)),
        Activation("tanh", np.tanh, lambda z: 1 / np.cosh(z) ** 2),
        Activation("square", lambda z: z * z, lambda z: 2 * z, 2),
        Activation("hermite3", lambda z: z**3 - 3 * z, lambda z: 3 * z * z - 3, 3),
    )
}


def activation(name: str) -> Activation:
    """One of them: linear, erf (of z/√2), relu, tanh, square, hermite3 (z³ - 3z).

    Raises:
        ConfigError: there is none of that name.

    >>> float(activation("hermite3").value(np.array(2.0)))
    2.0
    """
    if name not in ACTIVATIONS:
        raise ConfigError(f"there is no activation {name!r} here; choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


@lru_cache(maxsize=16)
def points(dims: int, degree: int | None = None, n: int = 0) -> Rule:
    """Standard normal nodes: a tensor grid exact for all averages of polynomials of that degree, or Sobol points.

    Args:
        dims: fields; degree: of the activation, None if it is no polynomial or more than averages are asked for; n: of
            nodes, a power of two, in place of what is taken unasked.

    >>> len(points(3, 2).nodes), len(points(3).nodes)
    (64, 16384)
    """
    each = 2 * (degree or 0)  # force² is of degree 4·degree - 2, and n nodes are exact to 2n - 1
    if degree is None or n or each**dims > _GRID:
        return sobol(dims, n or _SOBOL)
    return tensor(hermite(each), dims)


def i2(c: Array) -> Array:
    """E[g(z_a) g(z_b)] of erf, `(n, n)`.

    >>> float(i2(np.eye(1))[0, 0].round(6))  # (2/π) asin(1/2)
    0.333333
    """
    d = 1 + np.diag(c)
    return np.asarray(2 / math.pi * np.arcsin(np.clip(c / np.sqrt(np.outer(d, d)), -1, 1)))


# E[g(z_a) g(z_b)], where it is closed
PAIRS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda c: c,
    "erf": i2,
    "square": lambda c: np.outer(np.diag(c), np.diag(c)) + 2 * c * c,
}


def j2(c: Array, k: int) -> Array:
    """E[g'(z_i) g'(z_k)] of erf among the first k fields, `(k, k)`."""
    d, own = 1 + np.diag(c)[:k], c[:k, :k]
    return np.asarray(2 / math.pi / np.sqrt(np.outer(d, d) - own**2))


def i3(c: Array, k: int) -> Array:
    """E[g'(z_i) z_b g(z_a)] of erf, i among the first k fields: `(k, n, n)`, indices i, b, a."""
    d, own = 1 + np.diag(c), c[:k]
    first = d[:k, None]
    spread = first * d - own**2  # (k, n), of i and a
    top = c * first[:, :, None] - own[:, :, None] * own[:, None]
    return np.asarray(2 / math.pi * top / (first * np.sqrt(spread))[:, None])


def i4(c: Array, k: int) -> Array:
    """E[g'(z_i) g'(z_k) g(z_a) g(z_b)] of erf, i and k among the first k fields: `(k, k, n, n)`."""
    d, own = 1 + np.diag(c), c[:k]
    di, dk, ik = d[:k, None, None, None], d[None, :k, None, None], own[:, :k, None, None]
    ia, ib, ka, kb = own[:, None, :, None], own[:, None, None], own[None, :, :, None], own[None, :, None]
    l4 = di * dk - ik**2
    l0 = l4 * c - ka * kb * di - ia * ib * dk + ik * (ia * kb + ib * ka)
    one = l4 * d[:, None] - ka**2 * di - ia**2 * dk + 2 * ik * ia * ka  # (k, k, n, 1)
    ratio = l0 / np.sqrt(one * np.swapaxes(one, 2, 3))
    return np.asarray(4 / math.pi**2 / np.sqrt(l4) * np.arcsin(np.clip(ratio, -1, 1)))
