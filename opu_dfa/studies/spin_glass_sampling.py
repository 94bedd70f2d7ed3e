"""Sampling spin glasses by flows: a first-order jump stops AMP where Langevin dynamics still relaxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.studies.figures import draw_curves
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.dynamics.spin_glass_sampling import (
    DYNAMICAL,
    TRICRITICAL,
    PlantedTensor,
    correlation,
    langevin,
    localise,
    overlap,
    sherrington_kirkpatrick,
    spherical_amp,
    window,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Sampler = Literal["flow", "informed", "langevin", "localisation", "energy"]
_START = 0.8  # overlap of an informed start
_LAST = 6.0  # time after which a localised sample is drawn


@dataclass(frozen=True)
class Point:
    """A sampler of a glass of temperature² delta with n spins, and where it is asked.

    flow: AMP from overlap 0 at the signal `at` of its way, in the spherical 3-spin glass; informed: from near x*;
    langevin: its correlation with where it started, after a time; localisation: |⟨x⟩|²/N of the Sherrington-Kirkpatrick
    model at a time of its way; energy: x·Jx / 2N of its samples.
    """

    sampler: Sampler = "flow"
    delta: float = 0.252
    at: float = 0.07
    n: int = 2000

    def __post_init__(self) -> None:
        if self.sampler not in get_args(Sampler):
            raise ConfigError(f"there is no sampler {self.sampler!r}; choose one of {', '.join(get_args(Sampler))}")
        if not (self.delta > 0 and self.at >= 0 and self.n >= 2):
            raise ConfigError(f"delta > 0, a signal or time >= 0 and 2 spins or more are wanted, got {self}")
        if self.sampler in ("localisation", "energy") and self.delta <= 1:
            raise ConfigError(f"the Sherrington-Kirkpatrick model is sampled at delta > 1, got {self.delta}; raise it")
        if self.sampler == "langevin" and self.at == 0:
            raise ConfigError("Langevin dynamics is asked after a time above 0; raise at")


class SpinGlassSampling(Study[Point]):
    """Established here with AMP on N = 2,000 spins: inside the window it stops at the smaller fixed point from an
    overlap of 0 and at the larger from near x*, above it both meet. For 1/4 < Δ < 8/27 Langevin dynamics follows the
    equation of its equilibrium correlation, which has no plateau there.
    """

    title = "Sampling spin glasses with flows"
    paper = (
        "Ghio, Dandi, Krzakala, Zdeborová, Sampling with flows, diffusion and autoregressive neural networks: a "
        "spin-glass perspective (arXiv 2308.14085)"
    )
    statement = (
        "A flow that denoises by AMP meets a first-order jump in the spherical 3-spin glass at Δ < 8/27, above the "
        "Δ = 1/4 at which Langevin dynamics is trapped; it samples the Sherrington-Kirkpatrick model at β < 1."
    )
    seeds = tuple(range(8))

    def sweep(self, size: Size) -> list[Point]:
        small = size == "small"
        n, spins, slow = (2000, 500, (1.0, 3.0)) if small else (8000, 2000, (0.5, 1.0, 2.0, 4.0))
        signals: dict[float, tuple[float, ...]] = {0.22: (0.03, 0.2), 0.252: (0.07, 0.25), 0.35: (0.03, 0.5)}
        if not small:
            signals = {
                0.22: (0.01, 0.03, 0.05, 0.1, 0.15, 0.2),
                0.252: (0.04, 0.07, 0.12, 0.18, 0.25),
                0.35: (0.03, 0.1, 0.2),
            }
        starts: tuple[Sampler, ...] = ("flow", "informed")
        return [
            *(Point(start, delta, g, n) for start in starts for delta, each in signals.items() for g in each),
            *(Point("langevin", delta, t, 1000) for delta in (0.252, 0.35) for t in slow),
            *(Point("localisation", 1 / beta**2, t, spins) for beta in (0.3, 0.7) for t in (0.5, 2.0)),
            *(Point("energy", 1 / beta**2, _LAST, spins) for beta in ((0.3, 0.7) if small else (0.3, 0.5, 0.7))),
        ]

    def theory(self, point: Point) -> Values:
        if point.sampler == "langevin":
            once, twice = (correlation(point.delta, point.at, steps)[-1] for steps in (400, 800))
            return {"value": float(2 * twice - once)}  # whose error is of first order in the step
        if point.sampler == "localisation":
            return {"value": overlap(point.delta, point.at, prior="ising", order=2)}
        if point.sampler == "energy":
            return {"value": 0.5 / math.sqrt(point.delta)}
        return {"value": overlap(point.delta, point.at, _START if point.sampler == "informed" else 0.0)}

    def experiment(self, point: Point, seed: int = 0) -> Values:
        rng = np.random.default_rng(seed)
        n, g = point.n, point.at
        if point.sampler in ("localisation", "energy"):
            j = sherrington_kirkpatrick(n, rng)
            m = localise(j, 1 / math.sqrt(point.delta), g, 0.05, rng)
            x = np.where(rng.random(n) < (1 + m) / 2, 1.0, -1.0)
            return {"value": float(x @ j @ x / (2 * n) if point.sampler == "energy" else m @ m / n)}
        x = rng.standard_normal(n)
        x *= math.sqrt(n / (x @ x))
        tensor = PlantedTensor(x, point.delta, rng)
        if point.sampler == "langevin":
            return {"value": float(langevin(tensor, point.delta, x, g, max(1, round(g / 0.05)), rng) @ x / n)}
        start = np.zeros(n)
        if point.sampler == "informed":
            start = _START * x + math.sqrt(_START * (1 - _START)) * rng.standard_normal(n)
        y = g * x + math.sqrt(g) * rng.standard_normal(n)
        return {"value": float(spherical_amp(tensor, point.delta, g, y, start, 50) @ x / n)}

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        found = agreement(results, absolute=0.03)  # a spin glass of N spins differs from N = ∞ by 1/√N
        pairs = _pairs(results)
        jumps = {key: (flow, informed) for key, (flow, informed) in pairs.items() if _inside(*key)}
        failed = all(flow < informed / 3 for flow, informed in jumps.values())
        met = all(abs(flow - informed) < 0.06 for key, (flow, informed) in pairs.items() if key not in jumps)
        between = [key for key in jumps if DYNAMICAL < key[0] < TRICRITICAL]
        relaxed = [r for r in results if r.point.sampler == "langevin" and DYNAMICAL < r.point.delta < TRICRITICAL]
        if not between or not relaxed or len(jumps) == len(pairs):
            raise ConfigError(
                "the claim compares glasses and samplers: leave delta, at and sampler as the sweep has them"
            )
        flow, informed = jumps[between[0]]
        detail = (
            f"at Δ = {between[0][0]:g}, between 1/4 and 8/27, AMP from 0 stops at {flow:.3f} where {informed:.3f} is "
            f"right; outside of windows both starts meet; Langevin dynamics there forgets as a liquid does, without a "
            f"plateau; {found}"
        )
        return Claim(bool(found.holds and failed and met), detail)

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((12, 4), layout="constrained")
        ways, slow, local = figure.subplots(1, 3)
        for sampler, axis in (("informed", ways), ("flow", ways), ("langevin", slow), ("localisation", local)):
            those = [r for r in results if r.point.sampler == sampler]
            for delta in sorted({r.point.delta for r in those}):
                mine = [r for r in those if r.point.delta == delta]
                name = f"β = {delta**-0.5:.2g}" if sampler == "localisation" else f"{sampler}, Δ = {delta:g}"
                at = np.linspace(0.01, max(r.point.at for r in mine), 40)
                line = [STUDY.theory(Point(mine[0].point.sampler, delta, float(each)))["value"] for each in at]
                (drawn,) = axis.plot(at, line, "--" if sampler == "informed" else "-")
                means, errors = np.array([r.measured("value") for r in mine]).T
                marks: dict[str, Any] = {"fmt": "s" if sampler == "informed" else "o", "markersize": 4, "capsize": 3}
                axis.errorbar([r.point.at for r in mine], means, errors, label=name, color=drawn.get_color(), **marks)
        draw_curves(local, [r for r in results if r.point.sampler == "energy"], _beta, "value", lambda _: "energy(β)")
        ways.set(xlabel="signal γ²", ylabel="overlap with the sample", title="AMP, spherical 3-spin glass")
        slow.set(xlabel="time", ylabel="x(0)·x(t) / N", title="Langevin dynamics, the same")
        local.set(xlabel="time, or β", ylabel="|mean|² / N, or energy", title="Sherrington-Kirkpatrick")
        for axis in figure.axes:
            axis.legend(fontsize="x-small")
        return figure


def _beta(point: Point) -> float:
    return point.delta**-0.5


def _inside(delta: float, signal: float) -> bool:
    blocked = window(delta)
    return blocked is not None and blocked.low < signal < blocked.high


def _pairs(results: Sequence[Result[Point]]) -> dict[tuple[float, float], tuple[float, float]]:
    """Overlaps of AMP from 0 and from near x*, at (Δ, g)."""
    measured = {(r.point.sampler, r.point.delta, r.point.at): float(r.measured("value")[0]) for r in results}
    return {
        (delta, at): (value, measured["informed", delta, at])
        for (sampler, delta, at), value in measured.items()
        if sampler == "flow" and ("informed", delta, at) in measured
    }


STUDY = SpinGlassSampling()
