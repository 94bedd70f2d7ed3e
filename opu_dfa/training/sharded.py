"""Checkpoints of a run over ranks: every rank writes what it holds, by names that do not depend on how many there are.

Written and read by `torch.distributed.checkpoint` as safetensors files, whose headers say what is where: nothing is
unpickled. A checkpoint is a folder `step-N` that appears under its name when it is whole:

    checkpoints/dfa-00000050/shards/*.safetensors    parameters, optimiser state, operator, by name
    checkpoints/dfa-00000050/run.safetensors         what all ranks share: the step, the data's draw, records so far
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from opu_dfa.errors import CheckpointError
from opu_dfa.training.checkpoint import cannot_write, load_tree, save_tree

FOLDER = "checkpoints"
_SHARDS, _SHARED = "shards", "run.safetensors"
_WRITING = ".writing"
_KEPT = 2


def save(folder: Path, name: str, tensors: dict[str, Tensor], shared: Any) -> None:
    """Write a checkpoint of all ranks. Collective.

    Args:
        folder: the run's; name: sorts after those of earlier checkpoints.
        tensors: what this rank holds, by name; shared: the same on all ranks, of which rank 0 writes it.

    Raises:
        RunFolderError: the folder cannot be written.
    """
    beside, final = folder / FOLDER / _WRITING, folder / FOLDER / name
    writer = HuggingFaceStorageWriter(str(beside / _SHARDS), save_distributed=True)
    try:
        state_dict_saver.save({key: t.detach().cpu().contiguous() for key, t in tensors.items()}, storage_writer=writer)
        if dist.get_rank() == 0:
            save_tree(beside / _SHARED, shared)
            if final.exists():
                shutil.rmtree(final)
            beside.rename(final)
            for old in _all(folder)[:-_KEPT]:
                shutil.rmtree(old)
    except OSError as error:
        raise cannot_write(final, error) from error


def prepare(folder: Path) -> None:
    """Remove what an interrupted `save` has left; before any rank saves."""
    shutil.rmtree(folder / FOLDER / _WRITING, ignore_errors=True)


def newest(folder: Path) -> Path | None:
    """The last whole checkpoint of a run."""
    found = _all(folder)
    return found[-1] if found else None


def load_shared(checkpoint: Path) -> Any:
    """What all ranks share.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    return load_tree(checkpoint / _SHARED)


def load(checkpoint: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """The tensors of the names that are wanted here, whichever rank wrote them.

    Raises:
        CheckpointError: they are missing or damaged.
    """
    reader = HuggingFaceStorageReader(str(checkpoint / _SHARDS))
    try:
        saved: dict[str, Any] = reader.read_metadata().state_dict_metadata
        found = {key: torch.empty(m.size, dtype=m.properties.dtype) for key, m in saved.items() if wanted(key)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # each rank reads for itself, and is told that it is alone
            state_dict_loader.load(found, storage_reader=reader, no_dist=True)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"the checkpoint {checkpoint} is damaged ({error}) and cannot be continued; remove it to continue from the "
            "one before it"
        ) from error
    return found


def _all(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path.parent for path in (folder / FOLDER).glob(f"[!.]*/{_SHARED}"))
