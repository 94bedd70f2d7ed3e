"""The matrix whose principal component is the best one in noise of blocks: its spectrum, and what it knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg

from opu_dfa.errors import ConfigError
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.inference.low_rank import SpikedWigner
from opu_dfa.theory.inference.priors import Gaussian
from opu_dfa.theory.inference.spectral import Blocks, cosine, leading, linearised, operator, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray
_BINS, _INSIDE = 16, 12  # of the bulk; nodes in each where its density is asked for


@dataclass(frozen=True)
class Point:
    """n rows, a fraction of them in the first block; noise c [[1, between], [between, within]] with c such that
    ‖√ρ_a ρ_b / Δ_ab‖ is snr."""

    snr: float = 1.6
    between: float = 3.0
    within: float = 2.0
    fraction: float = 0.3
    n: int = 800

    def __post_init__(self) -> None:
        if not (self.snr > 0 and self.between > 0 and self.within > 0 and 0 < self.fraction < 1 and self.n >= 10):
            raise ConfigError(f"snr and noise are positive, the fraction between 0 and 1, and n >= 10; got {self}")

    @property
    def law(self) -> SpikedWigner:
        fractions = np.array([self.fraction, 1 - self.fraction])
        noise = np.array([[1.0, self.between], [self.between, self.within]])
        return SpikedWigner(Gaussian(), noise * SpikedWigner(Gaussian(), noise, fractions).snr / self.snr, fractions)


class BlockPCA(Study[Point]):
    title = "The best principal component in noise of blocks"
    paper = (
        "Mergny, Ko, Krzakala, Spectral phase transition and optimal PCA in block-structured spiked models, ICML 2024 "
        "(arXiv 2403.03695)"
    )
    statement = (
        "Message passing linearised at no knowledge is a matrix of which one eigenvalue leaves the bulk, and goes to "
        "1, exactly where something can be learned; its vector knows as much as message passing with a Gaussian prior, "
        "and more than PCA's."
    )
    seeds = tuple(range(6))

    def sweep(self, size: Size) -> list[Point]:
        if size == "small":
            return [
                *(Point(snr) for snr in (0.5, 1.0, 2.0, 4.0)),
                *(Point(snr, between=4.0, within=8.0) for snr in (0.5, 2.0, 4.0)),
            ]
        grid = (0.5, 0.75, 1.0, 1.2, 1.4, 1.6, 2.0, 2.5, 3.0, 4.0)
        return [Point(snr, *noise, n=3000) for noise in ((3.0, 2.0), (4.0, 8.0)) for snr in grid]

    def theory(self, point: Point) -> Values:
        best = linearised(point.law)
        top = best.outlier()
        out = top.overlap > 0
        nodes, weights = np.polynomial.legendre.leggauss(_INSIDE)
        edges = _edges(best)
        half = np.diff(edges)[:, None] / 2
        density = best.density(((edges[:-1, None] + half) + half * nodes).ravel(), height=2e-3)
        return {
            "top": top.value if out else best.largest(point.n),
            "second": best.largest(point.n, 1 if out else 2),
            "overlap": top.overlap,
            "pca": plain(point.law).outlier().overlap,
            "bulk": (density.reshape(_BINS, _INSIDE) * weights * half).sum(axis=1),
        }

    def experiment(self, point: Point, seed: int = 0) -> Values:
        law = point.law
        data = law.observe(np.random.default_rng(seed), point.n)
        matrix = operator(data)
        (top, second), vectors = leading(matrix, 2)
        pca = leading(data.score * law.noise[np.ix_(data.groups, data.groups)])[1]
        values = linalg.eigvalsh(matrix, overwrite_a=True)
        return {
            "top": float(top),
            "second": float(second),
            "overlap": cosine(vectors[:, 0], data.truth),
            "pca": cosine(pca, data.truth),
            "bulk": np.histogram(values, _edges(linearised(law)))[0] / point.n,
        }

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        # At the edge of the bulk eigenvalues are n^(-2/3) apart, and an eigenvector's cos² is about
        # 1/((1 - √snr)² n) where there is no outlier; at snr 1 itself both are larger, and left out.
        away = [r for r in results if abs(r.point.snr - 1) > 0.1]
        values = agreement(results, "top", "second", absolute=0.02)
        known = agreement(away, "overlap", "pca", absolute=0.05)
        bulk = agreement(results, "bulk", absolute=0.003)  # of a fraction of 1/16 in a bin: three eigenvalues
        above, below = ([r for r in results if (r.point.snr > 1) == up and r in away] for up in (True, False))
        if not above or not below:
            raise ConfigError("the claim compares snr below and above 1: leave both in the sweep")
        gaps = [float(r.measured("top")[0] - r.measured("second")[0]) for r in (*below, *above)]
        inside, outside = max(gaps[: len(below)]), min(gaps[len(below) :])
        behind = min(float(r.measured("overlap")[0] - r.measured("pca")[0]) for r in above)
        detail = (
            f"the first eigenvalue is {inside:.3f} from the second below snr 1, {outside:.3f} or more above; its "
            f"vector's cos² exceeds that of PCA by {behind:.3f} or more; {values}; {known}; {bulk}"
        )
        met = values.holds and known.holds and bulk.holds
        return Claim(bool(met and outside > 2 * inside and behind > 0), detail)

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((11, 4), layout="constrained")
        spectrum, *panels = figure.subplots(1, 3)
        first = (results[0].point.between, results[0].point.within)
        shown = [r for r in results if (r.point.between, r.point.within) == first][:3]
        for result in shown:
            edges = _edges(linearised(result.point.law))
            at, width = (edges[:-1] + edges[1:]) / 2, np.diff(edges)
            (line,) = spectrum.plot(at, result.theory["bulk"] / width, label=f"snr {result.point.snr:g}")
            means, errors = result.measured("bulk")
            spectrum.errorbar(at, means / width, errors / width, fmt="o", markersize=3, color=line.get_color())
            spectrum.plot(result.measured("top")[0], 0, marker="^", color=line.get_color(), clip_on=False)
        spectrum.set(xlabel="eigenvalue (▲ the first)", ylabel="density", ylim=(0, None))
        spectrum.legend(fontsize="small")
        noises = list(dict.fromkeys((r.point.between, r.point.within) for r in results))
        for axis, noise in zip(panels, noises, strict=False):
            some = sorted((r for r in results if (r.point.between, r.point.within) == noise), key=lambda r: r.point.snr)
            fine = np.linspace(some[0].point.snr, some[-1].point.snr, 60)
            laws = [replace(some[0].point, snr=float(snr)).law for snr in fine]
            for key, name, matrix in (("overlap", "linearised", linearised), ("pca", "PCA of Y", plain)):
                (line,) = axis.plot(fine, [matrix(law).outlier().overlap for law in laws])
                means, errors = np.array([r.measured(key) for r in some]).T
                marks = {"fmt": "o", "markersize": 4, "capsize": 3, "color": line.get_color()}
                axis.errorbar([r.point.snr for r in some], means, errors, label=name, **marks)
            axis.set(xlabel="snr", ylabel="cos² with the truth", title="Δ ∝ 1, {:g}, {:g}".format(*noise))
            axis.legend(fontsize="small")
        return figure


def _edges(best: Blocks) -> Array:
    """Bins over the whole bulk."""
    mirrored = Blocks(-best.shifts, best.variances, best.signals, best.fractions)
    return np.linspace(-mirrored.edge, best.edge, _BINS + 1)


STUDY = BlockPCA()
