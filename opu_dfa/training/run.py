"""One training run: each method in turn under the same budget, then the comparison; resumable at any step."""

from __future__ import annotations

import fcntl
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from torch import nn

from opu_dfa.config import parse
from opu_dfa.errors import CheckpointError, RunFolderError
from opu_dfa.seeds import stream
from opu_dfa.tasks import build_task
from opu_dfa.training.checkpoint import cannot_write, load_tree, save_tree, write_atomically
from opu_dfa.training.learner import Learner, build_learner
from opu_dfa.training.loop import Loop
from opu_dfa.training.metrics import read_metrics
from opu_dfa.training.operator import Operator
from opu_dfa.training.plan import is_large, refuse_what_cannot_fit
from opu_dfa.training.progress import TrainingProgress
from opu_dfa.training.records import Records
from opu_dfa.training.report import drawn, print_summary, write_report
from opu_dfa.training.settings import Method, TrainSettings
from opu_dfa.training.summary import method_titles, result_of, summary_of

CHECKPOINT = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"


class Interrupted(Exception):
    """The user asked the run to stop; its checkpoint is written."""


def run_training(config: dict[str, Any], folder: Path, console: Console, checkpoint: Path | None = None) -> Path:
    """Train every method of a configuration in a run folder, and write its summary, figures and report.

    Args:
        config: the composed configuration, plain.
        folder: the run's folder.
        console: where progress and the summary are shown.
        checkpoint: continue from this file, bit for bit as if never interrupted.

    Returns:
        The folder.

    Raises:
        UserError: anything a user can mend (`opu_dfa.errors`).
        Interrupted: stopped by SIGINT or SIGTERM, after a checkpoint.
    """
    settings = parse(TrainSettings, config)
    with alone_in(folder):
        run = _Run(settings, config, folder, console, checkpoint)
        summary: dict[str, Any] | None = None
        try:
            summary = run.complete()
        finally:
            run.close(summary)
    print_summary(summary, console)
    return folder


