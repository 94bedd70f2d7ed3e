"""Learning rates that scale with the dimension: where gradient descent learns all, to a plateau, or nothing."""

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
from opu_dfa.theory.dynamics.simulate import chain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AT = {"green": (0.3, 1.0, 3.0, 10.0), "blue": (0.3, 1.0, 3.0, 10.0, 30.0), "orange": (0.1, 0.3, 1.0, 3.0)}
_TERMS: dict[str, Terms] = {"green": "drift", "blue": "both", "orange": "diffusion"}


@dataclass(frozen=True)
class Point:
    """Rate γ₀ d^-delta and width p₀ d^kappa of an erf committee that learns one of 2 units, labels of variance Δ."""

    delta: float = 0.0
    d: int = 1000
    kappa: float = 0.0
    rate: float = 4.0
    p: int = 4
    variance: float = 1e-3

    def __post_init__(self) -> None:
        if not (self.d >= 20 and self.p >= 1 and self.rate > 0 and self.variance >= 0 and self.width < 100):
            raise ConfigError(f"d of 20 or more, a rate above 0 and fewer than 100 units are wanted, got {self}")
        if -self.delta >= (self.kappa + 1) / 2:
            raise ConfigError(
                f"the rate d^{-self.delta:g} of width d^{self.kappa:g} has no limit; take delta > -(kappa + 1)/2"
            )

    @property
    def width(self) -> int:
        return round(self.p * self.d**self.kappa)

    @property
    def region(self) -> str:
        """green: noise vanishes; blue: it does not; orange: it is all there is."""
        scale = self.kappa + self.delta
        return "green" if scale > 0 else "orange" if scale < 0 else "blue"

    @property
    def times(self) -> np.ndarray:
        """In units of d steps, of the region's own times τ."""
        scale = self.kappa + self.delta
        return np.array(_AT[self.region]) * self.d ** (2 * scale if scale < 0 else scale)

    @property
    def rule(self) -> Rule:
        return Rule(self.rate * self.d**-self.delta)

    @property
    def teacher(self) -> Teacher:
        return Teacher(np.full((1, 2), 0.5), np.eye(2), math.sqrt(self.variance))

    @property
    def start(self) -> Overlaps:
        """Of rows of norm 1 with two orthonormal ones of the teacher, drawn in 40 dimensions."""
        w = np.random.default_rng(5).standard_normal((self.width + 2, 40))
        student = w[: self.width] / np.linalg.norm(w[: self.width], axis=1, keepdims=True)
        teacher = np.linalg.qr(w[self.width :].T)[0].T
        return Overlaps(student @ student.T, student @ teacher.T, np.full((1, self.width), 1 / self.width))


class PhaseDiagram(Study[Point]):
    title = "Phases of gradient descent: learning rate and width against dimension"
    paper = (
        "Veiga, Stephan, Loureiro, Krzakala, Zdeborová, Phase diagram of stochastic gradient descent in "
        "high-dimensional two-layer neural networks, NeurIPS 2022 (arXiv 2202.00293)"
    )
    statement = (
        "Of a rate d^-δ and a width d^κ: for κ + δ > 0 the noise of samples vanishes and the error falls as by "
        "gradient flow, for κ + δ = 0 noise and drift are of one order, and below only noise is left: weights forget "
        "and learn nothing."
    )
    seeds = tuple(range(8))

    def sweep(self, size: Size) -> list[Point]:
        if size == "small":
            return [Point(0.5, 60), Point(0.5, 600), Point(0.0, 3000), Point(-0.25, 10**4), Point(-0.25, 10**8)]
        greens = [Point(0.5, d) for d in (60, 600, 6000)] + [Point(0.25, d, 0.25, 2.0, 2) for d in (100, 1000)]
        blues = [Point(0.0, d) for d in (1000, 10_000)] + [Point(-0.25, 1000, 0.25, 2.0, 2)]
        return greens + blues + [Point(delta, d) for delta in (-0.125, -0.25) for d in (10**4, 10**6, 10**8)]

    def theory(self, point: Point) -> Values:
        """Of the limit d → ∞, and of the equations that keep what vanishes in it."""
        return {"risk": _risk(point, _TERMS[point.region]), "full": _risk(point, "both")}

    def experiment(self, point: Point, seed: int = 0) -> Values:
        found = chain(point.rule, point.teacher, point.start, point.d, point.times, seed).risk
        return {"risk": found, "full": found}

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        met = agreement(results, "full")
        said, holds = [], met.holds
        for region in ("green", "orange"):
            curve = sorted((r for r in results if r.point.region == region), key=lambda r: r.point.d)
            few, many = curve[0], curve[-1]
            if few.point.d >= many.point.d:
                raise ConfigError("the claim compares dimensions in each region: leave delta, kappa and d as they are")
            gaps = [_gap(few), _gap(many)]
            wanted = (many.point.d / few.point.d) ** -abs(few.point.kappa + few.point.delta)
            holds &= gaps[1] / gaps[0] < 2 * wanted
            said.append(
                f"{region}: the limit is off by {gaps[0]:.1%} at d = {few.point.d:.0e} and {gaps[1]:.1%} at "
                f"{many.point.d:.0e}"
            )
        # Of a finite d some drift is left in orange: only where the limit is near, nothing is to be learned.
        near = [r for r in results if r.point.region != "orange" or _gap(r) < 0.1]
        risks = [(r.point.region, r.measured("risk")[0]) for r in near]
        ends = {
            region: min((float(risk[-1] / risk[0]) for of, risk in risks if of == region), default=math.nan)
            for region in _AT
        }
        holds &= ends["green"] < 0.2 and ends["blue"] < 0.2 and ends["orange"] > 0.9
        said.append(f"the error falls to {ends['green']:.1%}, {ends['blue']:.1%}, {ends['orange']:.0%} of the first")
        return Claim(bool(holds), f"{'; '.join(said)}; {met}")

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((11, 3.8), layout="constrained")
        for axis, region in zip(figure.subplots(1, 3), _AT, strict=True):
            curve = [r for r in results if r.point.region == region]
            for result in curve[:1]:
                axis.plot(_AT[region], result.theory["risk"], "k-", label="limit")
            for i, result in enumerate(curve):
                mean, error = result.measured("risk")
                axis.plot(_AT[region], result.theory["full"], "--", color=f"C{i}")
                label = f"d = {result.point.d:g}"
                axis.errorbar(_AT[region], mean, error, fmt="o", color=f"C{i}", markersize=4, capsize=3, label=label)
            axis.set(xscale="log", yscale="log", title=region, xlabel="time of the region")
            axis.legend(fontsize="small")
        figure.axes[0].set_ylabel("E (f - y)² / 2")
        return figure


def _risk(point: Point, terms: Terms) -> np.ndarray:
    return descend(point.rule, point.teacher, point.start, point.times, terms, "LSODA").risk


def _gap(result: Result[Point]) -> float:
    """Mean relative distance of the experiments' mean from the limit."""
    return float(np.abs(result.measured("risk")[0] / result.theory["risk"] - 1).mean())


STUDY = PhaseDiagram()
