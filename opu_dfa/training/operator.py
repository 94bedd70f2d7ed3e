"""The feedback operator of a run: the device is opened once, its columns are measured once, all methods share both."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from hardware import OPU, Encoding, StochasticTernary, ThresholdTernary
from opu_dfa.config import NonNegative, parse, settings
from opu_dfa.dfa import Feedback, GaussianFeedback, OpticalFeedback
from opu_dfa.dfa.engine import resolve_blocks
from opu_dfa.errors import ConfigError
from opu_dfa.models import GPTSettings
from opu_dfa.opening import open_device
from opu_dfa.tasks.text import TextTask
from opu_dfa.training.settings import TrainSettings

ENCODINGS: dict[str, Encoding] = {"stochastic": StochasticTernary(), "threshold": ThresholdTernary()}


@settings
class FeedbackSettings:
    """encoding: None shows the exact error (gaussian only); error_at: see `DirectFeedback`; align_head: the head starts
    at this multiple of the feedback's columns, 0 to leave it as drawn."""

    name: Literal["optical", "gaussian"]
    layout: Literal["shared", "independent"]
    encoding: Literal["stochastic", "threshold"] | None
    error_at: Literal["output", "hidden"]
    align_head: NonNegative

    def __post_init__(self) -> None:
        if self.name == "optical" and self.encoding is None:
            raise ConfigError("feedback.encoding=null shows the exact error, which mirrors cannot: choose stochastic")
        if self.align_head and self.error_at == "hidden":
            raise ConfigError(f"feedback.align_head={self.align_head} needs feedback.error_at=output; set it to 0")


class Operator:
    """Opens the operator at its first use, so that a run which needs no device opens none.

    Args:
        run: the settings; task: gives the width of the error.
        state: what `state()` returned before an interruption.
    """

    def __init__(self, run: TrainSettings, task: TextTask, state: dict[str, Any] | None = None) -> None:
        self.settings = parse(FeedbackSettings, run.feedback, "feedback")
        self._run, self._task = run, task
        self._feedback: Feedback | None = None
        self._saved: dict[str, Any] | None = state["feedback"] if state else None
        self._columns: Tensor | None = state["columns"] if state else None

    @property
    def opu(self) -> OPU | None:
        """The device, where there is one and it is open."""
        return getattr(self._feedback, "opu", None)

    def feedback(self, model: nn.Module, layout: GPTSettings) -> Feedback:
        """The operator, sized for where the error is taken and for the model's blocks.

        Raises:
            DeviceError: the device does not open, or is not the one the saved state belongs to.
        """
        if self._feedback is None:
            self._feedback = self._open(model, layout).to(self._run.torch_device)
            if self._saved is not None:
                self._feedback.load_state_dict(self._saved)
        return self._feedback

    @torch.no_grad()
    def align_head(self, model: nn.Module, layout: GPTSettings) -> None:
        """Start the model's head W at a multiple of the measured columns: then Bᵀ is at once a stand-in for Wᵀ.

        Raises:
            ConfigError: the head is not a linear map from the residual width to the outputs.
        """
        if not self.settings.align_head:
            return
        if self._columns is None:
            # Of independent slices, the one nearest the head.
            self._columns = self.feedback(model, layout).columns()[-layout.width :].cpu()
        weight = getattr(model.get_submodule(layout.head), "weight", None)
        if not isinstance(weight, Tensor) or weight.shape != self._columns.T.shape:
            raise ConfigError(f"feedback.align_head needs a linear head of shape {tuple(self._columns.T.shape)}")
        weight.copy_(self.settings.align_head * self._columns.T)

    def close(self) -> None:
        """Release the device, if one was opened."""
        if self.opu is not None:
            self.opu.close()

    def state(self) -> dict[str, Any]:
        """Everything the operator's next projection depends on."""
        feedback = self._saved if self._feedback is None else dict(self._feedback.state_dict())
        return {"feedback": feedback, "columns": self._columns}

    def _open(self, model: nn.Module, layout: GPTSettings) -> Feedback:
        chosen, run = self.settings, self._run
        n_features = self._task.n_outputs if chosen.error_at == "output" else layout.width
        n_blocks = len(resolve_blocks(model, layout.taps))
        n_components = layout.width * (1 if chosen.layout == "shared" else n_blocks)
        seed = run.seed if run.opu.seed is None else run.opu.seed
        encoding = ENCODINGS[chosen.encoding] if chosen.encoding else None
        if chosen.name == "gaussian":
            return GaussianFeedback(n_features, n_components, chosen.layout, seed, encoding)
        return OpticalFeedback(open_device(run.opu, n_features, n_components, run.seed), chosen.layout, encoding)
