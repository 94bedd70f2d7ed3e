"""What a nonlinearity is: a pointwise function of a Gaussian variable, with its kernel and its coefficients.

The functions themselves are in `opu_dfa.features.nonlinearities`, and what kernels and coefficients are is said there.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import lru_cache

import numpy as np
from numpy.polynomial import hermite_e
from scipy import interpolate

_NODES = 200  # of Gauss-Hermite quadrature, where there is no closed form
_ORDERS = 60  # coefficients that a kernel without a closed form is summed from
_TABLED = (2.0**-20, 2.0**6)  # variances that they are tabled for

Array = np.ndarray


class Nonlinearity(ABC):
    """A pointwise function of a Gaussian variable.

    Attributes:
        field: "real", or "complex" for functions of a circular complex field.
        random_phase: a feature adds a phase of its own, uniform in [0, 2π), before the function; the kernel is the mean
            over it.
    """

    field = "real"
    random_phase = False

    @property
    def name(self) -> str:
        """The name it has in configurations, and in `nonlinearity`."""
        return type(self).__name__.lower()

    @abstractmethod
    def __call__(self, z: Array) -> Array:
        """f(z), elementwise, in z's precision."""

    def kernel(self, xx: Array, yy: Array, xy: Array) -> Array:
        """E[f(u) f(v)] for variances xx and yy and covariance xy, which broadcast.

        Without a closed form, the sum of the first 60 coefficients: exact to rounding for smooth functions of moderate
        variance.
        """
        left, right = self._tabled(xx), self._tabled(yy)
        c = correlation(xx, yy, xy)
        total = np.zeros(c.shape)
        for a, b in zip(left[::-1], right[::-1], strict=True):  # Horner's scheme in c
            total = total * c + a * b
        return total

    def coefficients(self, variance: float | Array, orders: int) -> Array:
        """a_0 ... a_(orders-1) at a variance, `(orders, *variance.shape)`, by quadrature where there is no closed form.

        The squares of all of them sum to E[f²].
        """
        nodes, weights = _gauss_hermite()
        s = np.asarray(variance, dtype=np.float64)
        unique, place = np.unique(s, return_inverse=True)
        values = self(np.sqrt(unique)[:, None] * nodes) * weights
        return (values @ _hermite(orders).T).T[:, place].reshape(orders, *s.shape)

    def _tabled(self, variance: Array) -> Array:
        """The first 60 coefficients, interpolated to rounding where the table reaches: recursions ask for millions."""
        s = np.asarray(variance, dtype=np.float64)
        least, most = _TABLED
        if not ((s >= least) & (s <= most)).all():
            return self.coefficients(s, _ORDERS)
        return np.ascontiguousarray(np.moveaxis(_table(self)(np.log(s)), -1, 0))


def correlation(xx: Array, yy: Array, xy: Array) -> Array:
    """xy / √(xx yy), between -1 and 1; 0 where a variance vanishes, and exactly ±1 within 1e-14.

    Kernels of discontinuous functions fall by √(1 - c) from c = 1: a rounding error of 1e-16 is one of 1e-8 in them,
    and a recursion takes the root of that again, until a series is not itself any more.
    """
    scale = np.sqrt(np.asarray(xx, dtype=np.float64) * np.asarray(yy, dtype=np.float64))
    c = np.divide(xy, scale, out=np.zeros(np.broadcast(xy, scale).shape), where=scale > 0)
    return np.where(np.abs(c) > 1 - 1e-14, np.sign(c), c)


@lru_cache(maxsize=1)
def _gauss_hermite() -> tuple[Array, Array]:
    """Nodes and weights of an expectation over N(0, 1)."""
    nodes, weights = hermite_e.hermegauss(_NODES)
    return nodes, weights / weights.sum()


@lru_cache(maxsize=8)
def _hermite(orders: int) -> Array:
    """The orthonormal Hermite polynomials at the nodes, `(orders, nodes)`."""
    nodes, _ = _gauss_hermite()
    rows = [np.ones_like(nodes), nodes]
    for k in range(1, orders - 1):
        rows.append((nodes * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return np.array(rows[:orders])


@lru_cache(maxsize=4)
def _table(f: Nonlinearity) -> interpolate.BSpline:
    """log variance → the first coefficients: a spline of degree 7, whose error is below rounding for smooth f."""
    logs = np.linspace(math.log(_TABLED[0]), math.log(_TABLED[1]), 1024)
    # The ends are widened by a rounding error, so that both belong to the table.
    logs[0], logs[-1] = np.nextafter(logs[0], -np.inf), np.nextafter(logs[-1], np.inf)
    return interpolate.make_interp_spline(logs, f.coefficients(np.exp(logs), _ORDERS).T, k=7)
