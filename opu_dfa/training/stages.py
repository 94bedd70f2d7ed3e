"""A rank's part of a learner: its stage of the model, the optimiser of what it holds, and numbers that ranks share.

To the training loop it is a learner like any other; every rank runs the loop in step, and sees the same loss and the
same gradient norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from opu_dfa.config import Count, Positive, parse, settings
from opu_dfa.dfa.blocks import resolve_blocks
from opu_dfa.dfa.broadcast import WIRES
from opu_dfa.dfa.memory import recompute
from opu_dfa.dfa.pipeline import Pipeline, PipelinedFeedback, chunks
from opu_dfa.dfa.ranks import Ranks
from opu_dfa.dfa.stages import Shapes, Stage, chain, split
from opu_dfa.errors import ConfigError
from opu_dfa.models import Layout, build_model
from opu_dfa.seeds import stream
from opu_dfa.tasks import Task
from opu_dfa.training.learner import Learner
from opu_dfa.training.loop import Loop
from opu_dfa.training.operator import FeedbackSettings, Operator
from opu_dfa.training.optimizer import NotFinite, OptimizerSettings, Stepper, build_optimizer
from opu_dfa.training.settings import Method, TrainSettings


@settings
class PipelineSettings:
    """A run over ranks.

    micro_batches: parts of a replica's batch; error: how DFA's error travels; in_flight: see `PipelinedFeedback`;
    schedule: of backprop; replicas: pipelines side by side; timeout: seconds that a rank waits for another.
    """

    micro_batches: Count
    error: Literal["float32", "bfloat16", "ternary"]
    in_flight: Count | None
    schedule: Literal["gpipe", "1f1b"]
    replicas: Count
    timeout: Positive


class StageStepper(Stepper):
    """Steps a stage's parameters; the norm that it clips by is that of all stages' gradients together."""

    def __init__(self, stage: Stage, chosen: OptimizerSettings, lr: float) -> None:
        self.named = {name: p for name, p in stage.named().items() if p.requires_grad}
        self.optimizer = build_optimizer(list(self.named.values()), chosen, lr)
        self.norm = math.nan  # of the whole gradient, once the ranks have shared it
        self._limit = chosen.clip_norm or math.inf

    def begin(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)

    def finish(self) -> float:
        if not math.isfinite(self.norm):
            broken = [n for n, p in self.named.items() if p.grad is not None and not p.grad.isfinite().all()]
            raise NotFinite(f"of {broken[0]}" if broken else "of another rank, or as a whole,")
        nn.utils.clip_grads_with_norm_(self.named.values(), self._limit, torch.tensor(self.norm))
        self.optimizer.step()
        return self.norm

    def state(self) -> dict[str, Any]:
        """By parameter: `NAME.exp_avg`, say."""
        return {f"{name}.{key}": t for name, p in self.named.items() for key, t in self.optimizer.state[p].items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for name, p in self.named.items():
            mine = {key.removeprefix(name + "."): t for key, t in state.items() if key.startswith(name + ".")}
            # Counters of steps stay where they are; what is shaped like a parameter goes to its device.
            self.optimizer.state[p] = {key: t.to(p.device) if t.ndim else t for key, t in mine.items()}


@dataclass
class StageLearner(Learner):
    """What a rank trains. The loss and the norm are summed over all ranks after each pass.

    Attributes:
        measured: of the last step, over all ranks: bytes sent, share of time idle, of it before backward work.
    """

    pipeline: Pipeline = field(kw_only=True)
    ranks: Ranks = field(kw_only=True)
    wire: torch.Generator = field(kw_only=True)
    measured: dict[str, Any] = field(default_factory=dict)

    def gradients(self, x: Any, y: Any, step: int, check: Callable[[float], None]) -> float:
        ranks, before = self.ranks, self.ranks.bytes_sent
        mine, theirs = (chunks(each, ranks.n_replicas)[ranks.replica] for each in (x, y))
        loss = self.pipeline.step(mine, theirs, self.task.loss)
        if ranks.n_replicas > 1:
            for p in self.pipeline.stage.parameters():
                if p.grad is not None:
                    ranks.sum(p.grad, over="twins")
        value = self._share(loss, ranks.bytes_sent - before)
        check(value)
        return value

    def _share(self, loss: Tensor | None, sent: int) -> float:
        """The loss of the whole batch; norms and measures of all ranks are exchanged with it."""
        line, ranks = self.pipeline.timeline, self.ranks
        assert isinstance(self.stepper, StageStepper)
        norms = [p.grad.norm() for p in self.stepper.named.values() if p.grad is not None]
        squared = float(torch.stack(norms).norm()) ** 2 if norms else 0.0
        mine = [
            (0.0 if loss is None else float(loss)) / ranks.n_replicas,
            squared / ranks.n_replicas,
            sent,
            line.busy(),
            line.waited("project", "backward"),
        ]
        table = torch.zeros(dist.get_world_size(), 1 + len(mine), dtype=torch.float64, device=self.pipeline.device)
        table[ranks.rank] = torch.tensor([line.seconds, *mine])
        ranks.sum(table, over="all")
        seconds, total, squares, bytes_sent, busy, waited = table.T
        length = float(seconds.max()) * len(table)
        self.stepper.norm = math.sqrt(float(squares.sum()))
        self.measured = {
            "bytes_sent": int(bytes_sent.sum()),
            "bytes_sent_by_rank": [int(each) for each in bytes_sent],
            "pass_seconds": float(seconds.max()),
            "bubble": 1 - float(busy.sum()) / length,
            "backward_bubble": float(waited.sum()) / length,
        }
        return float(total.sum())

    def state(self) -> dict[str, Any]:
        """Tensors by names that do not depend on how the model is split."""
        tensors: dict[str, Tensor] = {}
        if self.ranks.replica == 0:
            tensors |= {f"model.{name}": t for name, t in self.pipeline.stage.held().items()}
            tensors |= {f"optimizer.{name}": t for name, t in self.stepper.state().items()}
        if self.ranks.last and isinstance(self.pipeline, PipelinedFeedback):
            tensors[f"wire.{self.ranks.replica}"] = self.wire.get_state()
            if self.ranks.replica == 0 and self.pipeline.feedback is not None:
                tensors |= {f"feedback.{name}": t for name, t in self.pipeline.feedback.state_dict().items()}
        return tensors

    def wants(self, name: str) -> bool:
        """Whether a tensor of a checkpoint belongs here."""
        kind, _, key = name.partition(".")
        if kind == "feedback":
            return isinstance(self.pipeline, PipelinedFeedback) and self.pipeline.feedback is not None
        return (
            (kind == "model" and key in self.pipeline.stage.held())
            or (kind == "optimizer" and any(key.startswith(own + ".") for own in self.pipeline.stage.named()))
            or (kind == "wire" and int(key) == self.ranks.replica)
        )

    def load_state(self, state: Mapping[str, Any]) -> None:
        def under(kind: str) -> dict[str, Tensor]:
            return {k.removeprefix(kind + "."): t for k, t in state.items() if k.startswith(kind + ".")}

        saved = under("model")
        with torch.no_grad():
            for name, held in self.pipeline.stage.held().items():
                held.copy_(saved[name])
        self.stepper.load_state(under("optimizer"))
        if isinstance(self.pipeline, PipelinedFeedback) and self.pipeline.feedback is not None:
            self.pipeline.feedback.load_state_dict(under("feedback"))
        for drawn in under("wire").values():
            self.wire.set_state(drawn)


class StageLoop(Loop):
    """The training loop on one of several ranks: only the last stage sees outputs to score."""

    @torch.no_grad()
    def evaluate(self, split: Any, whole: bool = True) -> dict[str, float]:
        learner = self.learner
        assert isinstance(learner, StageLearner)
        pipeline, ranks = learner.pipeline, learner.ranks
        limit = self.held_out(whole)
        scores: dict[str, float] | None = None
        pipeline.stage.eval()
        if ranks.last:
            scores = self.task.evaluate(self._forward, split, limit)
        else:
            for x, _ in self.task.examples(split, 64, limit):
                pipeline.forward(self._to_device(x))
        pipeline.stage.train()
        told: dict[str, float] = ranks.tell(scores)
        return told

    def _forward(self, x: Any) -> Any:
        assert isinstance(self.learner, StageLearner)
        out = self.learner.pipeline.forward(self._to_device(x))
        assert out is not None
        return out.cpu()


def build_stage_learner(
    method: Method, run: TrainSettings, task: Task, operator: Operator, ranks: Ranks, fresh: bool = True
) -> StageLearner:
    """This rank's part of the learner of a method. All ranks draw the same whole model, and keep their stage.

    Raises:
        ConfigError: settings that a pipeline has no use for, or a model that is no chain.
    """
    chosen = pipeline_settings(run)
    check(method, run, operator.settings, chosen)
    model, layout = build_model(run.model, task, run.seed)
    x, _ = task.batch(run.batch_size // (chosen.replicas * chosen.micro_batches), stream(run.seed, "probe"))
    units = chain(model, layout.taps, x)
    blocks = list(_blocks(units, model, layout))
    if fresh and ranks.last:
        operator.align_head(model, layout)
    error_at, through = operator.settings.route(layout)
    projects = method == "dfa" and (ranks.last or through is None)
    feedback = operator.feedback(model, layout) if projects else None
    shapes = Shapes(units)
    stage = Stage(split(units, blocks, ranks.n_stages)[ranks.stage], ranks.stage, ranks.n_stages)
    stage.to(run.torch_device)  # the other stages are let go
    if run.memory.recompute:
        recompute(unit for name in blocks if (unit := stage.unit(name)) is not None)
    wire = stream(run.seed, f"error on the wire {ranks.replica}")
    pipeline: Pipeline
    if method == "dfa":
        pipeline = PipelinedFeedback(
            stage,
            shapes,
            ranks,
            chosen.micro_batches,
            blocks,
            feedback,
            WIRES[chosen.error],
            wire,
            error_at,
            through,
            chosen.in_flight,
        )
    else:
        from opu_dfa.dfa.schedules import PipelinedBackprop  # PyTorch's schedules take seconds to import

        pipeline = PipelinedBackprop(stage, shapes, ranks, chosen.micro_batches, chosen.schedule)
    stepper = StageStepper(stage, run.optimizer, getattr(run.optimizer.lr, method))
    return StageLearner(
        stage,
        task,
        stepper,
        None,
        operator.settings,
        feedback.opu if feedback else None,
        stream(run.seed, "tangents"),
        pipeline=pipeline,
        ranks=ranks,
        wire=wire,
    )


def pipeline_settings(run: TrainSettings) -> PipelineSettings:
    """The section `pipeline` of a run's settings."""
    return parse(PipelineSettings, run.pipeline, "pipeline")


