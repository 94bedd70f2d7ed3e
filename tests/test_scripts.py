"""The page of results: every row is an experiment that exists, and its recoveries are what they say."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from opu_dfa.config import config_folder

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """scripts/dfa_rows.py, with its runs in a folder of the test."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    module = importlib.import_module("dfa_rows")
    monkeypatch.setattr(module, "RUNS", tmp_path)
    return module


@pytest.fixture
def page(rows):
    """scripts/dfa_page.py, which reads the same runs."""
    return importlib.import_module("dfa_page")


def test_every_row_is_an_experiment(rows):
    known = {path.stem for path in (config_folder() / "experiment").glob("*.yaml")}
    named = [row.experiment for row in rows.ROWS]
    assert set(named) <= known
    assert len(set(named)) == len(named)


def test_an_unknown_experiment_is_refused_with_those_there_are():
    words = [sys.executable, ROOT / "scripts" / "dfa.py", "nonsense"]
    refused = subprocess.run(words, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "no such experiment: nonsense; there are mnist" in refused.stderr


def test_recovery_compares_the_means_at_each_method_s_best_rate(rows, page):
    row = rows.Row("some", "Some", "accuracy", "any", n_seeds=2)
    losses = {"dfa": 1.2, "bp": 1.0, "frozen": 2.0}
    for job in [rows.Job("some", (), s, f, m) for s in (0, 1) for f in rows.FACTORS for m in rows.METHODS]:
        # the best rate of seed 0 is the configured one; the other rates would show as a wrong recovery
        worse = 10.0 * (job.factor != 1.0)
        result = {"val_loss": losses[job.method] + worse, "learning_rate": job.factor}
        result["test"] = {"loss": losses[job.method] + worse + 0.001 * job.seed, "accuracy": 1 / losses[job.method]}
        job.folder.mkdir(parents=True)
        summary = {"unit": "nats", "methods": {job.method: result}}
        (job.folder / "summary.json").write_text(json.dumps(summary))
    assert {rows.best(row, m).factor for m in rows.METHODS} == {1.0}
    assert page.recoveries(row, (), 2) == ("0.800", f"{(0.5 - 1 / 1.2) / (0.5 - 1):.3f}")
    assert "| `some` | accuracy | 0.8333 ± 0.0000 |" in "\n".join(page.page([row]))


def test_a_diverged_rate_is_never_the_best(rows):
    row = rows.Row("some", "Some", "accuracy", "any")
    for factor in rows.FACTORS:
        job = rows.Job("some", (), 0, factor, "dfa")
        job.folder.mkdir(parents=True)
        if factor > 1:
            (job.folder / "diverged.txt").write_text("it did")
        else:
            summary = {"unit": "nats", "methods": {"dfa": {"val_loss": 1.0 - 0.1 * factor}}}
            (job.folder / "summary.json").write_text(json.dumps(summary))
    assert rows.best(row, "dfa").factor == 1.0
