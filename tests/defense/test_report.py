"""Reports say what was run, all of it and nothing else."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from opu_dfa.defense.attacks import FGSM, PGD, Noise, Square
from opu_dfa.defense.checklist import HEADS, RULES, Evidence, checklist
from opu_dfa.defense.evaluate import sweep
from opu_dfa.defense.outcome import Check, Report
from opu_dfa.defense.report import curve, markdown, per_image, print_report, rows, tick, write
from opu_dfa.defense.rules import Autograd
from opu_dfa.defense.threats import MEDIUM, QUERIES, Threat
from opu_dfa.errors import DataError


@pytest.fixture(scope="module")
def reports() -> tuple[Report, ...]:
    linear = nn.Linear(16, 3)
    linear.weight.data = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    linear.bias.data = linear.weight.data.sum(dim=1) * -0.5
    model = nn.Sequential(nn.Flatten(), linear)
    images = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    labels = model(images).argmax(dim=1)
    labels[:4] = (labels[:4] + 1) % 3
    attacks = {
        "fgsm | one step": Threat(FGSM(), Autograd(model), MEDIUM),
        "pgd": Threat(PGD(steps=5), Autograd(model), MEDIUM),
        "square": Threat(Square(queries=20), None, QUERIES),
        "noise": Threat(Noise(), None, QUERIES),
    }
    return sweep(model, images, labels, (4 / 255, 8 / 255), attacks, sanity=20)


def test_the_table_has_every_attack_and_the_worst_case(reports: tuple[Report, ...]) -> None:
    report = reports[-1]
    lines = rows(report)
    assert [line[0] for line in lines[1:5]] == list(report.accuracy)
    assert lines[0][2] == "90.0"
    assert lines[-1][2] == f"{100 * report.robust_accuracy:.1f}"
    text = io.StringIO()
    print_report(report, Console(file=text, width=160), "[defended]")
    assert "[defended]" in text.getvalue()
    for outcome in report.outcomes:
        assert outcome.name in text.getvalue()
    assert "8/255" in text.getvalue()


def test_markdown_is_a_table(reports: tuple[Report, ...]) -> None:
    table = [line for line in markdown(reports[-1], "defended").splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(rows(reports[-1]))
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1


def test_the_curve_is_the_worst_case_with_its_errors(reports: tuple[Report, ...]) -> None:
    axes = curve({"defended": reports, "again": reports}).axes[0]
    points = next(line for line in axes.get_lines() if line.get_linestyle() == "-" and len(line.get_xdata()) == 3)
    assert list(points.get_xdata()) == pytest.approx([0, 4, 8])
    assert list(points.get_ydata()) == [0.9, *(report.robust_accuracy for report in reports)]
    assert len(axes.containers) == 2
    with pytest.raises(DataError, match="at least one"):
        curve({})


def test_every_image_has_its_line(reports: tuple[Report, ...]) -> None:
    report = reports[-1]
    lines = list(csv.DictReader(io.StringIO(per_image(report))))
    assert len(lines) == 40
    assert [line["robust"] == "1" for line in lines] == report.worst_case.tolist()
    assert [line["clean_prediction"] == line["label"] for line in lines] == report.clean_right.tolist()
    for line, worst in zip(lines, report.worst_case, strict=True):
        assert bool(line["broken_by"]) == (line["clean_right"] == "1" and not worst)
    assert sum("square" in line["broken_by"].split(";") for line in lines) == int(
        (report.clean_right & ~report.outcomes[2].right).sum()
    )


def test_what_was_not_run_is_not_ticked(reports: tuple[Report, ...]) -> None:
    held = {check.name: check for check in checklist(Evidence(reports))}
    for name in ("transfer", "APGD", "Square, 5,000 queries or more", "ablation grid", "baseline trained alike"):
        assert held[name].holds is None
        assert tick(held[name]).startswith(f"[ ] {name}: not run")
    assert held["threat model stated, 8/255 included"].holds
    assert held["accuracy falls with eps"].holds
    assert held["worst case per image over all attacks"].holds


def test_what_was_run_is_ticked(reports: tuple[Report, ...]) -> None:
    last = reports[-1]
    everything = Evidence(
        reports,
        undefended=reports,
        adversarial=reports,
        seeds=[last, last, last],
        ablations={(head, rule): last for head in HEADS for rule in RULES},
        retrieval={100: last, 200: last},
        matched="same optimiser, epochs, weight decay and widths",
        files=["a.csv"],
    )
    held = {check.name: check.holds for check in checklist(everything)}
    for name in ("ablation grid", "three seeds or more", "baseline trained alike", "per-image results written"):
        assert held[name]
    assert held["compared with adversarial training"]
    assert held["accuracy against queries of phase retrieval"]
    assert held["transfer"] is None
    with pytest.raises(DataError, match="at least one"):
        checklist(Evidence(()))


def test_a_rising_curve_fails_its_check(reports: tuple[Report, ...]) -> None:
    easy = replace(reports[0], clean_right=torch.zeros(40, dtype=torch.bool))
    held = {check.name: check for check in checklist(Evidence((easy, reports[1])))}
    assert held["accuracy falls with eps"].holds is False
    assert tick(held["accuracy falls with eps"]).startswith("[!]")


def test_files_are_written(reports: tuple[Report, ...], tmp_path: Path) -> None:
    files = write(tmp_path, {"small VGG": reports}, [Check("transfer", None, "")])
    assert {path.relative_to(tmp_path).as_posix() for path in files} == {
        "report.md",
        "robustness.png",
        "images/small-vgg-4.csv",
        "images/small-vgg-8.csv",
    }
    assert all(path.stat().st_size for path in files)
    text = (tmp_path / "report.md").read_text()
    assert "[ ] transfer: not run" in text
    assert "`PGD(restarts=1, steps=5, loss='cross-entropy', start='random'); Autograd`" in text
