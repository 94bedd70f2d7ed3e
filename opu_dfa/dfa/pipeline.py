"""Direct feedback alignment over ranks: a pipeline whose backward passes wait for nobody.

Each rank holds a contiguous part of the model (`opu_dfa.dfa.stages`) and a batch crosses them in micro-batches:

- forward, each stage sends its activations on to the next;
- the last stage has a micro-batch's error e as soon as its forward pass is done, and sends it to every rank: K numbers
  a row, as floats or ternary in 2 bits (`opu_dfa.dfa.broadcast`);
- every rank projects it with the same operator, B e, and runs its own blocks' backward pass.

No stage waits for another's gradient: the way back costs one small message in place of a chain of activation-sized
ones. Where the signal passes `through` a module behind the last block, the last rank projects, applies that module's
derivative, and sends the signal (of the blocks' width) in place of the error; it alone then needs the operator.

Launay et al. 2020 (arXiv 2006.12878) point out that DFA makes this possible.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from opu_dfa.dfa.blocks import call, floating, width
from opu_dfa.dfa.broadcast import Wire
from opu_dfa.dfa.cut import Cut, Record
from opu_dfa.dfa.engine import ErrorAt
from opu_dfa.dfa.feedback import Feedback
from opu_dfa.dfa.ranks import Arriving, Ranks
from opu_dfa.dfa.stages import Shapes, Stage
from opu_dfa.dfa.timeline import Timeline
from opu_dfa.errors import ConfigError

Loss = Callable[[Any, Any], Tensor]


class Pipeline(ABC):
    """A stage of a model on this rank, and the other stages on others.

    Args:
        stage: what this rank holds; shapes: of the whole chain; ranks: where the others are.
        micro_batches: parts of a batch that cross the stages one behind the other.

    Attributes:
        timeline: of the last step.
    """

    def __init__(self, stage: Stage, shapes: Shapes, ranks: Ranks, micro_batches: int) -> None:
        self.stage, self.shapes, self.ranks, self.micro_batches = stage, shapes, ranks, micro_batches
        self.device = next(stage.parameters()).device
        self.timeline = Timeline()

    @abstractmethod
    def step(self, x: Any, y: Any, loss: Loss) -> Tensor | None:
        """Add this batch's gradients to `.grad` of the stage's parameters; the mean loss, on the last stage.

        Args:
            x, y: this replica's share of the batch, the same on all its stages.
            loss: of (output, y), a mean over examples.
        """

    def forward(self, x: Any) -> Tensor | None:
        """The model's output for a batch, without a gradient, on the last stage."""
        with torch.no_grad():
            out = call(self.stage, x if self.ranks.first else self._expect(x).wait())
        if not self.ranks.last:
            self.ranks.send(out, self.ranks.stage + 1)
            self.ranks.flush()
            return None
        return floating(out, "the model's output")

    def _expect(self, x: Any) -> Arriving:
        """What the stage before returns for a batch, on its way here."""
        before = self.shapes.of(x)[self.shapes.names[self.shapes.names.index(self.stage.names[0]) - 1]]
        return self.ranks.receive(torch.empty_like(before, device=self.device), self.ranks.stage - 1)


@dataclass
class _InFlight:
    """A micro-batch between its forward and its backward pass; on the last stage with what it learns from."""

    record: Record
    out: Tensor
    error: Tensor | None = None  # where what follows the blocks has not learned yet
    told: Tensor | None = None


