"""What a prediction's run says: a table on the console, a figure, and one self-contained HTML page."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from opu_dfa.training.checkpoint import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .3rem .9rem; text-align: right }
thead { border-bottom: 2px solid #1b1f24 } img { max-width: 100%; height: auto }
"""
_SHOWN = 7  # columns that a terminal has room for: n, and three each of loss and error


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """The curve as a table, without the training loss, and what is to be said about it."""
    table = Table(title=_title(summary))
    for heading in _headings(summary)[:_SHOWN]:
        table.add_column(heading, justify="right")
    for row in _rows(summary):
        table.add_row(*row[:_SHOWN])
    console.print(table)
    for line in _remarks(summary):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def write_report(folder: Path, summary: dict[str, Any]) -> None:
    """`report.html` of a run folder, from its summary and `prediction.png`.

    Raises:
        RunFolderError: it cannot be written.
    """
    text = page(
        folder,
        _title(summary),
        f"{summary['description']}. Seed {summary['seed']}.",
        _headings(summary),
        _rows(summary),
        _remarks(summary),
    )
    write_atomically(folder / "report.html", text)


def page(
    folder: Path, title: str, description: str, headings: list[str], rows: list[list[str]], remarks: list[str]
) -> bytes:
    """One self-contained HTML page, with the folder's `prediction.png`."""
    head = "".join(f"<th>{escape(each)}</th>" for each in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    picture = base64.b64encode((folder / "prediction.png").read_bytes()).decode()
    text = (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{escape(title)}</h1><p>{escape(description)}</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        + "".join(f"<p>{escape(line)}</p>" for line in remarks)
        + f"<img alt='prediction' src='data:image/png;base64,{picture}'></html>\n"
    )
    return text.encode()


def figure(summary: dict[str, Any]) -> Figure:
    """Loss and error against n: predictions as lines, means over media with one standard error as points."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8.4, 3.8), layout="constrained")
    n = [point["n"] for point in summary["points"]]
    for axes, (name, label) in zip(drawing.subplots(1, 2), _quantities(summary)[:2], strict=True):
        values = [point[name] for point in summary["points"]]
        axes.plot(n, [v["predicted"] for v in values], color="#30638e", label="predicted")
        errors = [v["standard_error"] for v in values]
        marks = {"fmt": "o", "ms": 4, "capsize": 3, "color": "#d1495b", "label": "simulated device"}
        axes.errorbar(n, [v["measured"] for v in values], errors, **marks)
        axes.set(xscale="log", xlabel="n, rows learned from", ylabel=f"{label}, new rows", ylim=(0, None))
        axes.set_xticks(n, [str(each) for each in n])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return drawing


def _title(summary: dict[str, Any]) -> str:
    return (
        f"{summary['predict']}: {summary['n_components']:,} components of {summary['preset']}, "
        f"{summary['loss']} loss, ridge {summary['ridge']:.3g}"
    )


def _quantities(summary: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("loss", summary["loss_name"]),
        ("error", "error"),
        ("training_loss", f"training {summary['loss_name']}"),
    ]


def _headings(summary: dict[str, Any]) -> list[str]:
    return ["n", *(each for _, label in _quantities(summary) for each in (f"{label}\ntheory", "\ndevice", "\nz"))]


def _rows(summary: dict[str, Any]) -> list[list[str]]:
    return [
        [str(point["n"]), *(cell for name, _ in _quantities(summary) for cell in _cells(point[name]))]
        for point in summary["points"]
    ]


def _cells(value: dict[str, Any]) -> tuple[str, str, str]:
    return (
        f"{value['predicted']:.4f}",
        f"{value['measured']:.4f}({1e4 * value['standard_error']:.0f})",
        f"{value['z']:+.1f}" + ("" if value["agrees"] else " !"),
    )


def _remarks(summary: dict[str, Any]) -> list[str]:
    n_points = len(summary["points"])
    agreed = ", ".join(f"{label} {summary['agree'][name]}/{n_points}" for name, label in _quantities(summary))
    lines = [
        f"Agreement within three standard errors over {summary['media']} media, or 5 %: {agreed}; ! marks the others. "
        "In brackets: standard errors, of the last digits. Error: fraction misclassified.",
        "Theory knows the data's inner products, their labels and the camera's numbers; no medium was drawn for it. "
        "It leaves out bad pixels, drift and speckle grains, and is some percent too low for few rows or components.",
    ]
    advice = summary["recommendation"]
    if advice:
        n, name = summary["points"][-1]["n"], summary["loss_name"]
        lines.append(
            f"Recommended for n = {n}: ridge {advice['ridge']:.2g} ({name} {advice['loss']:.4f}); of n_components from "
            f"{min(advice['tried'])} to {max(advice['tried'])}, {advice['n_components']} with ridge "
            f"{advice['ridge_of_components']:.2g} ({advice['loss_of_components']:.4f}) come within 5 % of the least."
            + (" More would do better still." if advice["n_components"] == max(advice["tried"]) else "")
        )
    return lines
