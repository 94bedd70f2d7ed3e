"""A model ready to learn by one of three methods: optical or digital DFA, exact backprop, or frozen blocks.

The three share the initial weights, the data and the budget. "frozen" keeps everything up to the last block as it was
drawn and trains what follows: the control that says how much of a result the head alone achieves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from hardware import OPU
from opu_dfa.dfa import DirectFeedback
from opu_dfa.dfa.blocks import call, resolve_blocks
from opu_dfa.dfa.memory import offload, recompute
from opu_dfa.models import Layout, build_model
from opu_dfa.seeds import stream
from opu_dfa.tasks import Task
from opu_dfa.training.operator import FeedbackSettings, Operator
from opu_dfa.training.optimizer import Stepper
from opu_dfa.training.settings import Method, TrainSettings


@dataclass
class Learner:
    """A model, what steps it, and how its gradients are filled: by the engine, or exactly where there is none."""

    model: nn.Module
    task: Task
    stepper: Stepper
    engine: DirectFeedback | None
    feedback: FeedbackSettings
    opu: OPU | None
    tangents: torch.Generator
    saving: Callable[[], AbstractContextManager[None]] = nullcontext

    def gradients(self, x: Any, y: Any, step: int, check: Callable[[float], None]) -> float:
        """Fill the gradients of a batch, and return its loss after `check` has seen it."""
        engine, chosen = self.engine, self.feedback
        if engine is None or (chosen.calibrate_every and (step + 1) % chosen.calibrate_every == 0):
            with engine.exact() if engine else nullcontext(), self.saving():
                loss, _, value = self._loss(x, y, check)
            loss.backward()
            return value
        if chosen.name == "aligned" and step % chosen.sample_every == 0 and chosen.error_at != "target":
            engine.align(x, self.tangents)
        targets = engine.targets(self.task.error_of_target(y)) if chosen.error_at == "target" else nullcontext()
        with targets, self.saving():
            loss, out, value = self._loss(x, y, check)
        engine.backward(loss, out)
        return value

    def state(self) -> dict[str, Any]:
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.stepper.state(),
            "tangents": self.tangents.get_state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.stepper.load_state(state["optimizer"])
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
    model.to(run.torch_device, torch.bfloat16 if run.memory.weights == "bfloat16" else None)
    engine = None
    if method == "dfa":
        engine = DirectFeedback(model, layout.taps, operator.feedback(model, layout), *operator.settings.route(layout))
    elif method == "frozen":
        freeze_blocks(model, layout)
    blocks = resolve_blocks(model, layout.taps)
    if run.memory.recompute and method != "frozen":
        recompute(blocks.values())
    stepper = Stepper(
        _groups(model, blocks, engine),
        run.optimizer,
        getattr(run.optimizer.lr, method),
        run.memory.step_in_backward,
        stream(run.seed, "rounding"),
    )
    return Learner(
        model,
        task,
        stepper,
        engine,
        operator.settings,
        operator.opu if engine else None,
        stream(run.seed, "tangents"),
        partial(offload, run.torch_device) if run.memory.offload else nullcontext,
    )


def freeze_blocks(model: nn.Module, layout: Layout) -> None:
    """Leave what follows the blocks trained alone, with weights of its own where they were tied."""
    model.requires_grad_(False)
    for name in layout.trained_after:
        for owner in model.get_submodule(name).modules():
            for key, weight in owner.named_parameters(recurse=False):
                setattr(owner, key, nn.Parameter(weight.detach().clone()))


def _groups(
    model: nn.Module, blocks: Mapping[str, nn.Module], engine: DirectFeedback | None
) -> dict[str, list[nn.Parameter]]:
    """What is trained, each parameter once and in the model's order: by block, by what is around them, and the
    operator's where it learns."""
    owners = [*blocks.items(), *model.named_children(), ("the model", model)]
    if engine is not None:
        owners.append(("the feedback", engine.feedback))
    taken: set[nn.Parameter] = set()
    groups = {}
    for name, module in owners:
        groups[name] = [p for p in module.parameters() if p.requires_grad and p not in taken]
        taken.update(groups[name])
    place = {p: i for i, p in enumerate(model.parameters())}
    return dict(sorted(groups.items(), key=lambda group: min((place.get(p, len(place)) for p in group[1]), default=0)))
