"""The training loop of one method: steps, validation, alignment, and a state that continues bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hardware import DeviceError
from opu_dfa.errors import ConfigError, DivergedError, UserError
from opu_dfa.seeds import stream
from opu_dfa.tasks.text import TextTask
from opu_dfa.training.learner import Learner
from opu_dfa.training.settings import OptimizerSettings, TrainSettings

_EXPLODED = 3.0  # times the first loss: no useful training passes through it
_QUICK_WINDOWS = 128  # validation windows looked at during training; all of them at the end


def learning_rate_factor(step: int, steps: int, optimizer: OptimizerSettings) -> float:
    """Linear warm-up over the first `warmup` of the steps, then a cosine down to `final`.

    >>> from types import SimpleNamespace
    >>> [round(learning_rate_factor(s, 100, SimpleNamespace(warmup=0.1, final=0.0)), 3) for s in (0, 9, 55, 99)]
    [0.1, 1.0, 0.5, 0.0]
    """
    rise = max(1, round(optimizer.warmup * steps))
    if step < rise:
        return (step + 1) / rise
    progress = (step - rise) / max(1, steps - rise)
    return optimizer.final + (1 - optimizer.final) * 0.5 * (1 + math.cos(math.pi * progress))


class Loop:
    """Trains one learner; `observe` receives a record of numbers whenever there is something to see.

    Raises (from `step`):
        DivergedError: the loss or the gradient is no longer a number, or the loss exceeds three times the first.
    """

    def __init__(
        self,
        method: str,
        learner: Learner,
        task: TextTask,
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
        if learner.engine and step % settings.alignment_every == 0:
            x, y = self._to_device(next(self.task.validation(settings.batch_size, settings.batch_size)))
            before = self._frames()
            self.alignment = learner.engine.alignment(self.task.loss, x, y)
            self.probe_frames += self._frames() - before
            record["alignment"] = self.alignment

        started, cpu_started = time.perf_counter(), time.process_time()
        factor = learning_rate_factor(step, settings.steps, settings.optimizer)
        peak = getattr(settings.optimizer.lr, self.method)
        for group in learner.optimizer.param_groups:
            group["lr"] = peak * factor
        x, y = self._to_device(self.task.batch(settings.batch_size, self._data))
        learner.optimizer.zero_grad(set_to_none=True)
        out = learner.model(x)
        loss = self.task.loss(out, y)
        value = loss.item()
        self._guard(value)
        learner.backward(loss, out)
        norm = self._clip()
        learner.optimizer.step()

        self.steps_done = step + 1
        last = self.done
        self.seconds += time.perf_counter() - started
        self.cpu_seconds += time.process_time() - cpu_started
        validating = last or self.steps_done % settings.validate_every == 0
        if validating or self.steps_done % settings.log_every == 0 or "alignment" in record:
            record |= {"loss": value, "lr": peak * factor, "gradient_norm": norm}
            if learner.opu is not None:
                record["frames"] = self._frames()
            if validating:
                record["val_loss"] = self.validate(None if last else _QUICK_WINDOWS)
            record["tokens_per_second"] = round(self.tokens_per_second, 1)
            self.observe(record)

    @property
    def tokens_per_second(self) -> float:
        """Training throughput so far, validation excluded."""
        return self.steps_done * self.settings.batch_size * self.task.context / max(self.seconds, 1e-9)

    @torch.no_grad()
    def validate(self, at_most: int | None = None) -> float:
        """Mean loss over the held-out windows (`at_most` of them), each window weighing the same."""
        self.learner.model.eval()
        total, count = 0.0, 0
        for batch in self.task.validation(64, at_most):
            x, y = self._to_device(batch)
            total += self.task.loss(self.learner.model(x), y).item() * len(x)
            count += len(x)
        self.learner.model.train()
        return total / count

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
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.learner.load_state(state["learner"])
        self._data.set_state(state["data"])
        self.steps_done = state["steps_done"]
        self.seconds, self.cpu_seconds = state["seconds"], state["cpu_seconds"]
        self.first_loss = state["first_loss"]
        self.alignment = state["alignment"]
        self.probe_frames = state["probe_frames"]

    def _frames(self) -> int:
        return self.learner.opu.usage.frames if self.learner.opu else 0

    def _to_device(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return batch[0].to(self._device), batch[1].to(self._device)

    def _clip(self) -> float:
        limit = self.settings.optimizer.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.learner.parameters, limit).item()
        if not math.isfinite(norm):
            named = self.learner.model.named_parameters()
            broken = [name for name, p in named if p.grad is not None and not torch.isfinite(p.grad).all()]
            where = broken[0] if broken else "the whole (its norm overflows)"
            raise self._diverged(f"the gradient of {where} is not finite")
        return norm

    def _guard(self, loss: float) -> None:
        if self.first_loss is None:
            self.first_loss = loss
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
        if loss > _EXPLODED * self.first_loss:
            raise self._diverged(f"the loss is {loss:.3g}, and began at {self.first_loss:.3g}")

    def _diverged(self, what: str) -> DivergedError:
        rate = getattr(self.settings.optimizer.lr, self.method)
        return DivergedError(
            f"training by {self.method} diverged at step {self.steps_done + 1}: {what}. Its learning rate is {rate:g}; "
            f"try optimizer.lr.{self.method}={rate / 3:.2g}, or a smaller optimizer.clip_norm. The last checkpoint and "
            "the metrics so far are kept."
        )
