"""Sweeps: jobs share the cores, a failed one does not lose the others, and one table says how all ended."""

import csv
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import joblib
import pytest
from rich.console import Console

from opu_dfa.cli import main
from opu_dfa.sweep import core_share, finish, read_jobs

TINY = ["experiment=digits", "method=dfa", "feedback=gaussian", "steps=2", "alignment_every=0", "hydra.sweep.dir=sweep"]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Run a sweep of tiny jobs in this process: (exit code, what it printed, what it complained)."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["train", "--multirun", *TINY, *words])
        return (stop.value.code, *capsys.readouterr())

    return run


def in_a_process(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """A sweep in a process of its own, in an environment that grants every process eight threads."""
    command = [sys.executable, "-m", "opu_dfa.cli", "train", "--multirun", *TINY, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "8"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def losses(folder: Path) -> dict[str, float]:
    """The validation loss in each job's own summary."""
    found = folder.glob("*/summary.json")
    return {path.parent.name: json.loads(path.read_text())["methods"]["dfa"]["val_loss"] for path in found}


def test_parallel_jobs_share_the_cores_and_a_failed_one_stands_in_the_table(tmp_path):
    ran = in_a_process(tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "optimizer.lr.dfa=-1,1e-3")
    assert ran.returncode == 2, ran.stderr
    jobs = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert [job["job"] for job in jobs] == ["1", "0"]
    assert {job["threads"] for job in jobs} == {min(8, max(joblib.cpu_count() // 2, 1))}
    assert {job["job"]: job["scores"]["dfa"] for job in jobs if job["scores"]} == losses(tmp_path / "sweep")
    assert "optimizer.lr.dfa=-1 does not fit" in jobs[1]["error"]
    with open(tmp_path / "sweep/sweep.csv") as file:
        table = list(csv.DictReader(file))
    assert [row["optimizer.lr.dfa"] for row in table] == ["0.001", "-1"]
    assert float(table[0]["dfa"]) == jobs[0]["scores"]["dfa"]
    assert ran.stdout.splitlines()[-1] == "sweep"


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("submitit"), reason="needs the extra opu-dfa[slurm]")
def test_jobs_of_submitit_keep_to_their_cores(tmp_path):
    words = ["hydra/launcher=submitit_local", "hydra.launcher.cpus_per_task=1", "seed=1"]
    ran = in_a_process(tmp_path, *words)
    assert ran.returncode == 0, ran.stderr
    (job,) = read_jobs(tmp_path / "sweep")
    assert job.threads == 1
    assert job.scores["dfa"] == losses(tmp_path / "sweep")["0"]


def ended(folder: Path, job: str, rate: str, loss: float | None, error: str | None = None) -> None:
    """A job's folder as a run leaves it."""
    (folder / job).mkdir(parents=True)
    record = {"overrides": [f"optimizer.lr.dfa={rate}", "steps=2"], "threads": 1, "code": 0, "error": error}
    (folder / job / "job.json").write_text(json.dumps(record))
    if loss is not None:
        summary = {"methods": {"bp": {"val_loss": 0.5}, "dfa": {"val_loss": loss}}, "recovery": 0.25}
        (folder / job / "summary.json").write_text(json.dumps(summary))


def test_the_table_is_sorted_by_the_loss_of_dfa_and_failed_jobs_come_last(tmp_path, capsys):
    ended(tmp_path, "0", "9", None, error="diverged")
    ended(tmp_path, "1", "1e-5", 0.9)
    ended(tmp_path, "2", "1e-3", 0.7)
    ended(tmp_path, "3", "1e-4", 0.8)
    assert finish(tmp_path, Console(width=100)) == 2
    shown = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in shown] == [
        ["2", "1e-3", "0.5000", "0.7000", "0.2500", ""],
        ["3", "1e-4", "0.5000", "0.8000", "0.2500", ""],
        ["1", "1e-5", "0.5000", "0.9000", "0.2500", ""],
        ["0", "9", "", "", "", "diverged"],
    ]


def scored(folder: Path, job: str, **summary: object) -> None:
    """A job's folder with a summary as verbs write it that score models."""
    (folder / job).mkdir(parents=True)
    record = {"overrides": [f"seed={job}"], "threads": 1, "code": 0, "error": None}
    (folder / job / "job.json").write_text(json.dumps(record))
    (folder / job / "summary.json").write_text(json.dumps(summary))


@pytest.mark.parametrize(("best", "first"), [("highest", ["1", "2", "0"]), ("lowest", ["0", "2", "1"])])
def test_a_summary_says_which_of_its_scores_ranks_its_job(tmp_path, best, first):
    for job, twin, defended in (("0", 0.3, 0.1), ("1", 0.2, 0.3), ("2", 0.1, 0.2)):
        scored(tmp_path, job, scores={"undefended": twin, "defended": defended}, best=best, ranked="defended")
    assert [job.job for job in read_jobs(tmp_path)] == first


def test_where_a_summary_does_not_say_its_first_score_ranks_the_job(tmp_path):
    for job, one, other in (("0", 0.2, 0.1), ("1", 0.1, 0.2)):
        scored(tmp_path, job, scores={"one": one, "other": other})
    scored(tmp_path, "2")  # a job without scores
    assert [job.job for job in read_jobs(tmp_path)] == ["1", "0", "2"]


def test_a_score_of_zero_is_shown(tmp_path, capsys):
    for job in ("0", "1"):
        scored(tmp_path, job, scores={"undefended": 0.1, "defended": 0.0})
    assert finish(tmp_path, Console(width=100)) == 0
    shown = capsys.readouterr().out
    assert "defended" in shown.replace("undefended", "")
    assert shown.count("0.0000") == 2


def test_a_repeated_sweep_does_what_is_left_and_mixes_in_no_other(sweep, tmp_path):
    folder = tmp_path / "sweep"
    assert sweep("seed=0,1")[0] == 0
    before = losses(folder)
    kept = {path.name: path.stat().st_mtime_ns for path in (folder / "0").iterdir()}
    record = json.loads((folder / "1/job.json").read_text())  # as if the second had been killed near its end
    (folder / "1/job.json").write_text(json.dumps(record | {"code": None, "error": "not finished"}))
    (folder / "1/summary.json").unlink()
    assert read_jobs(folder)[-1].error == "not finished"
    assert sweep("seed=0,1")[0] == 0
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "0").iterdir()} == kept
    assert losses(folder) == before
    code, _, complaint = sweep("seed=1,0")
    assert code == 2
    assert "choose another folder with hydra.sweep.dir=FOLDER" in complaint
    assert losses(folder) == before


@pytest.mark.skipif(bool(find_spec("ray")), reason="Ray is installed")
def test_a_missing_launcher_names_its_extra(sweep):
    code, _, complaint = sweep("hydra/launcher=ray")
    assert code == 2
    assert "pip install 'opu-dfa[ray]'" in complaint


@pytest.mark.parametrize(
    ("launcher", "share"),
    [
        ({"n_jobs": 2}, 4),
        ({"n_jobs": 3}, 2),
        ({"n_jobs": -1}, 1),
        ({"n_jobs": -6}, 2),  # of 8 cores all but 5
        ({"n_jobs": 99}, 1),
        ({"cpus_per_task": 3}, 3),
        ({"cpus_per_task": None}, 8),
        ({}, 8),
    ],
)
def test_jobs_times_their_cores_never_exceed_the_cores(monkeypatch, launcher, share):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    assert core_share(launcher) == share


def test_defences_are_ranked_by_what_all_attacks_leave_of_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["opu=simulated", "opu.preset=ideal", "features=[[4]]", "n_mirrors=32", "n_components=64", "lr=0.01"]
    words += ["train_examples=600", "test_examples=20", "attacks=noise", "eps=[0.1]", "sanity=0", "epochs=0,3"]
    with pytest.raises(SystemExit) as stop:
        main(["defend", "--multirun", *words, "hydra.sweep.dir=sweep"])
    assert stop.value.code == 0
    untrained, trained = (
        json.loads((tmp_path / f"sweep/{job}/summary.json").read_text())["scores"]["defended"] for job in (0, 1)
    )
    assert untrained < trained
    assert [(job.job, job.scores[job.ranked]) for job in read_jobs(tmp_path / "sweep")] == [
        ("1", trained),
        ("0", untrained),
    ]
