"""Backpropagation over the same stages, by PyTorch's own pipeline schedules: what `PipelinedFeedback` is compared with.

GPipe (Huang et al. 2019, arXiv 1811.06965) runs all forward passes, then all backward passes; 1F1B (Narayanan et al.
2019, PipeDream, arXiv 1806.03377) takes them in turns. Either way a stage waits for the gradient of the one behind it.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from opu_dfa.dfa.pipeline import Loss, Pipeline
from opu_dfa.dfa.ranks import Ranks
from opu_dfa.dfa.stages import Shapes, Stage
from opu_dfa.dfa.timeline import Timeline

SCHEDULES = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}


class PipelinedBackprop(Pipeline):
    """Exact gradients of the stages' parameters, scheduled by `torch.distributed.pipelining`.

    Args:
        stage, shapes, ranks, micro_batches: see `Pipeline`; name: "gpipe" or "1f1b".
    """

    def __init__(self, stage: Stage, shapes: Shapes, ranks: Ranks, micro_batches: int, name: str) -> None:
        super().__init__(stage, shapes, ranks, micro_batches)
        self._loss: Loss | None = None
        self._watched = _Watched(self)
        # every stage is given the loss, by which PyTorch knows that there will be backward passes
        self._schedule = SCHEDULES[name](self._watched, micro_batches, loss_fn=self._timed_loss)

    def step(self, x: Any, y: Any, loss: Loss) -> Tensor | None:
        self._loss, self.timeline = loss, Timeline()
        losses: list[Tensor] = []
        given = (x if isinstance(x, tuple) else (x,)) if self.stage.first else ()
        # PyTorch scales by the micro-batches itself; the stage is asked for shapes once, before the first step.
        with self.ranks.watched(None), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.stage.last:
                self._schedule.step(*given, target=y, losses=losses)
            else:
                self._schedule.step(*given)
        for p in self.stage.parameters():
            if p.grad is not None and self.ranks.n_replicas > 1:
                p.grad /= self.ranks.n_replicas
        return torch.stack([each.detach() for each in losses]).mean() if losses else None

    def _timed_loss(self, out: Any, y: Any) -> Tensor:
        assert self._loss is not None
        with self.timeline.span("error"):
            return self._loss(out, y)


class _Watched(PipelineStage):
    """PyTorch's stage; its work is timed and what it sends is counted."""

    def __init__(self, owner: PipelinedBackprop) -> None:
        stage: nn.Module = owner.stage
        ranks = owner.ranks
        super().__init__(stage, ranks.stage, ranks.n_stages, owner.device, group=ranks.group)
        self._owner = owner

    def forward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        with self._owner.timeline.span("forward"):
            return super().forward_one_chunk(*args, **kwargs)

    def backward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        with self._owner.timeline.span("backward"):
            return super().backward_one_chunk(*args, **kwargs)

    def get_fwd_send_ops(self, *args: Any, **kwargs: Any) -> list[dist.P2POp]:
        return self._counted(super().get_fwd_send_ops(*args, **kwargs))

    def get_bwd_send_ops(self, *args: Any, **kwargs: Any) -> list[dist.P2POp]:
        return self._counted(super().get_bwd_send_ops(*args, **kwargs))

    def _counted(self, sending: list[dist.P2POp]) -> list[dist.P2POp]:
        self._owner.ranks.bytes_sent += sum(each.tensor.nbytes for each in sending)
        return sending
