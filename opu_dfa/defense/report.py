"""What an evaluation says: tables, the robustness curve, one line an image, and which of its checks hold."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from opu_dfa.defense.outcome import Check, Outcome, Report
from opu_dfa.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADINGS = ("attack", "attacker", "accuracy %", "± s.e.", "queries an image", "seconds")
_COLOURS = ("#30638e", "#d1495b", "#8d99ae", "#edae49")


def rows(report: Report) -> list[list[str]]:
    """The table line by line: clean, each attack, each threat model's worst case, the worst case over all attacks."""
    accuracy = report.accuracy
    lines = [["none (clean)", "", *_number(report, report.clean_accuracy), "", ""]]
    for outcome in report.outcomes:
        each = outcome.queries / len(report.labels)
        numbers = _number(report, accuracy[outcome.name])
        lines.append([outcome.name, outcome.threat.knowledge, *numbers, f"{each:,.0f}", f"{outcome.seconds:.1f}"])
    for knowledge, left in report.by_knowledge().items():
        lines.append(["worst case per image", f"up to: {knowledge}", *_number(report, left), "", ""])
    return [*lines, ["worst case per image", "all", *_number(report, report.robust_accuracy), "", ""]]


def print_report(report: Report, console: Console, title: str = "") -> None:
    """The table, what it is of, and the checks of the evaluation."""
    console.print(console_table(title, HEADINGS, rows(report)))
    for line in (caption(report), *map(tick, report.checks)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def markdown(report: Report, title: str = "") -> str:
    """The same as Markdown."""
    lines = [f"### {title}", ""] if title else []
    lines += [*markdown_table(HEADINGS, rows(report)), "", caption(report), ""]
    return "\n".join([*lines, *(f"- {tick(check)}" for check in report.checks)]).rstrip() + "\n"


def console_table(title: str, headings: Sequence[str], cells: Sequence[Sequence[str]]) -> Table:
    """Two columns of words, then columns of numbers."""
    table = Table(title=escape(title) or None)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < 2 else "right")
    for row in cells:
        table.add_row(*map(escape, row))
    return table


