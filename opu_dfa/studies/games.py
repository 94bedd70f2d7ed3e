"""Which first-order methods find the equilibrium of a random two-player game, and how fast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.studies.figures import draw_curves
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.dynamics.games import (
    Method,
    averaged_gap,
    contraction,
    distance,
    factor,
    field_of,
    play,
    singular_values,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_METHODS: tuple[Method, ...] = ("gradient", "proximal", "extragradient", "optimistic")


@dataclass(frozen=True)
class Point:
    """`steps` of a method in a game of ratio·n players' moves against n, with payoffs N(0, 1/n) and convexity μ."""

    method: Method
    steps: int
    ratio: float = 1.0
    convexity: float = 0.0
    rate: float = 0.25
    n: int = 300

    def __post_init__(self) -> None:
        factor(self.method, np.array(1j), self.rate, self.steps)
        singular_values(self.ratio)
        if self.steps < 1 or round(self.ratio * self.n) < 1 or self.convexity < 0:
            raise ConfigError(f"a step, a move for each player and a convexity of 0 or more are wanted, got {self}")


class Games(Study[Point]):
    title = "First-order methods in two-player games"
    paper = (
        "Wadia, Dandi, Jordan, A gentle introduction to gradient-based optimization and variational inequalities for "
        "machine learning (arXiv 2309.04877)"
    )
    statement = (
        "Simultaneous gradient steps run away from the equilibrium of a bilinear game. Proximal, extragradient and "
        "optimistic steps converge: linearly if singular values are bounded away from 0, and extragradient's average "
        "at 1/k in any case. A strongly monotone game forgives gradient steps of a rate below 2μ/L²."
    )
    seeds = tuple(range(8))

    def sweep(self, size: Size) -> list[Point]:
        n, longest = (300, 256) if size == "small" else (1000, 1024)
        counts = [4**k for k in range(1, 6) if 4**k <= longest]
        points = [
            Point(method, steps, ratio, n=n)
            for ratio in (1.0, 0.25)
            for method in _METHODS
            for steps in counts
            if method != "gradient" or steps <= 16
        ]
        # 2μ/L² = 0.4
        return points + [Point("gradient", steps, 0.25, 0.5, rate, n) for rate in (0.3, 0.6) for steps in (4, 16)]

    def theory(self, point: Point) -> Values:
        values = singular_values(point.ratio)
        gap = averaged_gap(values, point.rate, point.steps, point.convexity)
        return {
            "distance": distance(point.method, values, point.rate, point.steps, point.convexity),
            "gap": gap if point.method == "extragradient" else 0.0,
        }

    def experiment(self, point: Point, seed: int = 0) -> Values:
        rng = np.random.default_rng(seed)
        payoff = rng.standard_normal((round(point.ratio * point.n), point.n)) / math.sqrt(point.n)
        rows = np.linalg.qr(payoff.T)[0]  # moves that matter to the other player
        y = rows @ rng.standard_normal(len(payoff))
        start = np.concatenate([rng.standard_normal(len(payoff)), y])
        field = field_of(payoff, point.convexity)
        last, average = play(point.method, field, start, point.rate, point.steps)
        gap = np.linalg.norm(field @ average) if point.method == "extragradient" else 0.0
        length = np.linalg.norm(start)
        return {"distance": float(np.linalg.norm(last) / length), "gap": float(gap / length)}

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        found = agreement(results)
        grown = min(_at(results, "gradient", 1.0, 16), _at(results, "gradient", 0.25, 16))
        shrunk = max(_at(results, m, ratio, 16) for m in _METHODS[1:] for ratio in (1.0, 0.25))
        slow, fast = (_at(results, "gradient", 0.25, 16, 0.5, rate) for rate in (0.3, 0.6))
        square, oblong = _curve(results, 1.0), _curve(results, 0.25)
        gap = max(float(r.measured("gap")[0]) * r.point.steps * r.point.rate for r in square + oblong)
        few, many = square[-2:]
        power = math.log(_distance(many) / _distance(few)) / math.log(many.point.steps / few.point.steps)
        # of the smallest singular value, 1/2: its pairs shrink most slowly
        linear = all(_distance(r) < contraction("extragradient", -0.5j, r.point.rate) ** r.point.steps for r in oblong)
        holds = found.holds and grown > 1 > shrunk and slow < 1 < fast and gap < 2 and abs(power + 0.25) < 0.05
        detail = (
            f"16 gradient steps multiply the distance by {grown:.2f} or more, of other methods by {shrunk:.2f} or "
            f"less, and with μ = 1/2 by {slow:.2f} below the rate 2μ/L² = 0.4 and {fast:.2f} above; extragradient's "
            f"falls as k^{power:.2f} with singular values down to 0 (-1/4 is claimed), with none below 1/2 linearly: "
            f"{_distance(oblong[-1]):.3f} after {oblong[-1].point.steps} steps; the gap of averages is below "
            f"{gap:.2f}/(ηk); {found}"
        )
        return Claim(bool(holds and linear), detail)

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((12, 4), layout="constrained")
        square, oblong, convex = figure.subplots(1, 3)
        bilinear = [r for r in results if r.point.convexity == 0]
        draw_curves(square, [r for r in bilinear if r.point.ratio == 1], "steps", "distance", lambda p: p.method)
        averages = [r for r in bilinear if r.point.ratio == 1 and r.point.method == "extragradient"]
        draw_curves(square, averages, "steps", "gap", lambda _: "gap of averages")
        draw_curves(oblong, [r for r in bilinear if r.point.ratio < 1], "steps", "distance", lambda p: p.method)
        draw_curves(convex, [r for r in results if r.point.convexity > 0], "steps", "distance", "rate")
        square.set(title="singular values down to 0", ylabel="|z_k| / |z_0|")
        oblong.set(title="singular values from 1/2 to 3/2")
        convex.set(title="strongly monotone, gradient steps")
        for axis in figure.axes:
            axis.set(xscale="log", yscale="log", xlabel="steps")
            axis.legend(fontsize="small")
        return figure


def _at(
    results: Sequence[Result[Point]],
    method: Method,
    ratio: float,
    steps: int,
    convexity: float = 0.0,
    rate: float | None = None,
) -> float:
    """The distance measured at a point of the sweep."""
    for r in results:
        p = r.point
        if (p.method, p.ratio, p.steps, p.convexity) == (method, ratio, steps, convexity) and rate in (None, p.rate):
            return _distance(r)
    raise ConfigError("the claim compares methods, games and steps: leave them as the sweep has them")


def _curve(results: Sequence[Result[Point]], ratio: float) -> list[Result[Point]]:
    """Extragradient's points of a bilinear game, two or more."""
    found = [r for r in results if (r.point.method, r.point.ratio, r.point.convexity) == ("extragradient", ratio, 0)]
    if len(found) < 2:
        raise ConfigError("the claim compares methods, games and steps: leave them as the sweep has them")
    return sorted(found, key=lambda r: r.point.steps)


def _distance(result: Result[Point]) -> float:
    return float(result.measured("distance")[0])


STUDY = Games()
