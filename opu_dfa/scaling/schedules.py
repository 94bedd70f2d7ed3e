"""Pipeline schedules: in which order each stage runs the forwards and backwards of its micro-batches, and what for.

A schedule is an order a stage, fixed before the step, and a rule for what a backward waits for: the next stage's
backward in backpropagation (`chain`), the last stage's error in direct feedback alignment (`broadcast`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from opu_dfa.errors import ConfigError

FORWARD, BACKWARD, WEIGHT = 0, 1, 2


@dataclass(frozen=True)
class Schedule:
    """How many forwards run ahead, and what a backward is.

    Args:
        ahead: forwards that a stage runs before its first backward, for each stage behind it; the last runs one. None:
            all forwards come first.
        backward: "chain" waits for the next stage's backward of the same micro-batch, "broadcast" for the last stage's
            error, "free" for nothing but the stage's own forward: what a step would take without that wait.
        split: weight gradients are tasks of their own, done later, as many micro-batches as stages lie in front.
        slack: further forwards ahead on every stage, to bridge a wait for the error; each keeps a micro-batch's
            activations.
    """

    name: str
    ahead: int | None
    backward: Literal["chain", "broadcast", "free"]
    split: bool = False
    slack: int = 0

    def forwards_ahead(self, stage: int, n_stages: int, n_micro_batches: int) -> int:
        if self.ahead is None:
            return n_micro_batches
        return min(n_micro_batches, self.ahead * (n_stages - 1 - stage) + 1 + self.slack)

    def in_flight(self, n_stages: int, n_micro_batches: int) -> int:
        """The most micro-batches whose activations one stage keeps at a time."""
        held = [self.forwards_ahead(s, n_stages, n_micro_batches) + (s if self.split else 0) for s in (0, n_stages - 1)]
        return min(n_micro_batches, max(held))

    def order(self, n_stages: int, n_micro_batches: int) -> np.ndarray:
        """Tasks of each stage, int32 `(n_stages, tasks)`: kind · n_micro_batches + micro-batch.

        >>> SCHEDULES["1f1b"].order(2, 3)
        array([[0, 1, 3, 2, 4, 5],
               [0, 3, 1, 4, 2, 5]], dtype=int32)
        """
        if min(n_stages, n_micro_batches) < 1:
            raise ConfigError(
                f"a pipeline has at least one stage and one micro-batch, got {n_stages} and {n_micro_batches}"
            )
        m = n_micro_batches
        order = np.empty((n_stages, (3 if self.split else 2) * m), np.int32)
        each = np.arange(m, dtype=np.int32)
        for s in range(n_stages):
            ahead = self.forwards_ahead(s, n_stages, m)
            late = min(s, m)
            turn = np.full((m, 3), -1, np.int32)  # a backward, a weight gradient that is due, a forward
            turn[:, 0] = BACKWARD * m + each
            turn[: m - ahead, 2] = each[ahead:]
            if self.split:
                turn[late:, 1] = WEIGHT * m + each[: m - late]
            turns = turn.ravel()
            tail = WEIGHT * m + each[m - late :] if self.split else each[:0]
            order[s] = np.concatenate((each[:ahead], turns[turns >= 0], tail))
        return order


SCHEDULES = {
    each.name: each
    for each in (
        Schedule("gpipe", None, "chain"),  # Huang et al. 2019, arXiv 1811.06965
        Schedule("1f1b", 1, "chain"),  # Narayanan et al. 2019, PipeDream; flushed as in arXiv 2006.09503
        Schedule("1f1b-eager", 2, "chain"),  # twice as many ahead, so that messages travel while stages compute
        Schedule("zb-h1", 1, "chain", split=True),  # Qi et al. 2024, arXiv 2401.10241
        Schedule("dfa", 1, "broadcast"),  # the order of 1F1B, and its memory
        Schedule("dfa-flush", None, "broadcast"),  # the order of GPipe: a stage is ready for its next step early
    )
}


def schedule(name: str, slack: int = 0) -> Schedule:
    """A schedule by its name.

    >>> schedule("dfa", slack=2).in_flight(n_stages=4, n_micro_batches=16)
    6

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in SCHEDULES:
        raise ConfigError(f"there is no pipeline schedule {name!r}; the schedules are {', '.join(SCHEDULES)}")
    return replace(SCHEDULES[name], slack=slack)
