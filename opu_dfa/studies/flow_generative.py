"""A generative flow learned from n samples of a mixture of two Gaussians: how near its clusters come to the truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.studies.figures import draw_curves
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.dynamics.generative_flow import Mixture, Motion, generate, motion

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Point:
    """n samples of clusters of deviation s in d dimensions, a ridge, and the time t up to which the flow has come."""

    n: int = 8
    s: float = 1.5
    t: float = 1.0
    d: int = 2000
    ridge: float = 0.1
    steps: int = 100
    trajectories: int = 100

    def __post_init__(self) -> None:
        if self.steps < 1 or not 1 / self.steps <= self.t <= 1:
            raise ConfigError(f"a time t from 1/steps to 1 is wanted, got {self.t} with {self.steps} steps")
        if self.d < 1 or self.trajectories < 2:
            raise ConfigError(f"a dimension and 2 trajectories are wanted, got {self.d} and {self.trajectories}")
        _ = self.mixture

    @property
    def mixture(self) -> Mixture:
        return Mixture(self.n, self.s, self.ridge)

    def values(self, found: Motion) -> Values:
        """What is asked of a flow; `error` at its end."""
        k = round(self.t * self.steps) - 1
        names = ("mean", "xi", "eta", "norm", "cosine")
        values: Values = {name: float(getattr(found, name)[k]) for name in names}
        return values | {"error": found.error}


class FlowGenerative(Study[Point]):
    """The mean overlap exceeds its limit of d = ∞ by the overlap √(2/(πd)) w/|w| of a start with the cluster it decides
    for, carried along by the flow: `theory` holds it, and the claim measures it. Of the distance 2s²/n, half is the
    error of the mean of the x¹ and half that of the x⁰, which the flow stretches by s.
    """

    title = "Generative flows from few samples"
    paper = (
        "Cui, Krzakala, Vanden-Eijnden, Zdeborová, Analysis of learning a flow-based generative model from limited "
        "sample complexity (arXiv 2310.03575)"
    )
    statement = (
        "A flow whose denoiser learned from n samples of a Gaussian mixture in many dimensions generates clusters at a "
        "squared distance of order 1/n from the true ones: 2s²/n by its closed form."
    )
    seeds = tuple(range(24))

    def sweep(self, size: Size) -> list[Point]:
        small = size == "small"
        d, dims = (2000, (250, 1000, 4000)) if small else (10_000, (250, 1000, 4000, 16_000))
        points = [
            *(Point(t=t, d=d) for t in (0.12, 0.27, 0.52, 0.77, 1.0)),
            *(Point(n, 1.0, d=d) for n in (4, 8, 16, 32, 64, *(() if small else (128, 256)))),
            *(Point(d=d) for d in dims),
        ]
        return list(dict.fromkeys(points))

    def theory(self, point: Point) -> Values:
        return point.values(motion(point.mixture, point.steps, point.d))

    def experiment(self, point: Point, seed: int = 0) -> Values:
        rng = np.random.default_rng(seed)
        return point.values(generate(point.mixture, point.d, point.trajectories, point.steps, rng))

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        # seeds differ by the overlaps of drawn directions, 1/√(nd)
        found = agreement(results, absolute=0.005)
        law = sorted((r for r in results if r.point.s == 1.0), key=lambda r: r.point.n)
        growing = sorted((r for r in results if r.point.s != 1.0 and r.point.t == 1), key=lambda r: r.point.d)
        if len(law) < 2 or len(growing) < 2:
            raise ConfigError("the claim compares numbers of samples and dimensions: leave n, s, t and d as they are")
        errors = [float(r.measured("error")[0]) for r in law]
        scaled = errors[-1] * law[-1].point.n
        rate = _power([r.point.n for r in law], errors)
        limit = float(motion(growing[0].point.mixture, growing[0].point.steps).mean[-1])
        derived = np.array([float(r.theory["mean"]) - limit for r in growing])
        mean, error = np.array([r.measured("mean") for r in growing]).T
        weights = (derived / error) ** 2
        start, spread = float(weights @ ((mean - limit) / derived) / weights.sum()), float(weights.sum() ** -0.5)
        holds = found.holds and abs(rate + 1) < 0.05 and abs(scaled / 2 - 1) < 0.1 and abs(start - 1) < 3 * spread < 0.5
        detail = (
            f"the distance falls as n^{rate:.2f} (claimed -1), to {scaled:.2f}/n at n = {law[-1].point.n} (claimed "
            f"2/n); the overlap's excess over d = ∞ is {start:.2f} ± {spread:.2f} of what the start gives; {found}"
        )
        return Claim(bool(holds), detail)

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((12, 4), layout="constrained")
        path, law, excess = figure.subplots(1, 3)
        wide = [r for r in results if r.point.s != 1.0]
        common = max((r.point.d for r in wide if r.point.t < 1), default=0)
        for key in ("mean", "cosine", "norm"):
            draw_curves(path, [r for r in wide if r.point.d == common], "t", key, _called(key))
        draw_curves(law, [r for r in results if r.point.s == 1.0], "n", "error", lambda p: f"s {p.s:g}, d {p.d}")
        draw_curves(excess, [r for r in wide if r.point.t == 1], "d", "mean", lambda p: f"s {p.s:g}, n {p.n}")
        path.set(xlabel="t", title="the flow's overlaps")
        law.set(xscale="log", yscale="log", xlabel="samples n", ylabel="|generated mean - μ|² / d")
        excess.set(xscale="log", xlabel="dimension d", ylabel="X·μ / d at t = 1")
        for axis in figure.axes:
            axis.legend(fontsize="small")
        return figure


def _called(name: str) -> Callable[[Point], str]:
    return lambda _: name


def _power(x: Sequence[float], y: Sequence[float]) -> float:
    """Exponent of x in y; nan where y is not positive."""
    if min(y) <= 0:
        return math.nan
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


STUDY = FlowGenerative()
