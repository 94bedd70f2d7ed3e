"""A discrete-event simulation of one training step over a pipeline of stages.

Resources are a compute unit a stage, a link in each direction between neighbours, the last stage's broadcast, and the
devices that project; each serves in order. Every task's start is then the latest of a few ends (max, +), whatever the
order they are worked out in: a round advances every stage by the next task whose inputs are known, all stages at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.scaling.schedules import BACKWARD, FORWARD, WEIGHT, Schedule, schedule

Seconds = float | Sequence[float]


@dataclass(frozen=True)
class StageCosts:
    """What one micro-batch costs a stage. Seconds are one number for all stages, or one a stage.

    forward; input_grad, weight_grad: the two parts of the backward pass; project: digital projection, on the stage's
    own compute unit just before its backward; update: the optimiser, once a step, after the stage's last backward;
    activation_bytes: of a message between neighbours; error_bytes: of what the last stage broadcasts to each other.
    """

    forward: Seconds
    input_grad: Seconds
    weight_grad: Seconds
    project: Seconds = 0.0
    update: Seconds = 0.0
    activation_bytes: float = 0.0
    error_bytes: float = 0.0


@dataclass(frozen=True)
class Link:
    """Between any two stages: seconds a message travels, bytes a second each way, how a broadcast is spread.

    chain: from neighbour to neighbour; tree: whoever has it passes it on, in ⌈log₂ n_stages⌉ rounds; star: the last
    stage sends to each in turn.
    """

    latency: float = 0.0
    bandwidth: float = np.inf
    broadcast: Literal["chain", "tree", "star"] = "tree"


@dataclass(frozen=True)
class Projector:
    """A device outside the stages that projects errors, one micro-batch after the other.

    seconds: it takes for one micro-batch; shared_by: consecutive stages that ask one device, each for itself, served
    micro-batch by micro-batch, in each from the last stage to the first; None: a single device beside the last stage
    projects once, and what is broadcast is the signal.
    """

    seconds: float
    shared_by: int | None = None


@dataclass(frozen=True)
class Result:
    """Of one step. bubble: fraction of the stages' time that is idle; backward_bubble: fraction of the step that would
    be saved if no backward had to wait for anything but its stage's forward; bytes_sent: by all stages together;
    in_flight: micro-batches whose activations the fullest stage keeps."""

    step_seconds: float
    bubble: float
    backward_bubble: float
    bytes_sent: float
    in_flight: int


def predict(
    name: str | Schedule,
    costs: StageCosts,
    link: Link,
    n_stages: int,
    n_micro_batches: int,
    projector: Projector | None = None,
) -> Result:
    """One step from an idle pipeline until its last stage has updated its weights.

    Raises:
        ConfigError: sizes below 1, costs for another number of stages, or an unknown schedule.

    >>> costs = StageCosts(forward=1.0, input_grad=1.0, weight_grad=1.0)
    >>> for name in ("gpipe", "1f1b", "zb-h1", "dfa"):
    ...     found = predict(name, costs, Link(), n_stages=4, n_micro_batches=8)
    ...     print(name, found.step_seconds, round(found.backward_bubble * found.step_seconds), found.in_flight)
    gpipe 33.0 6 8
    1f1b 33.0 6 4
    zb-h1 27.0 0 4
    dfa 27.0 0 4
    """
    plan = schedule(name) if isinstance(name, str) else name
    seconds = _simulate(plan, costs, link, n_stages, n_micro_batches, projector)
    free = _simulate(replace(plan, backward="free"), costs, link, n_stages, n_micro_batches, None)
    busy = n_micro_batches * _durations(plan, costs, n_stages).sum() + _each(costs.update, n_stages, "update").sum()
    messages = (n_stages - 1) * n_micro_batches
    back = costs.activation_bytes if plan.backward == "chain" else costs.error_bytes
    return Result(
        step_seconds=seconds,
        bubble=float(1 - busy / (n_stages * seconds)) if seconds else 0.0,
        backward_bubble=1 - free / seconds if seconds else 0.0,
        bytes_sent=messages * (costs.activation_bytes + back),
        in_flight=plan.in_flight(n_stages, n_micro_batches),
    )


def steady_step(
    name: str | Schedule,
    costs: StageCosts,
    link: Link,
    n_stages: int,
    n_micro_batches: int,
    projector: Projector | None = None,
) -> float:
    """Seconds a step takes when a stage starts the next one as soon as it has updated its own weights.

    The same numbers as with a barrier between steps: stages read no weights but their own. Whatever looks at all
    gradients before the update, a clipped global norm, is the barrier again.

    >>> costs = StageCosts(forward=1.0, input_grad=1.0, weight_grad=1.0)
    >>> [steady_step(name, costs, Link(), 4, 8) for name in ("gpipe", "zb-h1", "dfa", "dfa-flush")]
    [33.0, 27.0, 27.0, 24.0]
    """
    plan = schedule(name) if isinstance(name, str) else name
    two, three = (_simulate(plan, costs, link, n_stages, n_micro_batches, projector, n) for n in (2, 3))
    return three - two


def _each(seconds: Seconds, n_stages: int, name: str) -> np.ndarray:
    given = np.asarray(seconds, dtype=float)
    if given.ndim and given.shape != (n_stages,):
        raise ConfigError(f"{name} is one number, or one for each of {n_stages} stages, got {given.size}")
    return np.broadcast_to(given, (n_stages,))


def _durations(plan: Schedule, costs: StageCosts, n_stages: int) -> np.ndarray:
    """Seconds of a forward, a backward and a weight gradient on each stage, `(3, n_stages)`."""
    names = ("forward", "input_grad", "weight_grad", "project")
    forward, input_grad, weight_grad, project = (_each(getattr(costs, n), n_stages, n) for n in names)
    if plan.split:
        return np.stack((forward, input_grad + project, weight_grad))
    return np.stack((forward, input_grad + weight_grad + project, np.zeros(n_stages)))


def _simulate(
    plan: Schedule,
    costs: StageCosts,
    link: Link,
    n_stages: int,
    n_micro_batches: int,
    projector: Projector | None,
    n_steps: int = 1,
) -> float:
    """The end of the last of `n_steps` steps that follow each other without a barrier."""
    order = plan.order(n_stages, n_micro_batches)
    durations, update = _durations(plan, costs, n_stages), _each(costs.update, n_stages, "update")
    n_tasks, last = order.shape[1], n_stages - 1
    # When what a task waits for is there; infinite while that is not known.
    ready = np.full((3, n_steps * n_micro_batches, n_stages), np.inf)
    ready[FORWARD, :, 0] = 0
    ready[WEIGHT] = 0  # its backward, which stands before it in the order
    if plan.backward == "free":
        ready[BACKWARD] = 0
    elif plan.backward == "chain":
        ready[BACKWARD, :, last] = 0
    broadcast = _Broadcast(link, costs.error_bytes, n_stages, projector)
    sending = costs.activation_bytes / link.bandwidth
    at, free = np.zeros(n_stages, int), np.zeros(n_stages)
    down, up = np.zeros(n_stages), np.zeros(n_stages)  # when the link out of a stage is free, forward and backward
    awake = np.ones(n_stages, bool)  # stages that have run a task, or got a message, since they last looked
    while (waiting := np.flatnonzero(awake & (at < n_tasks * n_steps))).size:
        awake[:] = False
        step, position = np.divmod(at[waiting], n_tasks)
        kind, micro = np.divmod(order[waiting, position], n_micro_batches)
        micro = micro + step * n_micro_batches
        there = ready[kind, micro, waiting]
        runs = there < np.inf
        s, kind, micro, there = waiting[runs], kind[runs], micro[runs], there[runs]
        end = np.maximum(free[s], there) + durations[kind, s]
        free[s] = np.where(position[runs] == n_tasks - 1, end + update[s], end)
        at[s] += 1
        awake[s] = True
        forward = (kind == FORWARD) & (s < last)
        a, i = s[forward], micro[forward]
        down[a] = np.maximum(down[a], end[forward]) + sending
        ready[FORWARD, i, a + 1] = down[a] + link.latency
        awake[a + 1] = True
        if plan.backward == "chain":
            backward = (kind == BACKWARD) & (s > 0)
            a, i = s[backward], micro[backward]
            up[a] = np.maximum(up[a], end[backward]) + sending
            ready[BACKWARD, i, a - 1] = up[a] + link.latency
            awake[a - 1] = True
        elif plan.backward == "broadcast" and s.size and s[-1] == last and kind[-1] == FORWARD:
            ready[BACKWARD, micro[-1]] = broadcast(end[-1])
            awake[:] = True
    return float(free.max())


class _Broadcast:
    """The way of each micro-batch's error from the last stage, through links and devices, to every stage."""

    def __init__(self, link: Link, n_bytes: float, n_stages: int, projector: Projector | None) -> None:
        hop = link.latency + n_bytes / link.bandwidth
        away = np.arange(n_stages)[::-1]  # stages between here and the last
        if link.broadcast == "chain":
            copies, self.travel = 1, away * hop
        elif link.broadcast == "tree":
            rounds = np.ceil(np.log2(away + 1))  # the round in which a stage gets it
            copies, self.travel = int(rounds.max()), rounds * hop
        elif link.broadcast == "star":
            copies, self.travel = n_stages - 1, np.where(away, link.latency + away * n_bytes / link.bandwidth, 0)
        else:
            raise ConfigError(f"a broadcast is a chain, a tree or a star, got {link.broadcast!r}")
        self.sending = copies * n_bytes / link.bandwidth if n_stages > 1 else 0.0
        self.sent = 0.0
        self.projector = projector
        share = 1 if projector is None or projector.shared_by is None else projector.shared_by
        if share < 1:
            raise ConfigError(f"a device is shared by at least one stage, got {share}")
        self.groups = -(-n_stages // share)
        self.idle_from = np.zeros(self.groups)
        self.share = share

    def __call__(self, error: float) -> np.ndarray:
        """When the error that is known then can be used by each stage, `(n_stages,)`."""
        projector = self.projector
        if projector is not None and projector.shared_by is None:
            error = self.idle_from[0] = max(error, self.idle_from[0]) + projector.seconds
        start = max(error, self.sent)
        self.sent = start + self.sending
        arrived = start + self.travel
        arrived[-1] = error  # the last stage has it
        if projector is None or projector.shared_by is None:
            return arrived
        # Each device serves its stages from the last to the first: end_k = max(arrived_k, end_{k-1}) + seconds.
        padded = np.full(self.groups * self.share, -np.inf)
        padded[: len(arrived)] = arrived[::-1]
        queue = padded.reshape(self.groups, self.share)
        served = (1 + np.arange(self.share)) * projector.seconds
        begin = np.maximum.accumulate(np.maximum(queue, self.idle_from[:, None]) - served, axis=1) + projector.seconds
        ends = begin + served
        real = np.arange(self.groups * self.share).reshape(ends.shape) < len(arrived)
        self.idle_from = np.where(real, ends, -np.inf).max(axis=1)
        return ends.ravel()[: len(arrived)][::-1]