def _blocks(units: Mapping[str, nn.Module], model: nn.Module, layout: Layout) -> Iterator[str]:
    named = resolve_blocks(model, layout.taps)
    return (name for name in units if name in named)


def check(method: Method, run: TrainSettings, feedback: FeedbackSettings, chosen: PipelineSettings) -> None:
    """Refuse what would silently be something else over ranks.

    Raises:
        ConfigError: names the setting.
    """
    parts = chosen.replicas * chosen.micro_batches
    wrong = {
        "method=frozen trains a head alone: choose dfa or bp": method == "frozen",
        f"batch_size={run.batch_size} is no multiple of {parts} micro-batches (of all replicas)": run.batch_size
        % parts,
        "memory.step_in_backward=true needs whole gradients at once": run.memory.step_in_backward,
        "memory.offload=true is for one process": run.memory.offload,
        f"memory.weights={run.memory.weights} is for one process": run.memory.weights != "float32",
    }
    if method == "dfa":
        wrong |= {
            f"feedback.name={feedback.name} learns from all blocks at once": feedback.name in ("learned", "aligned"),
            "feedback.error_at=target has no error to send": feedback.error_at == "target",
            f"feedback.calibrate_every={feedback.calibrate_every} needs backprop": feedback.calibrate_every,
        }
    for what, holds in wrong.items():
        if holds:
            raise ConfigError(f"a pipeline over ranks cannot do this: {what}. Change it, or train in one process.")
