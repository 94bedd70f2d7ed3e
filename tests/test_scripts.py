"""The page of results: every row is an experiment that exists, and its recoveries are what they say."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from opu_dfa.config import config_folder

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def dfa(tmp_path, monkeypatch):
    """scripts/dfa.py as a module, with its runs in a folder of the test."""
    spec = importlib.util.spec_from_file_location("scripts_dfa", ROOT / "scripts" / "dfa.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "scripts_dfa", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RUNS", tmp_path)
    return module


def test_every_row_is_an_experiment(dfa):
    known = {path.stem for path in (config_folder() / "experiment").glob("*.yaml")}
    rows = [row.experiment for row in dfa.ROWS]
    assert set(rows) <= known
    assert len(set(rows)) == len(rows)


def test_recovery_compares_the_means_at_each_method_s_best_rate(dfa):
    row = dfa.Row("some", "Some", "accuracy", "any", n_seeds=2)
    losses = {"dfa": 1.2, "bp": 1.0, "frozen": 2.0}
    for job in [dfa.Job("some", (), s, f, m) for s in (0, 1) for f in dfa.FACTORS for m in dfa.METHODS]:
        # the best rate of seed 0 is the configured one; the other rates would show as a wrong recovery
        worse = 10.0 * (job.factor != 1.0)
        result = {"val_loss": losses[job.method] + worse, "learning_rate": job.factor}
        result["test"] = {"loss": losses[job.method] + worse + 0.001 * job.seed, "accuracy": 1 / losses[job.method]}
        job.folder.mkdir(parents=True)
        summary = {"unit": "nats", "methods": {job.method: result}}
        (job.folder / "summary.json").write_text(json.dumps(summary))
    assert {dfa.best(row, m).factor for m in dfa.METHODS} == {1.0}
    assert dfa.recoveries(row, (), 2) == ("0.800", f"{(0.5 - 1 / 1.2) / (0.5 - 1):.3f}")
    assert "| `some` | accuracy | 0.8333 ± 0.0000 |" in "\n".join(dfa.page([row]))


def test_a_diverged_rate_is_never_the_best(dfa):
    row = dfa.Row("some", "Some", "accuracy", "any")
    for factor in dfa.FACTORS:
        job = dfa.Job("some", (), 0, factor, "dfa")
        job.folder.mkdir(parents=True)
        if factor > 1:
            (job.folder / "diverged.txt").write_text("it did")
        else:
            summary = {"unit": "nats", "methods": {"dfa": {"val_loss": 1.0 - 0.1 * factor}}}
            (job.folder / "summary.json").write_text(json.dumps(summary))
    assert dfa.best(row, "dfa").factor == 1.0