def markdown_table(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """The same as lines of Markdown."""
    align = "|" + "|".join("---" if number < 2 else "---:" for number in range(len(headings))) + "|"
    return [_line(headings), align, *map(_line, cells)]


def caption(report: Report) -> str:
    """Threat model, images, how a noisy answer counts."""
    measured = (
        f"an image counts as broken when a majority of {report.repeats} fresh measurements is wrong"
        if report.repeats > 1
        else "the model's answers do not vary"
    )
    return (
        f"L∞, eps = {255 * report.eps:g}/255 of pixels in [0, 1], untargeted; {len(report.labels)} images, "
        f"{report.n_classes} classes, seed {report.seed}; {measured}. Standard errors are of the draw of images."
    )


def tick(check: Check) -> str:
    """One line: [x] holds, [!] fails, [ ] was not run."""
    if check.holds is None:
        return f"[ ] {check.name}: not run" + (f" in full ({check.detail})" if check.detail else "")
    return f"[x] {check.name}: {check.detail}" if check.holds else f"[!] {check.name}: FAILS: {check.detail}"


def curve(reports: Mapping[str, Sequence[Report]]) -> Figure:
    """Worst-case accuracy against eps in /255 with standard errors, a line a model; dotted, its single attacks.

    Args:
        reports: of each model, by its title, at ascending eps; eps = 0 is the clean accuracy.

    Raises:
        DataError: no reports.
    """
    from matplotlib.figure import Figure

    if not reports or not all(reports.values()):
        raise DataError("a robustness curve takes at least one report of every model")
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for number, (title, series) in enumerate(reports.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        eps = [0.0, *(255 * report.eps for report in series)]
        left = [series[0].clean_accuracy, *(report.robust_accuracy for report in series)]
        errors = [series[0].standard_error(value) for value in left]
        for name in series[0].accuracy:
            single = [report.accuracy.get(name, float("nan")) for report in series]
            axes.plot(eps[1:], single, ":", color=colour, lw=0.7, alpha=0.6)
        axes.errorbar(eps, left, yerr=errors, fmt="o-", color=colour, ms=4, capsize=2, label=title)
    axes.axhline(1 / next(iter(reports.values()))[0].n_classes, color="0.6", lw=0.8, label="chance")
    axes.set(xlabel="eps [1/255 of the range of a pixel]", ylabel="accuracy, worst case per image", ylim=(0, 1))
    axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def query_curve(reports: Mapping[str, Sequence[Report]]) -> Figure:
    """Accuracy against the queries of an image, at each model's largest eps: a colour an attack, a line style a model.

    Only of attacks that live on queries. What fresh measurements show to be right after all counts as right; what they
    alone show to be wrong, from the last query on.

    Raises:
        DataError: no report of such an attack (`Outcome.broken_at`).
    """
    from matplotlib.figure import Figure

    asking = {
        title: [o for o in series[-1].outcomes if o.broken_at is not None]
        for title, series in reports.items()
        if series
    }
    names = list(dict.fromkeys(o.name for outcomes in asking.values() for o in outcomes))
    if not names:
        raise DataError("no attack of these reports lives on queries: run square, nes, spsa or hopskipjump")
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for number, (title, outcomes) in enumerate(asking.items()):
        for outcome in outcomes:
            queries, left = standing(reports[title][-1], outcome)
            colour, style = f"C{names.index(outcome.name)}", ("-", "--", ":", "-.")[number % 4]
            axes.step(queries, left, style, where="post", color=colour, lw=1.2, label=f"{outcome.name}, {title}")
    axes.set(xscale="log", xlabel="queries of an image", ylabel="accuracy", ylim=(0, 1))
    axes.legend(frameon=False, fontsize="x-small")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def standing(report: Report, outcome: Outcome) -> tuple[list[int], list[float]]:
    """Queries of an image at which an attack broke some, ascending from 1, and the accuracy from there on."""
    assert outcome.broken_at is not None, "query_curve has looked"
    last = max(1, int(outcome.broken_at.max()))
    at = torch.where(outcome.broken_at < 0, last, outcome.broken_at)
    at = torch.where(report.clean_right, at, 1)[~outcome.right].clamp(min=1)
    queries = torch.cat([at.new_tensor([1]), at]).unique()
    return queries.tolist(), [1 - int((at <= q).sum()) / len(report.labels) for q in queries.tolist()]


def per_image(report: Report) -> str:
    """CSV, one line an image: index, label, clean prediction, right unattacked, right at last, what broke it.

    Attacks are separated by semicolons; a rate follows for each: that of right answers over fresh measurements.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [outcome.name for outcome in report.outcomes]
    writer.writerow(["index", "label", "clean_prediction", "clean_right", "robust", "broken_by", *names])
    for index in range(len(report.labels)):
        clean = bool(report.clean_right[index])
        broken = [o.name for o in report.outcomes if clean and not o.right[index]]
        head: list[Any] = [index, int(report.labels[index]), int(report.prediction[index]), int(clean)]
        rates = [f"{o.rate[index].item():g}" for o in report.outcomes]
        writer.writerow([*head, int(report.worst_case[index]), ";".join(broken), *rates])
    return text.getvalue()


def write(folder: Path, reports: Mapping[str, Sequence[Report]], checks: Sequence[Check] = ()) -> list[Path]:
    """Write the `rendered` files into a folder; their paths.

    Raises:
        DataError: no reports; OSError: a file cannot be written.
    """
    files = {folder / name: content for name, content in rendered(reports, checks).items()}
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return list(files)


def rendered(reports: Mapping[str, Sequence[Report]], checks: Sequence[Check] = ()) -> dict[str, bytes]:
    """`report.md`, `robustness.png`, a CSV for each model and eps in `images/`, and `queries.png` if there is any such.

    Args:
        reports: of each model, by its title, at ascending eps; checks: the checklist (`checklist.checklist`).

    Raises:
        DataError: no reports.
    """
    files = {"robustness.png": _png(curve(reports))}
    if any(o.broken_at is not None for series in reports.values() for o in series[-1].outcomes):
        files["queries.png"] = _png(query_curve(reports))
    parts = []
    for title, series in reports.items():
        for report in series:
            parts.append(markdown(report, f"{title}, eps = {255 * report.eps:g}/255"))
            name = "".join(c if c.isalnum() else "-" for c in title.lower())
            files[f"images/{name}-{255 * report.eps:g}.csv"] = per_image(report).encode()
    parts.append("### Settings of the attacks\n\n" + "\n".join(_settings(reports)) + "\n")
    if "queries.png" in files:
        parts.append("### Accuracy against queries\n\n![accuracy against queries](queries.png)\n")
    if checks:
        parts.append("### Checklist\n\n" + "\n".join(f"- {tick(check)}" for check in checks) + "\n")
    return files | {"report.md": "\n".join(parts).encode()}


def _png(figure: Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()


def _settings(reports: Mapping[str, Sequence[Report]]) -> list[str]:
    """Each attack's parameters, once."""
    outcomes: list[Outcome] = [o for series in reports.values() for report in series for o in report.outcomes]
    return list(dict.fromkeys(f"- {outcome.name}: `{outcome.threat.settings}`" for outcome in outcomes))


def _number(report: Report, accuracy: float) -> list[str]:
    return [f"{100 * accuracy:.1f}", f"{100 * report.standard_error(accuracy):.1f}"]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
