"""The feedback operator of a run: the device is opened once, its columns are measured once, all methods share both."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hardware import OPU, BitPlanes, Encoding, StochasticTernary, ThresholdTernary
from opu_dfa.config import Count, Fraction, NonNegative, NonNegativeInt, parse, settings
from opu_dfa.dfa import OPERATORS, Feedback, RandomSketch, build_feedback
from opu_dfa.dfa.engine import ErrorAt
from opu_dfa.dfa.feedback import signal_width
from opu_dfa.dfa.probe import measure
from opu_dfa.errors import ConfigError
from opu_dfa.models import Layout
from opu_dfa.opening import open_device
from opu_dfa.seeds import stream
from opu_dfa.tasks import Task
from opu_dfa.training.settings import TrainSettings

ENCODINGS: dict[str, Encoding] = {
    "stochastic": StochasticTernary(),
    "threshold": ThresholdTernary(),
    "planes": BitPlanes(),
}


@settings
class FeedbackSettings:
    """Which operator carries the error to the blocks.

    name: one of `opu_dfa.dfa.OPERATORS`; layout: see `Feedback`; encoding: binary patterns that the error is shown as,
    None for the exact error (not on a device); error_at: see `DirectFeedback`, or "target" to project the target during
    the forward pass (DRTP); sketch: random dimensions the error is reduced to first, None for all; centered: take
    the batch mean out of the signal; align_head: the head
    starts at this multiple of the feedback's columns, 0 to leave it as drawn; calibrate_every: every how many steps the
    gradients are exact, 0 for never; sample_every, rate: of the "aligned" operator, steps between two forward-mode
    samples of the Jacobians and how fast their average follows.
    """

    name: str
    layout: Literal["shared", "independent"]
    encoding: Literal["stochastic", "threshold", "planes"] | None
    error_at: Literal["output", "hidden", "target"]
    sketch: Count | None
    centered: bool
    align_head: NonNegative
    calibrate_every: NonNegativeInt
    sample_every: Count
    rate: Fraction

    def __post_init__(self) -> None:
        if self.name not in OPERATORS:
            raise ConfigError(f"feedback.name={self.name} is unknown; the operators are: {', '.join(OPERATORS)}")
        if self.name == "optical" and self.encoding is None:
            raise ConfigError("feedback.encoding=null shows the exact error, which mirrors cannot: choose stochastic")
        if self.align_head and self.error_at == "hidden":
            raise ConfigError(f"feedback.align_head={self.align_head} needs feedback.error_at=output; set it to 0")

    def route(self, layout: Layout) -> tuple[ErrorAt, str | None]:
        """Where the engine takes the error, and the module whose derivative the projection passes: of `DirectFeedback`,
        `error_at` and `through`. A projected target passes none."""
        error_at: ErrorAt = "hidden" if self.error_at == "hidden" else "output"
        return error_at, layout.through if self.error_at == "output" else None


class Operator:
    """Opens the operator at its first use, so that a run which needs no device opens none.

    Args:
        run: the settings; task: gives a batch, by which the operator is sized.
        state: what `state()` returned before an interruption.
    """

    def __init__(self, run: TrainSettings, task: Task, state: dict[str, Any] | None = None) -> None:
        self.settings = parse(FeedbackSettings, run.feedback, "feedback")
        self.rows_per_step = 0
        self._run, self._task = run, task
        self._feedback: Feedback | None = None
        self._saved: dict[str, Any] | None = state["feedback"] if state else None
        self._columns: Tensor | None = state["columns"] if state else None

    @property
    def opu(self) -> OPU | None:
        """The device, where there is one and it is open."""
        return self._feedback.opu if self._feedback else None

    def feedback(self, model: nn.Module, layout: Layout) -> Feedback:
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
    def align_head(self, model: nn.Module, layout: Layout) -> None:
        """Start the model's head W at a multiple of the measured columns: then Bᵀ is at once a stand-in for Wᵀ.

        Raises:
            ConfigError: the head is not a linear map from the blocks' width to the outputs.
        """
        if not self.settings.align_head:
            return
        weight = getattr(model.get_submodule(layout.head or ""), "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            raise ConfigError(
                f"feedback.align_head={self.settings.align_head} needs a linear head, and model.head={layout.head} is "
                "none; set it to 0"
            )
        if self._columns is None:
            # Of independent slices, the one nearest the head.
            self._columns = self.feedback(model, layout).columns()[-weight.shape[1] :].detach().cpu()
        if weight.shape != self._columns.T.shape:
            raise ConfigError(
                f"feedback.align_head={self.settings.align_head} needs a head of shape {tuple(self._columns.T.shape)}, "
                f"and that of the model is {tuple(weight.shape)}; set it to 0"
            )
        weight.copy_(self.settings.align_head * self._columns.T)

    def close(self) -> None:
        """Release the device, if one was opened."""
        if self.opu is not None:
            self.opu.close()

    def state(self) -> dict[str, Any]:
        """Everything the operator's next projection depends on."""
        feedback = self._saved if self._feedback is None else dict(self._feedback.state_dict())
        return {"feedback": feedback, "columns": self._columns}

    def _open(self, model: nn.Module, layout: Layout) -> Feedback:
        chosen, run = self.settings, self._run
        x, _ = self._task.batch(run.batch_size, stream(run.seed, "probe"))
        error_at, through = chosen.route(layout)
        if chosen.error_at == "target":
            through = layout.through  # not passed, but as wide as the head that the columns may align
        sizes = measure(model, layout.taps, x, error_at, through)
        self.rows_per_step = math.prod(sizes.lead)
        n_components = signal_width(sizes.widths, chosen.layout)
        seed = run.seed if run.opu.seed is None else run.opu.seed
        n_shown = chosen.sketch or sizes.n_features
        return build_feedback(
            chosen.name,
            sizes.n_features,
            n_components,
            layout=chosen.layout,
            seed=seed,
            encoding=ENCODINGS[chosen.encoding] if chosen.encoding else None,
            opu=open_device(run.opu, n_shown, n_components, run.seed) if chosen.name == "optical" else None,
            sketch=RandomSketch(sizes.n_features, chosen.sketch, seed) if chosen.sketch else None,
            centered=chosen.centered,
            **({"rate": chosen.rate} if chosen.name == "aligned" else {}),
        )
