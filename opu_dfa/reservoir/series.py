"""What a forecaster takes for a series, and the units it computes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, validate_data

from opu_dfa.errors import DataError

Array = np.ndarray


def is_many(X: Any) -> bool:
    """Whether it is a list of series, or `(B, T, D)`, rather than one series `(T, D)`."""
    return getattr(X, "ndim", 0) == 3 or (isinstance(X, (list, tuple)) and len(X) > 0 and np.ndim(X[0]) == 2)


def as_series(estimator: BaseEstimator, X: Any, reset: bool) -> list[Array]:
    """A series `(T, D)`, or several, as a list of float64 arrays, checked as scikit-learn does.

    Args:
        reset: whether the estimator learns from these how many channels there are, or they must be as many.

    Raises:
        ValueError: what scikit-learn refuses: NaN, infinities, text, another number of channels, one-dimensional data.
    """
    if not is_many(X):
        return [validate_data(estimator, X, dtype=np.float64, reset=reset)]
    found = [validate_data(estimator, X[0], dtype=np.float64, reset=reset)]
    return found + [validate_data(estimator, each, dtype=np.float64, reset=False) for each in list(X)[1:]]


def as_targets(y: Any, series: list[Array], many: bool) -> list[Array]:
    """Targets of every row of every series, `(T, K)` each."""
    each = list(y) if many else [y]
    if len(each) != len(series):
        raise DataError(f"there are {len(series)} series and {len(each)} targets; give one for each")
    found = []
    for u, target in zip(series, each, strict=True):
        checked = check_array(target, dtype=np.float64, ensure_2d=False, input_name="y")
        if len(checked) != len(u):
            raise DataError(f"a series of {len(u)} steps has {len(checked)} targets; give one for each step")
        found.append(checked.reshape(len(u), -1))
    return found


@dataclass(frozen=True)
class Scale:
    """Each channel's mean and standard deviation; a constant channel's counts as 1."""

    mean: Array
    deviation: Array

    @staticmethod
    def of(series: list[Array]) -> Scale:
        rows = np.concatenate(series)
        deviation = rows.std(axis=0)
        return Scale(rows.mean(axis=0), np.where(deviation > 1e-12 * np.abs(rows).max(axis=0), deviation, 1.0))

    def standard(self, rows: Array) -> Array:
        """Rows `(..., channels)` with mean 0 and variance 1."""
        return (rows - self.mean) / self.deviation

    def original(self, rows: Array) -> Array:
        """Back to the series' own units."""
        return rows * self.deviation + self.mean
