"""What a run of `opu-dfa defend` says: one table of all models, on the console and on top of `report.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from opu_dfa.defend.models import DEFENDED
from opu_dfa.defend.summary import counterpart
from opu_dfa.defense import report as evaluation
from opu_dfa.defense.outcome import Check, Report
from opu_dfa.training.checkpoint import write_atomically

Reports = Mapping[str, Sequence[Report]]


def print_summary(summary: Mapping[str, Any], reports: Reports, console: Console) -> None:
    """The table, the checks and the verdict."""
    cells = rows(reports, summary["clean_accuracy"])
    console.print(evaluation.console_table(_title(summary, reports), _headings(reports), cells))
    for line in (*_notes(reports), *_spread(summary), *_device(summary), *summary["verdict"]):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def write_report(folder: Path, summary: Mapping[str, Any], reports: Reports, checks: Sequence[Check]) -> None:
    """`report.md` with the table, the verdict, each evaluation and the checklist; `robustness.png`; `images/*.csv`.

    Raises:
        RunFolderError: a file cannot be written.
    """
    table = evaluation.markdown_table(_headings(reports), rows(reports, summary["clean_accuracy"]))
    texts = (*_notes(reports), *_spread(summary), *_device(summary), *summary["verdict"])
    paragraphs = [line for text in texts for line in (text, "")]
    ticked = [line for check in reports[DEFENDED][-1].checks for line in [f"- {evaluation.tick(check)}"]]
    head = [f"# {_title(summary, reports)}", "", f"{summary['description']}.", "", *table, "", *paragraphs]
    head += ["## Checks of the evaluation", "", *ticked, ""] if ticked else []
    head += ["![accuracy against eps](robustness.png)", "", "## Each model", "", ""]
    files = evaluation.rendered(reports, checks)
    files["report.md"] = "\n".join(head).encode() + files["report.md"]
    (folder / "images").mkdir(exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)


def rows(reports: Reports, clean: Mapping[str, float]) -> list[list[str]]:
    """Clean, each attack at the largest eps, the worst case by what its attacker knows, and by eps.

    Args:
        clean: accuracies over all images held out; other rows are of those attacked.
    """
    last = {name: series[-1] for name, series in reports.items()}
    defended = last[DEFENDED]
    lines = [["none (clean), all held out", "", *(f"{100 * clean[name]:.2f}" for name in last)]]
    lines += [["none (clean)", "", *(_number(report, report.clean_accuracy) for report in last.values())]]
    for outcome in defended.outcomes:
        cells = []
        for report in last.values():
            mine = counterpart(report, outcome)
            cells.append("" if mine is None else _number(report, report.accuracy[mine.name]))
        lines.append([outcome.name, outcome.threat.knowledge, *cells, f"{outcome.frames:,}"])
    for knowledge, left in defended.by_knowledge().items():
        cells = [_number(defended, left) if name == DEFENDED else "" for name in last]
        lines.append(["worst case per image", f"up to: {knowledge}", *cells])
    for number, report in enumerate(reports[DEFENDED]):
        cells = [_number(series[number], series[number].robust_accuracy) for series in reports.values()]
        lines.append([f"worst case per image, eps = {255 * report.eps:.4g}/255", "all", *cells])
    width = len(_headings(reports))
    return [line + [""] * (width - len(line)) for line in lines]


def _headings(reports: Reports) -> list[str]:
    return ["attack", "attacker", *(f"{name}, %" for name in reports), "frames"]


def _title(summary: Mapping[str, Any], reports: Reports) -> str:
    eps = 255 * reports[DEFENDED][-1].eps
    return f"{summary['task']}, head {summary['head']} trained by {summary['rule']}: accuracy at eps = {eps:.4g}/255"


def _notes(reports: Reports) -> list[str]:
    return [
        evaluation.caption(reports[DEFENDED][-1]) + " Models without a binarisation are attacked by their exact "
        "gradient in every row that asks for one."
    ]


def _spread(summary: Mapping[str, Any]) -> list[str]:
    """The further models, one line each."""
    return [
        f"{name}: clean {100 * series[-1]['clean_accuracy']:.1f} %, worst case "
        f"{100 * series[-1]['robust_accuracy']:.1f} % at eps = {255 * series[-1]['eps']:.4g}/255."
        for name, series in summary["models"].items()
        if name not in summary["scores"]
    ]


def _device(summary: Mapping[str, Any]) -> list[str]:
    """What the device spent; the table's frames are those of an attack on the defended model and of its judgement."""
    device = summary["device"]
    if not device:
        return []
    return [
        f"Device ({device['name']}): {device['frames']:,} frames, {device['training_frames']:,} of them in training, "
        f"the rest under attack; {device['seconds']:,.0f} s at its frame time, {device['joules'] / 1e3:,.1f} kJ at its "
        "power."
    ]


def _number(report: Report, accuracy: float) -> str:
    return f"{100 * accuracy:.1f} ± {100 * report.standard_error(accuracy):.1f}"
