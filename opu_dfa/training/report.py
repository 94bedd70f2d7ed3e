"""What a run leaves for people: a table on the console, figures, and one self-contained HTML page."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape as literal
from rich.table import Table

from opu_dfa.training.checkpoint import write_atomically
from opu_dfa.training.figures import alignment_figure, loss_figure

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .3rem .9rem; text-align: right }
th:first-child, td:first-child { text-align: left } thead { border-bottom: 2px solid #1b1f24 }
pre { background: #f4f5f7; padding: 1rem; white-space: pre-wrap } svg, img { max-width: 100%; height: auto }
mark { background: none; color: #8a6d00 } .big { font-size: 1.4rem }
"""


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """The comparison as a table, the recovery, what the device spent, and a sample."""
    table = Table(title=f"{summary['task']}: validation loss after {summary['steps']} steps")
    table.add_column()
    for method in summary["methods"]:
        table.add_column(summary["titles"][method], justify="right")
    for heading, row in _rows(summary):
        table.add_row(heading, *row)
    console.print(table)
    for line in _remarks(summary):
        console.print(line, highlight=False, soft_wrap=True)
    for method, result in summary["methods"].items():
        if method != "frozen" and "sample" in result:
            sample = result["sample"]
            console.print(f"\n[bold]{summary['titles'][method]} continues[/bold]", highlight=False)
            console.print(
                f"[dim]{literal(sample['prompt'])}[/dim]{literal(sample['continuation'])}",
                highlight=False,
                soft_wrap=True,
            )


def write_report(folder: Path, summary: dict[str, Any], records: list[dict[str, Any]]) -> None:
    """Write `loss.png`, `alignment.png` and `report.html` into a run folder."""
    pictures: list[tuple[str, Figure]] = [
        ("loss", loss_figure(records, summary["titles"], summary["unit"])),
    ]
    alignment = alignment_figure(records)
    if alignment is not None:
        pictures.append(("alignment", alignment))
    for name, figure in pictures:
        write_atomically(folder / f"{name}.png", drawn(figure, "png"))
    samples = {method: folder / f"{method}-sample.png" for method in summary["methods"]}
    shown = {method: path.read_bytes() for method, path in samples.items() if path.exists()}
    write_atomically(folder / "report.html", _page(summary, [figure for _, figure in pictures], shown).encode())


def _rows(summary: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """What is reported, line by line: a heading, and the value of each method."""
    results = list(summary["methods"].values())
    rows = [(summary["unit"], [f"{r['val_loss']:.3f}" for r in results])]
    for name in results[0]:
        if name.startswith("val_") and name != "val_loss":
            rows.append((name.removeprefix("val_"), [f"{r[name]:.3f}" for r in results]))
    for name in results[0].get("test", {}):
        rows.append((f"test {name}", [f"{r['test'][name]:.3f}" for r in results]))
    rows.append(("learning rate", [f"{r['learning_rate']:g}" for r in results]))
    rows.append((f"{summary['item']}/s", [f"{r['items_per_second']:,.0f}" for r in results]))
    rows.append(("CPU seconds", [f"{r['cpu_seconds']:,.0f}" for r in results]))
    return rows


def _remarks(summary: dict[str, Any]) -> list[str]:
    lines = []
    if summary["recovery"] is not None:
        lines.append(
            f"Recovery: {summary['recovery']:.3f} of what backprop gains over frozen blocks, "
            "(frozen - DFA) / (frozen - backprop)."
        )
    if summary["test_recovery"] is not None:
        lines.append(f"Recovery on the test set: {summary['test_recovery']:.3f}.")
    alignment = summary["methods"].get("dfa", {}).get("alignment")
    if alignment:
        cosines = ", ".join(f"{block} {cosine:.2f}" for block, cosine in alignment.items())
        lines.append(f"Gradient alignment with backprop (cosine, last measured): {cosines}.")
    device = summary["device"]
    if device:
        lines.append(
            f"Device ({device['name']}): {device['frames']:,} frames ({device['probe_frames']:,} of them to measure "
            f"columns and alignment), {device['seconds']:,.0f} s at its frame time, {device['joules'] / 1e3:,.1f} kJ "
            "at its power. "
            f"The training's projections as dense float products: {device['dense_projection_flops']:.2e} FLOPs."
        )
    return lines


def _page(summary: dict[str, Any], figures: list[Figure], pictures: dict[str, bytes]) -> str:
    """The whole report as one page without outside references."""
    head = "<th></th>" + "".join(f"<th>{escape(summary['titles'][method])}</th>" for method in summary["methods"])
    body = "".join(
        f"<tr><td>{escape(heading)}</td>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>"
        for heading, row in _rows(summary)
    )
    remarks = "".join(f"<p>{escape(line)}</p>" for line in _remarks(summary))
    drawn = "".join(f"<figure>{_inline_svg(figure)}</figure>" for figure in figures)
    samples = "".join(
        f"<h3>{escape(summary['titles'][method])}</h3><pre><mark>{escape(result['sample']['prompt'])}</mark>"
        f"{escape(result['sample']['continuation'])}</pre>"
        for method, result in summary["methods"].items()
        if "sample" in result
    )
    if samples:
        samples = "<h2>Samples</h2><p>Each continues the held-out text (coloured), temperature 0.8.</p>" + samples
    for method, png in pictures.items():
        encoded = base64.b64encode(png).decode()
        title = escape(summary["titles"][method])
        samples += f"<h3>{title}</h3><img alt='{title}' src='data:image/png;base64,{encoded}'>"
    title = f"{escape(summary['task'])}: direct feedback alignment and its controls"
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p>Seed {summary['seed']}, {summary['steps']} steps of "
        f"{summary['items_per_step']:,} {summary['item']} for every method. Lower loss is better.</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{remarks}{drawn}"
        f"{samples}</html>\n"
    )


def drawn(figure: Figure, kind: str) -> bytes:
    """A figure as the bytes of a file of a kind, png or svg."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=150)
    return buffer.getvalue()


def _inline_svg(figure: Figure) -> str:
    svg = drawn(figure, "svg").decode()
    return svg[svg.index("<svg") :]
