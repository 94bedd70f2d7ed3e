"""The scaling law of pipelines: step time by model size and number of stages, for backprop, DFA and DFA with an OPU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from hardware import PRESETS
from opu_dfa.config import BelowOne, Count, NonNegative, Positive, settings
from opu_dfa.errors import ConfigError
from opu_dfa.scaling.schedules import schedule
from opu_dfa.scaling.simulate import Link, Projector, Result, StageCosts, predict, steady_step
from opu_dfa.scaling.work import Sizes, shaped

Method = Literal["backprop", "dfa", "dfa-opu"]


@settings
class Accelerator:
    """flops: a second, at its peak; efficiency: the part of it that training reaches; memory: bytes."""

    flops: Positive
    efficiency: BelowOne
    memory: Positive

    @property
    def rate(self) -> float:
        """FLOPs a second in training."""
        return self.flops * self.efficiency


@settings
class Wire:
    """latency: seconds a message; bandwidth: bytes a second each way; broadcast: see `Link`."""

    latency: NonNegative
    bandwidth: Positive
    broadcast: Literal["chain", "tree", "star"]

    def link(self) -> Link:
        return Link(self.latency, self.bandwidth, self.broadcast)


@settings
class Optics:
    """preset: of `hardware.PRESETS`; patterns: an error is shown in; devices: that share the rows; n_mirrors, n_pixels:
    the largest matrix."""

    preset: str
    patterns: Count
    devices: Count
    n_mirrors: Count
    n_pixels: Count

    def __post_init__(self) -> None:
        holography = PRESETS[self.preset].holography if self.preset in PRESETS else None
        if holography is None:
            able = ", ".join(name for name, preset in PRESETS.items() if preset.holography is not None)
            raise ConfigError(f"opu.preset is a device that measures projections in frames ({able}), got {self.preset}")

    @property
    def frames(self) -> int:
        """Camera frames an error costs."""
        holography = PRESETS[self.preset].holography
        assert holography is not None
        return self.patterns * holography.frames

    @property
    def frame_time(self) -> float:
        return PRESETS[self.preset].frame_time

    @property
    def watts(self) -> float:
        return PRESETS[self.preset].power

    def seconds(self, rows: float) -> float:
        """For the projection of so many errors: constant in their width, and in the signals'."""
        return rows * self.frames * self.frame_time / self.devices


@settings
class Language:
    """What the models read and what numbers weigh on the wire."""

    context: Count
    n_symbols: Count
    aspect: Count
    bytes_per_parameter: Positive
    bytes_per_number: Positive


@settings
class Pipeline:
    """The points of tables and figure."""

    parameters: tuple[Positive, ...]
    stages: tuple[Count, ...]
    sequences: Count
    micro_batches: Count
    at_parameters: Positive
    at_stages: Count


@dataclass(frozen=True)
class Row:
    """A way to train: how it is called, its costs and its schedule."""

    label: str
    method: Method
    schedule: str


ROWS = (
    Row("backprop, GPipe", "backprop", "gpipe"),
    Row("backprop, 1F1B", "backprop", "1f1b"),
    Row("backprop, ZB-H1", "backprop", "zb-h1"),
    Row("DFA, digital", "dfa", "dfa"),
    Row("DFA, OPU", "dfa-opu", "dfa"),
)


