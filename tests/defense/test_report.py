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

from hardware import open_opu
from opu_dfa.defense.attacks import FGSM, MIFGSM, PGD, Noise, Square, Transfer, find_attack
from opu_dfa.defense.checklist import SEARCHES, Evidence, checklist, matched
from opu_dfa.defense.combined import EOT, Annealed, Averaged, Ensemble
from opu_dfa.defense.evaluate import sweep
from opu_dfa.defense.model import HEADS, Head, OpticalDefense, vgg_features
from opu_dfa.defense.outcome import Check, Outcome, Report
from opu_dfa.defense.report import curve, markdown, per_image, print_report, query_curve, rows, standing, tick, write
from opu_dfa.defense.rules import Autograd, RandomFeedback, StraightThrough, Surrogate, TrueFeedback
from opu_dfa.defense.student import Student
from opu_dfa.defense.target import Target
from opu_dfa.defense.threats import FEEDBACK, MEDIUM, NOTHING, PARTIAL, QUERIES, Threat
from opu_dfa.defense.training import RULES, Recipe
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
    retrieval = "accuracy against patterns of phase retrieval, with noise and without"
    for name in (*SEARCHES, retrieval, "ablation grid", "baseline trained alike"):
        assert held[name].holds is None  # Square, too, which ran with 20 queries
        assert tick(held[name]).startswith(f"[ ] {name}: not run")
    assert held["threat model stated, 8/255 included"].holds
    assert held["accuracy falls with eps"].holds
    assert held["worst case per image over all attacks"].holds
    assert "square: half of" in held["accuracy against queries"].detail


def test_what_was_run_is_ticked(reports: tuple[Report, ...]) -> None:
    last = reports[-1]
    everything = Evidence(
        reports,
        undefended=reports,
        adversarial=reports,
        seeds=[last, last, last],
        ablations={(head, rule): last for head in HEADS for rule in RULES},
        retrieval={"8 bits": {100: last, 200: last}, "without noise": {100: last, 200: last}},
        n_mirrors=50,
        matched="same optimiser, epochs, weight decay and widths",
        files=["a.csv"],
    )
    held = {check.name: check.holds for check in checklist(everything)}
    for name in ("ablation grid", "three seeds or more", "baseline trained alike", "per-image results written"):
        assert held[name]
    assert held["compared with adversarial training"]
    assert held["accuracy against patterns of phase retrieval, with noise and without"]
    assert held["transfer from an ensemble"] is None
    halved = replace(everything, retrieval={"8 bits": {100: last, 200: last}, "without noise": {100: last}})
    assert {c.name: c.holds for c in checklist(halved)}[
        "accuracy against patterns of phase retrieval, with noise and without"
    ] is None
    with pytest.raises(DataError, match="at least one"):
        checklist(Evidence(()))


def test_a_rising_curve_fails_its_check(reports: tuple[Report, ...]) -> None:
    easy = replace(reports[0], clean_right=torch.zeros(40, dtype=torch.bool))
    held = {check.name: check for check in checklist(Evidence((easy, reports[1])))}
    assert held["accuracy falls with eps"].holds is False
    assert tick(held["accuracy falls with eps"]).startswith("[!]")


def defence(seed: int, head: Head = "optical") -> OpticalDefense:
    opu = open_opu("simulated", n_features=16, n_components=32, seed=seed) if head == "optical" else None
    features = vgg_features([[4]], (1, 8, 8))
    return OpticalDefense(features, 3, opu, head, 16, image_shape=(1, 8, 8), seed=seed).eval()


def full(model: OpticalDefense) -> dict[str, Threat]:
    """A row for all that the list asks of searches."""
    pgd, steep = PGD(), StraightThrough(model, beta=2.0)
    surrogate = Surrogate(model, nn.Linear(16, 3), 10, 0.1)
    student = Student.fit(Target(model), torch.rand(4, 1, 8, 8), torch.Generator(), steps=1)
    twin, other = defence(0, "plain"), defence(1)
    rules = {
        "true": (TrueFeedback(model), FEEDBACK),
        "random": (RandomFeedback(model, seed=7), NOTHING),
        "identity": (StraightThrough(model), MEDIUM),
        "tanh": (steep, MEDIUM),
        "annealed": (Annealed([steep]), MEDIUM),
        "errors": (steep, PARTIAL),
        "surrogate": (surrogate, QUERIES),
        "surrogate x5": (EOT(surrogate, 5), QUERIES),
        "surrogate x20": (EOT(surrogate, 20), QUERIES),
    }
    both = Ensemble([Autograd(twin), Autograd(other)])
    replayed = {
        "student": Transfer(model=student, rule=Autograd(student)),
        "pgd from twin": Transfer(model=twin, rule=Autograd(twin)),
        "mifgsm from twin": Transfer(model=twin, rule=Autograd(twin), attack=MIFGSM()),
        "pgd from other": Transfer(model=other, rule=Autograd(other)),
        "mifgsm from other": Transfer(model=other, rule=Autograd(other), attack=MIFGSM()),
        "mifgsm from all": Transfer(model=Averaged([twin, other]), rule=both, attack=MIFGSM()),
    }
    attacks = ("square", "nes", "hopskipjump", "feature")
    return {
        **{name: Threat(pgd, rule, knowledge) for name, (rule, knowledge) in rules.items()},
        **{name: Threat(attack, knowledge=NOTHING) for name, attack in replayed.items()},
        **{name: Threat(find_attack(name), knowledge=QUERIES) for name in attacks},
        **{name: Threat(find_attack(name), steep, MEDIUM) for name in ("apgd-ce", "apgd-dlr")},
        "square x20": Threat(find_attack("square"), knowledge=QUERIES, measurements=20),
    }