class PipelinedFeedback(Pipeline):
    """`DirectFeedback` over ranks: the same gradients as one process that accumulates over the same micro-batches.

    Args:
        stage, shapes, ranks, micro_batches: see `Pipeline`.
        blocks: the names of all blocks, of all stages, in order.
        feedback: the operator, the same on every rank; with `through`, on the last alone.
        wire: how the error travels; all ranks, the last included, learn from what it carries.
        generator: draws a random wire's patterns.
        error_at, through: see `DirectFeedback`.
        in_flight: micro-batches whose activations a stage holds at most; all of them if None. From as many as there are
            stages on, no stage waits for an error.

    Raises:
        ConfigError: an operator that is missing, or independent slices with `through`.

    One rank is a pipeline too:

    >>> import torch.distributed as dist
    >>> from opu_dfa.dfa.broadcast import WIRES
    >>> from opu_dfa.dfa.feedback import GaussianFeedback
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> units = {"first": nn.Linear(4, 8), "block": nn.Tanh(), "head": nn.Linear(8, 3)}
    >>> feedback, wire, draw = GaussianFeedback(n_features=3, n_components=8), WIRES["ternary"], torch.Generator()
    >>> pipeline = PipelinedFeedback(Stage(units), Shapes(units), Ranks(), 2, ["block"], feedback, wire, draw)
    >>> x, y = torch.ones(6, 4), torch.zeros(6, dtype=torch.long)
    >>> pipeline.step(x, y, nn.functional.cross_entropy).shape, units["first"].weight.grad.shape
    (torch.Size([]), torch.Size([8, 4]))
    >>> dist.destroy_process_group()
    """

    def __init__(
        self,
        stage: Stage,
        shapes: Shapes,
        ranks: Ranks,
        micro_batches: int,
        blocks: Sequence[str],
        feedback: Feedback | None,
        wire: Wire,
        generator: torch.Generator,
        error_at: ErrorAt = "output",
        through: str | None = None,
        in_flight: int | None = None,
    ) -> None:
        super().__init__(stage, shapes, ranks, micro_batches)
        if feedback is None and (through is None or stage.last):
            raise ConfigError("this rank of the pipeline projects, and has no feedback operator")
        if feedback is not None and through is not None and feedback.layout != "shared":
            raise ConfigError("independent slices of feedback do not pass `through` a pipeline: choose layout shared")
        self.blocks = list(blocks)
        self.feedback, self.wire, self.generator = feedback, wire, generator
        self.error_at, self.through = error_at, through
        self.in_flight = in_flight or micro_batches
        own = {name: unit for name in self.blocks if (unit := stage.unit(name)) is not None}
        self._cut = Cut(stage, own, stage.unit(through) if through else None, stage.last and error_at == "hidden")

    def step(self, x: Any, y: Any, loss: Loss) -> Tensor | None:
        xs, ys = chunks(x, self.micro_batches), chunks(y, self.micro_batches)
        self.timeline = Timeline()
        inputs: dict[int, Arriving] = {}
        messages: dict[int, Arriving] = {}
        flying: dict[int, _InFlight] = {}
        losses: list[Tensor] = []

        def post(i: int) -> None:
            if i < len(xs) and not self.stage.first:
                inputs[i] = self._expect(xs[i])
            if i < len(xs) and not self.stage.last:
                buffer = torch.empty(self.wire.size(*self._message(xs[i])), dtype=torch.uint8, device=self.device)
                messages[i] = self.ranks.receive(buffer, self.ranks.n_stages - 1, error=True)

        for i in range(min(self.in_flight, len(xs))):
            post(i)
        for kind, i in order(len(xs), self.in_flight):
            if kind == "forward":
                flying[i] = self._forward(xs[i] if self.stage.first else inputs.pop(i).wait())
                if self.stage.last:
                    losses.append(self._announce(flying[i], ys[i], loss))
            else:
                message = None if self.stage.last else messages.pop(i).wait()
                self._backward(flying, i, xs[i], message)
                post(i + self.in_flight)
        self.ranks.flush()
        return torch.stack(losses).mean() if losses else None

    def _forward(self, given: Any) -> _InFlight:
        with self.timeline.span("forward"):
            out = floating(call(self.stage, given), "the stage's output")
        if not self.stage.last:
            self.ranks.send(out, self.ranks.stage + 1)
        return _InFlight(Record.of(out), out)

    def _announce(self, here: _InFlight, y: Any, loss: Loss) -> Tensor:
        """The loss; its error goes to every rank, and the head learns where the error is taken behind it."""
        with self.timeline.span("error"):
            value = loss(here.out, y)
            share = value / (self.micro_batches * self.ranks.n_replicas)
            if self.error_at == "hidden":
                share.backward()
                assert here.record.hidden is not None
                assert here.record.hidden.grad is not None
                error = here.record.hidden.grad
            else:
                (error,) = torch.autograd.grad(share, here.out)
                here.error = error
            rows = self._told(here.record, error)
            message = self.wire.pack(rows, self.generator)
            here.told = self.wire.unpack(message, *rows.shape)
        for stage in range(self.ranks.n_stages - 1):
            self.ranks.send(message, stage, error=True)
        return value.detach()

    def _told(self, record: Record, error: Tensor) -> Tensor:
        """What all ranks are told: the error as the operator shows it, or, with `through`, what the blocks learn."""
        assert self.feedback is not None
        if self.through is None:
            return self.feedback.show(error.flatten(0, -2).float())
        widths = [width(shaped.shape, error.shape[:-1], whose) for whose, shaped in record.read()]
        signal, *_ = record.pull(self.feedback(error, widths))
        return signal.flatten(0, -2).float()

    def _backward(self, flying: dict[int, _InFlight], i: int, x: Any, message: Tensor | None) -> None:
        with self.timeline.span("project"):
            told = flying[i].told if message is None else self.wire.unpack(message, *self._message(x))
            assert told is not None
            signals = self._signals(told, x)
        with self.timeline.span("backward"):
            here = flying.pop(i)
            taps = here.record.taps
            shaped = [s.reshape(tap.shape).to(tap.dtype) for s, tap in zip(signals, taps, strict=True)]
            if here.error is None:
                torch.autograd.backward(taps, shaped)
            else:
                torch.autograd.backward([here.out, *taps], [here.error, *shaped])
            here.record.clear()
            del here, taps, shaped, signals, told  # to free what they held takes time, and is part of the work

    @torch.no_grad()
    def _signals(self, told: Tensor, x: Any) -> list[Tensor]:
        """What each tap of this stage learns from."""
        mine = [name in self.stage.names for name in self.blocks]
        if self.through is not None:
            return [told] * sum(mine)
        assert self.feedback is not None
        found = self.shapes.of(x)
        lead = self._error(x).shape[:-1]
        widths = [width(found[name].shape, lead, f"the block {name!r}") for name in self.blocks]
        signal = self.feedback.project(told).view(*lead, -1)
        return [signal[..., s] for s, here in zip(self.feedback.slices(widths), mine, strict=True) if here]

    def _error(self, x: Any) -> Tensor:
        """A meta tensor of the error's shape."""
        found = self.shapes.of(x)
        return found[self.blocks[-1] if self.error_at == "hidden" else self.shapes.names[-1]]

    def _message(self, x: Any) -> tuple[int, int]:
        """Rows and width of what the last rank tells the others about a micro-batch."""
        if self.through is not None:
            shape = self.shapes.of(x)[self.blocks[-1]].shape
            return shape[:-1].numel(), shape[-1]
        assert self.feedback is not None
        return self._error(x).shape[:-1].numel(), _shown_width(self.feedback)


