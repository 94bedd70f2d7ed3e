"""A low-rank matrix of which every entry is seen through a nonlinear, noisy output: one curve for all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.inference.iterate import iterate
from opu_dfa.theory.inference.outputs import (
    Absolute,
    Cauchy,
    Counts,
    Edges,
    EntrywiseOutput,
    Linear,
    Output,
    Quantised,
)
from opu_dfa.theory.inference.priors import Discrete

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Seen = Literal["linear", "sign", "bits", "cauchy", "counts", "edges", "absolute"]
Unknown = Literal["signs", "positive"]
_OUTPUTS: dict[Seen, Output] = {
    "linear": Linear(),
    "sign": Quantised(),
    "bits": Quantised((-0.6, 0.2, 1.0)),
    "cauchy": Cauchy(),
    "counts": Counts(2.0),
    "edges": Edges(0.3),
    "absolute": Absolute(),
}
_UNKNOWNS = {"signs": (-1.0, 1.0), "positive": (0.2, 1.8)}  # u, of equal probability


@dataclass(frozen=True)
class Point:
    """n rows of unknowns u = x^k, signs or 0.2 and 1.8, seen through an output at λ_e = λ/Δ_k."""

    effective: float = 2.0
    output: Seen = "sign"
    unknown: Unknown = "signs"
    n: int = 800

    def __post_init__(self) -> None:
        if self.output not in _OUTPUTS or self.unknown not in _UNKNOWNS:
            raise ConfigError(
                f"choose an output of {', '.join(_OUTPUTS)}, and an unknown of {', '.join(_UNKNOWNS)}; got "
                f"{self.output!r} and {self.unknown!r}"
            )
        if not (0 < self.effective < math.inf and self.n >= 10):
            raise ConfigError(f"λ_e is positive and n >= 10, got {self}")
        if self.unknown == "signs" and self.order == 2:
            raise ConfigError("x² of signs is 1, nothing to be learned: choose unknown=positive for output=absolute")

    @property
    def order(self) -> int:
        return _OUTPUTS[self.output].order

    @property
    def law(self) -> EntrywiseOutput:
        output = _OUTPUTS[self.output]
        u = np.array(_UNKNOWNS[self.unknown])[:, None]
        return EntrywiseOutput(Discrete(u if output.order == 1 else np.sqrt(u)), output, self.effective / output.fisher)


class NonlinearLowRank(Study[Point]):
    title = "Low-rank matrices seen through nonlinear outputs"
    paper = (
        "Mergny, Ko, Krzakala, Zdeborová, Fundamental limits of non-linear low-rank matrix estimation, COLT 2024 "
        "(arXiv 2403.04234)"
    )
    statement = (
        "Whatever output entries are seen through, of its score's first order k that is not blind one number counts, "
        "the Fisher information 1/Δ_k: errors of x^k are those of Gaussian noise of variance Δ_k/λ."
    )
    seeds = tuple(range(10))

    def sweep(self, size: Size) -> list[Point]:
        small = size == "small"
        signs: list[Seen] = [name for name in get_args(Seen) if _OUTPUTS[name].order == 1]
        positive: list[Seen] = ["linear", "sign", "counts", "absolute"]
        n = 800 if small else 2500
        grid = (0.5, 2.0, 4.0) if small else (0.5, 0.8, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
        return [
            *(Point(effective, name, "signs", n) for name in signs for effective in grid),
            *(Point(effective, name, "positive", n) for name in positive for effective in (0.5, 1.5, 2.5)),
            *(Point(2.5, "absolute", "positive", size) for size in ((400, 1600) if small else (1000, 4000))),
        ]

    def theory(self, point: Point) -> Values:
        return {"error": point.law.error_at(point.n)}

    def experiment(self, point: Point, seed: int = 0) -> Values:
        rng = np.random.default_rng(seed)
        data = point.law.observe(rng, point.n)
        start = data.start(rng, noise=0.03 if point.unknown == "signs" else 0.0)
        u = iterate(data.step, start, most=300, tolerance=1e-10).state.mean
        if point.unknown == "signs" and (u * data.truth).sum() < 0:
            u = -u
        return {"error": float(((u - data.truth) ** 2).mean())}

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        # Theory counts the scores' next order, √(λ/n) relative to the first; the one after, λ/n, is 0.01 or less.
        met = agreement(results, "error", absolute=0.01)
        first = [r for r in results if r.point.order == 1]
        most = [r for r in results if r.point.order == 2]
        sizes = sorted((r for r in most if r.point.effective == 2.5), key=lambda r: r.point.n)
        if not first or len(sizes) < 2:
            raise ConfigError("the claim wants outputs of k = 1, and output=absolute of effective=2.5 at two sizes n")
        one = agreement([replace(r, theory={"error": r.point.law.error_at(math.inf)}) for r in first], absolute=0.02)
        above = [float(r.measured("error")[0]) - r.point.law.error_at(math.inf) for r in sizes]
        expected = [float(r.theory["error"]) - r.point.law.error_at(math.inf) for r in sizes]
        holds = met.holds and one.holds and above[0] > above[-1] > 0
        detail = (
            f"outputs of k = 1 on one curve: {one}; |w + ξ|, k = 2, is above it by "
            f"{', '.join(f'{a:.3f} (theory {e:.3f})' for a, e in zip(above, expected, strict=True))} at n = "
            f"{', '.join(str(r.point.n) for r in sizes)}; {met}"
        )
        return Claim(bool(holds), detail)

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((11, 4), layout="constrained")
        *panels, sizes = figure.subplots(1, 3)
        for axis, unknown in zip(panels, get_args(Unknown), strict=True):
            some = [r for r in results if r.point.unknown == unknown and r.point.n == results[0].point.n]
            axis.set(xlabel="λ / Δ_k", ylabel="error of x^k", title=f"u: {unknown}")
            if not some:
                continue
            grid = np.linspace(0.3, max(r.point.effective for r in some), 40)
            curve = [Point(float(at), "linear", unknown).law.error_at(math.inf) for at in grid]
            axis.plot(grid, curve, color="black", label="n = ∞")
            for name in dict.fromkeys(r.point.output for r in some):
                mine = [r for r in some if r.point.output == name]
                means, errors = np.array([r.measured("error") for r in mine]).T
                axis.errorbar([r.point.effective for r in mine], means, errors, fmt="o", markersize=4, label=name)
            axis.legend(fontsize="small")
        most = sorted((r for r in results if r.point.output == "absolute"), key=lambda r: r.point.n)
        most = [r for r in most if r.point.effective == max(other.point.effective for other in most)]
        if most:
            at = [r.point.n**-0.5 for r in most]
            means, errors = np.array([r.measured("error") for r in most]).T
            sizes.errorbar(at, means, errors, fmt="o", label="absolute")
            fine = np.linspace(1e-9, 1.1 * max(at), 30)
            sizes.plot(fine, [most[0].point.law.error_at(x**-2) for x in fine], color="black", label="theory")
            sizes.set(xlabel="1/√n", ylabel="error of x^k", title=f"λ / Δ₂ = {most[0].point.effective:g}")
            sizes.legend(fontsize="small")
        return figure


STUDY = NonlinearLowRank()
