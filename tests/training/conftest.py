"""A training run small enough for tests, in a process of its own or in this one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = "the quick brown fox jumps over the lazy dog, and the dog sleeps on; " * 40
SMALL = [
    "model.width=16",
    "model.n_blocks=2",
    "model.n_heads=2",
    "task.context=16",
    "batch_size=4",
    "steps=12",
    "log_every=1",
    "validate_every=4",
    "alignment_every=5",
    "checkpoint_every=3",
    "sample_length=20",
]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def small(text: Path) -> list[str]:
    """Overrides of a run that takes about a second."""
    return [f"task.text={text}", *SMALL]


@pytest.fixture
def start(tmp_path: Path):
    """Start `opu-dfa` with some words in a process of its own."""

    def begin(*words: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "opu_dfa.cli", *words],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


@pytest.fixture
def opu_dfa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Run `opu-dfa` with some words in this process: (exit code, what it printed, what it complained)."""
    from opu_dfa.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(list(words))
        code = stop.value.code
        printed = capsys.readouterr()
        return (0 if code is None else int(code)), printed.out, printed.err

    return run


@pytest.fixture
def final():
    """Everything a run's summary says that is not a time: final(folder)."""

    def read(folder: Path) -> dict:
        summary = json.loads((folder / "summary.json").read_text())
        for result in summary["methods"].values():
            for name in ("seconds", "cpu_seconds", "items_per_second"):
                del result[name]
        return summary

    return read