def order(micro_batches: int, in_flight: int) -> list[tuple[Literal["forward", "backward"], int]]:
    """What a stage does in turn: forward as far as activations may be held, then one backward for each forward.

    >>> [f"{kind[0]}{i}" for kind, i in order(micro_batches=3, in_flight=2)]
    ['f0', 'f1', 'b0', 'f2', 'b1', 'b2']
    """
    actions: list[tuple[Literal["forward", "backward"], int]] = []
    for i in range(micro_batches + in_flight):
        if i >= in_flight and i - in_flight < micro_batches:
            actions.append(("backward", i - in_flight))
        if i < micro_batches:
            actions.append(("forward", i))
    return actions


def chunks(batch: Any, n: int) -> list[Any]:
    """A batch in n parts along its first dimension; of a tuple, each member.

    >>> [part.tolist() for part in chunks(torch.arange(5), 2)]
    [[0, 1, 2], [3, 4]]
    """
    if isinstance(batch, tuple):
        return list(zip(*(chunks(member, n) for member in batch), strict=True))
    return list(batch.tensor_split(n))


def _shown_width(feedback: nn.Module) -> int:
    """The width of errors as an operator shows them: of a sketch where it is around another."""
    inner = getattr(feedback, "feedback", None)
    return int(feedback.n_features) if inner is None else _shown_width(inner)  # type: ignore[arg-type]
