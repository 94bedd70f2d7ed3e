"""The loop of message passing, and what is asked of state evolution: its branches, thresholds and spinodals.

State evolution is a map q → F(q) of overlaps. Message passing that knows nothing at first goes to the fixed point that
is reached from q = 0, and stays there where the map's growth, the leading eigenvalue of F'(0), is less than 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from scipy import optimize

from opu_dfa.errors import ConfigError, NotConverged
from opu_dfa.theory.fixed_point import FixedPoint, fixed_point

Array = np.ndarray
State = TypeVar("State", bound=tuple[Any, ...])
Map = Callable[[Array], Array]
_SMALL = 1e-6  # overlaps at which a map is linear


class History(NamedTuple):
    """An iteration: its last state, what was measured of each state, `(steps + 1, ...)`, and the mean square by which
    each step changed the estimate, `(steps,)`. converged: the last change was below the tolerance."""

    state: Any
    measured: Array
    residuals: Array
    converged: bool


def iterate(
    step: Callable[[State], State],
    state: State,
    measure: Callable[[State], float | Array] = lambda state: 0.0,
    most: int = 200,
    tolerance: float = 1e-12,
) -> History:
    """Repeat a step until the estimate, the first entry of the state, stays where it is, or `most` times.

    Message passing need not converge: past an instability that is what there is to see, and `converged` says so.

    Raises:
        NotConverged: the estimate is no longer finite.

    >>> def newton(state):  # of x² = 2
    ...     return ((state[0] + 2 / state[0]) / 2,)
    >>> history = iterate(newton, (np.ones(1),), measure=lambda state: float(state[0][0]))
    >>> history.converged, history.measured[:3].round(4).tolist()
    (True, [1.0, 1.5, 1.4167])
    """
    measured, residuals = [np.asarray(measure(state), dtype=np.float64)], []
    converged = False
    for i in range(most):
        with np.errstate(all="ignore"):
            after = step(state)
            change = float(np.mean((after[0] - state[0]) ** 2))
        if not np.isfinite(change):
            raise NotConverged(f"message passing diverges in step {i + 1}: damp it, or start it smaller", change)
        state = after
        measured.append(np.asarray(measure(state), dtype=np.float64))
        residuals.append(change)
        if change < tolerance:
            converged = True
            break
    return History(state, np.array(measured), np.array(residuals), converged)


class Branches(NamedTuple):
    """The fixed points that are reached from knowing nothing, and from the truth."""

    uninformed: Array
    informed: Array


def branches(evolve: Map, uninformed: Array, informed: Array, tolerance: float = 1e-9, most: int = 50_000) -> Branches:
    """Both ends of state evolution, which differ where a first-order transition leaves room for a hard phase.

    The map is iterated as it is, without damping or mixing: an accelerated step might leave one basin for the other.

    Args:
        uninformed, informed: overlaps to start from, such as 1e-6 and those of the truth itself.

    Raises:
        NotConverged: after `most` steps, as close to a threshold.

    >>> found = branches(lambda q: 2 * q / (1 + 2 * q), np.array([1e-6]), np.array([1.0]))
    >>> [float(each[0].round(6)) for each in found]
    [0.5, 0.5]
    """
    ends = [settled(evolve, start, tolerance, most).x.reshape(np.shape(start)) for start in (uninformed, informed)]
    return Branches(*ends)


def settled(evolve: Map, start: Array, tolerance: float = 1e-9, most: int = 50_000) -> FixedPoint:
    """Where a map comes to rest, step by step; x is flat."""
    shape = np.shape(start)

    def step(x: Array) -> Array:
        return np.ravel(evolve(x.reshape(shape)))

    return fixed_point(step, np.ravel(start), tolerance, most, damping=1.0, memory=0)


def growth(evolve: Map, at: Array, towards: Array | None = None, most: int = 500, tolerance: float = 1e-8) -> float:
    """The leading eigenvalue of a map's derivative, by power iteration on small steps from a fixed point.

    Overlaps grow from there where it is above 1. Of a law whose map is α times another, 1 / growth at α = 1 is the
    threshold α_c.

    Args:
        at: a fixed point, such as zeros; towards: a direction to start from, positive by default (overlaps that are
            matrices stay positive semi-definite).

    Raises:
        NotConverged: directions keep turning.

    >>> slope = growth(lambda q: np.array([[0.0, 2.0], [0.5, 0.0]]) @ q + q**2, np.zeros(2))
    >>> round(slope, 4)
    1.0
    """
    origin = np.asarray(at, dtype=np.float64)
    here = evolve(origin)
    if towards is None:
        p = origin.shape[-1]
        square = origin.ndim >= 2 and origin.shape[-2] == p
        # Not the identity alone, which may be blind to a direction that grows where others shrink.
        towards = np.broadcast_to(np.eye(p) + np.ones((p, p)) / p if square else 1.0, origin.shape)
    direction = np.asarray(towards / np.linalg.norm(towards))
    before, value = np.inf, 0.0
    for _ in range(most):
        moved = (evolve(origin + _SMALL * direction) - here) / _SMALL
        # Shifted by as much as it moves: a map between two kinds of unknowns has -λ beside λ.
        shift = float(np.linalg.norm(moved))
        turned = moved + shift * direction
        length = float(np.linalg.norm(turned))
        if length == 0:
            return -shift if shift else 0.0
        value = length - shift
        direction = turned / length
        if abs(value - before) < tolerance * (1 + abs(value)):
            return value
        before = value
    raise NotConverged(
        f"the growth has not settled after {most} steps, at {value:.6g}: start in another direction", abs(value)
    )


def spinodals(
    control: Callable[[float], float], low: float, high: float, points: int = 400
) -> list[tuple[float, float]]:
    """Where a branch turns: extremes (m, control(m)) of the control parameter that has m for a fixed point.

    With one order parameter every fixed point is found without iteration, unstable ones too: of q' = F(α q̂(q)) the
    control is α(q) = F⁻¹(q) / q̂(q).

    >>> [(round(m, 6), round(c, 6)) for m, c in spinodals(lambda m: m * (1 - m), 0.01, 0.99)]
    [(0.5, 0.25)]
    """
    if not low < high:
        raise ConfigError(f"spinodals are looked for between low < high, got {low} and {high}")
    grid = np.linspace(low, high, points)
    values = np.array([control(float(m)) for m in grid])
    found = []
    for i in range(1, points - 1):
        sign = np.sign(values[i] - values[i - 1])
        if sign and sign * (values[i] - values[i + 1]) >= 0:
            best = optimize.minimize_scalar(
                lambda m, s=sign: -s * control(m),
                bounds=(grid[i - 1], grid[i + 1]),
                method="bounded",
                options={"xatol": 1e-10},
            )
            found.append((float(best.x), float(control(float(best.x)))))
    return found


def overlap_up_to(symmetry: Literal["sign", "permutation", "rotation"], estimate: Array, truth: Array) -> float:
    """The overlap of an estimate `(n, p)` with the truth, where the data cannot tell columns apart.

    (1/np) Σ |x̂_k·x_k| up to a sign for each column; the best permutation of columns besides; or, up to a rotation,
    the mean singular value of x̂ᵀx/n.

    Raises:
        ConfigError: another symmetry, or shapes that differ.

    >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -1.0]])
    >>> overlap_up_to("sign", x[:, ::-1], x), overlap_up_to("permutation", -x[:, ::-1], x)
    (0.0, 0.5)
    """
    if symmetry not in ("sign", "permutation", "rotation") or estimate.shape != truth.shape:
        raise ConfigError(
            "overlaps are of equal shapes, up to sign, permutation or rotation; got "
            f"{estimate.shape}, {truth.shape} and {symmetry!r}"
        )
    products = estimate.T @ truth / len(truth)
    if symmetry == "rotation":
        return float(np.linalg.svd(products, compute_uv=False).mean())
    if symmetry == "permutation":
        rows, columns = optimize.linear_sum_assignment(-np.abs(products))
        return float(np.abs(products[rows, columns]).mean())
    return float(np.abs(np.diag(products)).mean())
