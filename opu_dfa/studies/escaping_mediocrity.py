"""Phase retrieval from a start that knows nothing: when gradient descent leaves it, by its drift and by its noise.

The rate at which a wide student leaves soonest is not one at which it learns. Its units turn towards each other too,
and once they are one unit they have that one's limit, γ/p < 1/6: at speeds below 6/c the error rises again after the
start is left. The gain of width, up to 6 at equal speeds, is one of leaving.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from opu_dfa.errors import ConfigError, NotConverged
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.dynamics.flow import descend
from opu_dfa.theory.dynamics.overlaps import generalisation
from opu_dfa.theory.dynamics.rules import Overlaps, Rule, Teacher
from opu_dfa.theory.dynamics.simulate import chain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EVERY = 0.02  # of time γ/(p d) per step: how often a run is looked at
_MOST = 40.0


@dataclass(frozen=True)
class Point:
    """p units (w_j·x)² on the sphere learn one; all start at an overlap m0 and leave at (1 - drop) of the first error.

    The rate is γ = p / (cost · speed): speed = 1 is the fastest in the number of samples, by equations linear in m. An
    experiment is the mean of some runs.
    """

    p: int = 1
    d: int = 1000
    m0: float = 0.03
    speed: float = 1.0
    drop: float = 0.05
    variance: float = 1e-4
    runs: int = 8

    def __post_init__(self) -> None:
        if not (
            1 <= self.p <= 6
            and self.d >= 20
            and 0 < self.m0 < 1
            and 0 < self.drop < 1
            and self.variance >= 0
            and self.runs > 0
        ):
            raise ConfigError(f"p up to 6, d of 20 or more, m0 and drop in (0, 1) and a run are wanted, got {self}")
        if not 0.5 < self.speed < math.inf:
            raise ConfigError(f"rates of twice the best (speed 0.5) or more do not learn; got speed {self.speed}")

    @property
    def cost(self) -> float:
        """c of the growth dm/dt = m [4 - 2 (γ/p) c] out of m = 0, for orthonormal units."""
        return 2 + 2 / self.p + 8 / self.p**2 + self.variance

    @property
    def rate(self) -> float:
        """γ / p."""
        return 1 / (self.cost * self.speed)

    @property
    def rule(self) -> Rule:
        return Rule(self.rate * self.p, sphere=True)

    @property
    def teacher(self) -> Teacher:
        return Teacher(np.ones((1, 1)), np.eye(1), math.sqrt(self.variance), "square")

    @property
    def start(self) -> Overlaps:
        p, m = self.p, self.m0
        return Overlaps(np.eye(p) + m * m * (1 - np.eye(p)), np.full((p, 1), m), np.full((1, p), 1 / p))


class EscapingMediocrity(Study[Point]):
    title = "Escaping mediocrity: when phase retrieval starts to learn"
    paper = (
        "Arnaboldi, Krzakala, Loureiro, Stephan, Escaping mediocrity: how two-layer networks learn hard generalized "
        "linear models with SGD (arXiv 2305.18502)"
    )
    statement = (
        "Gradient descent leaves a random start after a number of samples ~ d ln d; the noise of samples is what its "
        "drift starts from, and wider networks save a constant factor, at most 6, and no power of d."
    )
    seeds = tuple(range(8))

    def sweep(self, size: Size) -> list[Point]:
        if size == "small":
            small = [Point(1, d, d**-0.5, runs=24) for d in (100, 300, 900)]
            return [*small, *(Point(p, 8000, 0.1, 3.0) for p in (1, 2, 5))]
        small = [Point(1, d, d**-0.5, speed, runs=24) for d in (100, 400, 1600, 6400, 25_600) for speed in (1.0, 2.0)]
        return [*small, *(Point(p, 64_000, 0.1, 3.0) for p in (1, 2, 3, 4, 5, 6))]

    def theory(self, point: Point) -> Values:
        """Samples / d to leave: the mean of a diffusion for p = 1, and for all p by the drift alone."""
        drift = drift_exit(point)
        seen = drift + _EVERY / point.rate / 2  # half an interval later, where noise is small
        return {"exit": diffusion_exit(point) if point.p == 1 else seen, "drift": drift}

    def experiment(self, point: Point, seed: int = 0) -> Values:
        seeds = np.random.SeedSequence(seed).generate_state(point.runs)
        found = float(np.mean([_exit(point, int(s)) for s in seeds]))
        return {"exit": found, "drift": found}

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        random = sorted((r for r in results if abs(r.point.m0**2 * r.point.d - 1) < 1e-6), key=lambda r: r.point.d)
        wide = {r.point.p: r for r in results if r.point.m0**2 * r.point.d > 10}
        if len({r.point.d for r in random}) < 3 or 1 not in wide or len(wide) < 2:
            raise ConfigError("the claim compares dimensions at m0 = d^-1/2 and widths: leave p, d and m0 as they are")
        met = agreement(results, "exit")
        early = float(np.mean([r.measured("exit")[0] / r.theory["drift"] for r in random]))
        exits = {
            d: next(r for r in random if r.point.d == d and r.point.speed == 1.0) for d in {r.point.d for r in random}
        }
        few, many = min(exits), max(exits)
        grown = float(exits[many].measured("exit")[0] - exits[few].measured("exit")[0]) / math.log(many / few)
        most = max(wide)
        gain = float(wide[1].measured("exit")[0] / wide[most].measured("exit")[0])
        said = float(wide[1].theory["drift"] / wide[most].theory["drift"])
        # dm/dt = 2 m at speed 1 and a unit of time is 1/rate = c samples / d: c/4 of them for each e-fold of d.
        wanted = exits[few].point.cost / 4
        holds = met.holds and early > 1.04 and 0.7 < grown / wanted < 1.3 and abs(gain / said - 1) < 0.1 and gain < 6
        return Claim(
            bool(holds),
            f"samples / d grow by {grown:.2f} an e-fold of d ({wanted:.2f} by theory), and are {early:.2f} times those "
            f"of the drift alone; {most} units take {gain:.2f} times fewer than one ({said:.2f} by theory); "
            f"{met}",
        )

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((9, 3.8), layout="constrained")
        panels = figure.subplots(1, 2)
        random = [r for r in results if abs(r.point.m0**2 * r.point.d - 1) < 1e-6 and r.point.speed == 1.0]
        wide = [r for r in results if r.point.m0**2 * r.point.d > 10]
        for axis, group, name in zip(panels, (random, wide), ("d", "p"), strict=True):
            at = [getattr(r.point, name) for r in group]
            means, errors = np.array([r.measured("exit") for r in group]).reshape(-1, 2).T
            axis.plot(at, [r.theory["exit"] for r in group], label="with its noise" if name == "d" else "drift")
            if name == "d":
                axis.plot(at, [r.theory["drift"] for r in group], "--", label="drift alone")
            axis.errorbar(at, means, errors, fmt="ko", markersize=4, capsize=3, label="network")
            axis.set(xscale="log", xlabel=name, ylabel="samples / d to leave")
            axis.legend(fontsize="small")
        panels[0].set_title("m0 = d^(-1/2), one unit")
        panels[1].set_title("m0 = 0.1, wide students")
        return figure


@lru_cache(maxsize=64)
def drift_exit(point: Point) -> float:
    """Samples / d at which the equations of motion reach (1 - drop) of the first error."""
    wanted = (1 - point.drop) * generalisation(point.start, point.teacher)
    times = np.arange(0, _MOST, 0.02) / point.rate
    for count in (100, len(times)):  # most leave soon
        risk = descend(point.rule, point.teacher, point.start, times[:count], tolerance=1e-6).risk
        if risk.min() < wanted:
            after = int(np.argmax(risk < wanted))
            return float(np.interp(-wanted, -risk[after - 1 : after + 1], times[after - 1 : after + 1]))
    raise NotConverged(f"{point} does not leave its start within {_MOST / point.rate:.3g} d samples", math.inf)


def diffusion_exit(point: Point) -> float:
    """Mean samples / d of one unit to reach |m|, by its drift b(m) and the variance s²(m) γ/d of its samples:

        b = m [4 (1 - m²) - 2γ (12 (1 - m²) + Δ)],   s² = 48 + 144 m² - 192 m⁴ + 4 Δ + 8 Δ m²

    as time γ/d per sample goes on. The mean first passage u solves s²γ/(2d) u'' + b u' = -1, u'(0) = 0. A run that is
    looked at in intervals h is found beyond the barrier, as far as if that were moved: by 0.5826 s √(γh/d) where steps
    are noise (Siegmund 1979), by b h/2 where they are drift, and by the root of both squares in between.
    """
    gamma, noise, scale = point.rate, point.variance, point.rate / point.d
    end = math.sqrt(point.drop + (1 - point.drop) * point.m0**2)

    def pull(m: np.ndarray) -> np.ndarray:
        return m * (4 * (1 - m * m) - 2 * gamma * (12 * (1 - m * m) + noise))

    def squares(m: np.ndarray) -> np.ndarray:
        return scale * (48 + 144 * m**2 - 192 * m**4 + 4 * noise + 8 * noise * m**2)

    end += math.hypot(
        0.5826 * math.sqrt(float(squares(np.array(end))) * _EVERY), float(pull(np.array(end))) * _EVERY / 2
    )
    m = np.linspace(0, end, 8001)
    b, s2, h = pull(m), squares(m), m[1]

    # u'(m) = -∫₀^m (2/s²γ) exp(∫ 2b/s²γ), cell by cell: its factors alone would overflow.
    kept = np.exp(-(b[1:] / s2[1:] + b[:-1] / s2[:-1]) * h)
    slope = np.zeros_like(m)
    for i, factor in enumerate(kept):
        slope[i + 1] = factor * (slope[i] + h / s2[i]) + h / s2[i + 1]
    time = np.concatenate([[0], np.cumsum(slope[1:] + slope[:-1]) * h / 2])
    return float(time[-1] - np.interp(point.m0, m, time)) / gamma


def _exit(point: Point, seed: int) -> float:
    """Samples / d of a run."""
    wanted = (1 - point.drop) * generalisation(point.start, point.teacher)
    horizon = 1.4 * drift_exit(point) * point.rate
    while horizon <= _MOST:
        times = np.arange(0, horizon, _EVERY) / point.rate
        risk = chain(point.rule, point.teacher, point.start, point.d, times, seed).risk
        if risk.min() <= wanted:
            return float(times[np.argmax(risk <= wanted)])
        horizon *= 2  # the same run, longer
    raise NotConverged(f"{point} does not leave its start within {_MOST / point.rate:.3g} d samples", math.inf)


STUDY = EscapingMediocrity()
