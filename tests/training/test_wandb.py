"""Weights & Biases, for real and offline."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import wandb
from wandb.proto import wandb_internal_pb2


def test_an_offline_run_records_every_step(opu_dfa, small, tmp_path):
    code, printed, complaint = opu_dfa("train", *small, "tracker=wandb", "method=[dfa]")
    assert code == 0, complaint
    wandb.teardown()  # waits, as the end of a process does, for W&B's own process to write what it was given
    folder = tmp_path / printed.strip().splitlines()[-1]
    (log,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    history = read_history(log)
    assert [row["step"] for row in history] == list(range(1, 13))
    assert {"dfa/loss", "dfa/frames", "dfa/lr"} <= history[0].keys()
    assert "dfa/alignment/blocks.0" in history[0]
    assert "dfa/val_loss" in history[3]


def test_online_without_a_key_is_refused_not_asked(opu_dfa, small, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, complaint = opu_dfa("train", *small, "tracker=wandb", "wandb.mode=online")
    assert code == 2
    assert "WANDB_API_KEY" in complaint


def read_history(path: Path) -> list[dict]:
    """The history rows of W&B's own transaction log."""
    rows = []
    for data in log_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({(item.key or ".".join(item.nested_key)): json.loads(item.value_json) for item in items})
    return rows


def log_records(content: bytes, block: int = 32_768, header: int = 7) -> Iterator[bytes]:
    """Records of a LevelDB log, the format W&B writes: pieces of (checksum, length, kind, data) within blocks."""
    at, parts = header, b""
    while at + header <= len(content):
        if block - at % block < header:  # what is left of a block is too small for a piece
            at += block - at % block
            continue
        _checksum, length, kind = struct.unpack("<IHB", content[at : at + header])
        parts += content[at + header : at + header + length]
        at += header + length
        if kind in (1, 4):  # whole, or last piece
            yield parts
            parts = b""
