"""Recurrent kernels: inner products of a reservoir's states, K = <x_t, x'_s>, in the limit of infinitely many units.

Of two series u and u', seen from rest (K = D = 0 before the first step), with k the kernel of the nonlinearity,

    S(t, s) = s_r² K(t-1, s-1) + s_i² <u_t, u'_s> + s_b²     covariance of what a unit projects, z_t and z'_s
    C(t, s) = k(S(t, t), S'(s, s), S(t, s))                  E[f(z_t) f(z'_s)]
    D(t, s) = (1 - a) D(t, s-1) + a C(t, s)                  of f(z_t) / √N and a state
    K(t, s) = (1 - a) K(t-1, s) + a D(t, s)                  of two states

S(t, t) and S'(s, s) are each series' own. Without a leak, a = 1, K = C goes along diagonals of constant t - s; with
one, all pairs of times depend on each other, as W stays the same. A deep reservoir's next layer has the states of the
one before as inputs: <u_t, u'_s> is then that layer's K(t, s), and the kernel of all layers' states is the sum.

Source: Hermans and Schrauwen, "Recurrent kernel machines", Neural Computation 2012; Dong, Ohana, Rafayelyan, Krzakala,
"Reservoir computing meets recurrent kernels and structured transforms", NeurIPS 2020 (arXiv 2006.07310).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TypeVar

import numpy as np
from scipy import signal

from opu_dfa.errors import ConfigError, DataError, DivergedError
from opu_dfa.features import Nonlinearity, nonlinearity

T = TypeVar("T")
Array = np.ndarray
_ROUNDING = 1e-16


@dataclass(frozen=True)
class Past:
    """Driven series compared with their own last L steps, the newest first.

    Attributes:
        variances: S(t-l, t-l), -1 for steps before the first, and kernel: K(t, t-l), both `(B, n_layers, L)`.
    """

    variances: Array
    kernel: Array


@dataclass(frozen=True)
class RecurrentKernel:
    """The kernel that `Reservoir`s of the same parameters converge to, K = <x, x'> with an error of O(1/√N).

    Args:
        nonlinearity, spectral_radius, input_scale, bias_scale, leak_rate, n_layers: as a `Reservoir`'s.
        redraw: of a reservoir that draws W and V anew at every step, but not its biases: S(t, s) = s_b² for t ≠ s. That
            matters with a leak only, as long as states of the same time are compared.

    Raises:
        ConfigError: a value out of its range, an unknown name.

    >>> from opu_dfa.reservoir import Reservoir
    >>> u = np.random.default_rng(0).standard_normal((3, 20, 1))
    >>> states, _ = Reservoir(n_units=4000, n_inputs=1).run(u)
    >>> error = states[:, -1] @ states[:, -1].T - RecurrentKernel().gram(u)
    >>> bool(np.abs(error).max() < 0.05)
    True
    """

    nonlinearity: str | Nonlinearity = "erf"
    spectral_radius: float = 0.9
    input_scale: float = 0.4
    bias_scale: float = 0.4
    leak_rate: float = 1.0
    n_layers: int = 1
    redraw: bool = False

    def __post_init__(self) -> None:
        for name in ("spectral_radius", "input_scale", "bias_scale"):
            scale: float = getattr(self, name)
            if not isinstance(scale, Real) or not 0 <= scale < math.inf:
                raise ConfigError(f"{name} is a number of at least 0, got {scale!r}")
        if not isinstance(self.leak_rate, Real) or not 0 < self.leak_rate <= 1:
            raise ConfigError(f"leak_rate is in (0, 1], got {self.leak_rate!r}")
        layers = self.n_layers
        if isinstance(layers, bool) or not isinstance(layers, (int, np.integer)) or layers < 1:
            raise ConfigError(f"n_layers is an integer of at least 1, got {layers!r}")
        nonlinearity(self.nonlinearity)

    @property
    def f(self) -> Nonlinearity:
        """The nonlinearity as an object."""
        return nonlinearity(self.nonlinearity)

    def gram(self, u: Array, v: Array | None = None) -> Array:
        """The kernel of the last states of series `(n, T, d)` and `(m, T, d)`, seen from rest, `(n, m)`.

        Give windows of a series for a kernel of bounded memory. T evaluations of k for every pair, T² with a leak.

        Args:
            v: None for u itself.

        Raises:
            DataError: other shapes.
            DivergedError: the kernel grows beyond all bounds.
        """
        u = _series(u, 3)
        v = u if v is None else _series(v, 3)
        if u.shape[1:] != v.shape[1:]:
            raise DataError(f"series (n, T, d) and (m, T, d) are of one length and width, got {u.shape} and {v.shape}")
        if self.leak_rate < 1 and v is u:
            return self._leaky_gram(u)
        if self.leak_rate < 1:
            return np.stack([_last(self._rows(each, v))[:, :, -1].sum(1) for each in u])
        own, others = self.variances(u), self.variances(v)
        kernel = np.zeros((len(u), self.n_layers, len(v)))
        for t in range(u.shape[1]):
            kernel = self._next(kernel, kernel, u[:, t] @ v[:, t].T, own[:, :, t], others[:, :, t].T)
        return kernel.sum(1)

    def table(self, u: Array, v: Array | None = None) -> Array:
        """The kernel of the states at all times of two series `(T, d)` and `(T', d)`, seen from rest, `(T, T')`.

        Args:
            v: None for u itself.

        Raises:
            DataError, DivergedError: as `gram` does.
        """
        u = _series(u, 2)
        if v is None:
            lower = np.zeros((len(u), len(u)))
            for t, past in enumerate(self.itself(u[None], len(u))):
                lower[t, : t + 1] = past.kernel[0, :, t::-1].sum(0)
            return lower + np.tril(lower, -1).T
        v = _series(v, 2)
        if u.shape[1] != v.shape[1]:
            raise DataError(f"series (T, d) and (T', d) are of one width, got {u.shape} and {v.shape}")
        return np.stack([row[0].sum(0) for row in self._rows(u, v[None])])

    def variances(self, u: Array) -> Array:
        """S(t, t) at all times of series `(B, T, d)`, `(B, n_layers, T)`."""
        lags = 1 if self.leak_rate == 1 else u.shape[1]
        return np.stack([past.variances[:, :, 0] for past in self.itself(u, lags)], axis=2)

    def itself(self, u: Array, lags: int) -> Iterator[Past]:
        """Series `(B, T, d)` compared with themselves, after each of their steps."""
        past, products = self.rest(len(u), lags), np.zeros((len(u), lags))
        for t in range(u.shape[1]):
            last = u[:, t::-1][:, :lags]
            products[:, : last.shape[1]] = (last @ u[:, t, :, None])[:, :, 0]
            past = self.advance(past, products)
            yield past

    @property
    def memory(self) -> int:
        """L, the steps of a series' own past that its next variance is computed from: 1 without a leak, which is exact;
        with one, twice as many as it takes until a step's weight (1 - a)^L in the state is lost to rounding."""
        return 1 if self.leak_rate == 1 else math.ceil(2 * math.log(_ROUNDING) / math.log1p(-self.leak_rate))

    def rest(self, batch: int, lags: int) -> Past:
        """Of series that have seen nothing."""
        shape = (batch, self.n_layers, lags)
        return Past(np.full(shape, -1.0), np.zeros(shape))

    @np.errstate(over="ignore", invalid="ignore")
    def advance(self, past: Past, products: Array) -> Past:
        """The past of series that have taken another step.

        Args:
            products: <u_t, u_(t-l)> of their inputs, `(B, L)`.

        Raises:
            DivergedError: the kernel is not finite any more.
        """
        a, below = self.leak_rate, products
        now = np.arange(products.shape[1]) == 0
        variances, kernel = np.empty_like(past.variances), np.empty_like(past.kernel)
        for layer in range(self.n_layers):
            before = past.kernel[:, layer]
            covariance = self._covariance(before, below, now)
            own = np.concatenate([covariance[:, :1], past.variances[:, layer, :-1]], axis=1)
            seen = own >= 0
            c = self.f.kernel(own[:, :1], np.where(seen, own, own[:, :1]), covariance) * seen
            d = self._averaged(c[:, ::-1])[:, ::-1]
            kernel[:, layer, 1:] = (1 - a) * before[:, :-1] + a * d[:, 1:]
            kernel[:, layer, 0] = (1 - a) ** 2 * before[:, 0] + a * (2 * d[:, 0] - a * c[:, 0])
            variances[:, layer], below = own, kernel[:, layer]
        if not np.isfinite(kernel).all():
            raise DivergedError(
                f"the recurrent kernel has grown beyond all bounds: {self.f.name} units are unbounded. Choose a "
                "smaller spectral_radius, or bounded units such as erf."
            )
        return Past(variances, kernel)

    def row(
        self,
        before: Array,
        products: Array,
        own: Array,
        others: Array,
        starts: Sequence[int] | Array = (0,),
        same: bool | Array = True,
    ) -> Array:
        """K(t, ·) from K(t-1, ·), both `(B, n_layers, M)`: of B series at time t with all M times of others.

        Args:
            products: <u_t, u'_s>, `(B, M)`; own: S(t, t), `(B, n_layers)`; others: S'(s, s), `(n_layers, M)` or
                `(B, n_layers, M)`.
            starts: where in M a series begins, which is seen from rest.
            same: which of the others' times have this time's matrices, if those are redrawn.
        """
        diagonal = np.zeros_like(before)
        diagonal[:, :, 1:] = before[:, :, :-1]
        diagonal[:, :, starts] = 0
        return self._next(diagonal, before, products, own, others, starts, same)

    def _rows(self, u: Array, v: Array) -> Iterator[Array]:
        """K(t, ·) of u `(T, d)` with each of v `(m, T', d)`, `(m, n_layers, T')`, for all t."""
        own, others = self.variances(u[None]), self.variances(v)
        row = np.zeros_like(others)
        for t in range(len(u)):
            row = self.row(row, v @ u[t], own[:, :, t], others, same=np.arange(v.shape[1]) == t)
            yield row

    def _leaky_gram(self, u: Array) -> Array:
        """Of series with each other, and with themselves. A row of a series with itself is not left to `row`, where
        rounding errors would grow: discontinuous units tell series apart that differ by next to nothing."""
        lower = np.diag(_last(self.itself(u, u.shape[1])).kernel[:, :, 0].sum(1))
        for i in range(1, len(u)):
            lower[i, :i] = _last(self._rows(u[i], u[:i]))[:, :, -1].sum(1)
        return lower + np.tril(lower, -1).T

    @np.errstate(over="ignore", invalid="ignore")
    def _next(
        self,
        diagonal: Array,
        before: Array,
        below: Array,
        own: Array,
        others: Array,
        starts: Sequence[int] | Array = (0,),
        same: bool | Array = True,
    ) -> Array:
        """K(t, s) of all layers from K(t-1, s-1) and K(t-1, s)."""
        kernel = np.empty_like(before)
        for layer in range(self.n_layers):
            covariance = self._covariance(diagonal[:, layer], below, same)
            c = self.f.kernel(own[:, layer, None], others[..., layer, :], covariance)
            below = (1 - self.leak_rate) * before[:, layer] + self.leak_rate * self._averaged(c, starts)
            kernel[:, layer] = below
        return kernel

    def _covariance(self, diagonal: Array, below: Array, same: bool | Array) -> Array:
        covariance = self.spectral_radius**2 * diagonal + self.input_scale**2 * below
        if self.redraw:
            covariance = covariance * same
        return covariance + self.bias_scale**2

    def _averaged(self, c: Array, starts: Sequence[int] | Array = (0,)) -> Array:
        """D from C, along the last axis."""
        if self.leak_rate == 1:
            return c
        series = np.split(c, starts[1:], axis=-1)
        return np.concatenate(
            [signal.lfilter([self.leak_rate], [1.0, self.leak_rate - 1], each) for each in series], axis=-1
        )


def _series(u: Array, ndim: int) -> Array:
    u = np.asarray(u, dtype=np.float64)
    if u.ndim != ndim or 0 in u.shape:
        wanted = "(T, d)" if ndim == 2 else "(n, T, d)"
        raise DataError(f"a recurrent kernel takes series {wanted}, none of them 0; got {u.shape}")
    return u


def _last(steps: Iterator[T]) -> T:
    for step in steps:  # noqa: B007
        pass
    return step
