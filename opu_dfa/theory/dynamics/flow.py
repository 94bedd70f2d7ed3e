"""Overlaps in time: the differential equations of N → ∞, and the map of one step at finite N, of an update rule.

    dR/dt = -η D_R,   dQ/dt = -η (D_Q + D_Qᵀ) + (η²/batch) S,   dV/dt = -η_v E[e gᵀ],   t = steps/N

with drift D = (D_Q, D_R) and diffusion S of `Rule.averages`. In a step of a batch as large as N, the mean forces matter
to second order too: Q moves by (η²/N) {S/batch + (1 - 1/batch) D C⁻¹ Dᵀ/N} besides (Arnaboldi, Dandi, Krzakala,
Loureiro, Pesce and Stephan, Online learning and information exponents).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import integrate

from opu_dfa.errors import ConfigError, NotConverged
from opu_dfa.theory.dynamics.fields import Array
from opu_dfa.theory.dynamics.overlaps import Overlaps, Teacher, alignment, covariance, generalisation, joint
from opu_dfa.theory.dynamics.rules import Rule

Terms = Literal["both", "drift", "diffusion"]
_FAR = 1e5  # of an overlap that diverges
_MOST = 50_000  # evaluations of the slope


@dataclass(frozen=True)
class Trajectory:
    """Overlaps, E Σ_c (f_c - y_c)²/2 without label noise, and cos(Vᵀ, B), at times t = steps/N.

    Shapes: t, risk and alignment `(T,)`, q `(T, K, K)`, r `(T, K, M)`, v `(T, O, K)`.
    """

    t: Array
    q: Array
    r: Array
    v: Array
    risk: Array
    alignment: Array

    def at(self, index: int) -> Overlaps:
        return Overlaps(self.q[index], self.r[index], self.v[index])


def trajectory(rule: Rule, teacher: Teacher, times: Array, states: Sequence[Overlaps]) -> Trajectory:
    """States with what they say of error and alignment."""
    q, r, v = (np.array([getattr(s, name) for s in states]) for name in ("q", "r", "v"))
    return Trajectory(
        times,
        q,
        r,
        v,
        np.array([generalisation(s, teacher) for s in states]),
        np.array([alignment(s.v, rule.backward(s.v, float(t))) for s, t in zip(states, times, strict=True)]),
    )


def ascending(times: Sequence[float] | Array) -> Array:
    """Times as an array.

    Raises:
        ConfigError: they do not ascend from 0 or later.
    """
    wanted = np.asarray(times, dtype=np.float64)
    if wanted.ndim != 1 or not len(wanted) or not wanted[0] >= 0 or not (np.diff(wanted) > 0).all():
        raise ConfigError(f"times ascend from 0 or later, got {np.array2string(wanted, threshold=6)}")
    return wanted


def descend(
    rule: Rule,
    teacher: Teacher,
    start: Overlaps,
    times: Sequence[float] | Array,
    terms: Terms = "both",
    method: Literal["RK45", "LSODA"] = "RK45",
    nodes: int = 0,
    tolerance: float = 1e-7,
) -> Trajectory:
    """Solve the differential equations.

    Args:
        times: t = steps/N; terms: "drift" leaves out S, as for a vanishing rate, "diffusion" all but S; method: "LSODA"
            where the end is far; nodes: of `Rule.averages`; tolerance: relative.

    Raises:
        ConfigError: overlaps or times that cannot be; NotConverged: they diverge, or the solver comes to no end.

    >>> rule = Rule(0.5, 0.5, feedback=np.array([[1.0], [-0.5]]))
    >>> start = Overlaps(np.diag([0.25, 0.3]), np.array([[0.05, -0.02], [0.01, 0.03]]), np.zeros((1, 2)))
    >>> found = descend(rule, Teacher(np.ones((1, 2)), np.eye(2)), start, [0.0, 10.0])
    >>> bool(found.risk[1] < 0.2 * found.risk[0]), bool(found.alignment[1] > 0.99)
    (True, True)
    """
    joint(start, teacher)
    wanted, (k, m), o = ascending(times), start.r.shape, len(start.v)
    evaluations = 0

    def unpacked(x: Array) -> Overlaps:
        q, r, v = np.split(x, [k * k, k * (k + m)])
        return Overlaps(q.reshape(k, k), r.reshape(k, m), v.reshape(o, k))

    def slope(t: float, x: Array) -> Array:
        nonlocal evaluations
        evaluations += 1
        if evaluations > _MOST or not np.abs(x).max() < _FAR:
            raise NotConverged(
                f"overlaps of {np.abs(x).max():.3g} at t = {t:.3g}, after {evaluations} evaluations: the rate "
                f"{rule.rate:g} is too large or the end too far; take a smaller rate, or LSODA",
                float(np.abs(x).max()),
            )
        state = unpacked(x)
        drift, diffusion, readout = rule.averages(state, teacher, t, nodes)
        moved = 0 * drift if terms == "diffusion" else -rule.rate * drift
        dq, dr = moved[:, :k] + moved[:, :k].T, moved[:, k:]
        if terms != "drift":
            dq = dq + rule.rate**2 / rule.batch * diffusion
        if rule.sphere:
            shrink = np.diag(dq) / np.diag(state.q) / 2
            dq, dr = dq - (shrink[:, None] + shrink) * state.q, dr - shrink[:, None] * state.r
        return np.concatenate([dq.ravel(), dr.ravel(), -rule.readout_rate * readout.ravel()])

    if wanted[-1] == 0:
        return trajectory(rule, teacher, wanted, [start])
    x = np.concatenate([start.q.ravel(), start.r.ravel(), start.v.ravel()]).astype(np.float64)
    with np.errstate(all="ignore"):
        done = integrate.solve_ivp(slope, (0, wanted[-1]), x, method, wanted, rtol=tolerance, atol=1e-3 * tolerance)
    if not done.success or not np.isfinite(done.y).all():
        raise NotConverged(f"the equations have no solution: {done.message} Take a smaller rate, or LSODA", math.inf)
    return trajectory(rule, teacher, wanted, [unpacked(x) for x in done.y.T])


def iterate(
    rule: Rule,
    teacher: Teacher,
    start: Overlaps,
    dims: float,
    steps: Sequence[int],
    terms: Terms = "both",
    nodes: int = 0,
) -> Trajectory:
    """The mean motion of overlaps, step by step, for batches that may be as large as the dimension N or larger.

    Args:
        dims: N; steps: after which the overlaps are told, ascending; terms: "drift" leaves out the noise of samples,
            "diffusion" all but it.

    Raises:
        ConfigError: as of `descend`; NotConverged: overlaps diverge.

    >>> rule = Rule(0.5, batch=math.inf, sphere=True)
    >>> start, teacher = Overlaps(np.eye(1), np.full((1, 1), 0.3), np.ones((1, 1))), Teacher(np.ones((1, 1)), np.eye(1))
    >>> bool(iterate(rule, teacher, start, 5, [0, 300]).risk[1] < 1e-5)
    True
    """
    joint(start, teacher)
    wanted, k = ascending(steps).astype(int), len(start.q)
    if not dims >= 1:
        raise ConfigError(f"the dimension is 1 or more, got {dims}")
    step, state, states = rule.rate / dims, start, []
    for done in range(int(wanted[-1]) + 1):
        if done in wanted:
            states.append(state)
        drift, diffusion, readout = rule.averages(state, teacher, done / dims, nodes)
        q, r = state.q, state.r
        if terms != "diffusion":
            c = covariance(state, teacher)
            alone = 1 / rule.batch if terms == "both" else 0.0
            span = (1 - alone) * drift @ np.linalg.pinv(c, hermitian=True) @ drift.T
            q, r = q - step * (drift[:, :k] + drift[:, :k].T) + step**2 * span, r - step * drift[:, k:]
        if terms != "drift":
            q = q + step**2 * dims / rule.batch * diffusion
        if not np.abs(q).max() < _FAR:
            raise NotConverged(f"overlaps of {np.abs(q).max():.3g} at step {done}: take a smaller rate", math.inf)
        if rule.sphere:
            norm = np.sqrt(np.diag(q))
            q, r = q / np.outer(norm, norm), r / norm[:, None]
        state = Overlaps(q, r, state.v - rule.readout_rate / dims * readout)
    return trajectory(rule, teacher, wanted / dims, states)
