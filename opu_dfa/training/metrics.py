"""`metrics.jsonl`: one JSON object a line, everything a run saw, in order."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from opu_dfa.errors import CheckpointError
from opu_dfa.training.checkpoint import cannot_write


class MetricsFile:
    """Appends records; `offset` marks a place that a resumed run cuts the file back to.

    Raises:
        RunFolderError: the disk is full or the folder cannot be written.
        CheckpointError: the file is shorter than the offset a checkpoint remembers.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        try:
            self._file = open(path, "r+b" if offset else "w+b", buffering=0)  # noqa: SIM115
            size = self._file.seek(0, os.SEEK_END)
            if size < offset:
                raise CheckpointError(f"{path} lost records: it has {size} bytes, the checkpoint remembers {offset}")
            self._file.truncate(offset)
            self._file.seek(offset)
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} is missing, and the checkpoint continues it. Restore it.") from error
        except OSError as error:
            raise cannot_write(path, error) from error

    def append(self, record: dict[str, Any]) -> None:
        line = (json.dumps(record) + "\n").encode()
        try:
            if self._file.write(line) != len(line):
                raise OSError(28, "No space left on device")
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def offset(self) -> int:
        """Bytes written so far, now on the disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise cannot_write(self.path, error) from error
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole records of a metrics file; a last line cut short by a crash is left out."""
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def continued(path: Path) -> tuple[list[dict[str, Any]], MetricsFile]:
    """The whole records there are, none of a file that is missing, and the file to append to after the last of them."""
    before = path.read_bytes() if path.exists() else b""
    return read_metrics(path) if before else [], MetricsFile(path, before.rfind(b"\n") + 1)
