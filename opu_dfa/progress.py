"""What a person sees while forecasts run: a bar on a terminal, a line for each thing begun in a log."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class Work:
    """One piece of work after another."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal
        self._task: TaskID | None = None
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not self._live,
        )

    def __enter__(self) -> Work:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end()
        self._progress.stop()

    def begin(self, what: str, total: int = 1, done: int = 0) -> None:
        """The next piece; the one before is done."""
        self._end()
        self._task = self._progress.add_task(what, total=total, completed=done)
        if not self._live:
            self.say(what)

    def advance(self) -> None:
        if self._task is not None:
            self._progress.advance(self._task)

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _end(self) -> None:
        if self._task is not None:
            task = self._progress.tasks[self._task]
            self._progress.update(self._task, completed=task.total)
            self._task = None
