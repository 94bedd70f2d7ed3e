"""Checkpoints: a nest of dicts, lists, scalars and tensors as one safetensors file, written so that it survives.

Nothing is ever unpickled: tensors are stored raw, everything else as JSON in the file's header. A file is written
beside its final name, flushed to the disk and renamed, so that a reader finds the old one or the new one, never half.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from opu_dfa.errors import CheckpointError, RunFolderError


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content as one step: all of it is on the disk under the name, or the old content still is.

    Raises:
        RunFolderError: the disk is full, or the folder cannot be written.
    """
    beside = path.with_name(f".{path.name}.writing")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> RunFolderError:
    """The error for a file that could not be written, with its cause and remedy."""
    return RunFolderError(
        f"cannot write {path}: {error.strerror or error}. What was saved before is intact. Make room, or move the run "
        "to another place (hydra.run.dir=FOLDER starts a new one there)."
    )


def save_tree(path: Path, tree: Any) -> None:
    """Write a nest of dicts, lists, JSON scalars and tensors to one file."""
    tensors: dict[str, Tensor] = {}
    skeleton = _pack(tree, tensors)
    write_atomically(path, save(tensors, metadata={"tree": json.dumps(skeleton)}))


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
        tensors[name] = node.detach().cpu().clone().contiguous()
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
