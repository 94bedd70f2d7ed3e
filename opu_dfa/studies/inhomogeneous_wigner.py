"""A spike in noise that is stronger in some blocks than in others: message passing, its spectral method, and PCA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.inference.iterate import branches, iterate
from opu_dfa.theory.inference.low_rank import SpikedWigner
from opu_dfa.theory.inference.priors import Gaussian, Prior, rademacher
from opu_dfa.theory.inference.spectral import cosine, leading, linearised, operator, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Law = Literal["signs", "gaussian"]
_METHODS = {"amp": "message passing", "spectral": "spectral method", "pca": "PCA of Y"}


@dataclass(frozen=True)
class Point:
    """n rows, a fraction of them in the first block; noise c [[1, between], [between, within]] with c such that
    ‖√ρ_a ρ_b / Δ_ab‖ is snr."""

    snr: float = 2.0
    prior: Law = "signs"
    between: float = 4.0
    within: float = 8.0
    fraction: float = 0.3
    n: int = 1000

    def __post_init__(self) -> None:
        if self.prior not in get_args(Law):
            raise ConfigError(f"there is no prior {self.prior!r}; choose one of {', '.join(get_args(Law))}")
        if not (self.snr > 0 and self.between > 0 and self.within > 0 and 0 < self.fraction < 1 and self.n >= 10):
            raise ConfigError(f"snr and noise are positive, the fraction between 0 and 1, and n >= 10; got {self}")

    @property
    def law(self) -> SpikedWigner:
        prior: Prior = rademacher() if self.prior == "signs" else Gaussian()
        fractions = np.array([self.fraction, 1 - self.fraction])
        noise = np.array([[1.0, self.between], [self.between, self.within]])
        return SpikedWigner(prior, noise * SpikedWigner(prior, noise, fractions).snr / self.snr, fractions)


class InhomogeneousWigner(Study[Point]):
    title = "A spike in noise that varies from block to block"
    paper = (
        "Pak, Ko, Krzakala, Optimal algorithms for the inhomogeneous spiked Wigner model, NeurIPS 2023 "
        "(arXiv 2302.06665)"
    )
    statement = (
        "Message passing and the top eigenvector of its linearisation learn something of a spike in noise of blocks "
        "where ‖√ρ_a ρ_b / Δ_ab‖ is above 1; PCA of the matrix itself needs more."
    )
    seeds = tuple(range(8))

    def sweep(self, size: Size) -> list[Point]:
        if size == "small":
            return [Point(snr, prior) for prior in get_args(Law) for snr in (0.5, 2.0, 3.0, 5.0)]
        grid = (0.5, 0.7, 1.5, 2.0, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
        return [Point(snr, prior, n=3000) for prior in get_args(Law) for snr in grid]

    def theory(self, point: Point) -> Values:
        law = point.law
        overlaps = branches(law.evolve, law.nothing + 1e-6, law.truth).uninformed
        return {
            "amp": float(law.total(overlaps)[0, 0]),
            "spectral": linearised(law).outlier().overlap,
            "pca": plain(law).outlier().overlap,
        }

    def experiment(self, point: Point, seed: int = 0) -> Values:
        rng, law = np.random.default_rng(seed), point.law
        data = law.observe(rng, point.n)
        history = iterate(data.step, data.start(rng), data.overlap, most=300, tolerance=1e-9)
        spectral = leading(operator(data))[1]
        noise = law.noise[np.ix_(data.groups, data.groups)]
        pca = leading(data.score * noise)[1]
        return {
            "amp": float(history.measured[-1]),
            "spectral": cosine(spectral, data.truth),
            "pca": cosine(pca, data.truth),
        }

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        # Where nothing is to be learned, cos² of an eigenvector at the edge is about 1/((1 - √(snr/threshold))² n):
        # 0.01 of both at snr 0.5, and 0.06 of PCA at snr 2, close to its own threshold.
        met = agreement(results, "amp", "spectral", absolute=0.02)
        pca_met = agreement(results, "pca", absolute=0.06)
        starts = results[0].point.snr / plain(results[0].point.law).strength ** 2  # the strength grows as √snr
        between = [r for r in results if 1 < r.point.snr < starts]
        below = [r for r in results if r.point.snr < 1]
        if not between or not below:
            raise ConfigError(f"the claim compares snr < 1 with 1 < snr < {starts:.3g}: leave both in the sweep")

        def worst(some: Sequence[Result[Point]], key: str, pick: object) -> float:
            return float((max if pick is max else min)(float(r.measured(key)[0]) for r in some))

        nothing = max(worst(below, key, max) for key in _METHODS)
        least = min(worst(between, key, min) for key in ("amp", "spectral"))
        lost = worst(between, "pca", max)
        detail = (
            f"below snr 1 overlaps are at most {nothing:.3f}; between 1 and {starts:.2f}, where PCA starts, message "
            f"passing and its spectral method have {least:.2f} or more, PCA {lost:.2f} or less; {met}; {pca_met}"
        )
        return Claim(bool(met.holds and pca_met.holds and nothing < 0.05 and least > 0.2 and lost < least / 2), detail)

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((8.4, 4), layout="constrained")
        for axis, prior in zip(figure.subplots(1, 2, sharey=True), get_args(Law), strict=True):
            some = sorted((r for r in results if r.point.prior == prior), key=lambda r: r.point.snr)
            axis.set(xlabel="snr", title="x of signs" if prior == "signs" else "x Gaussian")
            if not some:
                continue
            fine = np.linspace(some[0].point.snr, some[-1].point.snr, 24)
            theory = [self.theory(replace(some[0].point, snr=float(snr))) for snr in fine]
            for key, name in _METHODS.items():
                (line,) = axis.plot(fine, [float(values[key]) for values in theory])
                means, errors = np.array([r.measured(key) for r in some]).T
                marks = {"fmt": "o", "markersize": 4, "capsize": 3, "color": line.get_color()}
                axis.errorbar([r.point.snr for r in some], means, errors, label=name, **marks)
        figure.axes[0].set_ylabel("overlap")
        figure.axes[1].legend(fontsize="small")
        return figure


STUDY = InhomogeneousWigner()
