"""A model ready to learn by one of three methods: optical or digital DFA, exact backprop, or frozen blocks.

The three share the initial weights, the data and the budget. "frozen" keeps everything up to the last block as it was
drawn and trains what follows: the control that says how much of a result the head alone achieves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hardware import OPU
from opu_dfa.dfa import DirectFeedback
from opu_dfa.models import build_model
from opu_dfa.tasks.text import TextTask
from opu_dfa.training.operator import Operator
from opu_dfa.training.settings import Method, TrainSettings


@dataclass
class Learner:
    """A model, its optimiser, the engine that fills its gradients (None for exact ones), and the engine's device."""

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
        return {"model": dict(self.model.state_dict()), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def build_learner(method: Method, run: TrainSettings, task: TextTask, operator: Operator) -> Learner:
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
        error_at = operator.settings.error_at
        through = layout.through if error_at == "output" else None
        engine = DirectFeedback(model, layout.taps, operator.feedback(model, layout), error_at, through)
    elif method == "frozen":
        model.requires_grad_(False)
        for name in layout.trained_after:
            module = model.get_submodule(name)
            for key, weight in module.named_parameters(recurse=False):
                setattr(module, key, nn.Parameter(weight.detach().clone()))  # of its own, where weights are tied
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
    return Learner(model, optimizer, engine, operator.opu if engine else None)
