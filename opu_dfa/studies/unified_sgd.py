"""One-pass gradient descent of a committee, of few inputs or many and of small steps or large: which equations hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.dynamics.flow import Terms, descend
from opu_dfa.theory.dynamics.rules import Overlaps, Rule, Teacher
from opu_dfa.theory.dynamics.simulate import network

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AT = (1 / 3, 1.0, 3.0, 10.0, 30.0)  # times in units of p d / γ steps; the first is one step of d = 3, γ = p


@dataclass(frozen=True)
class Point:
    """A committee of p erf units in d dimensions learns one of k at rate γ, with label noise of variance Δ."""

    d: int = 3
    rate: float = 0.05
    p: int = 10
    k: int = 2
    variance: float = 1e-3
    draw: int = 1

    def __post_init__(self) -> None:
        if not (self.d >= 1 and self.p >= 1 and self.k >= 1 and self.rate > 0 and self.variance >= 0):
            raise ConfigError(f"d, p, k of 1 or more, a rate above 0 and variance of at least 0 are wanted, got {self}")

    @property
    def teacher(self) -> Teacher:
        return Teacher(np.full((1, self.k), 1 / self.k), self._drawn[self.p :, self.p :], math.sqrt(self.variance))

    @property
    def start(self) -> Overlaps:
        c, p = self._drawn, self.p
        return Overlaps(c[:p, :p], c[:p, p:], np.full((1, p), 1 / p))

    @property
    def times(self) -> np.ndarray:
        """In units of d steps."""
        return np.array(_AT) * self.p / self.rate

    @property
    def _drawn(self) -> np.ndarray:
        """Overlaps of p + k weights of d independent normal entries."""
        w = np.random.default_rng(self.draw).standard_normal((self.p + self.k, self.d))
        return np.asarray(w @ w.T / self.d)


class UnifiedSGD(Study[Point]):
    title = "Gradient descent in one pass, from gradient flow to high dimension"
    paper = (
        "Arnaboldi, Stephan, Krzakala, Loureiro, From high-dimensional and mean-field dynamics to dimensionless ODEs: "
        "a unifying approach to SGD in two-layers networks, COLT 2023 (arXiv 2302.05882)"
    )
    statement = (
        "The same equations of overlaps hold if the dimension is large or if γ / p is small: with small steps even in "
        "3 dimensions, and then they are the gradient flow's; only large steps in few dimensions leave them."
    )
    seeds = tuple(range(8))

    def sweep(self, size: Size) -> list[Point]:
        if size == "small":
            return [Point(3, 0.05), Point(3, 10.0), Point(100, 10.0), Point(100, 1.0)]
        return [Point(d, rate) for d in (3, 10, 100, 300) for rate in (0.05, 0.5, 5.0, 10.0)]

    def theory(self, point: Point) -> Values:
        return {"risk": _risk(point, "both"), "flow": _risk(point, "drift")}

    def experiment(self, point: Point, seed: int = 0) -> Values:
        rule = Rule(point.rate)
        found = network(rule, point.teacher, point.start, point.d, point.times, seed).risk
        return {"risk": found, "flow": found}

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        small = [r for r in results if r.point.rate / r.point.p <= 0.02]
        large = [r for r in results if r.point.d >= 60]
        neither = [r for r in results if r.point.d <= 3 and r.point.rate / r.point.p >= 1]
        if not (small and large and neither):
            raise ConfigError(
                "the claim compares d of 3 and of 60 or more, and γ/p of 0.02 and 1: leave both as they are"
            )
        # One run scatters by γ/p and by 1/d, of which its mean of 8 seeds has a bias: 0.5 % of where it starts.
        floor = 0.005 * float(np.ravel(results[0].theory["risk"])[0])
        met = [agreement(small, "risk", "flow", absolute=floor), agreement(large, "risk", absolute=floor)]
        flow = agreement([r for r in large if r.point.rate / r.point.p >= 1], "flow", absolute=floor)
        apart = [max(_apart(r) for r in group) for group in (small, large, neither)]
        holds = all(m.holds for m in met) and not flow.holds and max(apart[:2]) < 0.2 < apart[2]
        detail = (
            f"runs are off by {apart[0]:.0%} with small steps at d = 3 ({met[0]}), by {apart[1]:.0%} in high dimension "
            f"({met[1]}), and by {apart[2]:.0%} where steps are large and d = 3; large steps leave the gradient flow "
            f"({flow})"
        )
        return Claim(bool(holds), detail)

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((3.4 * len(results) + 1, 3.6), layout="constrained")
        panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
        for axis, result in zip(panels, results, strict=True):
            mean, error = result.measured("risk")
            axis.plot(_AT, result.theory["risk"], label="equations")
            axis.plot(_AT, result.theory["flow"], "--", label="gradient flow")
            for run in result.experiments:
                axis.plot(_AT, run["risk"], color="0.8", zorder=0)
            axis.errorbar(_AT, mean, error, fmt="ko", markersize=4, capsize=3, label="network")
            title = f"d = {result.point.d}, γ/p = {result.point.rate / result.point.p:g}"
            axis.set(xscale="log", yscale="log", xlabel="steps γ / (p d)", title=title)
        panels[0].set_ylabel("E (f - y)² / 2")
        panels[0].legend(fontsize="small")
        return figure


def _apart(result: Result[Point]) -> float:
    """Root mean square of (network / equations - 1), over runs and times."""
    ratios = np.array([e["risk"] for e in result.experiments]) / np.asarray(result.theory["risk"])
    return float(np.sqrt(((ratios - 1) ** 2).mean()))


def _risk(point: Point, terms: Terms) -> np.ndarray:
    return descend(Rule(point.rate), point.teacher, point.start, point.times, terms, tolerance=1e-6).risk


STUDY = UnifiedSGD()
