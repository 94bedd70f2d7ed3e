"""`opu-dfa predict`: predict a learning curve, measure it, and leave a run folder with both."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from opu_dfa.config import parse
from opu_dfa.predict import curve
from opu_dfa.predict.curve import Recommendation, Scores
from opu_dfa.predict.kernel import DeviceKernel, device_kernel
from opu_dfa.predict.pool import Pool, find_pool
from opu_dfa.predict.report import figure, print_summary, write_report
from opu_dfa.predict.settings import PredictSettings
from opu_dfa.progress import Work
from opu_dfa.training.checkpoint import keep_config, write_atomically
from opu_dfa.training.metrics import continued
from opu_dfa.training.report import drawn

METRICS = "metrics.jsonl"
AGREE = 0.05  # relative difference that is agreement whatever the standard errors, of which three are
_ROUNDING = 1e-12
_QUANTITIES = tuple(field.name for field in fields(Scores))


def run_predict(config: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Predict, measure, and write what the run leaves; in the folder of the same run, measure what is missing.

    Raises:
        UserError: anything a user can mend (`opu_dfa.errors`).
        DeviceError: the device does not open, or fails.
    """
    files = {key: str(Path(str(config[key])).expanduser().absolute()) for key in ("x", "y") if config.get(key)}
    config = dict(config) | files | {"resume": None}
    chosen = parse(PredictSettings, config)
    keep_config(folder, config, "predict")
    with Work(console) as work:
        work.begin("the data and their covariances")
        pool = find_pool(chosen)
        work.say(pool.description)
        kernel = device_kernel(pool.patterns, chosen.opu.preset)
        began = time.perf_counter()
        advice = None
        if chosen.recommend:
            work.begin("theory: which ridge, how many components")
            advice = curve.recommended(pool, kernel, chosen)
        ridge = chosen.ridge if chosen.ridge is not None else _round(advice)
        work.begin(f"theory: the curve, {len(chosen.n)} points")
        sizes = sorted(set(chosen.n))
        predicted = curve.predicted(pool, kernel, chosen.loss, sizes, chosen.n_components, ridge)
        seconds = time.perf_counter() - began
        found = _measured(pool, chosen, ridge, sizes, folder, work)
        work.begin("the figure")
        summary = _summary(chosen, pool, kernel, ridge, advice, predicted, found, seconds)
        write_atomically(folder / "prediction.png", drawn(figure(summary), "png"))
        write_atomically(folder / "summary.json", json.dumps(summary, indent=2).encode())
        write_report(folder, summary)
    print_summary(summary, console)


def _measured(
    pool: Pool, chosen: PredictSettings, ridge: float, sizes: list[int], folder: Path, work: Work
) -> dict[int, list[Scores]]:
    """Scores of every medium at each n; those of the folder's records are not measured again."""
    records, file = continued(folder / METRICS)
    done = {(r["n"], r["medium"]): Scores(**{name: r[name] for name in _QUANTITIES}) for r in records}
    missing = [(n, medium) for n in sizes for medium in range(chosen.media) if (n, medium) not in done]
    work.begin(f"the simulated device: {chosen.media} media at each n", chosen.media * len(sizes), len(done))
    try:
        for n, medium in missing:
            scores = done[n, medium] = curve.measured(pool, chosen, ridge, n, medium)
            file.append({"n": n, "medium": medium, **asdict(scores)})
            work.advance()
    finally:
        file.close()
    return {n: [done[n, medium] for medium in range(chosen.media)] for n in sizes}


def _summary(
    chosen: PredictSettings,
    pool: Pool,
    kernel: DeviceKernel,
    ridge: float,
    advice: Recommendation | None,
    predicted: list[Scores],
    found: Mapping[int, list[Scores]],
    seconds: float,
) -> dict[str, Any]:
    points: list[dict[str, Any]] = [
        {
            "n": n,
            **{name: _over_media(getattr(theory, name), [getattr(s, name) for s in scores]) for name in _QUANTITIES},
        }
        for theory, (n, scores) in zip(predicted, found.items(), strict=True)
    ]
    last = points[-1]["loss"]
    return {
        "predict": chosen.images if chosen.x is None else Path(chosen.x).name,
        "description": pool.description,
        "preset": chosen.opu.preset,
        "n_components": chosen.n_components,
        "loss": chosen.loss,
        "loss_name": curve.NAMES[chosen.loss],
        "ridge": ridge,
        "noise": kernel.noise,
        "media": chosen.media,
        "draws": chosen.draws,
        "seed": chosen.seed,
        "points": points,
        "agree": {name: sum(point[name]["agrees"] for point in points) for name in _QUANTITIES},
        "recommendation": None if advice is None else asdict(advice),
        "theory_seconds": seconds,
        "scores": {"predicted": last["predicted"], "measured": last["measured"]},
        "score": f"{curve.NAMES[chosen.loss]} of {points[-1]['n']} rows",
        "best": "lowest",
    }


def compared(theory: float, mean: float, error: float) -> dict[str, Any]:
    """A prediction beside a mean and its standard error; they agree within three standard errors or 5 %."""
    apart = theory - mean
    return {
        "predicted": theory,
        "measured": mean,
        "standard_error": error,
        "z": apart / error if error > _ROUNDING else 0.0,
        "agrees": bool(abs(apart) <= max(3 * error, AGREE * abs(mean))),
    }


def _over_media(theory: float, values: list[float]) -> dict[str, Any]:
    return compared(theory, float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values))))


def _round(advice: Recommendation | None) -> float:
    """The ridge recommended, to two digits."""
    assert advice is not None  # the settings see to it
    return float(f"{advice.ridge:.2g}")
