"""Random search of a forecaster's parameters for the longest valid prediction, on starts behind the training part."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import ParameterSampler

from opu_dfa.errors import ConfigError, DivergedError
from opu_dfa.reservoir.evaluation import HeldOut, Skill
from opu_dfa.reservoir.forecaster import Forecaster

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray


class Distribution(Protocol):
    """What parameters are drawn from, as those of `scipy.stats`."""

    def rvs(self, *, random_state: Any) -> Any: ...


@dataclass(frozen=True)
class Trial:
    """One choice of parameters.

    Attributes:
        score: what is maximised: the median time of valid prediction; where no Lyapunov exponent is known, minus the
            NRMSE. 0, or -inf, if the model diverged, which `failure` says.
        skill: on the validation starts.
    """

    parameters: dict[str, Any]
    score: float
    skill: Skill | None
    cpu_seconds: float
    failure: str | None = None


@dataclass(frozen=True)
class SearchResult:
    """The trials of a search in order; the first is the model as it was given.

    Attributes:
        measure: what the score is.
    """

    trials: tuple[Trial, ...]
    measure: str

    @property
    def best(self) -> Trial:
        return max(self.trials, key=lambda trial: trial.score)

    def table(self) -> list[dict[str, Any]]:
        """A row a trial, the best first."""
        rows = sorted(self.trials, key=lambda trial: -trial.score)
        return [
            t.parameters
            | {self.measure: t.score, "CPU s": t.cpu_seconds}
            | ({"failure": t.failure} if t.failure else {})
            for t in rows
        ]

    def figure(self) -> Figure:
        """The score against each parameter."""
        from opu_dfa.reservoir.figures import search_figure

        return search_figure(self)


def search(
    model: Forecaster,
    series: Array,
    space: Mapping[str, Sequence[Any] | Distribution],
    n_trials: int = 20,
    *,
    steps: int,
    starts: int = 20,
    n_train: int | None = None,
    washout: int = 100,
    dt: float = 1.0,
    lyapunov_exponent: float | None = None,
    threshold: float = 0.4,
    random_state: int = 0,
    observe: Callable[[Trial], None] | None = None,
) -> SearchResult:
    """Try a model's own parameters, and then n_trials - 1 others drawn from a space.

    Every trial learns from the series' beginning and forecasts from starts spread over its end; what the search has
    seen is no test, so keep another part for that.

    Args:
        model: is cloned, not changed; series: `(T, D)`.
        space: of each parameter, values or a distribution, as for scikit-learn's `ParameterSampler`; those of a
            `LocalForecaster`'s inner model are named `forecaster__ridge` and so on.
        steps, starts, dt, lyapunov_exponent, threshold: as in `HeldOut`; washout: also the warm-up of a forecast.
        n_train: steps learned from; None leaves starts · steps at the end.
        observe: is shown each trial when it is done.

    Raises:
        ConfigError: no trials, an empty space, parameters the model does not have or that do not fit.
        DataError: a series too short for the starts.

    >>> from opu_dfa.reservoir import ReservoirForecaster
    >>> series = np.sin(np.arange(500) / 5)[:, None]
    >>> found = search(ReservoirForecaster(n_units=30), series, {"ridge": [1e-6, 1e-2]}, 2, steps=20, starts=5)
    >>> len(found.trials), sorted(found.best.parameters)
    (2, ['ridge'])
    """
    unknown = set(space) - set(model.get_params())
    if n_trials < 1 or not space or unknown:
        seen = f"no parameter {sorted(unknown)[0]!r}" if unknown else f"{n_trials} trials of {len(space)} parameters"
        raise ConfigError(f"a search has at least one trial and parameters that the model has; got {seen}")
    first = len(series) - starts * steps if n_train is None else n_train
    end = HeldOut(series, first, starts, steps, washout, dt, lyapunov_exponent, threshold)
    own = {name: model.get_params()[name] for name in space}
    drawn = ParameterSampler(dict(space), n_trials - 1, random_state=random_state) if n_trials > 1 else []
    trials = []
    for parameters in [own, *drawn]:
        trials.append(_tried(clone(model).set_params(**parameters), parameters, end, washout))
        if observe is not None:
            observe(trials[-1])
    unit = "Lyapunov times" if lyapunov_exponent is not None else None
    return SearchResult(tuple(trials), f"median valid prediction [{unit}]" if unit else "-NRMSE")


def _tried(model: Forecaster, parameters: dict[str, Any], end: HeldOut, washout: int) -> Trial:
    before = time.process_time()
    timed = end.lyapunov_exponent is not None
    skill, failure = None, None
    try:
        model.fit(end.series[: end.first], washout=washout)
        skill = end.skill(list(end.outcomes(model, range(end.n_starts))))
        score = skill.time.median if timed else -skill.nrmse
    except (DivergedError, np.linalg.LinAlgError) as error:
        score, failure = (0.0 if timed else -np.inf), str(error)
    return Trial(parameters, score, skill, time.process_time() - before, failure)
