"""What a forecast's run says: a table on the console, and one self-contained HTML page."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from opu_dfa.training.checkpoint import write_atomically

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .3rem .9rem; text-align: right }
th:first-child, td:first-child { text-align: left } thead { border-bottom: 2px solid #1b1f24 }
img { max-width: 100%; height: auto }
"""
_CAPTIONS = {
    "forecast": "One forecast, of the first model's median length. The dashed line is where it ceases to be valid.",
    "errors": "Error of the forecasts from all starts, by how far ahead they look.",
    "spectrum": "Long after it has left the truth: does the model go on like it?",
    "search": "The trials of the search on validation starts; the best is circled.",
}


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """The models as a table, and what is to be said about it."""
    table = Table(title=f"{summary['forecast']}: prediction times in {summary['unit']}, with 95 % intervals")
    table.add_column()
    for each in summary["models"].values():
        table.add_column(each["title"], justify="right")
    for row in _rows(summary):
        table.add_row(*row)
    console.print(table)
    for line in _remarks(summary):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def write_report(folder: Path, summary: dict[str, Any]) -> None:
    """`report.html` of a run folder, from its summary and its pictures.

    Raises:
        RunFolderError: it cannot be written.
    """
    head = "".join(f"<th>{escape(each['title'])}</th>" for each in summary["models"].values())
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in _rows(summary))
    title = f"{escape(summary['forecast'])}: forecasts"
    page = (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p>{escape(summary['description'])}. Seed {summary['seed']}. Prediction times in "
        f"{escape(summary['unit'])}, with 95 % intervals.</p>"
        f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
        + "".join(f"<p>{escape(line)}</p>" for line in _remarks(summary))
        + "".join(_picture(folder / f"{name}.png", caption) for name, caption in _CAPTIONS.items())
        + "</html>\n"
    )
    write_atomically(folder / "report.html", page.encode())


def _rows(summary: dict[str, Any]) -> list[list[str]]:
    """What is reported, line by line: a heading, and the value of each model."""
    models = list(summary["models"].values())
    times = [each["valid_prediction_time"] for each in models]
    steps = [each["cpu_seconds"]["forecast_step"] for each in models]
    return [
        ["valid prediction, mean", *(_interval(t["mean"], t["mean_interval"]) for t in times)],
        ["median", *(_interval(t["median"], t["median_interval"]) for t in times)],
        ["NRMSE one step ahead", *(f"{each['one_step_nrmse']:.2e}" for each in models)],
        [
            f"over {summary['steps']:,} steps",
            *(f"{n:.3f}" if (n := each["nrmse"]) < 100 else "> 100" for each in models),
        ],
        ["CPU seconds to fit", *(f"{each['cpu_seconds']['fit']:.1f}" for each in models)],
        ["CPU ms a step", *("" if step is None else f"{1e3 * step:.3f}" for step in steps)],
    ]


def _interval(value: float, ends: tuple[float, float]) -> str:
    return f"{value:.2f} [{ends[0]:.2f}, {ends[1]:.2f}]"


def _remarks(summary: dict[str, Any]) -> list[str]:
    lines = []
    for each in summary["models"].values():
        time = each["valid_prediction_time"]
        if time["capped"]:
            lines.append(
                f"{time['capped']} of {time['n_starts']} forecasts by the {each['title']} were valid to their end, at "
                f"{summary['length']:.1f} {summary['unit']}: it reaches farther than shown. Raise steps."
            )
        if each["ran_away"]:
            lines.append(
                f"{each['ran_away']} of {time['n_starts']} forecasts by the {each['title']} ran away. Raise the ridge, "
                "lower the spectral_radius, or raise train_steps."
            )
    if summary["search"]:
        found = summary["search"]
        shown = " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in found["best"].items())
        lines.append(
            f"Best of {len(found['trials'])} trials, {found['measure']} {found['score']:.3g} on validation starts: "
            f"{shown}. The table is of other starts."
        )
    device = summary["device"]
    if device:
        lines.append(
            f"Device ({device['name']}): {device['frames']:,} frames, {device['seconds']:,.0f} s at its frame time, "
            f"{device['joules'] / 1e3:,.1f} kJ at its power."
        )
    return lines


def _picture(path: Path, caption: str) -> str:
    if not path.is_file():
        return ""
    encoded = base64.b64encode(path.read_bytes()).decode()
    image = f"<img alt='{path.stem}' src='data:image/png;base64,{encoded}'>"
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
