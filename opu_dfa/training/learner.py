"""A model ready to learn by one of three methods: optical or digital DFA, exact backprop, or frozen blocks.

The three share the initial weights, the data and the budget. "frozen" keeps everything up to the last block as it was
drawn and trains what follows: the control that says how much of a result the head alone achieves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hardware import OPU
from opu_dfa.dfa import DirectFeedback
from opu_dfa.dfa.blocks import call
from opu_dfa.dfa.engine import ErrorAt
from opu_dfa.models import build_model
from opu_dfa.seeds import stream
from opu_dfa.tasks import Task
from opu_dfa.training.operator import FeedbackSettings, Operator
from opu_dfa.training.settings import Method, TrainSettings


@dataclass
class Learner:
    """A model, its optimiser, and how its gradients are filled: by the engine, or exactly where there is none."""

    model: nn.Module
    task: Task
    optimizer: torch.optim.Optimizer
    engine: DirectFeedback | None
    feedback: FeedbackSettings
    opu: OPU | None
    tangents: torch.Generator

    def gradients(self, x: Any, y: Any, step: int, check: Callable[[float], None]) -> float:
        """Fill the gradients of a batch, and return its loss after `check` has seen it."""
        engine, chosen = self.engine, self.feedback
        if engine is None or (chosen.calibrate_every and (step + 1) % chosen.calibrate_every == 0):
            with engine.exact() if engine else nullcontext():
                loss, _, value = self._loss(x, y, check)
            loss.backward()
            return value
        if chosen.name == "aligned" and step % chosen.sample_every == 0 and chosen.error_at != "target":
            engine.align(x, self.tangents)
        targets = engine.targets(self.task.error_of_target(y)) if chosen.error_at == "target" else nullcontext()
        with targets:
            loss, out, value = self._loss(x, y, check)
        engine.backward(loss, out)
        return value

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def state(self) -> dict[str, Any]:
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "tangents": self.tangents.get_state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.tangents.set_state(state["tangents"])

    def _loss(self, x: Any, y: Any, check: Callable[[float], None]) -> tuple[torch.Tensor, Any, float]:
        """The loss with its graph, the output, and the loss as a number, read from the device once."""
        out = call(self.model, x)
        loss = self.task.loss(out, y)
        value = loss.item()
        check(value)
        return loss, out, value


def build_learner(method: Method, run: TrainSettings, task: Task, operator: Operator) -> Learner:
    """The learner of a method at its start. All methods start from the same weights, an aligned head included.

    Raises:
        ConfigError: settings that do not fit each other.
        DeviceError: the device does not open.
    """
    model, layout = build_model(run.model, task, run.seed)
    operator.align_head(model, layout)
    model.to(run.torch_device)
    engine = None
    if method == "dfa":
        error_at: ErrorAt = "hidden" if operator.settings.error_at == "hidden" else "output"
        through = layout.through if operator.settings.error_at == "output" else None
        engine = DirectFeedback(model, layout.taps, operator.feedback(model, layout), error_at, through)
    elif method == "frozen":
        model.requires_grad_(False)
        for name in layout.trained_after:
            module = model.get_submodule(name)
            for owner in module.modules():
                for key, weight in owner.named_parameters(recurse=False):
                    setattr(owner, key, nn.Parameter(weight.detach().clone()))  # of its own, where weights are tied
    trained = [p for p in model.parameters() if p.requires_grad]
    if engine is not None:  # an operator may learn too
        trained += list(engine.feedback.parameters())
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
    return Learner(
        model,
        task,
        optimizer,
        engine,
        operator.settings,
        operator.opu if engine else None,
        stream(run.seed, "tangents"),
    )
