"""What is forecast: a chaotic system's series, or a real one, and its parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from opu_dfa.config import parse
from opu_dfa.errors import ConfigError, DataError
from opu_dfa.forecast.settings import ForecastSettings
from opu_dfa.reservoir import SERIES, SYSTEMS, load_series
from opu_dfa.reservoir.evaluation import HeldOut
from opu_dfa.reservoir.systems import System

Array = np.ndarray
_EXPONENT_STEPS = 100_000  # that neighbours are followed; exponents from other states then agree to 2 % or so


@dataclass(frozen=True)
class Subject:
    """A series `(T, D)`, of which the first `n_train` steps are learned from.

    Attributes:
        name: for people; dt: between steps, 1 where a series' unit of time is not known.
        lyapunov_exponent: per unit of time, or None; exponent_source: "computed", "configured" or None.
        validated: steps behind the training part that a search looks at; the test comes after them.
    """

    name: str
    series: Array
    n_train: int
    dt: float = 1.0
    lyapunov_exponent: float | None = None
    exponent_source: str | None = None
    validated: int = 0

    @property
    def unit(self) -> str:
        """The unit of prediction times."""
        return "steps" if self.lyapunov_exponent is None else "Lyapunov times"

    def end(self, chosen: ForecastSettings) -> HeldOut:
        """The test: forecasts of what no model and no search has seen."""
        return HeldOut(
            self.series,
            self.n_train + self.validated,
            chosen.starts,
            chosen.steps,
            chosen.washout,
            self.dt,
            self.lyapunov_exponent,
            chosen.threshold,
        )


def find_subject(chosen: ForecastSettings) -> Subject:
    """Load the series of the settings, or integrate their system, whose exponent is computed where none is given.

    Raises:
        ConfigError: an unknown system, or parameters it does not have.
        DataError: a series that cannot be read, or is too short.
    """
    return _real(chosen, chosen.series) if chosen.series is not None else _chaotic(chosen)


def absolute(series: str | None) -> str | None:
    """A file's path from anywhere, as a run may be resumed from another folder."""
    path = Path(series or "").expanduser()
    return str(path.absolute()) if series is not None and series not in SERIES and path.exists() else series


def _real(chosen: ForecastSettings, name: str) -> Subject:
    series = load_series(name, chosen.columns)
    n_train = chosen.train_steps or 3 * len(series) // 4
    if n_train <= chosen.washout + 1 or len(series) - n_train < chosen.steps:
        raise DataError(
            f"{name} has {len(series)} steps: too short to learn from train_steps={n_train} of which washout="
            f"{chosen.washout} are passed over, and to forecast steps={chosen.steps} after them. Choose shorter ones, "
            "or a longer series."
        )
    title = name if name in SERIES else Path(name).name
    return _split(Subject(title, series, n_train, exponent_source=None), chosen)


def _chaotic(chosen: ForecastSettings) -> Subject:
    system, name = _system(chosen.system or {})
    if chosen.train_steps is None:
        raise ConfigError("train_steps=null is for a series; of a system, say how many steps to learn from")
    searched = chosen.search_starts if chosen.search else 0
    total = chosen.train_steps + (searched + chosen.starts) * chosen.steps
    series = system.series(total, random_state=chosen.seed)
    if not np.isfinite(series).all():
        raise ConfigError(f"the system {name} of these parameters diverges: {chosen.system}")
    exponent = chosen.lyapunov_exponent or system.lyapunov_exponent(_EXPONENT_STEPS)
    if exponent <= 0:
        raise ConfigError(
            f"the system {name} of these parameters is not chaotic (largest Lyapunov exponent {exponent:.2g}), so "
            "there are no Lyapunov times to count: change the parameters, or forecast it as a series=FILE."
        )
    source = "configured" if chosen.lyapunov_exponent else "computed"
    return Subject(name, series, chosen.train_steps, system.dt, exponent, source, searched * chosen.steps)


def _split(subject: Subject, chosen: ForecastSettings) -> Subject:
    """Of a real series, a search validates on the last quarter of the training part; nothing is learned from that."""
    if not chosen.search:
        return subject
    kept = max(subject.n_train // 4, chosen.steps)
    return replace(subject, n_train=subject.n_train - kept, validated=kept)


def _system(section: dict[str, Any]) -> tuple[System, str]:
    parameters = dict(section)
    name = str(parameters.pop("name", None))
    if name not in SYSTEMS:
        raise ConfigError(f"there is no system.name={name}; choose one of {', '.join(SYSTEMS)}")
    return parse(SYSTEMS[name], parameters, "system"), name
