"""Checkpoints: a nest of dicts, lists, scalars and tensors as one safetensors file, written so that it survives.

Nothing is ever unpickled: tensors are stored raw, everything else as JSON in the file's header. A file is written
beside its final name, flushed to the disk and renamed, so that a reader finds the old one or the new one, never half.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from opu_dfa.errors import CheckpointError, RunFolderError


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content as one step: all of it is on the disk under the name, or the old content still is.

    Raises:
        RunFolderError: the disk is full, or the folder cannot be written.
    """
    with _replacing(path) as beside:
        beside.write_bytes(content)


def keep_config(folder: Path, config: Mapping[str, Any], verb: str) -> None:
    """Write a run's `config.json`, or find it there from before: a folder is of one run.

    Raises:
        RunFolderError: the folder is of another run, or cannot be written.
    """
    path, content = folder / "config.json", json.dumps(config, indent=2)
    if path.exists() and path.read_text() != content:
        raise RunFolderError(
            f"{folder} holds another run already. Choose another folder with hydra.run.dir=FOLDER, or continue "
            f"that one with `opu-dfa {verb} resume={folder}`."
        )
    write_atomically(path, content.encode())


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Within, write to the path given; afterwards it is on the disk, and then takes the name."""
    beside = path.with_name(f".{path.name}.writing")
    try:
        yield beside
        _flush(beside)
        os.replace(beside, path)
        _flush(path.parent)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def _flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> RunFolderError:
    """The error for a file that could not be written, with its cause and remedy."""
    return RunFolderError(
        f"cannot write {path}: {error.strerror or error}. What was saved before is intact. Make room, or move the run "
        "to another place (hydra.run.dir=FOLDER starts a new one there)."
    )


def save_tree(path: Path, tree: Any) -> None:
    """Write a nest of dicts, lists, JSON scalars and tensors to one file, without a second copy of it in memory."""
    tensors: dict[str, Tensor] = {}
    skeleton = _pack(tree, tensors)
    seen: set[int] = set()
    for name, tensor in tensors.items():  # the format wants each alone in its memory: no views, no tied weights
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            tensors[name] = tensor.clone()
        seen.add(storage.data_ptr())
    with _replacing(path) as beside:
        try:
            save_file(tensors, beside, metadata={"tree": json.dumps(skeleton)})
        except SafetensorError as error:  # so it calls a full disk too
            raise OSError(str(error)) from error


def load_tree(path: Path) -> Any:
    """Read what `save_tree` wrote.

    Raises:
        CheckpointError: there is no such file, or it is truncated or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}. Give resume= the folder of a run, as it printed it.")
    try:
        with safe_open(path, framework="pt") as file:
            skeleton = json.loads((file.metadata() or {})["tree"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _unpack(skeleton, tensors)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(
            f"the checkpoint {path} is damaged or truncated ({path.stat().st_size:,} bytes; {error}) and cannot be "
            "continued."
        ) from error


def _pack(node: Any, tensors: dict[str, Tensor]) -> Any:
    """The JSON skeleton of a nest; tensors are moved to `tensors` under running numbers."""
    if isinstance(node, Tensor):
        name = str(len(tensors))
        tensors[name] = node.detach().cpu().contiguous()
        return {"tensor": name}
    if isinstance(node, dict):  # as pairs, so that keys need not be strings
        return {"pairs": [[key, _pack(value, tensors)] for key, value in node.items()]}
    if isinstance(node, (list, tuple)):
        return {"list": [_pack(value, tensors) for value in node]}
    if node is None or isinstance(node, (str, int, float, bool)):
        return {"value": node}
    raise TypeError(f"a checkpoint holds dicts, lists, scalars and tensors, not {type(node).__name__}")


def _unpack(node: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "pairs":
        return {key: _unpack(value, tensors) for key, value in content}
    if kind == "list":
        return [_unpack(value, tensors) for value in content]
    return content
