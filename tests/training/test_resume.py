"""A run survives: killed, interrupted or damaged, it continues to the very numbers of an undisturbed one."""

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from opu_dfa.training.checkpoint import save_tree
from opu_dfa.training.metrics import read_metrics

TIMES = ("seconds", "cpu_seconds", "items_per_second", "memory_bytes")


def curve(folder: Path) -> list[dict]:
    return [{k: v for k, v in r.items() if k not in TIMES} for r in read_metrics(folder / "metrics.jsonl")]


def wait_for_record(folder: Path, method: str, step: int, process) -> None:
    """Until a run has recorded this step of this method."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"the run ended before step {step}: {process.communicate()}")
        path = folder / "metrics.jsonl"
        if path.exists() and any(r["method"] == method and r["step"] >= step for r in read_metrics(path)):
            return
        time.sleep(0.005)
    raise AssertionError(f"no record of {method} step {step} in two minutes")


@pytest.fixture
def undisturbed(opu_dfa, small, tmp_path) -> Path:
    code, _, _ = opu_dfa("train", *small, "hydra.run.dir=undisturbed")
    assert code == 0
    return tmp_path / "undisturbed"


@pytest.mark.parametrize(("method", "step"), [("dfa", 1), ("dfa", 8), ("bp", 5)])
def test_killed_at_any_step_it_resumes_to_the_same_numbers(
    opu_dfa, start, small, undisturbed, tmp_path, method, step, final
):
    process = start("train", *small, "hydra.run.dir=killed")
    wait_for_record(tmp_path / "killed", method, step, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "summary.json").exists()
    if (method, step) == ("dfa", 1) and not (tmp_path / "killed/checkpoint.safetensors").exists():
        code, _, complaint = opu_dfa("train", "resume=killed")  # before the first checkpoint there is nothing to resume
        assert code == 2
        assert "there is no" in complaint
        return
    code, _, _ = opu_dfa("train", "resume=killed")
    assert code == 0
    assert final(tmp_path / "killed") == final(undisturbed)
    assert curve(tmp_path / "killed") == curve(undisturbed)


@pytest.mark.parametrize("saves", [1, 3, 4, 5, 9])
@pytest.mark.parametrize(
    "words",
    [
        ["feedback=gaussian", "feedback.encoding=stochastic"],
        ["feedback.layout=independent", "model.taps=[blocks.*.*]"],
        ["method=[bp,dfa]"],
    ],
)
def test_any_configuration_stopped_at_any_save_resumes_to_the_same_numbers(
    opu_dfa, small, tmp_path, monkeypatch, words, saves, final
):
    """The process is stopped before its n-th write of a file: within a method, between two, or after the last."""
    words = [*small, *(["method=[dfa,bp]"] if "method" not in words[0] else []), *words]
    assert opu_dfa("train", *words, "hydra.run.dir=whole")[0] == 0
    count = iter(range(saves))

    def stop_at(path, tree):
        if next(count, None) is None:
            raise KeyboardInterrupt
        save_tree(path, tree)

    monkeypatch.setattr("opu_dfa.training.run.save_tree", stop_at)
    assert opu_dfa("train", *words, "hydra.run.dir=stopped")[0] == 130
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert opu_dfa("train", "resume=stopped")[0] == 0
    assert final(tmp_path / "stopped") == final(tmp_path / "whole")
    assert curve(tmp_path / "stopped") == curve(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_continue_and_does(opu_dfa, start, small, undisturbed, tmp_path, number, final):
    process = start("train", *small, "hydra.run.dir=stopped")
    wait_for_record(tmp_path / "stopped", "dfa", 4, process)
    process.send_signal(number)
    printed, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert printed.strip().splitlines()[-1].endswith("opu-dfa train resume=stopped")
    assert opu_dfa("train", "resume=stopped")[0] == 0
    assert final(tmp_path / "stopped") == final(undisturbed)
    assert curve(tmp_path / "stopped") == curve(undisturbed)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(opu_dfa, small, undisturbed, tmp_path):
    opu_dfa("train", *small, "hydra.run.dir=again")
    assert curve(tmp_path / "again") == curve(undisturbed)
    opu_dfa("train", *small, "seed=1", "hydra.run.dir=other")
    assert curve(tmp_path / "other") != curve(undisturbed)


def test_resuming_a_finished_run_shows_it_again(opu_dfa, undisturbed, final):
    before = final(undisturbed)
    code, printed, _ = opu_dfa("train", "resume=undisturbed")
    assert code == 0
    assert "Recovery" in printed
    assert final(undisturbed) == before


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_truncated_checkpoint_is_told_and_the_one_before_continues(
    opu_dfa, start, small, undisturbed, tmp_path, monkeypatch, final
):
    process = start("train", *small, "hydra.run.dir=cut")
    wait_for_record(tmp_path / "cut", "dfa", 8, process)
    process.kill()
    process.wait()
    newest = tmp_path / "cut/checkpoint.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    code, _, complaint = opu_dfa("train", "resume=cut")
    assert code == 2
    assert "damaged or truncated" in complaint
    assert "checkpoint.previous.safetensors" in complaint
    assert len(complaint.strip().splitlines()) == 1
    previous = tmp_path / "cut/checkpoint.previous.safetensors"
    before = previous.read_bytes()
    with monkeypatch.context() as patched:  # the disk is full at the next save: the good checkpoint must survive it
        patched.setattr(os, "replace", full_disk)
        assert opu_dfa("train", f"resume={previous}")[0] == 2
    assert previous.read_bytes() == before
    code, _, _ = opu_dfa("train", "resume=cut/checkpoint.previous.safetensors")
    assert code == 0
    assert final(tmp_path / "cut") == final(undisturbed)


def test_a_run_with_a_relative_path_resumes_from_another_folder(opu_dfa, small, tmp_path, monkeypatch):
    code, _, _ = opu_dfa("train", *small, "task.text=text.txt", "method=[bp]", "hydra.run.dir=near")
    assert code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert opu_dfa("train", "resume=../near")[0] == 0


def test_weights_are_no_checkpoint(opu_dfa, undisturbed):
    code, _, complaint = opu_dfa("train", f"resume={undisturbed}/dfa.safetensors")
    assert code == 2
    assert "no checkpoint of a run" in complaint


def test_a_checkpoint_that_does_not_fit_its_settings_is_told(opu_dfa, start, small, tmp_path):
    process = start("train", *small, "steps=100000", "hydra.run.dir=edited")
    wait_for_record(tmp_path / "edited", "dfa", 5, process)
    process.kill()
    process.communicate()
    settings = tmp_path / "edited/config.json"
    settings.write_text(settings.read_text().replace('"n_blocks": 2', '"n_blocks": 3'))
    code, _, complaint = opu_dfa("train", "resume=edited")
    assert code == 2
    assert "does not fit the run's config.json" in complaint


def test_a_changed_text_is_not_continued(opu_dfa, undisturbed, text):
    text.write_text(text.read_text() + "!")
    code, _, complaint = opu_dfa("train", "resume=undisturbed")
    assert code == 2
    assert "the data have changed" in complaint


def test_two_processes_do_not_train_in_one_folder(opu_dfa, start, small, tmp_path):
    process = start("train", *small, "steps=100000", "hydra.run.dir=shared")
    try:
        wait_for_record(tmp_path / "shared", "dfa", 5, process)
        code, _, complaint = opu_dfa("train", "resume=shared")
        assert code == 2
        assert "another process is training" in complaint
    finally:
        process.kill()
        process.communicate()
