"""`opu-dfa predict task=dfa`: predict the course of optical DFA, train on the simulated device, and leave both."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from opu_dfa.config import parse
from opu_dfa.predict.dfa_settings import DFASettings
from opu_dfa.predict.optical_training import Medium, device_snr, predicted, tolerated
from opu_dfa.predict.report import page
from opu_dfa.predict.run import METRICS, compared
from opu_dfa.progress import Work
from opu_dfa.training.checkpoint import keep_config, write_atomically
from opu_dfa.training.metrics import continued
from opu_dfa.training.report import drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run_dfa(config: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Predict, train, and write what the run leaves; in the folder of the same run, train what is missing.

    Raises:
        UserError: anything a user can mend (`opu_dfa.errors`).
        DeviceError: the device does not open, or fails.
    """
    config = dict(config) | {"resume": None}
    chosen = parse(DFASettings, config)
    keep_config(folder, config, "predict")
    with Work(console) as work:
        work.begin("the device's fidelity")
        snr = device_snr(chosen)
        work.begin("the devices' matrices")
        media = [Medium(chosen, each) for each in range(chosen.media)]
        began = time.perf_counter()
        work.begin("theory: the equations of motion", len(media))
        curves = []
        for medium in media:
            curves.append(predicted(chosen, medium.matrix, snr))
            work.advance()
        work.begin("theory: how much noise it tolerates")
        least, sweep = tolerated(chosen, media[0].matrix)
        seconds = time.perf_counter() - began
        risks = _measured(chosen, media, folder, work)
        work.begin("the figure")
        summary = _summary(chosen, snr, np.stack([c.risk for c in curves]), risks, least, sweep, seconds)
        summary["alignment"] = np.mean([c.alignment for c in curves], axis=0).tolist()
        write_atomically(folder / "prediction.png", drawn(figure(summary), "png"))
        write_atomically(folder / "summary.json", json.dumps(summary, indent=2).encode())
        write_atomically(
            folder / "report.html",
            page(folder, _title(summary), f"Seed {chosen.seed}.", _headings(), _rows(summary), _remarks(summary)),
        )
    table = Table(title=_title(summary))
    for heading in _headings():
        table.add_column(heading, justify="right")
    for row in _rows(summary):
        table.add_row(*row)
    console.print(table)
    for line in _remarks(summary):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _measured(chosen: DFASettings, media: list[Medium], folder: Path, work: Work) -> np.ndarray:
    """Risks `(media, times, runs)`; media of the folder's records are not trained again."""
    records, file = continued(folder / METRICS)
    done = {r["medium"]: r["risk"] for r in records}
    what = f"training {chosen.runs} networks on each of {len(media)} simulated devices"
    work.begin(what, len(media) * len(chosen.times), len(done) * len(chosen.times))
    try:
        for index, medium in enumerate(media):
            if index not in done:
                done[index] = medium.train(work.advance).tolist()
                file.append({"medium": index, "times": chosen.times, "risk": done[index]})
    finally:
        file.close()
    return np.array([done[index] for index in range(len(media))])


def _summary(
    chosen: DFASettings,
    snr: float,
    theory: np.ndarray,
    risks: np.ndarray,
    least: float,
    sweep: np.ndarray,
    seconds: float,
) -> dict[str, Any]:
    means = risks.mean(axis=(0, 2))
    # Media differ; what is uncertain is the mean over trainings on each.
    errors = np.sqrt((risks.var(axis=2, ddof=1) / risks.shape[2]).mean(axis=0) / len(risks))
    points = [
        {"time": t, **compared(float(expected), float(mean), float(error))}
        for t, expected, mean, error in zip(chosen.times, theory.mean(axis=0), means, errors, strict=True)
    ]
    return {
        "predict": "dfa",
        "preset": chosen.opu.preset,
        "encoding": chosen.encoding,
        "sizes": {"hidden": chosen.hidden, "teacher": chosen.teacher, "outputs": chosen.outputs, "N": chosen.n_inputs},
        "rate": chosen.rate,
        "snr": _json(snr),
        "tolerated_snr": _json(least),
        "sweep": [{"snr": float(a), "risk": float(b)} for a, b in sweep],
        "media": chosen.media,
        "runs": chosen.runs,
        "points": points,
        "agree": sum(point["agrees"] for point in points),
        "theory_seconds": seconds,
        "scores": {"predicted": points[-1]["predicted"], "measured": points[-1]["measured"]},
        "score": f"risk at t = {chosen.times[-1]:g}",
        "best": "lowest",
    }


