"""What a person sees while training runs: a live line a method on a terminal, plain lines in a log."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from opu_dfa.training.loop import Loop


class TrainingProgress:
    """Step, losses, items per second, time left and device frames, updated every step."""

    def __init__(self, console: Console, title: dict[str, str], steps: int, item: str) -> None:
        self._console = console
        self._live = console.is_terminal
        self._titles = title
        self._steps = steps
        self._item = item
        self._val: float | None = None
        self._loss: float | None = None
        self._task: TaskID | None = None
        self._progress = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:>5.0f}/{task.total:.0f} steps"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[text]}"),
            console=console,
            disable=not self._live,
        )

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def begin(self, method: str, done: int) -> None:
        self._val = self._loss = None
        self._task = self._progress.add_task(self._titles[method], total=self._steps, completed=done, text="")

    def record(self, record: dict[str, Any]) -> None:
        """Take the newest losses; in a log, print them when there is a validation loss."""
        self._loss = record.get("loss", self._loss)
        self._val = record.get("val_loss", self._val)
        if "val_loss" in record and not self._live:
            frames = f"  {record['frames']:,} frames" if "frames" in record else ""
            self._console.print(
                f"{self._titles[record['method']]:<14} step {record['step']:>5}/{self._steps}  "
                f"loss {record['loss']:.3f}  validation {record['val_loss']:.3f}  "
                f"{record['items_per_second']:,.0f} {self._item}/s{frames}",
                highlight=False,
                soft_wrap=True,
            )

    def advance(self, loop: Loop) -> None:
        if self._task is None or not self._live:
            return
        parts = [f"loss {self._loss:.3f}"] if self._loss is not None else []
        parts += [f"val {self._val:.3f}"] if self._val is not None else []
        parts.append(f"{loop.items_per_second:,.0f} {self._item}/s")
        if loop.learner.opu is not None:
            parts.append(f"{loop.learner.opu.usage.frames / 1e6:.2f}M frames")
        self._progress.update(self._task, completed=loop.steps_done, text="  ".join(parts))
