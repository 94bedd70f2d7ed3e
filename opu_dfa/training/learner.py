"""A model ready to learn by one of three methods: optical or digital DFA, exact backprop, or frozen blocks.

The three share the initial weights, the data and the budget. "frozen" keeps everything up to the last block as it was
drawn and trains what follows: the control that says how much of a result the head alone achieves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hardware import OPU, Encoding, StochasticTernary, ThresholdTernary, open_opu
from opu_dfa.config import NonNegative, parse, settings
from opu_dfa.dfa import DirectFeedback, Feedback, GaussianFeedback, OpticalFeedback
from opu_dfa.dfa.engine import resolve_blocks
from opu_dfa.errors import ConfigError
from opu_dfa.models import GPTSettings, build_model
from opu_dfa.tasks.text import TextTask
from opu_dfa.training.settings import Method, TrainSettings

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


@dataclass
class Learner:
    """A model, its optimiser, and the engine that fills its gradients (None for exact gradients)."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    engine: DirectFeedback | None
    opu: OPU | None

    def backward(self, loss: Tensor, out: Tensor) -> None:
        if self.engine is None:
            loss.backward()
        else:
            self.engine.backward(loss, out)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def state(self) -> dict[str, Any]:
        feedback = dict(self.engine.feedback.state_dict()) if self.engine else {}
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "feedback": feedback,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.engine:
            self.engine.feedback.load_state_dict(state["feedback"])


def build_learner(method: Method, run: TrainSettings, task: TextTask) -> Learner:
    """The learner of a method at its start. All methods start from the same weights, an aligned head included.

    Raises:
        ConfigError: settings that do not fit each other.
        DeviceError: the device does not open.
    """
    model, layout = build_model(run.model, task, run.seed)
    chosen = parse(FeedbackSettings, run.feedback, "feedback")
    engine, opu = None, None
    if method == "dfa" or chosen.align_head:
        opu, feedback = _feedback(chosen, run, model, layout, task)
        if chosen.align_head:
            align_head(model.get_submodule(layout.head), feedback, chosen.align_head)
        if method == "dfa":
            through = layout.through if chosen.error_at == "output" else None
            feedback.to(run.torch_device)
            engine = DirectFeedback(model, layout.taps, feedback, chosen.error_at, through)
        else:
            opu = None
    model.to(run.torch_device)
    if method == "frozen":
        _freeze(model, layout)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        # Matrices decay; norms and biases do not.
        [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": run.optimizer.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=getattr(run.optimizer.lr, method),
        betas=(run.optimizer.beta1, run.optimizer.beta2),
        fused=True,
    )
    return Learner(model, optimizer, engine, opu)


def _feedback(
    chosen: FeedbackSettings, run: TrainSettings, model: nn.Module, layout: GPTSettings, task: TextTask
) -> tuple[OPU | None, Feedback]:
    """The operator, sized for where the error is taken and for the blocks; and its device, if it has one."""
    n_features = task.n_outputs if chosen.error_at == "output" else layout.width
    n_blocks = len(resolve_blocks(model, layout.taps))
    n_components = layout.width * (1 if chosen.layout == "shared" else n_blocks)
    seed = run.seed if run.opu.seed is None else run.opu.seed
    encoding = ENCODINGS[chosen.encoding] if chosen.encoding else None
    if chosen.name == "gaussian":
        return None, GaussianFeedback(n_features, n_components, chosen.layout, seed, encoding)
    opu = open_opu(run.opu.kind, n_features=n_features, n_components=n_components, seed=seed, preset=run.opu.preset)
    return opu, OpticalFeedback(opu, chosen.layout, encoding)


@torch.no_grad()
def align_head(head: nn.Module, feedback: Feedback, scale: float) -> None:
    """Start a head W at `scale` · Bᵀ, the feedback's measured columns: then Bᵀ is at once a stand-in for Wᵀ.

    Raises:
        ConfigError: the head is not a linear map between the feedback's widths.
    """
    columns = feedback.columns()  # (n_components, n_features)
    weight = getattr(head, "weight", None)
    if not isinstance(weight, Tensor) or weight.shape != (feedback.n_features, weight.shape[1]):
        raise ConfigError("feedback.align_head needs a linear head from the residual width to the outputs")
    weight.copy_(scale * columns[-weight.shape[1] :].T)  # of independent slices, the one nearest the head


def _freeze(model: nn.Module, layout: GPTSettings) -> None:
    """Keep as drawn what DFA teaches by feedback; what follows the last block (`trained_after`) still learns."""
    model.requires_grad_(False)
    for name in layout.trained_after:
        model.get_submodule(name).requires_grad_(True)
