"""How well a fitted forecaster continues a series: forecasts from many starts in the part it has not learned from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from opu_dfa.errors import DataError
from opu_dfa.reservoir.forecaster import Forecaster
from opu_dfa.reservoir.metrics import PredictionTime, prediction_time, valid_prediction_time

Array = np.ndarray
FAR = 1e3  # standard deviations; a forecast that is farther off has run away, and counts as this


@dataclass(frozen=True)
class Outcome:
    """One forecast.

    Attributes:
        start: its number; valid_time: in Lyapunov times, or steps where no exponent is known.
        errors: root mean square over channels in standard deviations of the series, at each of `HeldOut.horizons`.
        nrmse: the same over all steps.
    """

    start: int
    valid_time: float
    errors: tuple[float, ...]
    nrmse: float


@dataclass(frozen=True)
class Skill:
    """What the forecasts of one model come to.

    Attributes:
        one_step: NRMSE of the first step; nrmse: of all steps; by_horizon: of single steps, by their number from 1.
        time: of valid prediction; ran_away: forecasts that ended beyond `FAR` standard deviations.
    """

    one_step: float
    nrmse: float
    by_horizon: dict[int, float]
    time: PredictionTime
    ran_away: int


@dataclass(frozen=True)
class HeldOut:
    """The end of a series, forecast from starts spread evenly over it.

    Args:
        series: `(T, D)`, all of it.
        first: steps that were learned from, before which nothing is forecast.
        n_starts: forecasts; steps: of each, which overlap where the end is shorter than n_starts · steps.
        warmup: steps before each start that the model sees, from rest.
        dt: between steps; lyapunov_exponent: per unit of time, or None, and times are counted in steps.
        threshold: of valid prediction, in standard deviations of the series.

    Raises:
        DataError: the end is too short for that many starts.

    >>> from opu_dfa.reservoir import ReservoirForecaster
    >>> series = np.sin(np.arange(700) / 5)[:, None]
    >>> end = HeldOut(series, first=500, n_starts=4, steps=50, warmup=100)
    >>> model = ReservoirForecaster(n_units=100).fit(series[:500], washout=100)
    >>> skill = end.skill(list(end.outcomes(model, range(4))))
    >>> skill.time.median, skill.time.capped  # steps, all of them valid
    (50.0, 4)
    """

    series: Array
    first: int
    n_starts: int
    steps: int
    warmup: int
    dt: float = 1.0
    lyapunov_exponent: float | None = None
    threshold: float = 0.4

    def __post_init__(self) -> None:
        known = max(self.first, self.warmup)
        room = len(self.series) - known - self.steps + 1
        if room < self.n_starts:
            raise DataError(
                f"of {len(self.series)} steps, the {max(len(self.series) - known, 0)} after the first {known} have "
                f"room for {max(room, 0)} starts of {self.steps} steps, not for {self.n_starts}. Choose fewer starts, "
                "shorter forecasts (steps), fewer train_steps, or a longer series."
            )

    @cached_property
    def positions(self) -> Array:
        """How many steps of the series are known at each start."""
        last = len(self.series) - self.steps
        return np.linspace(max(self.first, self.warmup), last, self.n_starts).astype(int)

    @cached_property
    def horizons(self) -> Array:
        """Steps, counted from 1, at which errors are noted."""
        return np.unique(np.geomspace(1, self.steps, 16).round().astype(int))

    @property
    def step_time(self) -> float:
        """A step in Lyapunov times; 1 where no exponent is known."""
        return 1.0 if self.lyapunov_exponent is None else self.dt * self.lyapunov_exponent

    def truth(self, starts: Sequence[int]) -> Array:
        """What the forecasts should be, `(B, steps, D)`."""
        return np.stack([self.series[p : p + self.steps] for p in self.positions[list(starts)]])

    def forecast(self, model: Forecaster, starts: Sequence[int], steps: int | None = None) -> Array:
        """The forecasts from some of the starts, `(B, steps, D)`."""
        seen = np.stack([self.series[p - self.warmup : p] for p in self.positions[list(starts)]])
        with warnings.catch_warnings(), np.errstate(over="ignore", invalid="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)  # of forecasts that run away, which are counted
            return model.forecast(steps or self.steps, warmup=seen)

    def outcomes(self, model: Forecaster, starts: Sequence[int], at_once: int = 10) -> Iterator[Outcome]:
        """Forecast from some of the starts, so many at once."""
        spread = self.series.std(0)
        for k in range(0, len(starts), at_once):
            some = starts[k : k + at_once]
            truth, found = self.truth(some), self.forecast(model, some)
            times = valid_prediction_time(
                truth, found, dt=self.step_time, lyapunov_exponent=1.0, threshold=self.threshold, scale=spread
            )
            off = np.abs(found - truth) / np.where(spread > 0, spread, 1.0)
            squares = (np.nan_to_num(off, nan=FAR, posinf=FAR).clip(max=FAR) ** 2).mean(2)
            for i, start in enumerate(some):
                errors = np.sqrt(squares[i, self.horizons - 1]).tolist()
                yield Outcome(int(start), float(times[i]), tuple(errors), float(np.sqrt(squares[i].mean())))

    def skill(self, outcomes: Sequence[Outcome]) -> Skill:
        """The outcomes of one model, together."""
        errors = np.array([o.errors for o in outcomes])
        by_horizon = np.sqrt((errors**2).mean(0)).tolist()
        return Skill(
            one_step=by_horizon[0],
            nrmse=float(np.sqrt(np.mean([o.nrmse**2 for o in outcomes]))),
            by_horizon=dict(zip(self.horizons.tolist(), by_horizon, strict=True)),
            time=prediction_time(np.array([o.valid_time for o in outcomes]), cap=self.steps * self.step_time),
            ran_away=int((errors[:, -1] >= FAR).sum()),
        )
