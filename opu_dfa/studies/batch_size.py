"""Batches as large as the dimension and larger: how many steps they save, and where the square loss stops learning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.dynamics.fields import activation, points
from opu_dfa.theory.dynamics.overlaps import covariance
from opu_dfa.theory.dynamics.rules import Loss, Overlaps, Rule, Teacher
from opu_dfa.theory.dynamics.simulate import chain
from opu_dfa.theory.gaussian import root

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SAMPLES = np.array([64, 128, 192, 256, 384])  # in units of d
_RUNS = 10  # networks in an experiment, which also measures their spread
_TEACHER = Teacher(np.ones((1, 1)), np.eye(1), 0.0, "hermite3")


@dataclass(frozen=True)
class Point:
    """One unit He₃(w·x) learns another, of overlap m0, from batches of batch·d samples at the rate γ = rate · batch."""

    batch: float = 1.0
    loss: Loss = "correlation"
    rate: float = 8e-4
    m0: float = 0.3
    d: int = 256

    def __post_init__(self) -> None:
        if not (self.d >= 8 and self.rate > 0 and 0 < self.m0 < 1 and self.n >= 1):
            raise ConfigError(f"d of 8 or more, a rate, a sample and an overlap in (0, 1) are wanted, got {self}")
        if any(s % self.batch for s in _SAMPLES):
            raise ConfigError(f"a batch is 1, 2, 4, ... or 64 times d, or a part of d; got {self.batch} d")
        _ = self.rule

    @property
    def n(self) -> int:
        return round(self.batch * self.d)

    @property
    def rule(self) -> Rule:
        return Rule(self.rate * self.batch * self.d, batch=self.n, loss=self.loss, sphere=True)

    @property
    def steps(self) -> np.ndarray:
        return np.round(_SAMPLES / self.batch).astype(int)

    def at(self, m: float) -> Overlaps:
        return Overlaps(np.eye(1), np.full((1, 1), m), np.ones((1, 1)))


class BatchSize(Study[Point]):
    title = "Batch size: steps against samples"
    paper = (
        "Arnaboldi, Dandi, Krzakala, Loureiro, Pesce, Stephan, Online learning and information exponents: on the "
        "importance of batch size, and time/complexity tradeoffs, ICML 2024 (arXiv 2406.02157)"
    )
    statement = (
        "What n samples teach does not depend on how large their batches are, so steps fall as 1 / batch; of the "
        "square loss only up to a size beyond which a network's own output throws it off, of the correlation loss also "
        "beyond."
    )
    seeds = tuple(range(8))

    def sweep(self, size: Size) -> list[Point]:
        losses: tuple[Loss, ...] = ("correlation", "square")
        if size == "small":
            return [Point(batch, loss) for loss in losses for batch in (1.0, 8.0, 64.0)]
        return [Point(2.0**k, loss, d=d) for d in (256, 1024) for loss in losses for k in range(-2, 7)]

    def theory(self, point: Point) -> Values:
        """The overlap by the map of a step, with its spread over runs, to the first order at which that matters."""
        m, variance, found = point.m0, 0.0, []
        for step in range(int(point.steps[-1])):
            h = 1e-3
            above, here, below = (_step(point, x) for x in (m + h, m, m - h))
            # A curved map moves the mean of runs that differ, which grow apart by its slope and by their samples.
            m, variance = (
                here[0] + (above[0] - 2 * here[0] + below[0]) / h**2 * variance / 2,
                ((above[0] - below[0]) / (2 * h)) ** 2 * variance + here[1],
            )
            if step + 1 in point.steps:
                found.append((m, math.sqrt(variance)))
        return dict(zip(("overlap", "spread"), np.array(found).T, strict=True))

    def experiment(self, point: Point, seed: int = 0) -> Values:
        seeds = np.random.SeedSequence(seed).generate_state(_RUNS)
        times = point.steps / point.d
        runs = np.array(
            [chain(point.rule, _TEACHER, point.at(point.m0), point.d, times, int(s)).r[:, 0, 0] for s in seeds]
        )
        return {"overlap": runs.mean(axis=0), "spread": runs.std(axis=0, ddof=1)}

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        curves = {(r.point.loss, r.point.batch): r for r in results if r.point.d == results[0].point.d}
        sizes = sorted({batch for _, batch in curves})
        if len(curves) < 2 * len(sizes) or len(sizes) < 3:
            raise ConfigError("the claim compares three batches, each of both losses: leave batch and loss as they are")

        def overlap(loss: Loss, batch: float) -> np.ndarray:
            return curves[loss, batch].measured("overlap")[0]

        largest, losses = sizes[-1], get_args(Loss)
        same = max(
            float(np.abs(overlap(loss, b) - overlap(loss, sizes[0])).max()) for loss in losses for b in sizes[:-1]
        )
        ends = {loss: float(overlap(loss, largest)[-1]) for loss in losses}
        learned = min(float(overlap(loss, b)[-1]) for loss in losses for b in sizes[:-1])
        # Where the square loss fails some runs learn all the same, which no mean and variance describe. Of runs that
        # stay together mean and spread are known to the second order in it, 0.08² and less.
        together = [r for r in results if np.max(r.theory["spread"]) < 0.1]
        met = agreement(together, absolute=0.01)
        return Claim(
            bool(
                met.holds and same < 0.1 and learned > 0.9 and ends["correlation"] > 0.9 and abs(ends["square"]) < 0.2
            ),
            f"overlaps of batches up to {sizes[-2]:g} d differ by {same:.2f} at most and end above {learned:.2f}; of "
            f"{largest:g} d the correlation loss ends at {ends['correlation']:.2f}, the square loss at "
            f"{ends['square']:.2f}; {met}",
        )

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((9, 3.8), layout="constrained")
        for axis, loss in zip(figure.subplots(1, 2, sharey=True), ("correlation", "square"), strict=True):
            for i, result in enumerate(r for r in results if r.point.loss == loss):
                mean, spread = (result.measured(key)[0] for key in ("overlap", "spread"))
                axis.plot(_SAMPLES, result.theory["overlap"], color=f"C{i}")
                style = {"fmt": "o", "color": f"C{i}", "markersize": 4, "capsize": 3}
                axis.errorbar(_SAMPLES, mean, spread, label=f"batch {result.point.batch:g} d", **style)
            axis.set(xlabel="samples / d", title=f"{loss} loss (bars: spread of runs)")
            axis.legend(fontsize="small")
        figure.axes[0].set_ylabel("overlap with the teacher")
        return figure


def _step(point: Point, m: float) -> tuple[float, float]:
    """The mean overlap after a step from m, and the variance that its samples give it."""
    rule, step, g = points(2, 3), point.rate * point.batch, activation("hermite3")
    z = rule.nodes @ root(covariance(point.at(m), _TEACHER))
    value = g.value(z)
    force = ((value[:, 0] if point.loss == "square" else 0) - value[:, 1]) * g.slope(z[:, 0])
    q, r = (rule.weights * force) @ z
    across = (r - m * q) / (1 - m * m)  # force along what of the teacher is perpendicular to w
    mean_square = q * q + across * (r - m * q)
    noise = point.d / point.n * float(rule.weights @ force**2) - mean_square / point.n
    norm = math.sqrt(1 - 2 * step * q + step**2 * (noise + mean_square))
    after = (m - step * r) / norm
    # m' depends on the batch's means of φν and φλ through its numerator and its norm.
    of_r = -step / norm - after / norm**2 * step**2 * across
    of_q = after / norm**2 * (step * (1 - step * q) + step**2 * across * m)
    kick = force * (of_r * z[:, 1] + of_q * z[:, 0])
    variance = float(rule.weights @ kick**2 - (rule.weights @ kick) ** 2) / point.n
    return float(after), variance


STUDY = BatchSize()
