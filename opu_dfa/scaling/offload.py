"""One accelerator and a network that its memory does not hold: when does DFA, with light, pass backprop?

What the memory does not hold, x of the P parameters, streams from the host's: s bytes a parameter of optimiser states,
fetched and stored, and w that a product reads. Backprop visits every layer twice a step, upwards for the forward pass,
downwards for the backward, which also updates and stores a copy to be read by the next forward:

    T_bp = max(2PR/f, wx/b) + max(4PR/f, (s + w)x/b)          R rows, f FLOPs a second, b bytes a second each way

DFA's backward has no order: as soon as a step's projected error is known, a layer's update and its forward of the
*next* step can share one visit, with the very numbers that two visits would give. Between visits stands the projection:

    T_dfa = max(cPR/f, sx/b) + T_projection                   c = 4 for a perceptron, 5.5 for a Transformer's blocks

Where the weights are all the state, s and the copy are the w bytes of one array. All transfers overlap all arithmetic,
in both directions at once, for both methods; activations stay on the accelerator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from opu_dfa.config import Count, NonNegative, Positive, settings
from opu_dfa.scaling.law import Accelerator, Optics

Network = Literal["perceptron", "transformer"]
_LEFT = {"perceptron": 4.0, "transformer": 5.5}  # FLOPs a parameter and row that DFA leaves of backprop's 6


@settings
class Band:
    """Low and high ends of what is assumed."""

    frames: tuple[Count, Count]
    bandwidth: tuple[Positive, Positive]
    state_bytes: tuple[NonNegative, NonNegative]
    efficiency: tuple[Positive, Positive]


@settings
class Over:
    """Memories and rows of the table over both."""

    memory: tuple[Positive, ...]
    rows: tuple[Positive, ...]


@settings
class Host:
    """See configs/scaling.yaml."""

    parameters: tuple[Positive, ...]
    rows: Positive
    depth: Count
    n_outputs: Count
    memory: Positive
    bandwidth: Positive
    resident_bytes: Positive
    weight_bytes: Positive
    state_bytes: NonNegative
    claim: Positive
    band: Band
    over: Over


@dataclass(frozen=True)
class Offload:
    """Step times of one accelerator with a host behind it.

    frames: an error costs on the device; visits: of a layer by DFA's steps, two where it keeps backprop's order.

    >>> from opu_dfa.scaling.constants import read
    >>> _, offload = read(["offload.rows=1"])  # next to no projection: it passes where offload begins
    >>> f"{offload.fits:.3g} {offload.crossing():.3g}"
    '5e+09 5.01e+09'
    """

    accelerator: Accelerator
    host: Host
    frame_time: float
    frames: int
    network: Network = "perceptron"
    visits: Literal[1, 2] = 1

    @classmethod
    def of(cls, accelerator: Accelerator, host: Host, opu: Optics) -> Offload:
        return cls(accelerator, host, opu.frame_time / opu.devices, opu.frames)

    @property
    def fits(self) -> float:
        """Parameters above which the accelerator's memory does not hold the training state."""
        return self.host.memory / self.host.resident_bytes

    def backprop(self, parameters: float) -> float:
        """Seconds a step."""
        return self._two_visits(parameters, 4)

    def dfa(self, parameters: float) -> float:
        """Seconds a step, without the projection."""
        if self.visits == 2:
            return self._two_visits(parameters, _LEFT[self.network] - 2)
        return max(self._arithmetic(parameters, _LEFT[self.network]), self._streams(parameters, self._states))

    def digital(self, parameters: float) -> float:
        """Seconds of a step's projection by the accelerator, with one matrix for all layers."""
        width = (parameters / self.host.depth) ** 0.5
        return 2 * self.host.n_outputs * width * self.host.rows / self.accelerator.rate

    @property
    def optical(self) -> float:
        """Seconds of a step's projection by the device."""
        return self.host.rows * self.frames * self.frame_time

    def crossing(self) -> float:
        """Parameters above which DFA with the device takes less time than backprop; the gain grows with them."""
        low, high = 1e6, 1e18
        while high / low > 1 + 1e-9:
            middle = (low * high) ** 0.5
            low, high = (low, middle) if self._gain(middle) > self.optical else (middle, high)
        return high

    def entries_where_light_wins(self) -> float:
        """Entries of the feedback matrix above which the device projects faster than the accelerator."""
        return self.frames * self.frame_time * self.accelerator.rate / 2

    def changed(self, name: str, value: float) -> Offload:
        """The same with one assumption, `frames`, `efficiency` or a field of `Host`, at another value."""
        if name == "frames":
            return replace(self, frames=int(value))
        if name == "efficiency":
            return replace(self, accelerator=replace(self.accelerator, efficiency=value))
        change: dict[str, Any] = {name: value}
        return replace(self, host=replace(self.host, **change))

    def _gain(self, parameters: float) -> float:
        """What DFA saves before it has projected."""
        return self.backprop(parameters) - self.dfa(parameters)

    def _two_visits(self, parameters: float, backward_flops: float) -> float:
        copy = self.host.weight_bytes if self.host.state_bytes else 0
        forward = max(self._arithmetic(parameters, 2), self._streams(parameters, self.host.weight_bytes))
        backward = self._streams(parameters, self._states + copy)
        return forward + max(self._arithmetic(parameters, backward_flops), backward)

    def _arithmetic(self, parameters: float, flops: float) -> float:
        return flops * parameters * self.host.rows / self.accelerator.rate

    def _streams(self, parameters: float, n_bytes: float) -> float:
        return n_bytes * max(0.0, parameters - self.fits) / self.host.bandwidth

    @property
    def _states(self) -> float:
        return self.host.state_bytes or self.host.weight_bytes
