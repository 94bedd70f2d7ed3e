"""How many samples teach a function of a few directions: thresholds, a staircase, and a phase where it stays hard.

Message passing is run for the first step of the staircase. Once z₁ is exact the labels are those of a sign product,
whose own points are its second step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.inference.channels import Channel
from opu_dfa.theory.inference.index_channels import SignProduct, Staircase
from opu_dfa.theory.inference.iterate import iterate
from opu_dfa.theory.inference.priors import Gaussian
from opu_dfa.theory.inference.regression import GeneralisedLinear
from opu_dfa.theory.inference.sequence_channels import PhaseRetrieval
from opu_dfa.theory.inference.thresholds import control, fixed_overlap, staircase, weak_recovery

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray
Link = Literal["phase-retrieval", "sign-product", "staircase"]
Start = Literal["nothing", "truth"]
_CHANNELS: dict[Link, type[Channel]] = {
    "phase-retrieval": PhaseRetrieval,
    "sign-product": SignProduct,
    "staircase": Staircase,
}
_FROM: dict[Start, float] = {"nothing": 0.05, "truth": 0.995}  # overlaps of starts: what is next to nothing saves steps


@dataclass(frozen=True)
class Point:
    """n = alpha d samples of y = z₁² (phase-retrieval), sign(z₁z₂) or z₁² + sign(z₁z₂z₃) (staircase), z = Wx.

    start: of message passing, from next to nothing (an overlap of 0.05) or from the truth; steps: at most.
    """

    link: Link = "sign-product"
    alpha: float = 4.0
    start: Start = "nothing"
    d: int = 1000
    steps: int = 200

    def __post_init__(self) -> None:
        if self.link not in get_args(Link) or self.start not in get_args(Start):
            raise ConfigError(
                f"links are {', '.join(get_args(Link))}, and starts {', '.join(get_args(Start))}; "
                f"got {self.link!r}, {self.start!r}"
            )
        if not (self.alpha > 0 and self.d >= 10 and self.steps >= 1):
            raise ConfigError(f"alpha > 0, d >= 10 and a step or more are wanted, got {self}")


class MultiIndexLimits(Study[Point]):
    title = "What multi-index models take to be learned"
    paper = (
        "Troiani, Dandi, Defilippis, Zdeborová, Loureiro, Krzakala, Fundamental computational limits of weak "
        "learnability in high-dimensional multi-index models (arXiv 2405.15480)"
    )
    statement = (
        "Message passing learns an easy direction above α_c = 1/‖F‖ (π²/4 of sign(z₁z₂)), others after those that "
        "they are coupled to, and between the spinodals does not find the truth, though that is a fixed point."
    )
    seeds = tuple(range(6))

    def sweep(self, size: Size) -> list[Point]:
        if size == "small":
            return [
                *(Point("phase-retrieval", alpha, d=1000) for alpha in (0.4, 1.0, 1.6)),
                *(Point("sign-product", alpha, d=500, steps=120) for alpha in (2.0, 3.5, 5.0)),
                *(Point("staircase", 1.2, start, 1000, 60) for start in get_args(Start)),
                *(Point("staircase", alpha, d=1000, steps=60) for alpha in (0.4, 2.0)),
            ]
        return [
            *(Point("phase-retrieval", float(a), d=4000) for a in np.arange(0.3, 1.55, 0.1).round(2)),
            *(Point("sign-product", float(a), d=2000) for a in np.arange(1.5, 6.1, 0.5)),
            *(
                Point("staircase", float(a), s, 4000)
                for s in get_args(Start)
                for a in np.arange(0.4, 2.1, 0.2).round(1)
            ),
        ]

    def theory(self, point: Point) -> Values:
        """The overlap of what is learned first: of the staircase z₁, else all directions alike."""
        channel, informed = _CHANNELS[point.link](), point.start == "truth"
        return {"overlap": fixed_overlap(channel, point.alpha, _first(point.link), informed)}

    def experiment(self, point: Point, seed: int = 0) -> Values:
        rng = np.random.default_rng(seed)
        channel, known = _CHANNELS[point.link](), _FROM[point.start]
        data = GeneralisedLinear(Gaussian(channel.size), channel, point.alpha).observe(rng, point.d)
        # The law's precision is that of one overlap for all directions: z₁ of the staircase has its own.
        data = replace(data, precision="samples" if point.link == "staircase" else "law")
        start = data.knowing(rng, known * np.eye(channel.size))
        products = data.products(iterate(data.step, start, most=point.steps, tolerance=1e-7).state)
        # The truth's own length, 1 ± 1/√d, is none of the estimate's.
        products = products @ np.linalg.inv(data.truth.T @ data.truth / point.d)
        first = products[:1, :1] if point.link == "staircase" else products
        return {"overlap": float(np.linalg.svd(first, compute_uv=False).mean())}

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        # Of an estimate that knows nothing |ŵ·w|/d is of order 1/√d, and near α_c fluctuations die out slowly.
        met = agreement(results, absolute=max(1.5 / np.sqrt(r.point.d) for r in results))
        found = {r.point: float(r.measured("overlap")[0]) for r in results}
        sides: tuple[list[float], list[float]] = ([], [])
        for point, overlap in found.items():
            sides[point.alpha > critical(point.link)].append(overlap)
        hard = {
            start: [o for p, o in found.items() if p.link == "staircase" and 1.05 < p.alpha < 1.35 and p.start == start]
            for start in get_args(Start)
        }
        if not all(sides) or not all(hard.values()):
            raise ConfigError("the claim compares both sides of thresholds, and both starts of a staircase: leave them")
        holds = met.holds and max(sides[0]) < 0.12 < min(sides[1]) and min(hard["truth"]) > 0.9 > max(hard["nothing"])
        steps = [f"{step.directions.shape[1]} at {step.alpha:.4f}" for step in staircase(Staircase())]
        detail = (
            f"α_c = {critical('phase-retrieval'):.4f} of z² and {critical('sign-product'):.4f} of sign(z₁z₂); of the "
            f"staircase's directions {', then '.join(steps)}; in its hard phase {max(hard['nothing']):.2f} of z₁ from "
            f"nothing and {min(hard['truth']):.2f} from the truth; {met}"
        )
        return Claim(bool(holds), detail)

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((12, 4), layout="constrained")
        for axis, link in zip(figure.subplots(1, 3), get_args(Link), strict=True):
            of_link = [r for r in results if r.point.link == link]
            channel = _CHANNELS[link]()
            m = np.linspace(0.003, 0.997, 120)
            branch = np.array([control(channel, float(each), _first(link)) for each in m])
            last = max([r.point.alpha for r in of_link], default=5.0)
            axis.plot(branch[branch < last], m[branch < last], color="0.6", label="fixed points")
            axis.axvline(critical(link), color="0.6", linestyle=":", label=f"α_c = {critical(link):.4g}")
            for start in get_args(Start):
                draw_dots(axis, [r for r in of_link if r.point.start == start], "alpha", "overlap", f"from {start}")
            axis.set(xlabel="n / d", ylabel="overlap", title=link)
            axis.legend(fontsize="small")
        return figure


@lru_cache
def critical(link: Link) -> float:
    """α_c of what is learned first."""
    return float(weak_recovery(_CHANNELS[link]()).alpha)


def draw_dots(axis: Axes, results: Sequence[Result[Any]], x: str, y: str, label: str) -> None:
    """Experiments' means ± one standard error, where theory is a curve of its own."""
    if results:
        means, errors = np.array([r.measured(y) for r in results]).T
        at = [getattr(r.point, x) for r in results]
        axis.errorbar(at, means, errors, fmt="o", markersize=4, capsize=3, label=label)


def _first(link: Link) -> Array:
    """The projector on the directions that are learned first."""
    size = _CHANNELS[link].size
    return np.diag(np.arange(size) < (1 if link == "staircase" else size)).astype(float)


STUDY = MultiIndexLimits()