LACKS = {
    "white box: the true feedback": ("true",),
    "white box: a random feedback": ("random",),
    "learned surrogate of the head (BPDA)": ("surrogate", "surrogate x5", "surrogate x20"),
    "white box: straight-through with T known": ("identity", "annealed"),
    "Square, 5,000 queries or more, restarted": ("square", "square x20"),
    "transfer from the undefended twin": ("pgd from twin",),
    "transfer from a defended twin with another T": ("mifgsm from other",),
    "transfer from an ensemble": ("mifgsm from all",),
    "full network distilled from queries": ("student",),
    "T known to relative errors": ("errors",),
    "APGD": ("apgd-dlr",),
    "Square on scores averaged over 20 measurements": ("square x20",),
    "expectation over 1, 5 and 20 measurements, fresh ones for the result": ("surrogate x5",),
}


def test_a_row_is_ticked_by_all_that_it_asks_for_and_by_nothing_less(reports: tuple[Report, ...]) -> None:
    right = torch.ones(40, dtype=torch.bool)
    outcomes = tuple(
        Outcome(name, threat, right.float(), right, 1, 0.0, torch.empty(0)) for name, threat in full(defence(0)).items()
    )
    report = replace(reports[-1], outcomes=outcomes, repeats=20)
    held = {check.name: check for check in checklist(Evidence((report,)))}
    for name in (*SEARCHES, *LACKS):
        assert held[name].holds, held[name]
    for name, without in LACKS.items():
        less = replace(report, outcomes=tuple(o for o in outcomes if o.name not in without))
        missing = {check.name: check for check in checklist(Evidence((less,)))}
        assert missing[name].holds is None, missing[name]
        assert all(missing[other].holds for other in SEARCHES if other != name)
    quiet = replace(report, outcomes=outcomes[:1], repeats=1)
    shown = checklist(Evidence((quiet,)))
    assert next(c for c in shown if c.name.startswith("expectation")).detail == "the model's answers do not vary"


def test_twins_match_by_what_they_are_and_not_by_what_is_said() -> None:
    twins = (defence(0), defence(0, "plain"))
    assert "3 epochs" in matched((Recipe(epochs=3), Recipe(epochs=3, rule="straight-through")), twins)
    assert matched((Recipe(weight_decay=0.1), Recipe()), twins) == ""
    wider = OpticalDefense(vgg_features([[8]], (1, 8, 8)), 3, None, "plain", 16, image_shape=(1, 8, 8))
    assert matched((Recipe(), Recipe()), (twins[0], wider)) == ""


def test_the_query_curve_ends_where_the_table_does(reports: tuple[Report, ...]) -> None:
    report = reports[-1]
    square = next(o for o in report.outcomes if o.name == "square")
    queries, left = standing(report, square)
    assert queries[0] == 1
    assert left[0] <= report.clean_accuracy
    assert left == sorted(left, reverse=True)
    assert left[-1] == pytest.approx(report.accuracy["square"])
    assert square.broken_at is not None
    lucky = replace(square, broken_at=torch.full_like(square.broken_at, -1))  # fresh measurements alone say wrong
    assert standing(report, lucky)[1][-1] == pytest.approx(report.accuracy["square"])
    axes = query_curve({"defended": reports, "again": reports}).axes[0]
    assert [line.get_label() for line in axes.get_lines()] == ["square, defended", "square, again"]
    with pytest.raises(DataError, match="lives on queries"):
        query_curve({"defended": [replace(report, outcomes=report.outcomes[:1])]})


def test_files_are_written(reports: tuple[Report, ...], tmp_path: Path) -> None:
    files = write(tmp_path, {"small VGG": reports}, [Check("transfer", None, "")])
    assert {path.relative_to(tmp_path).as_posix() for path in files} == {
        "report.md",
        "robustness.png",
        "queries.png",
        "images/small-vgg-4.csv",
        "images/small-vgg-8.csv",
    }
    assert all(path.stat().st_size for path in files)
    text = (tmp_path / "report.md").read_text()
    assert "[ ] transfer: not run" in text
    assert "`PGD(restarts=1, steps=5, loss='cross-entropy', start='random'); Autograd`" in text