@dataclass(frozen=True)
class Law:
    """The constants, and what follows from them.

    Stages are equal: the head counts as so many blocks' worth of work, and so does the digital projection, which is
    done once, beside the last stage, as is the device's; what is broadcast is the signal, of the residual width, after
    the final norm's derivative. The optimiser's update, the same for all methods, is left out.
    """

    accelerator: Accelerator
    wire: Wire
    opu: Optics
    model: Language
    pipeline: Pipeline

    def sizes(self, parameters: float, n_stages: int) -> Sizes:
        return shaped(parameters, n_stages, self.model.context, self.model.n_symbols, self.model.aspect)

    @property
    def tokens(self) -> int:
        """Of a micro-batch."""
        return self.pipeline.sequences * self.model.context

    def costs(self, method: Method, sizes: Sizes, n_stages: int) -> StageCosts:
        """Of one micro-batch on each of equal stages."""
        work = sizes.backprop() if method == "backprop" else sizes.dfa(digital=method == "dfa")
        seconds = self.tokens / (n_stages * self.accelerator.rate)
        message = float(self.tokens * sizes.width * self.model.bytes_per_number)
        return StageCosts(
            forward=work.forward * seconds,
            input_grad=(work.input_grad + work.project) * seconds,
            weight_grad=work.weight_grad * seconds,
            activation_bytes=message,
            error_bytes=message,
        )

    def predict(self, row: Row, parameters: float, n_stages: int, n_micro_batches: int | None = None) -> Result:
        """One step of one way to train a model of so many parameters over so many stages."""
        m = self.pipeline.micro_batches if n_micro_batches is None else n_micro_batches
        costs = self.costs(row.method, self.sizes(parameters, n_stages), n_stages)
        plan, projector = schedule(row.schedule), None
        if row.method == "dfa-opu":
            projector = Projector(self.opu.seconds(self.tokens))
            plan = replace(plan, slack=self.slack(projector.seconds, costs))
        return predict(plan, costs, self.wire.link(), n_stages, m, projector)

    @staticmethod
    def slack(wait: float, costs: StageCosts) -> int:
        """Forwards that fill a wait for the error."""
        forward = costs.forward
        assert isinstance(forward, float)
        return math.ceil(wait / forward)

    def devices_to_keep_up(self, parameters: float, n_stages: int) -> int:
        """OPUs beside the last stage that project as fast as the stages compute."""
        costs = self.costs("dfa-opu", self.sizes(parameters, n_stages), n_stages)
        compute = sum(getattr(costs, name) for name in ("forward", "input_grad", "weight_grad"))
        return math.ceil(replace(self.opu, devices=1).seconds(self.tokens) / compute)

    def fits(self, parameters: float, n_stages: int) -> bool:
        """Whether weights, gradients and optimiser states fit the stages' memory (activations not counted)."""
        return parameters * self.model.bytes_per_parameter <= n_stages * self.accelerator.memory

    def with_devices(self, n: int) -> Law:
        return replace(self, opu=replace(self.opu, devices=n))


def unit_costs(method: Literal["backprop", "dfa"]) -> StageCosts:
    """In units of a block's forward pass: backward is twice the forward, DFA leaves out 3 of its 12 input products."""
    return StageCosts(forward=1.0, input_grad=1.0 if method == "backprop" else 0.75, weight_grad=1.0)


@dataclass(frozen=True)
class Goal:
    """A schedule's step against 1F1B backprop's at equal micro-batches, in units of a forward pass."""

    label: str
    n_micro_batches: int
    result: Result
    ratio: float
    steady: float


def goals(n_stages: int, n_micro_batches: int, hop: float) -> Iterator[Goal]:
    """Step times where a message takes `hop` forward passes between neighbours, and in each round of the broadcast."""
    link = Link(latency=hop)
    backprop, dfa = unit_costs("backprop"), unit_costs("dfa")
    cases = [(f"backprop, {name}", name, backprop) for name in ("gpipe", "1f1b", "1f1b-eager", "zb-h1")]
    cases += [(f"DFA, all products, {name}", name, backprop) for name in ("dfa", "dfa-flush")]
    cases += [(f"DFA, 33 of 36 products, {name}", name, dfa) for name in ("dfa", "dfa-flush")]
    reference = predict("1f1b", backprop, link, n_stages, n_micro_batches).step_seconds
    for label, name, costs in cases:
        result = predict(name, costs, link, n_stages, n_micro_batches)
        steady = steady_step(name, costs, link, n_stages, n_micro_batches)
        yield Goal(label, n_micro_batches, result, result.step_seconds / reference, steady / reference)
