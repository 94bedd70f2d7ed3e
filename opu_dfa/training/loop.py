"""The training loop of one method: steps, validation, alignment, and a state that continues bit for bit."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hardware import DeviceError
from opu_dfa.dfa.blocks import call
from opu_dfa.errors import ConfigError, DivergedError, UserError
from opu_dfa.seeds import stream
from opu_dfa.tasks import Task
from opu_dfa.tasks.task import Split
from opu_dfa.training.learner import Learner
from opu_dfa.training.optimizer import NotFinite, OptimizerSettings
from opu_dfa.training.settings import TrainSettings

_EXPLODED = 3.0  # times the first loss: no useful training passes through it
_QUICK = 128  # validation examples looked at during training; all of them at the end
_PLATEAU = 0.2  # what the "plateau" schedule multiplies the rate by


def learning_rate_factor(step: int, steps: int, optimizer: OptimizerSettings) -> float:
    """Linear warm-up over the first `warmup` of the steps, then the schedule's share of the peak rate.

    >>> from types import SimpleNamespace
    >>> cosine = SimpleNamespace(schedule="cosine", warmup=0.1, final=0.0)
    >>> [round(learning_rate_factor(s, 100, cosine), 3) for s in (0, 9, 55, 99)]
    [0.1, 1.0, 0.5, 0.0]
    >>> noam = SimpleNamespace(schedule="noam", warmup=0.1, final=0.0)
    >>> [round(learning_rate_factor(s, 100, noam), 3) for s in (0, 9, 39)]
    [0.1, 1.0, 0.5]
    """
    rise = max(1, round(optimizer.warmup * steps))
    if step < rise:
        return (step + 1) / rise
    if optimizer.schedule == "noam":
        return math.sqrt(rise / (step + 1))
    if optimizer.schedule != "cosine":
        return 1.0
    progress = (step - rise) / max(1, steps - rise)
    return optimizer.final + (1 - optimizer.final) * 0.5 * (1 + math.cos(math.pi * progress))


def memory_in_use(device: torch.device) -> int | None:
    """Bytes that this process holds: of a GPU the most its tensors took, otherwise of the machine's memory, now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # another system than Linux
        return None


