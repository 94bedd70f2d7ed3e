"""A wide network with quadratic activations, learned from as many samples as it has parameters, as well as can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np
from scipy import stats

from opu_dfa.errors import ConfigError
from opu_dfa.studies.figures import draw_curves
from opu_dfa.studies.study import Claim, Result, Size, Study, Values
from opu_dfa.theory.inference.iterate import iterate
from opu_dfa.theory.inference.matrix_denoising import Measurements, QuadraticNetwork

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STEPS, _LAST = 60, 20  # of message passing, and those of an oscillation that are averaged
_MOST = 100  # dimensions of normal matrices, which take 8 α d⁴ bytes
_BIAS = 12.0  # relative, times d: more is no correction of order 1/d
_LEFT = 0.05  # of the prior's variance, where theory leaves nothing


@dataclass(frozen=True)
class Point:
    """n = alpha·d² labels with noise of a variance, of a network with kappa·d neurons.

    measurements: of a network, by x xᵀ, or by normal matrices, of the same error for d → ∞.
    """

    alpha: float = 0.5
    noise: float = 0.25
    d: int = 100
    kappa: float = 0.5
    measurements: Measurements = "network"

    def __post_init__(self) -> None:
        if self.d < 4 or self.kappa * self.d < 1:
            raise ConfigError(f"4 dimensions and a neuron are wanted, got d={self.d}, kappa={self.kappa}: raise them")
        if self.measurements not in get_args(Measurements):
            raise ConfigError(f"measurements are network or normal, got {self.measurements!r}")
        if self.measurements == "normal" and self.d > _MOST:
            raise ConfigError(f"normal matrices are stored whole, for d up to {_MOST}, got d={self.d}: lower it")
        QuadraticNetwork(self.kappa, self.alpha, self.noise)

    @property
    def law(self) -> QuadraticNetwork:
        return QuadraticNetwork(self.kappa, self.alpha, self.noise)


class ExtensiveWidth(Study[Point]):
    title = "Wide quadratic networks, as well as they can be learned"
    paper = (
        "Maillard, Troiani, Martin, Krzakala, Zdeborová, Bayes-optimal learning of an extensive-width neural network "
        "from quadratically many samples, NeurIPS 2024 (arXiv 2408.03733)"
    )
    statement = (
        "Message passing with a rotation-invariant denoiser learns a network of κd quadratic neurons from αd² samples "
        "with the Bayes-optimal error, up to a correction of order 1/d; without noise next to none is left above α = "
        "κ - κ²/2."
    )
    seeds = tuple(range(6))

    def sweep(self, size: Size) -> list[Point]:
        if size == "small":
            dims = {(0.5, 0.25): (30, 60, 80), (0.3, 0.0): (30, 60, 80), (0.45, 0.0): (80,), (0.2, 0.25): (30, 60, 80)}
            points = [Point(alpha, noise, d) for (alpha, noise), ds in dims.items() for d in ds]
            return [*points, Point(0.5, 0.25, 60, measurements="normal")]
        grid = {0.0: (0.1, 0.2, 0.3, 0.35, 0.4, 0.45), 0.25: (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)}
        points = [Point(a, noise, d) for noise, alphas in grid.items() for a in alphas for d in (60, 100, 150, 200)]
        return [*points, *(Point(0.5, 0.25, d, measurements=by) for d in (30, 45) for by in get_args(Measurements))]

    def theory(self, point: Point) -> Values:
        return {"error": point.law.error}

    def experiment(self, point: Point, seed: int = 0) -> Values:
        data = point.law.observe(np.random.default_rng(seed), point.d, point.measurements)
        history = iterate(data.step, data.start(), data.error, _STEPS, tolerance=1e-5 / point.d)
        last = 1 if history.converged else _LAST
        return {"error": float(history.measured[-last:].mean())}

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        network, normal = ([r for r in results if r.point.measurements == by] for by in get_args(Measurements))
        laws = {r.point.law: [s for s in network if s.point.law == r.point.law] for r in network}
        if all(len({r.point.d for r in found}) < 2 for law, found in laws.items() if law.error > 0):
            raise ConfigError("the claim extrapolates in d: leave two dimensions or more to an alpha and a noise")
        holds, said = True, []
        for law, found in laws.items():
            theory, name = law.error, f"α={law.alpha:g}, noise {law.noise:g}: "
            means = {r.point.d: float(r.measured("error")[0]) for r in found}
            if theory == 0:
                # As the expected error falls faster than the error, steps become small and the iteration stalls.
                holds &= max(means.values()) < _LEFT / law.kappa
                said.append(f"{name}{means[max(means)]:.3f} is left at d = {max(means)}, theory 0")
                continue
            errors = {r.point.d: float(r.measured("error")[1]) for r in found}
            holds &= all(abs(mean - theory) < 3 * errors[d] + _BIAS / d * theory for d, mean in means.items())
            if len(means) > 1:
                limit, error, bias = extrapolated(found)
                holds &= abs(limit - theory) <= max(3 * error, 0.03 * theory)
                said.append(
                    f"{name}{limit:.3f} ± {error:.3f} for d → ∞, theory {theory:.3f}, bias {bias / theory:+.1f}/d of it"
                )
        for r in normal:
            for s in network:
                if (s.point.law, s.point.d) == (r.point.law, r.point.d):
                    here, there = (float(e.measured("error")[0]) / r.point.law.error - 1 for e in (r, s))
                    said.append(f"d = {r.point.d}: {there:+.0%} for a network, {here:+.0%} for normal measurements")
        return Claim(bool(holds), "; ".join(said))

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((9, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        top = max(r.point.alpha for r in results)
        grid = np.linspace(0.05, 1.05 * top, 60)
        for i, noise in enumerate(sorted({r.point.noise for r in results})):
            those = [r for r in results if r.point.noise == noise]
            kappa = those[0].point.kappa
            left.plot(grid, [QuadraticNetwork(kappa, float(a), noise).error for a in grid], color=f"C{i}")
            for r in those:
                mean, error = r.measured("error")
                left.errorbar(
                    r.point.alpha, mean, error, fmt="o", markersize=3 + r.point.d / 40, color=f"C{i}", mfc="none"
                )
            left.plot([], [], "o-", color=f"C{i}", label=f"noise {noise:g}; larger dots, larger d")
        left.set(xlabel="α = n / d²", ylabel="|S - Ŝ|² / d")
        left.legend(fontsize="small")
        draw_curves(right, results, lambda p: 1 / p.d, "error", _named)
        right.set(xlabel="1 / d", ylabel="|S - Ŝ|² / d", xlim=(0, None))
        right.legend(fontsize="x-small")
        return figure


def _named(point: Point) -> str:
    return f"α {point.alpha:g}, noise {point.noise:g}" + (", normal" if point.measurements == "normal" else "")


def extrapolated(results: Sequence[Result[Point]]) -> tuple[float, float, float]:
    """e, its standard error and b of errors e + b/d: a line through d · error, which scatters alike at all d."""
    pairs = [(r.point.d, r.point.d * float(np.asarray(e["error"]))) for r in results for e in r.experiments]
    line = stats.linregress(*np.array(pairs, dtype=float).T)
    return float(line.slope), float(line.stderr), float(line.intercept)


STUDY = ExtensiveWidth()
