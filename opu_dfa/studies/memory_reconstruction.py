"""Which memories a network was taught, read off its connections: message passing, and principal components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from scipy import optimize

from opu_dfa.errors import ConfigError
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.inference.iterate import branches, iterate, overlap_up_to
from opu_dfa.theory.inference.low_rank import LowRankData
from opu_dfa.theory.inference.outputs import EntrywiseOutput, Linear, Quantised
from opu_dfa.theory.inference.priors import Discrete, activity, independent, rademacher
from opu_dfa.theory.inference.spectral import leading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray
Kind = Literal["signs", "sparse"]
Seen = Literal["weights", "sign"]
_STARTS, _MOST, _STILL = 6, 120, 1e-8
_DRAWS = 8_000


@dataclass(frozen=True)
class Point:
    """J_ij = Σ_μ ξ_iμ ξ_jμ/√n + √noise Z_ij of some patterns, or its sign. Patterns are of signs, or of 0 and 1 with a
    share `active` of 1, shifted and scaled to mean 0 and variance 1."""

    noise: float = 0.5
    patterns: int = 2
    kind: Kind = "signs"
    seen: Seen = "weights"
    active: float = 0.1
    n: int = 800

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind) or self.seen not in get_args(Seen):
            raise ConfigError(
                f"patterns are of kind signs or sparse, seen as weights or sign; got {self.kind!r} and {self.seen!r}"
            )
        if not (self.noise > 0 and 1 <= self.patterns <= 4 and 0 < self.active < 1 and self.n >= 10):
            raise ConfigError(f"noise is positive, patterns 1 to 4, active between 0 and 1 and n >= 10; got {self}")

    def law(self, patterns: int) -> EntrywiseOutput:
        one = rademacher() if self.kind == "signs" else activity(self.active)
        output = Linear() if self.seen == "weights" else Quantised()
        return EntrywiseOutput(independent(one, patterns), output, 1 / self.noise)

    @property
    def effective(self) -> float:
        """Noise of weights that are as good."""
        return float(self.law(1).equivalent.noise[0, 0])


class MemoryReconstruction(Study[Point]):
    title = "Memories read off a network's connections"
    paper = (
        "Goldt, Krzakala, Zdeborová, Brunel, Bayesian reconstruction of memories stored in neural networks from their "
        "connectivity, PLoS Computational Biology 2023 (arXiv 2105.07416)"
    )
    statement = (
        "Message passing finds each of several stored patterns where the noise of connections is below 1 (2/π if only "
        "their signs are seen); principal components find the patterns' span there, not the patterns. Of sparse ones "
        "there is more to be known than message passing finds."
    )
    seeds = tuple(range(8))

    def sweep(self, size: Size) -> list[Point]:
        small = size == "small"
        n = 800 if small else 4000
        noises = (0.25, 0.5, 1.3) if small else (0.1, 0.25, 0.4, 0.5, 0.65, 0.8, 0.9, 1.15, 1.3)
        return [
            *(Point(noise, n=n) for noise in noises),
            Point(0.4, patterns=3, n=n),
            *(Point(noise, seen="sign", n=n) for noise in ((0.25, 0.8) if small else (0.1, 0.25, 0.4, 0.5, 0.8))),
            *(Point(noise, kind="sparse", n=n) for noise in ((0.25, 0.5, 2.0) if small else (0.25, 0.5, 0.8, 2.0))),
            Point(1.3, 1, kind="sparse", active=0.05, n=1500 if small else 6000),
        ]

    def theory(self, point: Point) -> Values:
        # Overlaps of independent patterns stay diagonal: each is reconstructed as if it were alone.
        law = point.law(1).equivalent
        found = branches(law.evolve, law.nothing + 1e-6, law.truth)
        span = max(0.0, 1 - point.effective)
        kurtosis = float(law.prior.weights @ law.prior.points[:, 0] ** 4) if isinstance(law.prior, Discrete) else 3.0
        return {
            "amp": float(found.uninformed[0, 0, 0]),
            "planted": float(found.informed[0, 0, 0]),
            "span": span,
            "pca": span * _mixing(point.patterns, point.effective, kurtosis) if span else 0.0,
        }

    def experiment(self, point: Point, seed: int = 0) -> Values:
        rng = np.random.default_rng(seed)
        data = point.law(point.patterns).observe(rng, point.n)
        best = _reconstructed(data, rng)
        planted = iterate(data.step, data.start(rng, planted=1.0), most=_MOST, tolerance=_STILL).state.mean
        components = leading(data.score, point.patterns)[1]
        span = np.linalg.qr(data.truth)[0]
        return {
            "amp": _overlap(best, data.truth),
            "planted": _overlap(planted, data.truth),
            "span": float(np.linalg.norm(components.T @ span) ** 2 / point.patterns),
            "pca": _cosines(components, data.truth),
        }

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        # Of components that know nothing cos² is of order 1/((1 - 1/√Δ)² n): 0.07 at Δ = 1.3.
        met = agreement(results, "amp", "planted", absolute=0.02)
        components = agreement(results, "span", "pca", absolute=0.08)
        known = [r for r in results if r.point.effective < 0.9 and r.point.patterns > 1]
        blind = [r for r in results if r.point.effective > 1.1]
        hard = [r for r in blind if r.theory["planted"] > 0.1]
        if not known or not hard:
            raise ConfigError(
                "the claim compares noise below and above 1, and sparse patterns; leave them in the sweep"
            )

        def mean(result: Result[Point], key: str) -> float:
            return float(result.measured(key)[0])

        ahead = min(mean(r, "amp") / mean(r, "pca") for r in known)
        lost = max(mean(r, "amp") for r in blind)
        kept = min(mean(r, "planted") for r in hard)
        detail = (
            f"where noise is below 1, message passing has at least {ahead:.2f} of principal components' cos² with a "
            f"pattern; above it has {lost:.3f} or less, though sparse patterns are kept at {kept:.2f} from a start at "
            f"the truth; {met}; {components}"
        )
        return Claim(bool(met.holds and components.holds and ahead > 1.3 and lost < 0.1 and kept > 0.5), detail)

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((8.4, 4), layout="constrained")
        keys = {"amp": "message passing", "planted": "... from the truth", "span": "PCA: span", "pca": "PCA: patterns"}
        for axis, kind in zip(figure.subplots(1, 2, sharey=True), get_args(Kind), strict=True):
            some = [r for r in results if r.point.kind == kind and r.point.patterns == 2]
            some = sorted((r for r in some if r.point.active == some[0].point.active), key=lambda r: r.point.effective)
            axis.set(
                xlabel="noise (of signs: π/2 times it)",
                title="two patterns of signs" if kind == "signs" else "two sparse patterns",
            )
            if not some:
                continue
            fine = [Point(float(at), 2, kind, active=some[0].point.active) for at in np.linspace(0.1, 1.5, 25)]
            theory = [self.theory(point) for point in fine]
            for key, name in keys.items():
                (line,) = axis.plot([p.noise for p in fine], [float(values[key]) for values in theory], label=name)
                means, errors = np.array([r.measured(key) for r in some]).T
                marks = {"fmt": "o", "markersize": 4, "capsize": 3, "color": line.get_color()}
                axis.errorbar([r.point.effective for r in some], means, errors, **marks)
        figure.axes[0].set_ylabel("cos² with the truth")
        figure.axes[1].legend(fontsize="small")
        return figure


def _reconstructed(data: LowRankData, rng: np.random.Generator) -> Array:
    """Patterns by message passing that knows nothing at first.

    Sparse patterns have a sign, and message passing that set out in the wrong one circles there: it starts again, and
    if it never comes to rest what claims to know most is taken (at rest an estimate's norm is its overlap).
    """
    tried = []
    for _ in range(_STARTS):
        history = iterate(data.step, data.start(rng), most=_MOST, tolerance=_STILL)
        if history.converged:
            return history.state.mean
        tried.append(history.state.mean)
    return max(tried, key=lambda mean: float((mean**2).sum()))


def _overlap(estimate: Array, truth: Array) -> float:
    """|x̂·x|/|x|² of the best pairs of columns and patterns, on average."""
    return overlap_up_to("permutation", estimate, truth / (truth**2).mean(axis=0))


def _cosines(estimate: Array, truth: Array) -> float:
    """cos² of the best pairs of columns and patterns, on average."""
    squares = (estimate.T @ truth) ** 2 / np.outer((estimate**2).sum(axis=0), (truth**2).sum(axis=0))
    return float(squares[optimize.linear_sum_assignment(-squares)].mean())


def _mixing(patterns: int, noise: float, kurtosis: float) -> float:
    """How much of its length in the span a principal component has along its pattern, squared.

    To leading order patterns are degenerate. What tells their combinations apart, of size 1/√n, is their Gram matrix,
    of variances E ξ⁴ - 1 and 1 on and off the diagonal, and noise, of 2Δ/(1 - Δ) and Δ/(1 - Δ): the components are
    eigenvectors of a Gaussian matrix of their sum.
    """
    if patterns == 1:
        return 1.0
    own, mixed = np.sqrt(kurtosis - 1 + 2 * noise / (1 - noise)), np.sqrt(1 / (1 - noise))
    draws = np.random.default_rng(0).standard_normal((_DRAWS, patterns, patterns))
    upper = mixed * np.triu(draws, 1)
    squares = np.linalg.eigh(upper + np.swapaxes(upper, 1, 2) + own * np.eye(patterns) * draws)[1] ** 2
    orders = [squares[:, np.arange(patterns), order].mean(axis=1) for order in permutations(range(patterns))]
    return float(np.max(orders, axis=0).mean())


STUDY = MemoryReconstruction()