class Loop:
    """Trains one learner; `observe` receives a record of numbers whenever there is something to see.

    Raises (from `step`):
        DivergedError: the loss or the gradient is no longer a number, or the loss exceeds three times the first.
    """

    def __init__(
        self,
        method: str,
        learner: Learner,
        task: Task,
        settings: TrainSettings,
        observe: Callable[[dict[str, Any]], None],
    ) -> None:
        self.method = method
        self.learner = learner
        self.task = task
        self.settings = settings
        self.observe = observe
        self.steps_done = 0
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.first_loss: float | None = None
        self.alignment: dict[str, float] = {}
        self.probe_frames = self._frames()  # spent on measuring (the feedback's columns, alignment), not on training
        self._data = stream(settings.seed, "data")
        self._device = settings.torch_device
        self._first_norms = self._block_norms()
        self._best_loss: float | None = None
        self._plateaus = 1.0  # what plateaus have left of the learning rate

    @property
    def done(self) -> bool:
        return self.steps_done >= self.settings.steps

    def step(self) -> None:
        """One optimiser step, and what is due with it: a log record, validation, alignment."""
        try:
            self._step()
        except (RuntimeError, ValueError) as error:
            if self.steps_done or isinstance(error, (UserError, DeviceError)):
                raise
            where = {name: self.settings.model.get(name) for name in ("taps", "through")}
            raise ConfigError(f"the model cannot be trained with model.{where}: {error}") from error

    def _step(self) -> None:
        settings, learner, step = self.settings, self.learner, self.steps_done
        record: dict[str, Any] = {"method": self.method, "step": step + 1}
        if learner.engine and settings.alignment_every and step % settings.alignment_every == 0:
            x, y = self._to_device(next(self.task.examples("validation", settings.batch_size, settings.batch_size)))
            before = self._frames()
            measured = learner.engine.alignment(self.task.loss, x, y)
            self.probe_frames += self._frames() - before
            self.alignment = {block: float(cosine) for block, cosine in measured.items()}
            record["alignment"] = self.alignment
            record["norm_ratio"] = {block: found.norm_ratio for block, found in measured.items()}
            record["sign_agreement"] = {block: found.sign_agreement for block, found in measured.items()}

        started, cpu_started = time.perf_counter(), time.process_time()
        factor = self._plateaus * learning_rate_factor(step, settings.steps, settings.optimizer)
        peak = getattr(settings.optimizer.lr, self.method)
        learner.stepper.begin(peak * factor)
        x, y = self._to_device(self.task.batch(settings.batch_size, self._data))
        try:
            loss = learner.gradients(x, y, step, self._guard)
            norm = learner.stepper.finish()
        except NotFinite as error:
            raise self._diverged(f"the gradient {error} is not finite") from error

        self.steps_done = step + 1
        last = self.done
        self.seconds += time.perf_counter() - started
        self.cpu_seconds += time.process_time() - cpu_started
        validating = last or self.steps_done % settings.validate_every == 0
        if validating or self.steps_done % settings.log_every == 0 or "alignment" in record:
            record |= {"loss": loss, "lr": peak * factor, "gradient_norm": norm}
            if learner.opu is not None:
                record["frames"] = self._frames()
            if validating:
                record |= {f"val_{name}": value for name, value in self.evaluate("validation", last).items()}
                self._watch(record["val_loss"])
            record["items_per_second"] = round(self.items_per_second, 1)
            record["memory_bytes"] = memory_in_use(self._device)
            self.observe(record)

    @property
    def items_per_second(self) -> float:
        """Training throughput so far (the task says what its items are), validation excluded."""
        items = self.steps_done * self.settings.batch_size * self.task.items_per_example
        return items / max(self.seconds, 1e-9)

    @torch.no_grad()
    def evaluate(self, split: Split, whole: bool = True) -> dict[str, float]:
        """Mean loss and scores over a split, or over a part of it."""
        model = self.learner.model.eval()
        scores = self.task.evaluate(self._forward, split, self.held_out(whole))
        model.train()
        return scores

    def held_out(self, whole: bool) -> int | None:
        """How many examples of a split are looked at: all that the settings allow, or a part; None is all there are."""
        limit = self.settings.validation_examples
        return limit if whole else min(_QUICK, limit or _QUICK)

    def state(self) -> dict[str, Any]:
        """Everything the next step depends on."""
        return {
            "learner": self.learner.state(),
            "data": self._data.get_state(),
            "steps_done": self.steps_done,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "first_loss": self.first_loss,
            "alignment": self.alignment,
            "probe_frames": self.probe_frames,
            "best_loss": self._best_loss,
            "plateaus": self._plateaus,
            "first_norms": self._first_norms,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.learner.load_state(state["learner"])
        self._data.set_state(state["data"])
        self.steps_done = state["steps_done"]
        self.seconds, self.cpu_seconds = state["seconds"], state["cpu_seconds"]
        self.first_loss = state["first_loss"]
        self.alignment = state["alignment"]
        self.probe_frames = state["probe_frames"]
        self._best_loss, self._plateaus = state["best_loss"], state["plateaus"]
        self._first_norms = state["first_norms"]

    def _frames(self) -> int:
        return self.learner.opu.usage.frames if self.learner.opu else 0

    def _to_device(self, batch: Any) -> Any:
        """Tensors, or tuples of them, where the model is."""
        if isinstance(batch, tuple):
            return tuple(self._to_device(part) for part in batch)
        return batch.to(self._device)

    def _forward(self, x: Any) -> Any:
        """The outputs for held-out examples, back where the examples are."""
        return call(self.learner.model, self._to_device(x)).cpu()

    def _watch(self, val_loss: float) -> None:
        """The "plateau" schedule: a validation loss that did not fall lowers the rate."""
        if self.settings.optimizer.schedule == "plateau" and val_loss > (self._best_loss or math.inf):
            self._plateaus *= _PLATEAU
        self._best_loss = min(val_loss, self._best_loss or math.inf)

    def _guard(self, loss: float) -> None:
        if self.first_loss is None:
            self.first_loss = loss
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
        if loss > _EXPLODED * self.first_loss:
            raise self._diverged(f"the loss is {loss:.3g}, and began at {self.first_loss:.3g}{self._most_grown()}")

    def _block_norms(self) -> dict[str, float]:
        blocks = self.learner.engine.blocks if self.learner.engine else {}
        return {name: math.hypot(*(p.norm().item() for p in block.parameters())) for name, block in blocks.items()}

    def _most_grown(self) -> str:
        """The block whose weights have grown most, as the end of a sentence."""
        growth = {name: norm / self._first_norms[name] for name, norm in self._block_norms().items() if norm}
        if not growth:
            return ""
        block = max(growth, key=growth.__getitem__)
        return f"; the weights of block {block} have grown most, {growth[block]:.1f} times"

    def _diverged(self, what: str) -> DivergedError:
        rate = getattr(self.settings.optimizer.lr, self.method)
        return DivergedError(
            f"training by {self.method} diverged at step {self.steps_done + 1}: {what}. Its learning rate is {rate:g}; "
            f"try optimizer.lr.{self.method}={rate / 3:.2g}, or a smaller optimizer.clip_norm. The last checkpoint and "
            "the metrics so far are kept."
        )
