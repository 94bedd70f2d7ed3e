"""Gradient descent on a fixed set of samples, step by step: the mean-field equations beside one network's overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.dynamics.descent import Committee, Descent, simulate
from opu_dfa.theory.dynamics.mean_field import mean_field, ridge_descent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray
Student = Literal["linear", "tanh"]
_NODES = 16384
_EXACT = 1e-6  # of the mean-field equations where eigenvalues give the answer: variances below 1e-10 are taken for none
_LEAST = 0.002  # spread of the theory over its random points


@dataclass(frozen=True)
class Point:
    """A linear student of linear labels, or tanh(h) of tanh(2h*); `batch`: the share of samples that a step sees."""

    student: Student = "tanh"
    batch: float = 1.0
    alpha: float = 2.0
    rate: float = 0.3
    ridge: float = 0.1
    start: float = 0.1
    norm: float = 1.0
    steps: int = 29
    d: int = 1000

    def __post_init__(self) -> None:
        if self.student not in get_args(Student):
            raise ConfigError(f"there is no student {self.student!r}; choose one of {', '.join(get_args(Student))}")
        if self.d < 2 or self.alpha * self.d < 1:
            raise ConfigError(f"d >= 2 dimensions and alpha·d >= 1 samples are wanted, got {self.d} and {self.alpha}")
        if self.steps > 1000:
            raise ConfigError(f"at most 1000 steps are wanted, got {self.steps}: every step remembers all before")
        self.descent()

    def descent(self) -> Descent:
        start, norm = np.array([[self.start]]), np.array([[self.norm]])
        return Descent(self.alpha, self.rate, self.steps, start, norm, self.ridge, self.batch)

    def loss(self) -> Committee:
        if self.student == "linear":
            return Committee("linear", (1.0,), lambda teacher: teacher[0])
        return Committee("tanh", (1.0,), lambda teacher: np.tanh(2 * teacher[0]))


class DynamicalMeanField(Study[Point]):
    """Networks scatter by 1/√d about the theory, and have no bias that shows beyond that, down to d = 200."""

    title = "Gradient descent on the same samples, in the mean field"
    paper = (
        "Gerbelot, Troiani, Mignacco, Krzakala, Zdeborová, Rigorous dynamical mean-field theory for stochastic "
        "gradient descent methods (arXiv 2210.06591)"
    )
    statement = (
        "(Stochastic) gradient descent in high dimension follows equations for one field with a memory, at every step; "
        "of a quadratic loss they are the law of Marchenko and Pastur."
    )
    seeds = tuple(range(16))

    def sweep(self, size: Size) -> list[Point]:
        dims, batches = ((250, 1000), (1.0, 0.5)) if size == "small" else ((400, 1500, 4000), (1.0, 0.5, 0.2))
        return [
            *(Point("linear", 1.0, alpha=3.0, rate=0.1, ridge=0.5, start=0.2, norm=1.04, d=d) for d in dims),
            *(Point("tanh", batch, d=d) for batch in batches for d in dims),
        ]

    def theory(self, point: Point) -> Values:
        found = mean_field(point.loss(), point.descent(), _NODES)
        return {"overlap": found.teacher[:, 0, 0], "norm": found.own[:, 0, 0], "loss": found.loss}

    def experiment(self, point: Point, seed: int = 0) -> Values:
        found = simulate(point.loss(), point.descent(), point.d, seed)
        return {"overlap": found.teacher[:, 0, 0], "norm": found.own[:, 0, 0], "loss": found.loss}

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        met = agreement(results, errors=4, absolute=_LEAST)  # of 500 values a few are beyond 3 by chance
        exact = max((_from_eigenvalues(r) for r in results if r.point.student == "linear"), default=0.0)
        away = max(results, key=lambda r: abs(_bias(r)))
        learned = min(float(r.measured("overlap")[0][-1] - r.point.start) for r in results)
        return Claim(
            bool(met.holds and exact < _EXACT and abs(_bias(away)) < 4 and learned > 0),
            f"{met}; of quadratic losses the equations are the eigenvalues' law to {exact:.1g}; the overlap after "
            f"{away.point.steps} steps is off by {_bias(away):.1f} standard errors at most ({away.point.student}, "
            f"b = {away.point.batch:g}, d = {away.point.d})",
        )

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((12, 4), layout="constrained")
        for axis, key in zip(figure.subplots(1, 3), ("overlap", "norm", "loss"), strict=True):
            for result in results:
                point, steps = result.point, np.arange(result.point.steps + 1)
                mean, error = result.measured(key)
                (line,) = axis.plot(steps, result.theory[key], label=f"{point.student}, b {point.batch:g}, d {point.d}")
                axis.errorbar(steps, mean, error, fmt="o", markersize=3, color=line.get_color())
            axis.set(xlabel="step", ylabel=key)
        axis.set_yscale("log")
        axis.legend(fontsize="small")
        return figure


def _from_eigenvalues(result: Result[Point]) -> float:
    """How far the theory is from the exact dynamics of a quadratic loss; a minibatch leaves the mean overlap alone."""
    overlap, norm = ridge_descent(result.point.descent())
    far = np.abs(result.theory["overlap"] - overlap).max()
    return float(max(far, np.abs(result.theory["norm"] - norm).max()) if result.point.batch == 1 else far)


def _bias(result: Result[Point]) -> float:
    """The experiments' last overlap less the theory's, in standard errors and what the theory is uncertain by."""
    mean, error = result.measured("overlap")
    uncertain = float(np.hypot(error[-1], _LEAST / 3))
    return float((mean[-1] - np.asarray(result.theory["overlap"])[-1]) / uncertain)


STUDY = DynamicalMeanField()
