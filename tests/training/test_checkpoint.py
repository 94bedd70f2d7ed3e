"""Checkpoints: everything comes back, damage is told, nothing is ever half written or unpickled."""

import errno
import os
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opu_dfa.errors import CheckpointError, RunFolderError
from opu_dfa.training.checkpoint import load_tree, save_tree, write_atomically

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
tensors = st.tuples(st.lists(st.integers(0, 3), max_size=3), dtypes).map(lambda p: torch.ones(p[0]).to(p[1]))
trees = st.recursive(
    scalars | tensors,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=8,
)


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b and type(a) is type(b)


@given(trees)
@settings(deadline=None, max_examples=60)
def test_a_nest_comes_back_as_it_was(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("tree") / "c.safetensors"
    save_tree(path, tree)
    assert same(load_tree(path), tree)


def test_an_optimiser_s_state_comes_back(tmp_path):
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    save_tree(tmp_path / "c", optimizer.state_dict())
    back = load_tree(tmp_path / "c")
    assert same(back["state"], optimizer.state_dict()["state"])
    torch.optim.AdamW(layer.parameters(), fused=True).load_state_dict(back)


def test_what_cannot_be_saved_is_refused(tmp_path):
    with pytest.raises(TypeError, match="not set"):
        save_tree(tmp_path / "c", {"a": {1, 2}})


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_told(tmp_path, keep):
    path = tmp_path / "c.safetensors"
    save_tree(path, {"weights": torch.ones(100), "step": 3})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        load_tree(path)


def test_pickled_code_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    for name, write in (("pickle", pickle.dumps), ("torch", None)):
        path = tmp_path / name
        if write:
            path.write_bytes(write(Bomb()))
        else:
            torch.save(Bomb(), path)
        with pytest.raises(CheckpointError):
            load_tree(path)
    assert not (tmp_path / "exploded").exists()


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_tree(tmp_path / "none")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_content_and_no_debris(tmp_path, monkeypatch, step):
    path = tmp_path / "c"
    write_atomically(path, b"old")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(RunFolderError, match="No space left on device"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["c"]