def figure(summary: dict[str, Any]) -> Figure:
    """Risk against time, predicted and measured, and theory's last risk against the device's SNR."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8.4, 3.8), layout="constrained")
    left, right = drawing.subplots(1, 2)
    points = summary["points"]
    times = [p["time"] for p in points]
    left.plot(times, [p["predicted"] for p in points], color="#30638e", label="predicted")
    errors = [p["standard_error"] for p in points]
    marks = {"fmt": "o", "ms": 4, "capsize": 3, "color": "#d1495b", "label": "trained on the simulated device"}
    left.errorbar(times, [p["measured"] for p in points], errors, **marks)
    aligned = left.twinx()
    aligned.plot(times, summary["alignment"], color="0.6", ls="--")
    aligned.set(ylabel="cos(Vᵀ, B), dashed", ylim=(0, 1.02))
    left.set(xlabel="t, inputs seen / N", ylabel="risk", yscale="log")
    left.set_xscale("symlog", linthresh=1)
    left.set_xlim(0, None)
    left.legend(frameon=False, fontsize="small")
    right.plot([p["snr"] for p in summary["sweep"]], [p["risk"] for p in summary["sweep"]], color="#30638e")
    if isinstance(summary["snr"], float):
        right.axvline(summary["snr"], color="#d1495b", label="this device")
        right.legend(frameon=False, fontsize="small")
    right.set(
        xscale="log",
        yscale="log",
        xlabel="SNR of a projection",
        ylabel=f"risk at t = {times[-1]:g}, first device, predicted",
    )
    for axes in (left, right):
        axes.spines["top"].set_visible(False)
    return drawing


def _title(summary: dict[str, Any]) -> str:
    sizes = summary["sizes"]
    return (
        f"Optical DFA on {summary['preset']}: {sizes['hidden']} hidden units learn {sizes['teacher']}, "
        f"{sizes['outputs']} outputs, {summary['encoding']} error, N = {sizes['N']}"
    )


def _headings() -> list[str]:
    return ["t", "risk\ntheory", "\ndevice", "\nz", "cos(Vᵀ, B)\ntheory"]


def _rows(summary: dict[str, Any]) -> list[list[str]]:
    return [
        [
            f"{p['time']:g}",
            f"{p['predicted']:.5f}",
            f"{p['measured']:.5f}({1e5 * p['standard_error']:.0f})",
            f"{p['z']:+.1f}" + ("" if p["agrees"] else " !"),
            f"{aligned:.3f}",
        ]
        for p, aligned in zip(summary["points"], summary["alignment"], strict=True)
    ]


def _remarks(summary: dict[str, Any]) -> list[str]:
    last, least = summary["points"][-1]["time"], summary["tolerated_snr"]
    if least == 0.0:
        tolerance = f"Any of the SNRs tried, from {summary['sweep'][0]['snr']:.2g}, costs less than 10 % of the risk"
    elif isinstance(least, str):
        tolerance = f"Even an SNR of {summary['sweep'][-1]['snr']:.2g} costs more than 10 % of the risk"
    else:
        tolerance = f"An SNR of {least:.3g} costs 10 % of the risk"
    snr = summary["snr"]
    return [
        f"Agreement within three standard errors over {summary['runs']} trainings on each of {summary['media']} "
        f"devices, or 5 %: {summary['agree']}/{len(summary['points'])}; ! marks the others. In brackets: standard "
        "errors, of the last digits.",
        "Theory is of infinitely many inputs; it knows the device's matrix and its SNR, "
        + (f"{snr:.4g}." if isinstance(snr, float) else "infinite."),
        f"{tolerance} at t = {last:g}, by theory of the first device. Noise adds to the diffusion of weights alone, in "
        "proportion to the rate: a smaller rate tolerates more.",
    ]


def _json(value: float) -> float | str:
    return value if math.isfinite(value) else "inf"
