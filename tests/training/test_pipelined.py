"""Runs over ranks by the command line: the numbers of one process, and life after the death of a rank."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import reduce
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from opu_dfa.config import config_folder, parse
from opu_dfa.errors import CheckpointError, ConfigError
from opu_dfa.training import sharded
from opu_dfa.training.operator import FeedbackSettings
from opu_dfa.training.settings import TrainSettings
from opu_dfa.training.stages import check, pipeline_settings

SETTINGS = [
    "method=dfa",
    "feedback=gaussian",
    "batch_size=8",
    "steps=240",
    "alignment_every=0",
    "validate_every=80",
    "checkpoint_every=20",
    "pipeline.error=float32",
    f"pipeline.timeout={(TIMEOUT := 30)}",
]
SECONDS = 120  # a run's, on a slow machine


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def ranks(words: list[str], folder: Path, world: int = 2) -> list[subprocess.Popen]:
    """The processes of a run, as torchrun starts them."""
    port = free_port()
    shared = os.environ | {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "opu_dfa.cli", "train", *words],
            cwd=folder,
            env=shared | {"RANK": str(r), "LOCAL_RANK": str(r), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(world)
    ]


def await_checkpoint(run: Path) -> None:
    until = time.monotonic() + SECONDS
    while sharded.newest(run) is None:
        assert time.monotonic() < until, "no checkpoint appeared"
        time.sleep(0.02)


@pytest.fixture
def expected(opu_dfa, small, tmp_path) -> float:
    """The validation loss of one process."""
    code, _, errors = opu_dfa("train", *small, *SETTINGS, f"hydra.run.dir={tmp_path / 'one'}")
    assert code == 0, errors
    return val_loss(tmp_path / "one")


def val_loss(run: Path) -> float:
    return json.loads((run / "summary.json").read_text())["methods"]["dfa"]["val_loss"]


def test_a_killed_rank_is_named_and_one_process_finishes_what_two_began(opu_dfa, small, tmp_path, expected):
    run = tmp_path / "two"
    first, second = ranks([*small, *SETTINGS, f"hydra.run.dir={run}"], tmp_path)
    await_checkpoint(run)
    second.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    _, errors = first.communicate(timeout=SECONDS)
    assert time.monotonic() - killed < TIMEOUT + 10  # the interpreter's end included
    second.communicate()
    assert first.returncode == 2, errors
    assert "rank 1 has died" in errors
    assert f"resume={run}" in errors
    assert not list(run.rglob("*.metadata"))  # nothing that is unpickled

    code, _, errors = opu_dfa("train", f"resume={run}")
    assert code == 0, errors
    # Roundings differ where norms are summed over ranks, and grow with the steps.
    assert val_loss(run) == pytest.approx(expected, rel=1e-3)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, 241))  # none is missing, none there twice
    a_pass = 8 * 16 * 16 * 4  # bytes: a float32 signal of width 16, as the activations, for 8 windows of 16 tokens
    assert records[0]["bytes_sent_by_rank"] == [a_pass, a_pass]
    assert records[-1]["bytes_sent_by_rank"] == [0]


@pytest.mark.slow
def test_torchrun_restarts_a_killed_rank_from_the_last_checkpoint(small, tmp_path, expected):
    run = tmp_path / "two"
    words = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "-m", "opu_dfa.cli", "train"]
    elastic = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *words, *small, *SETTINGS, f"hydra.run.dir={run}"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    await_checkpoint(run)
    children = Path(f"/proc/{elastic.pid}/task/{elastic.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    printed, _ = elastic.communicate(timeout=2 * SECONDS)
    assert elastic.returncode == 0, printed
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))  # none twice
    assert val_loss(run) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"method": ["frozen"]}, "method=frozen"),
        ({"batch_size": 6}, "batch_size=6 is no multiple of 4"),
        ({"memory.weights": "bfloat16"}, "memory.weights=bfloat16"),
        ({"memory.step_in_backward": True}, "memory.step_in_backward"),
        ({"feedback.name": "aligned"}, "feedback.name=aligned"),
        ({"feedback.error_at": "target"}, "feedback.error_at=target"),
        ({"feedback.calibrate_every": 3}, "feedback.calibrate_every=3"),
    ],
)
def test_what_a_pipeline_cannot_do_is_refused(wrong, named):
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = OmegaConf.to_container(compose("train", ["method=[dfa]", "feedback=gaussian"]), resolve=True)
    for key, value in wrong.items():
        *sections, last = key.split(".")
        reduce(dict.__getitem__, sections, config)[last] = value
    run = parse(TrainSettings, config)
    with pytest.raises(ConfigError, match=named):
        check(run.method[0], run, parse(FeedbackSettings, run.feedback, "feedback"), pipeline_settings(run))


def test_a_damaged_checkpoint_is_an_error_that_names_it(tmp_path):
    shards = tmp_path / sharded.FOLDER / "0-dfa-00000001" / "shards"
    shards.mkdir(parents=True)
    (shards / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"nothing")
    assert sharded.newest(tmp_path) is None
    (shards.parent / "run.safetensors").write_bytes(b"")
    assert sharded.newest(tmp_path) == shards.parent
    with pytest.raises(CheckpointError, match="0-dfa-00000001"):
        sharded.load(shards.parent, lambda name: True)
