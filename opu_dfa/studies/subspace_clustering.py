"""Two clusters whose centres differ in few of many features: what can be known of them, and what can be found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.studies.figures import draw_curves
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.inference.bipartite import Bipartite, BipartiteData, BipartiteState
from opu_dfa.theory.inference.iterate import branches, iterate
from opu_dfa.theory.inference.priors import GaussBernoulli, rademacher

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_START, _MOST, _TOLERANCE = 1e-6, 100, 1e-6


@dataclass(frozen=True)
class Point:
    """n = alpha·d samples x = ±√(snr/d) v + noise in two clusters, v of d features normal with probability `sparsity`,
    else 0; `ratio` is the snr over 1/(sparsity √alpha), where message passing starts to find anything."""

    sparsity: float = 0.02
    ratio: float = 1.2
    alpha: float = 2.0
    d: int = 2000

    def __post_init__(self) -> None:
        if not (0 < self.sparsity <= 1 and self.ratio > 0 and self.alpha > 0):
            raise ConfigError(f"sparsity is above 0 and up to 1, ratio and alpha are positive, got {self}")
        if self.d * min(self.sparsity, self.alpha) < 5:
            raise ConfigError(
                f"5 features that are not 0 and 5 samples or more are wanted, got {self}; take a larger d"
            )

    @property
    def law(self) -> Bipartite:
        """Features and the samples' cluster as the two sides of a matrix."""
        unit = Bipartite(GaussBernoulli(self.sparsity), rademacher(), 1.0, self.alpha)
        return replace(unit, snr=self.ratio * unit.threshold)


class SubspaceClustering(Study[Point]):
    title = "Clusters that differ in a sparse subspace"
    paper = (
        "Pesce, Loureiro, Krzakala, Zdeborová, Subspace clustering in high-dimensions: phase transitions & "
        "statistical-to-computational gap (arXiv 2205.13527)"
    )
    statement = (
        "Message passing finds clusters once snr > 1/(sparsity √alpha). Of centres that are not sparse, nothing can be "
        "known before; of sparse ones it can, above an snr that grows as √(-sparsity log sparsity) of that: a hard "
        "phase, in which message passing knows the clusters only if it starts from them."
    )
    seeds = tuple(range(5))

    def sweep(self, size: Size) -> list[Point]:
        if size == "small":
            dense = [Point(0.5, ratio, d=1200) for ratio in (0.6, 1.4, 2.2)]
            return dense + [Point(0.02, ratio) for ratio in (0.25, 0.75, 1.4)]
        ratios = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5)
        sizes = {0.5: 2500, 0.1: 2500, 0.02: 4000, 0.005: 6000}
        return [Point(sparsity, ratio, d=d) for sparsity, d in sizes.items() for ratio in ratios]

    def theory(self, point: Point) -> Values:
        law = point.law
        ends = branches(law.evolve, _START * law.truth, law.truth)
        (u, v), (known_u, known_v) = ends.uninformed.ravel(), ends.informed.ravel()
        return _values(point, np.array([u, v]), np.array([known_u, known_v]))

    def experiment(self, point: Point, seed: int = 0) -> Values:
        rng = np.random.default_rng(seed)
        data = point.law.observe(rng, point.d)
        starts = data.start(rng), data.start(rng, planted=1.0, noise=0.0)
        return _values(point, *(_final(data, start) for start in starts))

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        # Overlaps fluctuate by some 1/√d from run to run; five runs tell too little of their spread.
        runs = min(r.point.d * len(r.experiments) for r in results)
        found = agreement(results, absolute=3 / math.sqrt(runs))
        phases = {s: r[0].point.law.transitions for s, r in _by_sparsity(results).items()}
        wrong: list[str] = []
        gaps: dict[float, float] = {}
        for r in results:
            at, limits = r.point.law.snr, phases[r.point.sparsity]
            blind, aware = (float(r.measured(key)[0]) for key in ("clusters", "clusters, told"))
            hard = limits.information < at < limits.algorithm
            finds, knows = at > limits.algorithm, at > limits.spinodal
            if (blind > 0.1) != finds or (aware > 0.1) != knows:
                wrong.append(f"sparsity {r.point.sparsity:g}, ratio {r.point.ratio:g}")
            if hard:
                gaps[r.point.sparsity] = max(gaps.get(r.point.sparsity, 0.0), aware - blind)
        open_to_doubt = [s for s, limits in phases.items() if limits.information < 0.99 * limits.algorithm]
        holds = found.holds and not wrong and bool(gaps) and all(gap > 0.1 for gap in gaps.values())
        holds = holds and 0.5 not in open_to_doubt
        told = "; ".join(
            f"of sparsity {s:g} clusters can be known from {limits.information / limits.algorithm:.3f} of the snr at "
            f"which they are found" + (f", overlap {gaps[s]:.2f} apart in between" if s in gaps else "")
            for s, limits in phases.items()
        )
        missed = f"; on the wrong side of a threshold: {', '.join(wrong)}" if wrong else ""
        return Claim(bool(holds), f"{told}{missed}; {found}")

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        groups = _by_sparsity(results)
        figure = Figure((4 * len(groups), 4), layout="constrained")
        for axis, (sparsity, group) in zip(
            figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True
        ):
            draw_curves(axis, group, "ratio", "clusters, told", lambda _: "told the truth at first")
            draw_curves(axis, group, "ratio", "clusters", lambda _: "told nothing")
            limits = group[0].point.law.transitions
            axis.axvline(limits.information / limits.algorithm, color="grey", ls=":", label="can be known")
            axis.axvline(1.0, color="grey", ls="--", label="can be found")
            axis.set(
                title=f"sparsity {sparsity:g}", xlabel="snr · sparsity · √alpha", ylabel="overlap with the clusters"
            )
        figure.axes[0].legend(fontsize="small")
        return figure


def _values(point: Point, found: np.ndarray, told: np.ndarray) -> Values:
    """Overlaps with clusters, and with the centre as a share of its square."""
    return {
        "clusters": float(found[0]),
        "centre": float(found[1]) / point.sparsity,
        "clusters, told": float(told[0]),
        "centre, told": float(told[1]) / point.sparsity,
    }


def _final(data: BipartiteData, start: BipartiteState) -> np.ndarray:
    return np.asarray(iterate(data.step, start, data.overlap, _MOST, _TOLERANCE).measured[-1])


def _by_sparsity(results: Sequence[Result[Point]]) -> dict[float, list[Result[Point]]]:
    return {s: [r for r in results if r.point.sparsity == s] for s in dict.fromkeys(r.point.sparsity for r in results)}


STUDY = SubspaceClustering()
