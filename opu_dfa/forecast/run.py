"""`opu-dfa forecast`: the models learn a series, continue it from many starts, and leave a run folder."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from hardware import OPU
from opu_dfa.config import parse
from opu_dfa.forecast import models
from opu_dfa.forecast.report import print_summary, write_report
from opu_dfa.forecast.settings import ForecastSettings
from opu_dfa.forecast.subject import Subject, absolute, find_subject
from opu_dfa.progress import Work
from opu_dfa.reservoir.evaluation import HeldOut, Outcome, Skill
from opu_dfa.reservoir.figures import error_figure, forecast_figure, statistics_figure
from opu_dfa.reservoir.forecaster import Forecaster
from opu_dfa.reservoir.search import Trial, search
from opu_dfa.training.checkpoint import cannot_write, keep_config, write_atomically
from opu_dfa.training.metrics import continued
from opu_dfa.training.report import drawn

METRICS, SEARCH = "metrics.jsonl", "search.json"
_AT_ONCE = 10  # starts: a batch is faster than one by one, and an interruption loses no more than these


def run_forecast(config: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Fit, forecast, and write what the run leaves; in the folder of the same run, continue it.

    A run is continued by fitting again from its seed and forecasting from the starts that are missing.

    Raises:
        UserError: anything a user can mend (`opu_dfa.errors`).
        DeviceError: the device does not open, or fails.
    """
    config = dict(config) | {"series": absolute(config.get("series")), "resume": None}
    chosen = parse(ForecastSettings, config)
    records = _Records(folder, config)
    try:
        with Work(console) as work:
            work.begin("the series" if chosen.series else "the system's series and its Lyapunov exponent")
            subject = find_subject(chosen)
            end = subject.end(chosen)
            work.say(_described(subject, chosen))
            with models.device(chosen, subject.series.shape[1]) as opu:
                chosen, found = _searched(chosen, subject, opu, folder, work)
                fitted = {
                    name: _tested(name, chosen, subject, end, opu, records, work) for name in models.titles(chosen)
                }
                work.begin("the figures")
                start = _typical(next(iter(fitted.values())).outcomes)
                steps = max(chosen.free_run, end.steps)
                runs = {name: end.forecast(each.model, [start], steps)[0] for name, each in fitted.items()}
                summary = _summary(chosen, subject, end, fitted, opu)
        if found is not None:
            summary["search"] = found
        _figures(folder, chosen, subject, end, fitted, start, runs)
        for name, each in fitted.items():
            _save(each.model, folder / f"{name}.safetensors")
        write_atomically(folder / "summary.json", json.dumps(summary, indent=2).encode())
        write_report(folder, summary)
    finally:
        records.close()
    print_summary(summary, console)


