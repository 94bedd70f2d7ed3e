"""Finite networks that learn by an update rule from exactly prescribed overlaps, in compiled loops.

`network` moves actual weights. `chain` draws what the same network would: for normal inputs the overlaps alone are a
Markov chain, of which a step is drawn exactly at a cost that does not grow with N: fields are z = Lξ with L Lᵀ = C, and
of a batch's inputs only the Gram matrix outside the span of all weights is needed, a Wishart matrix of N - K - M
degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from opu_dfa.errors import ConfigError, NotConverged
from opu_dfa.theory.dynamics.fields import ACTIVATIONS, Array
from opu_dfa.theory.dynamics.flow import Trajectory, ascending, trajectory
from opu_dfa.theory.dynamics.loops import move_overlaps, move_weights
from opu_dfa.theory.dynamics.overlaps import Overlaps, Teacher, joint
from opu_dfa.theory.dynamics.rules import Rule

_NAMES = tuple(ACTIVATIONS)  # the loops know an activation by its place
_SEGMENT = 0.05  # of time, in which the feedback of a drifting medium is kept
_SINGULAR = 1e-9


def network(
    rule: Rule, teacher: Teacher, start: Overlaps, dims: int, times: Sequence[float] | Array, seed: int = 0
) -> Trajectory:
    """Train a network of N inputs, one batch of fresh samples a step, from weights with the overlaps `start`.

    Args:
        dims: N; times: t = steps/N, rounded to steps.

    Raises:
        ConfigError: overlaps that no weights in N dimensions have, or an infinite batch; NotConverged: it diverges.

    >>> rule, teacher = Rule(0.5), Teacher(np.ones((1, 1)), np.eye(1))
    >>> found = network(rule, teacher, Overlaps(np.eye(1), np.full((1, 1), 0.2), np.ones((1, 1))), 50, [0, 10])
    >>> found.q[0].round(9).tolist(), found.r[0].round(9).tolist(), bool(found.risk[1] < 0.1 * found.risk[0])
    ([[1.0]], [[0.2]], True)
    """
    rng, k, head = np.random.default_rng(seed), len(start.q), np.ascontiguousarray(teacher.head, dtype=np.float64)
    values, vectors = np.linalg.eigh(joint(start, teacher))
    kept = slice(max(0, len(values) - dims), None)
    if values[: kept.start].sum() > _SINGULAR * values.sum():
        raise ConfigError(f"{len(values)} weights of these overlaps do not fit in N={dims} dimensions; take a larger N")
    frame = np.linalg.qr(rng.standard_normal((dims, len(values[kept]))))[0].T
    rows = (vectors[:, kept] * np.sqrt(np.maximum(values[kept], 0))) @ frame * math.sqrt(dims)
    weights = np.ascontiguousarray(rows)

    def advance(steps: int, v: Array, b: Array, options: Any) -> Overlaps:
        move_weights(rng, weights, k, v, head, b, steps, *options)
        return _state(weights @ weights.T / dims, k, v)

    return _recorded(rule, teacher, start, dims, times, advance)


def chain(
    rule: Rule, teacher: Teacher, start: Overlaps, dims: int, times: Sequence[float] | Array, seed: int = 0
) -> Trajectory:
    """The same in law as `network`, for N of any size.

    Raises:
        ConfigError: fewer than 2K + M inputs, and else as `network`; NotConverged: it diverges.

    >>> rule, teacher = Rule(0.5), Teacher(np.ones((1, 1)), np.eye(1))
    >>> found = chain(rule, teacher, Overlaps(np.eye(1), np.full((1, 1), 0.2), np.ones((1, 1))), 50, [0, 10])
    >>> bool(found.risk[1] < 0.1 * found.risk[0])
    True
    """
    rng, k, head = np.random.default_rng(seed), len(start.q), np.ascontiguousarray(teacher.head, dtype=np.float64)
    c = joint(start, teacher).astype(np.float64)
    if dims < len(c) + k:
        raise ConfigError(f"of K={k} units and {len(c) - k} of the teacher N is {len(c) + k} or more, got {dims}")

    def advance(steps: int, v: Array, b: Array, options: Any) -> Overlaps:
        move_overlaps(rng, c, float(dims), v, head, b, steps, *options)
        return _state(c, k, v)

    return _recorded(rule, teacher, start, dims, times, advance)


def _state(c: Array, k: int, v: Array) -> Overlaps:
    return Overlaps(c[:k, :k].copy(), c[:k, k:].copy(), v.copy())


def _recorded(
    rule: Rule, teacher: Teacher, start: Overlaps, dims: int, times: Sequence[float] | Array, advance: Any
) -> Trajectory:
    wanted = np.round(ascending(times) * dims).astype(int)
    if not math.isfinite(rule.batch):
        raise ConfigError("a simulation takes batches of a finite number of samples, got inf")
    code, threshold, level = rule.code.compiled
    device = rule.device
    noises = (teacher.noise, device.additive, device.relative, device.common, device.shown)
    options = (
        *(int(rule.batch), float(rule.rate), float(rule.readout_rate), rule.feedback is None),
        *(rule.loss == "correlation", bool(rule.sphere), _NAMES.index(teacher.activation)),
        *(int(code), float(threshold), float(level), np.array(noises, dtype=np.float64)),
    )
    v, done, states = np.array(start.v, dtype=np.float64, order="C"), 0, []
    stride = max(1, round(_SEGMENT * dims)) if callable(rule.feedback) else int(wanted[-1]) + 1
    state = Overlaps(start.q, start.r, v.copy())
    for until in wanted:
        while done < until:
            steps = min(stride, int(until) - done)
            b = np.ascontiguousarray(rule.backward(v, (done + steps / 2) / dims), dtype=np.float64)
            state = advance(steps, v, b.copy(), options)
            done += steps
            if not (np.isfinite(state.q).all() and np.isfinite(v).all()):
                raise NotConverged(f"the weights diverge before step {done}; take a smaller rate", math.inf)
        states.append(state)
    return trajectory(rule, teacher, wanted / dims, states)
