"""How good a forecast is: error, time of valid prediction, power spectrum and return map of series `(T, D)`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from opu_dfa.errors import DataError

Array = np.ndarray


def nrmse(truth: Array, forecast: Array) -> float:
    """The root mean square error in standard deviations: √ mean_(t,d) ((forecast - truth)_td / σ_d)².

    σ_d is the standard deviation of the truth's channel d; both arrays `(T, D)`. The truth's mean as a forecast has 1.

    Raises:
        DataError: not `(T, D)` both, or a channel of the truth that is constant.

    >>> nrmse(np.array([[1.0], [3.0]]), np.array([[1.0], [2.0]]))
    0.7071067811865476
    """
    truth, forecast = _alike(truth, forecast, "(T, D)")
    spread = _varying(truth.std(0))
    return float(np.sqrt((((forecast - truth) / spread) ** 2).mean()))


def valid_prediction_time(
    truth: Array,
    forecast: Array,
    *,
    dt: float,
    lyapunov_exponent: float,
    threshold: float = 0.4,
    scale: Array | None = None,
) -> Array:
    """Lyapunov times until the error ‖forecast - truth‖ / √(mean ‖truth - its mean‖²) first exceeds the threshold.

    The rule of Pathak et al. 2018 and Vlachas et al. 2020; a Lyapunov time is 1 / exponent. If step t, counted from 0,
    is the first that is wrong, the time is t · dt · exponent. A forecast that never is wrong counts as long as it is,
    so forecasts should be longer than they are valid (`prediction_time` counts those that were not). Numbers that are
    not finite are wrong.

    Args:
        truth, forecast: `(starts, T, D)`, the first step being one dt after what was known.
        dt: between steps; lyapunov_exponent: the largest, per unit of time.
        threshold: 0.4 and 0.5 are both usual.
        scale: the standard deviation of each channel `(D,)`, best from a long series; None: of the truth given.

    Returns:
        `(starts,)`.

    Raises:
        DataError: not `(starts, T, D)` both, truth that is not finite, or a scale of other length or of zeros.

    >>> truth = np.zeros((1, 5, 1))
    >>> forecast = np.array([0.0, 0.1, 0.3, 0.5, 0.0]).reshape(1, 5, 1)
    >>> valid_prediction_time(truth, forecast, dt=0.5, lyapunov_exponent=1.0, scale=np.ones(1))
    array([1.5])
    """
    truth, forecast = _alike(truth, forecast, "(starts, T, D)")
    spread = truth.std((0, 1)) if scale is None else np.asarray(scale, float)
    if spread.shape != truth.shape[2:]:
        raise DataError(f"scale holds one standard deviation for each of {truth.shape[2]} channels, got {spread.shape}")
    whole = math.sqrt((spread**2).sum())
    if not whole > 0:
        raise DataError(f"the error is measured in standard deviations of the truth, got scale={whole:g}; give scale=")
    with np.errstate(over="ignore", invalid="ignore"):
        wrong = ~(np.linalg.norm(forecast - truth, axis=2) <= threshold * whole)  # so also where it is not a number
    steps = np.where(wrong.any(1), wrong.argmax(1), truth.shape[1])
    return steps * dt * lyapunov_exponent


@dataclass(frozen=True)
class PredictionTime:
    """Times of valid prediction over many starts, in Lyapunov times, each mean and median with its 95 % interval.

    capped: how many starts reached the end of their forecast, so that mean and median are at least what they say.
    """

    mean: float
    mean_interval: tuple[float, float]
    median: float
    median_interval: tuple[float, float]
    n_starts: int
    capped: int

    def __str__(self) -> str:
        mean, median = (
            f"{name} {value:.2f} [{low:.2f}, {high:.2f}]"
            for name, value, (low, high) in (
                ("mean", self.mean, self.mean_interval),
                ("median", self.median, self.median_interval),
            )
        )
        capped = f", {self.capped} to the end" if self.capped else ""
        return f"{mean}, {median}, {self.n_starts} starts{capped}"


def prediction_time(times: Array, cap: float = math.inf, random_state: int = 0) -> PredictionTime:
    """Mean and median of times of valid prediction `(starts,)`, with percentile bootstrap intervals of 2,000 draws.

    Args:
        times: from `valid_prediction_time`; starts should be a few Lyapunov times apart to count as independent.
        cap: the length of the forecasts in the same unit, T · dt · exponent; without it none is counted as capped.

    Raises:
        DataError: no times, or one that is not a number.

    >>> print(prediction_time(np.array([4.0, 5.0, 6.0, 8.0]), cap=8.0))
    mean 5.75 [4.50, 7.25], median 5.50 [4.00, 8.00], 4 starts, 1 to the end
    """
    times = np.asarray(times, float)
    if times.ndim != 1 or not times.size or not np.isfinite(times).all():
        raise DataError(f"times of valid prediction are one number a start, got shape {times.shape}: {times}")
    draw = np.random.default_rng(random_state)
    drawn = draw.choice(times, (2_000, times.size))

    def interval(of_each: Array) -> tuple[float, float]:
        low, high = np.percentile(of_each, [2.5, 97.5])
        return float(low), float(high)

    return PredictionTime(
        mean=float(times.mean()),
        mean_interval=interval(drawn.mean(1)),
        median=float(np.median(times)),
        median_interval=interval(np.median(drawn, 1)),
        n_starts=times.size,
        capped=int((times >= cap * (1 - 1e-9)).sum()),
    )


def power_spectrum(series: Array, dt: float, segment: int = 1024) -> tuple[Array, Array]:
    """Frequencies `(F,)`, per unit of time, and the power density `(F, D)` of a series `(T, D)`, by Welch's method.

    Σ power · Δf is the variance, up to the window's. Compare spectra of the same `segment`, the steps a window has.

    Raises:
        DataError: not `(T, D)`, or shorter than 8 steps.

    >>> t = 0.1 * np.arange(5000)
    >>> frequencies, power = power_spectrum(np.sin(2 * np.pi * t)[:, None], dt=0.1)
    >>> round(float(frequencies[power[:, 0].argmax()]), 2), round(float(power.sum() * frequencies[1]), 2)
    (1.0, 0.5)
    """
    from scipy.signal import welch

    series = _finite(series, "the series")
    if series.ndim != 2 or len(series) < 8:
        raise DataError(f"a spectrum needs a series (T, D) of at least 8 steps, got {series.shape}")
    frequencies, power = welch(series, 1 / dt, nperseg=min(segment, len(series)), axis=0)
    return frequencies, power


def return_map(series: Array) -> Array:
    """Pairs (m_i, m_(i+1)) of successive local maxima of one channel `(T,)`, `(pairs, 2)`.

    Each maximum is that of the parabola through its three samples. Lorenz's z gives his cusp (Lorenz 1963).

    Raises:
        DataError: not `(T,)`, or of fewer than two maxima.

    >>> return_map(np.array([0.0, 1.0, 0.0, 2.0, 0.0, 3.0, 0.0])).tolist()
    [[1.0, 2.0], [2.0, 3.0]]
    """
    series = _finite(series, "the series")
    if series.ndim != 1:
        raise DataError(f"a return map is of one channel (T,), got {series.shape}; take one with series[:, d]")
    before, here, after = series[:-2], series[1:-1], series[2:]
    top = (here > before) & (here >= after)
    before, here, after = before[top], here[top], after[top]
    maxima = here + (after - before) ** 2 / (8 * (2 * here - before - after))
    if maxima.size < 2:
        raise DataError(
            f"a return map needs two local maxima, got {maxima.size} in {series.size} steps; give more steps"
        )
    return np.stack([maxima[:-1], maxima[1:]], axis=1)


def _alike(truth: Array, forecast: Array, shape: str) -> tuple[Array, Array]:
    truth, forecast = _finite(truth, "the truth"), np.asarray(forecast, float)
    if truth.shape != forecast.shape or truth.ndim != shape.count(",") + 1 or not truth.size:
        raise DataError(f"truth and forecast are both {shape}, got {truth.shape} and {forecast.shape}")
    return truth, forecast


def _finite(series: Array, name: str) -> Array:
    series = np.asarray(series, float)
    if not np.isfinite(series).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(series))[0])
        raise DataError(f"{name} holds {series[place]} at {place}; fill or leave out what is missing")
    return series


def _varying(spread: Array) -> Array:
    if not spread.all():
        raise DataError(f"channel {int(np.argmin(spread))} of the truth is constant, so no error is relative to it")
    return spread
