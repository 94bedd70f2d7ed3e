"""What a run keeps of its course: results of finished methods, the state of the one under way, metrics, a tracker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from opu_dfa.errors import CheckpointError
from opu_dfa.tasks import Task
from opu_dfa.training.checkpoint import write_atomically
from opu_dfa.training.metrics import MetricsFile
from opu_dfa.training.settings import Method, TrainSettings
from opu_dfa.training.trackers import NoTracker, Tracker, open_tracker


class Records:
    """The records of a run, from its start or from a checkpoint on.

    Args:
        settings, config: of the run, and as it was composed; folder: the run's.
        saved: the checkpoint to continue from, with what `state` returned; None at the start.
        writes: whether this process keeps them; where several train together, one does.

    Attributes:
        finished: results by method.

    Raises:
        CheckpointError: the data, or the metrics, are not those that the checkpoint continues.
        RunFolderError: the folder cannot be written.
    """

    def __init__(
        self,
        settings: TrainSettings,
        task: Task,
        config: dict[str, Any],
        folder: Path,
        saved: dict[str, Any] | None,
        writes: bool = True,
    ) -> None:
        if saved and saved["data"] != task.fingerprint:
            raise CheckpointError(
                f"the data have changed since this run began (fingerprint {task.fingerprint}, was {saved['data']}): it "
                "cannot continue to the same numbers. Restore them, or start a new run."
            )
        self.finished: dict[str, dict[str, Any]] = saved["finished"] if saved else {}
        self._under_way: dict[str, Any] | None = saved["under_way"] if saved else None
        self._data = task.fingerprint
        self._tracker: Tracker = NoTracker()
        self._metrics: MetricsFile | None = None
        if writes:
            if not saved:
                write_atomically(folder / "config.json", json.dumps(config, indent=2).encode())
            self._tracker = open_tracker(settings, folder, config, saved["tracker"] if saved else None)
            self._metrics = MetricsFile(folder / "metrics.jsonl", saved["metrics_offset"] if saved else 0)

    def begun(self, method: Method) -> dict[str, Any] | None:
        """Where the checkpoint left a method, if it was under way. Given away once: it may be as large as the model."""
        if self._under_way is None or self._under_way["method"] != method:
            return None
        given, self._under_way = self._under_way, None
        return given

    def add(self, record: dict[str, Any]) -> None:
        """Append a record of numbers."""
        if self._metrics is not None:
            self._metrics.append(record)
            self._tracker.log(record)

    def state(self, under_way: dict[str, Any] | None) -> dict[str, Any]:
        """What a checkpoint holds of them, and of the method under way: its name as "method", and what `begun` is to
        return."""
        return {
            "finished": self.finished,
            "under_way": under_way,
            "metrics_offset": self._metrics.offset() if self._metrics is not None else 0,
            "data": self._data,
            "tracker": self._tracker.identity,
        }

    def close(self, summary: dict[str, Any] | None) -> None:
        """The run's end; None where it did not come to one."""
        if self._metrics is not None:
            self._metrics.close()
        self._tracker.finish(summary)
