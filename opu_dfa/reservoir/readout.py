"""Linear read-outs: weights w that minimise Σ_t |y_t - wᵀφ_t|² + ridge · |w|², of rows that need not fit in memory.

    primal      (ΦᵀΦ + ridge)⁻¹ Φᵀ Y      n_features² numbers, one pass over the rows
    dual        Φᵀ (ΦΦᵀ + ridge)⁻¹ Y      n_rows² numbers and the rows themselves: for more features than rows
    iterative   conjugate gradients       n_features numbers, one pass a step: beyond either matrix

Products are accumulated in float64: in float32 a Gram matrix is not positive definite for ridges below about 1e-6.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from scipy import linalg

from hardware.kernels import compiled
from opu_dfa.errors import ConfigError, DataError, DivergedError

Array = np.ndarray
Rows = Callable[[], Iterator[tuple[Array, Array]]]
Solver = Literal["auto", "primal", "dual", "iterative"]
LARGEST_GRAM = 2**31  # bytes
_FOLDS = 5
_PIECE = 2**24  # float64 numbers of a product's operand


@dataclass(frozen=True)
class Readout:
    """Learned weights `(n_features, n_outputs)`, the ridge they were found with, and how."""

    weights: Array
    ridge: float
    solver: str


def solve_ridge(
    rows: Rows, n_rows: int, n_features: int, ridge: float | Sequence[float], solver: Solver = "auto"
) -> Readout:
    """The read-out of rows.

    Args:
        rows: gives an iterator over blocks of rows `(n, n_features)` and targets `(n, n_outputs)`, every time it is
            called the same ones.
        n_rows, n_features: how many there are in all.
        ridge: what is added to the diagonal; of several, the one whose read-outs predict left-out fifths of the rows
            best, contiguous ones since neighbours in time are alike (primal only).
        solver: "auto" takes the smaller matrix that fits 2 GiB, and otherwise iterates.

    Raises:
        ConfigError: a ridge that is negative or empty, an unknown solver.
        DataError: rows that are not finite.

    >>> phi, y = np.eye(3), np.ones((3, 1))
    >>> solve_ridge(lambda: iter([(phi, y)]), 3, 3, ridge=1.0).weights.ravel()
    array([0.5, 0.5, 0.5])
    """
    ridges = _ridges(ridge)
    if solver not in get_args(Solver):
        raise ConfigError(f"solver is one of {', '.join(get_args(Solver))}, got {solver!r}")
    if solver == "auto":
        solver = "primal" if n_features <= n_rows or len(ridges) > 1 else "dual"
        size = 8 * min(n_features, n_rows) ** 2 + (4 * n_rows * n_features if solver == "dual" else 0)
        if size > LARGEST_GRAM:
            solver = "iterative"
    if len(ridges) > 1:
        if solver != "primal":
            raise ConfigError(
                f"choosing among {len(ridges)} ridges by cross-validation takes the primal solver, not {solver}: "
                f"{n_features} features are too many, or another was asked for. Give one ridge."
            )
        return _cross_validated(rows, n_rows, ridges)
    if solver == "primal":
        gram, moment = _products(rows)
        return Readout(positive_solution(gram, moment, ridges[0]), ridges[0], solver)
    return Readout(_dual(rows, ridges[0]) if solver == "dual" else _iterated(rows, ridges[0]), ridges[0], solver)


def _ridges(ridge: float | Sequence[float]) -> list[float]:
    try:
        ridges = np.asarray(ridge, dtype=np.float64).ravel().tolist()
    except (TypeError, ValueError):
        ridges = []
    if not ridges or not all(0 <= r < np.inf for r in ridges):
        raise ConfigError(f"ridge is a number of at least 0, or several to choose among; got {ridge!r}")
    return ridges


def _require_finite(*products: Array) -> None:
    """NaN and infinities of any row are in its products."""
    if not all(np.isfinite(product).all() for product in products):
        raise DataError("the rows of the read-out are not finite; look for NaN or infinities in the series")


def _products(rows: Rows, start: int = 0, stop: int | None = None) -> tuple[Array, Array]:
    """ΦᵀΦ, of which the upper triangle is filled, and ΦᵀY, of rows start … stop."""
    gram = moment = None
    at = 0
    for phi, y in rows():
        first, last = max(start - at, 0), len(phi) if stop is None else min(stop - at, len(phi))
        at += len(phi)
        if first >= last:
            continue
        if gram is None:
            gram = np.zeros((phi.shape[1], phi.shape[1]), order="F")
            moment = np.zeros((phi.shape[1], y.shape[1]))
        size = max(_PIECE // phi.shape[1], 1)
        for i in range(first, last, size):
            piece = slice(i, min(i + size, last))
            part = np.asarray(phi[piece], dtype=np.float64)
            gram = linalg.blas.dsyrk(1.0, part.T, 1.0, gram, overwrite_c=True)
            moment += part.T @ y[piece]
    assert gram is not None
    assert moment is not None
    return gram, moment


def positive_solution(gram: Array, moment: Array, ridge: float) -> Array:
    """(gram + ridge)⁻¹ moment of a matrix whose upper triangle is filled, which is left as it was."""
    diagonal = np.einsum("ii->i", gram)
    _require_finite(diagonal, moment)
    kept = diagonal.copy()
    diagonal += ridge
    try:
        return linalg.cho_solve(linalg.cho_factor(gram, check_finite=False), moment, check_finite=False)
    except linalg.LinAlgError:
        warnings.warn(
            f"ridge={ridge:g} is too small for this Gram matrix of largest diagonal entry {kept.max():.3g}: in float64 "
            "it is singular, and its smallest directions are left out. Raise the ridge.",
            RuntimeWarning,
            stacklevel=2,
        )
        values, vectors = linalg.eigh(gram, lower=False)
        sound = values > values[-1] * len(gram) * np.finfo(float).eps
        inverse = np.divide(1, values, out=np.zeros_like(values), where=sound)
        return (vectors * inverse) @ (vectors.T @ moment)
    finally:
        diagonal[:] = kept


def _cross_validated(rows: Rows, n_rows: int, ridges: list[float]) -> Readout:
    """Leaves out a fifth at a time; a fold's products are those of all rows less its own."""
    gram, moment = _products(rows)
    errors = np.zeros(len(ridges))
    edges = np.linspace(0, n_rows, _FOLDS + 1).astype(int)
    for start, stop in pairwise(edges):
        own, own_moment = _products(rows, start, stop)
        rest = gram - own
        found = [positive_solution(rest, moment - own_moment, r) for r in ridges]
        at = 0
        for phi, y in rows():
            inside = slice(max(start - at, 0), max(stop - at, 0))
            errors += [((phi[inside] @ w - y[inside]) ** 2).sum() for w in found]
            at += len(phi)
    best = ridges[int(np.argmin(errors))]
    return Readout(positive_solution(gram, moment, best), best, "primal")


