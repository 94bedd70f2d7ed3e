"""Structured, dense and sparse reservoirs of equal size as forecasters, and the recurrent kernel they approach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from opu_dfa.reservoir import RecurrentKernelForecaster, ReservoirForecaster, nrmse
from opu_dfa.reservoir.reservoir import Kind
from opu_dfa.reservoir.systems import KuramotoSivashinsky
from opu_dfa.studies.study import Claim, Result, Size, Study, Values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SCALES: dict[str, Any] = {"spectral_radius": 0.9, "input_scale": 0.4, "bias_scale": 0.4}  # of the paper
_CHANNELS = 64


@dataclass(frozen=True)
class Point:
    """A reservoir that learns a Kuramoto-Sivashinsky field of length 22, 64 channels, from `train` steps."""

    projection: Kind
    n_units: int
    train: int = 2000
    test: int = 500
    washout: int = 100
    ridge: float = 1e-4

    def series(self) -> tuple[np.ndarray, np.ndarray]:
        """What is learned from, and what is predicted, `(steps, 64)` each."""
        series = KuramotoSivashinsky(n=_CHANNELS).series(self.train + self.test)
        return series[: self.train], series[self.train :]


class StructuredReservoir(Study[Point]):
    title = "Structured reservoirs predict as well as dense ones"
    paper = (
        "Dong, Ohana, Rafayelyan, Krzakala, Reservoir computing meets recurrent kernels and structured transforms, "
        "NeurIPS 2020 (arXiv 2006.07310)"
    )
    statement = (
        "At equal N a structured reservoir predicts no worse than a dense one, at a cost of O(N log N) instead of "
        "O(N²), and both approach the recurrent kernel as N grows."
    )

    def sweep(self, size: Size) -> list[Point]:
        if size == "small":
            return [Point(kind, n) for kind in ("dense", "structured", "sparse") for n in (64, 192, 448, 960)]
        sizes = (192, 448, 960, 1984, 4032, 8128)
        return [Point(kind, n, train=10_000) for kind in ("dense", "structured", "sparse") for n in sizes]

    def theory(self, point: Point) -> Values:
        return {"nrmse": _limit(replace(point, projection="dense", n_units=1))}

    def experiment(self, point: Point, seed: int = 0) -> Values:
        train, test = point.series()
        model = ReservoirForecaster(
            point.n_units, point.projection, density=0.1, ridge=point.ridge, random_state=seed, **_SCALES
        )
        return {"nrmse": _one_step(model.fit(train, washout=point.washout), test, point.washout)}

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        logs = {kind: np.log(list(_curve(results, kind).values())) for kind in ("dense", "structured")}
        worse = float((logs["structured"] - logs["dense"]).mean())  # (sizes, seeds) each
        within = np.mean([log.var(axis=1, ddof=1) for log in logs.values()])
        error = float(np.sqrt(2 * within / logs["dense"].size))
        sizes = sorted({r.point.n_units for r in results})
        limit = float(results[0].theory["nrmse"])
        gaps = np.exp(logs["structured"].mean(axis=1)) / limit - 1
        detail = (
            f"NRMSE structured / dense is {np.exp(worse):.3f} over all sizes, seeds explain {error:.3f} of it; above "
            f"the kernel's {limit:.2g} by {gaps[0]:.0%} at N = {sizes[0]} and {gaps[-1]:.0%} at {sizes[-1]}"
        )
        return Claim(bool(worse < 3 * error and (np.diff(gaps) < 0).all()), detail)

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((5.5, 4), layout="constrained")
        axis = figure.subplots()
        for kind in ("dense", "structured", "sparse"):
            curve = _curve(results, kind)
            means, spread = np.array([(np.mean(e), np.std(e)) for e in curve.values()]).T
            axis.errorbar(list(curve), means, spread, marker="o", capsize=3, label=kind)
        axis.axhline(float(results[0].theory["nrmse"]), color="black", linestyle="--", label="recurrent kernel")
        axis.set(xscale="log", yscale="log", xlabel="units N", ylabel="one-step NRMSE", title="Kuramoto-Sivashinsky")
        axis.legend()
        return figure


@lru_cache
def _limit(point: Point) -> float:
    """The kernel's NRMSE, the same whatever the reservoir."""
    train, test = point.series()
    model = RecurrentKernelForecaster(ridge=point.ridge, **_SCALES).fit(train, washout=point.washout)
    return _one_step(model, test, point.washout)


def _one_step(model: ReservoirForecaster | RecurrentKernelForecaster, test: np.ndarray, washout: int) -> float:
    return nrmse(test[washout + 1 :], model.predict(test)[washout:-1])


def _curve(results: Sequence[Result[Point]], projection: str) -> dict[int, list[float]]:
    """NRMSEs of the seeds by number of units."""
    return {
        r.point.n_units: [float(e["nrmse"]) for e in r.experiments] for r in results if r.point.projection == projection
    }


STUDY = StructuredReservoir()