class _Run:
    """A run in one process: its device, its records and its checkpoint."""

    def __init__(
        self,
        settings: TrainSettings,
        config: dict[str, Any],
        folder: Path,
        console: Console,
        checkpoint: Path | None,
    ) -> None:
        saved = _load(checkpoint) if checkpoint else None
        if not saved and (folder / CHECKPOINT).exists():
            raise RunFolderError(
                f"{folder} holds a run already. Continue it with `opu-dfa train resume={folder}`, or choose another "
                "folder with hydra.run.dir=FOLDER."
            )
        # Once the newest checkpoint is known to be whole, the next one may push it into second place.
        self._newest_is_whole = checkpoint is None or checkpoint.name == CHECKPOINT
        self.settings = settings
        self.folder = folder
        self.console = console
        self.task = build_task(settings.task, settings.data)
        self.operator = Operator(settings, self.task, saved["operator"] if saved else None)
        self.records = Records(settings, self.task, config, folder, saved)

    def complete(self) -> dict[str, Any]:
        """Train what is not finished yet, and write what the run leaves."""
        task, settings, finished = self.task, self.settings, self.records.finished
        titles = method_titles(settings)
        each = f"windows of {task.items_per_example}" if task.items_per_example > 1 else task.item
        self.console.print(
            f"{task.description}. {settings.steps} steps of {settings.batch_size} {each} for each of: "
            + ", ".join(titles[m] for m in settings.method),
            highlight=False,
            soft_wrap=True,
        )
        large = is_large(settings, task)
        with _stop_requests() as stop, TrainingProgress(self.console, titles, settings.steps, task.item) as progress:
            for method in settings.method:
                if method not in finished:
                    if large:
                        refuse_what_cannot_fit(settings, task, method)
                    with settings.precision():
                        finished[method] = self._train(method, progress, stop)
                    self._checkpoint(None)
        summary = summary_of(settings, task, finished)
        write_atomically(self.folder / "summary.json", json.dumps(summary, indent=2).encode())
        write_report(self.folder, summary, read_metrics(self.folder / "metrics.jsonl"))
        return summary

    def close(self, summary: dict[str, Any] | None) -> None:
        try:
            self.operator.close()
        finally:
            self.records.close(summary)

    def _train(self, method: Method, progress: TrainingProgress, stop: threading.Event) -> dict[str, Any]:
        learner = build_learner(method, self.settings, self.task, self.operator)

        def observe(record: dict[str, Any]) -> None:
            self.records.add(record)
            progress.record(record)
            seen.update({k: v for k, v in record.items() if k == "loss" or k.startswith("val_")})

        seen: dict[str, float] = {}
        loop = Loop(method, learner, self.task, self.settings, observe)
        if begun := self.records.begun(method):
            try:
                loop.load_state(begun.pop("loop"))
            except (KeyError, RuntimeError, ValueError) as error:
                raise CheckpointError(f"the checkpoint does not fit the run's config.json: {error}") from error
            seen.update(begun["seen"])
        progress.begin(method, loop.steps_done)
        while not loop.done:
            loop.step()
            progress.advance(loop)
            if loop.done or stop.is_set() or loop.steps_done % self.settings.checkpoint_every == 0:
                self._checkpoint({"method": method, "loop": loop.state(), "seen": seen})
            if stop.is_set():
                raise Interrupted(f"Stopped at step {loop.steps_done} of {method_titles(self.settings)[method]}")
        save_tree(self.folder / f"{method}.safetensors", dict(learner.model.state_dict()))
        return self._result(loop, learner, seen)

    def _result(self, loop: Loop, learner: Learner, seen: dict[str, float]) -> dict[str, Any]:
        """What a finished method is reported by; its picture, where the task draws one, goes to METHOD-sample.png."""
        result = result_of(loop, seen)
        if loop.alignment:
            result["alignment"] = loop.alignment
        if self.settings.sample_length:
            self._sample(loop.method, learner.model.eval(), result)
        if learner.opu is not None:
            usage = learner.opu.usage
            result["device"] = {
                "name": learner.opu.identity,
                "frames": usage.frames,
                "probe_frames": loop.probe_frames,
                "seconds": usage.seconds,
                "joules": usage.joules,
                # One multiply-add an entry of the matrix, for every error shown: two operations.
                "dense_projection_flops": 2
                * learner.opu.n_features
                * learner.opu.n_components
                * self.settings.steps
                * self.operator.rows_per_step,
            }
        return result

    def _sample(self, method: str, model: nn.Module, result: dict[str, Any]) -> None:
        """What the trained model does, as text into its result or as a picture into the folder."""
        text = self.task.text_sample(model, stream(self.settings.seed, "sample"), self.settings.sample_length)
        if text is not None:
            result["sample"] = text
        with torch.no_grad():
            picture = self.task.figure(model, stream(self.settings.seed, "sample"))
        if picture is not None:
            write_atomically(self.folder / f"{method}-sample.png", drawn(picture, "png"))

    def _checkpoint(self, under_way: dict[str, Any] | None) -> None:
        path = self.folder / CHECKPOINT
        if path.exists() and self._newest_is_whole:
            _keep_as(path, self.folder / PREVIOUS)
        save_tree(path, {**self.records.state(under_way), "operator": self.operator.state()})
        self._newest_is_whole = True


def _load(checkpoint: Path) -> dict[str, Any]:
    """The saved state; for a damaged file, the error names the checkpoint before it."""
    try:
        saved = load_tree(checkpoint)
        if not isinstance(saved, dict) or "under_way" not in saved:
            raise CheckpointError(f"{checkpoint} is no checkpoint of a run. Give resume= the run's folder.")
        return saved
    except CheckpointError as error:
        previous = checkpoint.with_name(PREVIOUS)
        if previous == checkpoint or not previous.is_file():
            raise
        raise CheckpointError(f"{error} The one before it is there: opu-dfa train resume={previous}") from error


def _keep_as(path: Path, second_name: Path) -> None:
    """Keep a file's content under a second name, so that replacing the file leaves it there."""
    try:
        second_name.unlink(missing_ok=True)
        second_name.hardlink_to(path)
    except OSError:  # a file system without hard links
        write_atomically(second_name, path.read_bytes())


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: two processes in one run folder would destroy each other's checkpoints."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise cannot_write(folder, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunFolderError(
                f"another process is training in {folder}. Wait for it, or start a run of your own."
            ) from error
        yield


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """SIGINT and SIGTERM set an event that the loop looks at after each step; a second one stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, frame: FrameType | None) -> None:
        stop.set()
        for s, handler in previous.items():
            signal.signal(s, handler)

    for s in previous:
        signal.signal(s, request)
    try:
        yield stop
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)