def _dual(rows: Rows, ridge: float) -> Array:
    phi, y = (np.concatenate(parts) for parts in zip(*rows(), strict=True))
    gram = np.zeros((len(phi), len(phi)), order="F")
    size = max(_PIECE // len(phi), 1)
    for i in range(0, phi.shape[1], size):
        part = np.asarray(phi[:, i : i + size], dtype=np.float64)
        gram = linalg.blas.dsyrk(1.0, part, 1.0, gram, overwrite_c=True)
    return phi.T @ positive_solution(gram, np.asarray(y, dtype=np.float64), ridge)


def _iterated(rows: Rows, ridge: float, tolerance: float = 1e-8, most: int = 500) -> Array:
    """Conjugate gradients on the normal equations, every output by itself, one pass over the rows a step."""
    moment = sum(phi.T.astype(np.float64) @ y for phi, y in rows())
    assert isinstance(moment, np.ndarray)
    _require_finite(moment)
    weights, residual = np.zeros_like(moment), moment.copy()
    direction, norm = residual.copy(), (residual**2).sum(0)
    enough = tolerance**2 * norm
    for _ in range(most):
        if (norm <= enough).all():
            return weights
        image = ridge * direction
        for phi, _y in rows():
            image += phi.T @ (phi @ direction)
        curvature = (direction * image).sum(0)
        step = np.divide(norm, curvature, out=np.zeros_like(norm), where=curvature > 0)
        weights += step * direction
        residual -= step * image
        last, norm = norm, (residual**2).sum(0)
        direction = residual + np.divide(norm, last, out=np.zeros_like(norm), where=last > 0) * direction
    from sklearn.exceptions import ConvergenceWarning

    left = float(np.sqrt(norm / np.maximum(enough, np.finfo(float).tiny)).max()) * tolerance
    warnings.warn(
        f"the read-out's conjugate gradients stopped after {most} passes, with {left:.1e} of the residual left; "
        "raise the ridge, or choose fewer units",
        ConvergenceWarning,
        stacklevel=2,
    )
    return weights


class RecursiveLeastSquares:
    """Ridge regression a row at a time, O(n_features²) each; old rows weigh forgetting^age.

    Without forgetting it ends where `solve_ridge` does, up to a penalty on the distance from the first weights.

    Args:
        weights: `(n_features, n_outputs)` to begin with; ridge: positive; forgetting: in (0, 1].
    """

    def __init__(self, weights: Array, ridge: float, forgetting: float = 1.0) -> None:
        if not ridge > 0:
            raise ConfigError(f"recursive least squares begins from a positive ridge, got {ridge!r}")
        if not 0 < forgetting <= 1:
            raise ConfigError(f"forgetting is in (0, 1], got {forgetting!r}")
        self.weights = np.array(weights, dtype=np.float64)
        self.inverse = np.eye(len(weights)) / ridge
        self.forgetting = float(forgetting)

    def update(self, phi: Array, y: Array) -> None:
        """Learn from rows `(n, n_features)` with targets `(n, n_outputs)`, in their order.

        Raises:
            DivergedError: the weights are not finite any more.
        """
        phi = np.ascontiguousarray(phi, dtype=np.float64)
        _learn(self.weights, self.inverse, phi, np.ascontiguousarray(y, dtype=np.float64), self.forgetting)
        if not np.isfinite(self.weights).all():
            raise DivergedError(
                f"recursive least squares has lost its precision with forgetting={self.forgetting:g}: in directions "
                "that no row has, what was known is forgotten and nothing is learned. Choose forgetting closer to 1, "
                "or fewer units; and fit anew."
            )


@compiled
def _learn(weights, inverse, phi, y, forgetting):  # type: ignore[no-untyped-def]
    n = phi.shape[1]
    for t in range(phi.shape[0]):
        row = phi[t]
        image = np.dot(inverse, row)
        gain = image / (forgetting + np.dot(row, image))
        error = y[t] - np.dot(row, weights)
        for i in range(n):
            for k in range(error.size):
                weights[i, k] += gain[i] * error[k]
        for i in range(n):  # symmetric to the last bit, which rounding would undo
            for j in range(i + 1):
                inverse[i, j] = (inverse[i, j] - gain[i] * image[j]) / forgetting
                inverse[j, i] = inverse[i, j]
