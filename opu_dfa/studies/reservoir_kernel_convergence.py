"""Gram matrices of reservoir states against their recurrent kernel, as the reservoir grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from opu_dfa.features import NONLINEARITIES
from opu_dfa.reservoir import RecurrentKernel, Reservoir
from opu_dfa.reservoir.reservoir import Kind
from opu_dfa.studies.study import Claim, Result, Size, Study, Values

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Point:
    """A reservoir, and the series it sees: `n_series` of unit-norm inputs, `steps` long."""

    nonlinearity: str
    n_units: int
    projection: Kind = "dense"
    scale: float = 0.5  # of both the reservoir and the inputs
    steps: int = 10
    n_series: int = 20
    n_inputs: int = 20

    def series(self) -> np.ndarray:
        """`(n_series, steps, n_inputs)`."""
        u = np.random.default_rng(0).standard_normal((self.n_series, self.steps, self.n_inputs))
        return u / np.linalg.norm(u, axis=2, keepdims=True)


class ReservoirKernelConvergence(Study[Point]):
    title = "Reservoirs converge to recurrent kernels"
    paper = (
        "Dong, Ohana, Rafayelyan, Krzakala, Reservoir computing meets recurrent kernels and structured transforms, "
        "NeurIPS 2020 (arXiv 2006.07310)"
    )
    statement = "The Gram matrix of N units' states differs from the recurrent kernel by a squared error ∝ 1/N."

    def sweep(self, size: Size) -> list[Point]:
        units = [100, 400, 1600] if size == "small" else [100, 200, 400, 800, 1600, 3200, 6400]
        return [
            Point(f, n, projection) for projection in ("dense", "structured") for f in NONLINEARITIES for n in units
        ]

    def theory(self, point: Point) -> Values:
        kernel = RecurrentKernel(
            point.nonlinearity, spectral_radius=point.scale, input_scale=point.scale, bias_scale=0.0
        )
        return {"gram": kernel.gram(point.series())}

    def experiment(self, point: Point, seed: int = 0) -> Values:
        reservoir = Reservoir(
            point.n_units,
            point.n_inputs,
            point.projection,
            point.nonlinearity,
            spectral_radius=point.scale,
            input_scale=point.scale,
            bias_scale=0.0,
            seed=seed,
        )
        last = reservoir.run(point.series())[0][:, -1].astype(np.float64)
        return {"gram": last @ last.T}

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        slopes = {}
        for curve in _curves(results):
            sizes, errors = np.log(_errors(results, *curve))
            slopes[curve] = float(np.polyfit(sizes, errors, 1)[0])
        worst = max(slopes, key=lambda key: abs(slopes[key] + 1))
        detail = (
            f"the exponent of N is {np.mean(list(slopes.values())):.2f} on average over {len(slopes)} nonlinearities "
            f"and projections, farthest from -1 for {worst[1]}, {worst[0]}: {slopes[worst]:.2f}"
        )
        return Claim(abs(slopes[worst] + 1) < 0.35, detail)  # of some seeds and sizes an exponent scatters by 0.1

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((9, 4), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for axis, projection in zip(axes, ("dense", "structured"), strict=True):
            for kind, f in _curves(results):
                if kind == projection:
                    axis.loglog(*_errors(results, kind, f), "o-", label=f)
            sizes = np.array(sorted({r.point.n_units for r in results}))
            axis.loglog(sizes, 1e-1 / sizes, "k--", label="1 / N")
            axis.set(title=f"{projection} reservoir", xlabel="units N")
        axes[0].set_ylabel("mean squared error of the Gram matrix")
        axes[1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
        return figure


def _curves(results: Sequence[Result[Point]]) -> list[tuple[str, str]]:
    """Projections and nonlinearities, in their order."""
    return list(dict.fromkeys((str(r.point.projection), r.point.nonlinearity) for r in results))


def _errors(results: Sequence[Result[Point]], projection: str, nonlinearity: str) -> tuple[np.ndarray, np.ndarray]:
    """Sizes, and the squared error of each, mean over pairs and seeds."""
    mine = [r for r in results if (r.point.projection, r.point.nonlinearity) == (projection, nonlinearity)]
    errors = [np.mean([(e["gram"] - r.theory["gram"]) ** 2 for e in r.experiments]) for r in mine]
    return np.array([r.point.n_units for r in mine]), np.array(errors)


STUDY = ReservoirKernelConvergence()