class _Records:
    """`metrics.jsonl` of a folder, from where it ends if the run has been there before: a record a start and model."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        keep_config(folder, config, "forecast")
        self.seen, self._file = continued(folder / METRICS)

    def outcomes(self, model: str) -> dict[int, Outcome]:
        """The starts that a model is through with."""
        mine = [r for r in self.seen if r["model"] == model]
        return {r["start"]: Outcome(r["start"], r["valid_time"], tuple(r["errors"]), r["nrmse"]) for r in mine}

    def add(self, model: str, outcome: Outcome, position: int) -> None:
        record = {"model": model, "position": position, **asdict(outcome)}
        self.seen.append(record)
        self._file.append(record)

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class _Tested:
    """A model with what it came to; CPU seconds of `fit` and of one step of one forecast."""

    model: Forecaster
    skill: Skill
    outcomes: list[Outcome]
    fit_seconds: float
    step_seconds: float | None


def _tested(
    name: str, chosen: ForecastSettings, subject: Subject, end: HeldOut, opu: OPU | None, records: _Records, work: Work
) -> _Tested:
    """Fit one model and forecast from the starts that are not recorded yet."""
    title = models.titles(chosen)[name]
    first = 0
    if name == "kernel":
        model = models.kernel(chosen)
        first = max(subject.n_train - (chosen.kernel_train_steps or subject.n_train), 0)
    else:
        model = models.reservoir(chosen, opu)
    work.begin(f"{title}: learning from {subject.n_train - first:,} steps")
    before = time.process_time()
    model.fit(subject.series[first : subject.n_train], washout=chosen.washout)
    fit_seconds = time.process_time() - before
    done = records.outcomes(name)
    missing = [start for start in range(end.n_starts) if start not in done]
    work.begin(f"{title}: {end.n_starts} forecasts of {end.steps:,} steps", end.n_starts, len(done))
    before = time.process_time()
    for outcome in end.outcomes(model, missing, _AT_ONCE):
        records.add(name, outcome, int(end.positions[outcome.start]))
        done[outcome.start] = outcome
        work.advance()
    spent = time.process_time() - before
    outcomes = [done[start] for start in range(end.n_starts)]
    per_step = spent / (len(missing) * (end.steps + end.warmup)) if missing else None
    return _Tested(model, end.skill(outcomes), outcomes, fit_seconds, per_step)


def _searched(
    chosen: ForecastSettings, subject: Subject, opu: OPU | None, folder: Path, work: Work
) -> tuple[ForecastSettings, dict[str, Any] | None]:
    """The settings with the parameters a search found best, and its record; a finished one is not redone."""
    if not chosen.search:
        return chosen, None
    path = folder / SEARCH
    if path.is_file():
        found = json.loads(path.read_text())
    else:
        work.begin(f"a search of {chosen.search} trials", chosen.search)

        def observe(trial: Trial) -> None:
            work.advance()
            shown = ", ".join(f"{k.removeprefix('forecaster__')}={_short(v)}" for k, v in trial.parameters.items())
            work.say(f"{trial.score:8.3f}  {shown}" + ("  diverged" if trial.failure else ""))

        result = search(
            models.reservoir(chosen, opu),
            subject.series[: subject.n_train + subject.validated],
            models.space(chosen),
            chosen.search,
            steps=chosen.steps,
            starts=chosen.search_starts,
            n_train=subject.n_train,
            washout=chosen.washout,
            dt=subject.dt,
            lyapunov_exponent=subject.lyapunov_exponent,
            threshold=chosen.threshold,
            random_state=chosen.seed % 2**32,
            observe=observe,
        )
        best = {name.removeprefix("forecaster__"): value for name, value in result.best.parameters.items()}
        found = _plain({"measure": result.measure, "best": best, "score": result.best.score, "trials": result.table()})
        write_atomically(path, json.dumps(found, indent=2).encode())
        write_atomically(folder / "search.png", drawn(result.figure(), "png"))
    return replace(chosen, **found["best"]), found


def _typical(outcomes: list[Outcome]) -> int:
    """The start whose forecast was of median length."""
    return sorted(outcomes, key=lambda outcome: outcome.valid_time)[(len(outcomes) - 1) // 2].start


def _figures(
    folder: Path,
    chosen: ForecastSettings,
    subject: Subject,
    end: HeldOut,
    fitted: Mapping[str, _Tested],
    start: int,
    runs: Mapping[str, np.ndarray],
) -> None:
    """`forecast.png`, `errors.png` and `spectrum.png`, from one start and its long continuation by each model."""
    titles = models.titles(chosen)
    free = {titles[name]: runs[name] for name in fitted}
    shown = {title: run[: end.steps] for title, run in free.items()}
    valid = {titles[name]: each.outcomes[start].valid_time for name, each in fitted.items()}
    skills = {titles[name]: each.skill for name, each in fitted.items()}
    figures = {
        "forecast": forecast_figure(end.truth([start])[0], shown, valid, end.step_time, subject.unit),
        "errors": error_figure(skills, end.step_time, subject.unit, end.threshold),
    }
    if chosen.free_run:
        figures["spectrum"] = statistics_figure(subject.series, free, subject.dt)
    for name, figure in figures.items():
        write_atomically(folder / f"{name}.png", drawn(figure, "png"))


def _summary(
    chosen: ForecastSettings, subject: Subject, end: HeldOut, fitted: Mapping[str, _Tested], opu: OPU | None
) -> dict[str, Any]:
    titles = models.titles(chosen)
    timed = subject.lyapunov_exponent is not None
    return {
        "forecast": subject.name,
        "description": _described(subject, chosen),
        "seed": chosen.seed,
        "unit": subject.unit,
        "threshold": end.threshold,
        "steps": end.steps,
        "length": end.steps * end.step_time,
        "lyapunov_exponent": {"value": subject.lyapunov_exponent, "source": subject.exponent_source},
        "models": {
            name: {
                "title": titles[name],
                "one_step_nrmse": each.skill.one_step,
                "nrmse": each.skill.nrmse,
                "nrmse_by_horizon": each.skill.by_horizon,
                "valid_prediction_time": asdict(each.skill.time),
                "ran_away": each.skill.ran_away,
                "cpu_seconds": {"fit": each.fit_seconds, "forecast_step": each.step_seconds},
            }
            for name, each in fitted.items()
        },
        "device": None if opu is None else {"name": opu.identity, **asdict(opu.usage)},
        "search": None,
        "scores": {name: each.skill.time.median if timed else each.skill.nrmse for name, each in fitted.items()},
        "score": f"median valid prediction time [{subject.unit}]" if timed else "NRMSE",
        "best": "highest" if timed else "lowest",
    }


def _described(subject: Subject, chosen: ForecastSettings) -> str:
    channels = subject.series.shape[1]
    exponent = ""
    if subject.lyapunov_exponent is not None:
        steps = 1 / (subject.dt * subject.lyapunov_exponent)
        exponent = (
            f"; largest Lyapunov exponent {subject.lyapunov_exponent:.4g} ({subject.exponent_source}), "
            f"a Lyapunov time is {steps:.0f} steps"
        )
    return (
        f"{subject.name}: {channels} channel{'s' * (channels > 1)}, {subject.n_train:,} steps to learn from, "
        f"{chosen.starts} forecasts of {chosen.steps:,} steps after them{exponent}"
    )


def _save(model: Forecaster, path: Path) -> None:
    try:
        model.save(path)
    except OSError as error:
        raise cannot_write(path, error) from error


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """NumPy's numbers as JSON's; what is not finite as null."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
