"""Spectral estimators of a multi-index model, symmetric and not: eigenvalues, overlaps, and what is left to AMP.

Both are message passing linearised around knowing nothing, and start to work at its threshold α_c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.studies.multi_index_limits import draw_dots
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.inference.channels import Channel
from opu_dfa.theory.inference.index_channels import Product, SignProduct
from opu_dfa.theory.inference.priors import Gaussian
from opu_dfa.theory.inference.regression import RegressionData
from opu_dfa.theory.inference.spectral_regression import (
    Block,
    Spectrum,
    asymmetric_spectrum,
    asymmetric_theory,
    blocks,
    symmetric_spectrum,
    symmetric_theory,
    truths,
)
from opu_dfa.theory.inference.thresholds import fixed_overlap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray
Link = Literal["sign-product", "product"]
_CHANNELS: dict[Link, Channel] = {"sign-product": SignProduct(), "product": Product()}
_PLANE = 500  # dimension of the spectrum that the figure shows whole


@dataclass(frozen=True)
class Point:
    """n = alpha d samples of y = sign(z₁z₂) (sign-product) or z₁z₂ (product), z = Wx with orthogonal rows."""

    alpha: float = 5.0
    link: Link = "sign-product"
    d: int = 500

    def __post_init__(self) -> None:
        if self.link not in get_args(Link):
            raise ConfigError(f"links are {', '.join(get_args(Link))}, got {self.link!r}")
        if not (self.alpha > 0 and self.d >= 50):
            raise ConfigError(f"alpha > 0 and d >= 50 are wanted, got {self.alpha} and {self.d}")


class MultiIndexSpectral(Study[Point]):
    title = "Spectral estimators of multi-index models"
    paper = (
        "Defilippis, Dandi, Mergny, Krzakala, Loureiro, Optimal spectral transitions in high-dimensional multi-index "
        "models (arXiv 2502.02545)"
    )
    statement = (
        "Two spectral estimators learn from α_c on, as message passing does: an eigenvalue α/α_c leaves a disc of "
        "radius √(α/α_c), or one of 1 the bulk; their overlaps stay below that of message passing."
    )
    seeds = tuple(range(6))

    def sweep(self, size: Size) -> list[Point]:
        if size == "small":
            return [
                *(Point(alpha, d=400) for alpha in (1.5, 5.0, 7.0)),
                *(Point(a, "product", 700) for a in (2.0, 4.0)),
            ]
        signs = (Point(float(a), d=2000) for a in (1.0, 1.5, 2.0, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0))
        return [*signs, *(Point(float(a), "product", 2000) for a in (0.3, 0.8, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0))]

    def theory(self, point: Point) -> Values:
        block = _blocks(point.link)[0]
        disc, line = asymmetric_theory(block, point.alpha), symmetric_theory(block, point.alpha)
        return {
            "asymmetric": disc.eigenvalue,
            "asymmetric_overlap": disc.overlap,
            "symmetric": line.eigenvalue,
            "symmetric_edge": line.edge,
            "symmetric_overlap": line.overlap,
        }

    def experiment(self, point: Point, seed: int = 0) -> Values:
        """Mean eigenvalue and cos² of the pair of outliers, one for each block; the edge is the third eigenvalue."""
        rng = np.random.default_rng(seed)
        found = _blocks(point.link)
        data = _observed(point, rng)
        planted = truths(data, [block.direction for block in found])
        disc, line = asymmetric_spectrum(data, 2, rng), symmetric_spectrum(data, 3, rng)
        return {
            "asymmetric": float(disc.values.real.mean()),
            "asymmetric_overlap": disc.overlap(planted),
            "symmetric": float(line.values[:2].mean()),
            "symmetric_edge": float(line.values[2]),
            "symmetric_overlap": Spectrum(line.values[:2], line.estimates[:, :2]).overlap(planted),
        }

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        above = [r for r in results if r.point.alpha > critical(r.point.link)]
        below = [r for r in results if r.point.alpha < critical(r.point.link)]
        signs = [r for r in above if r.point.link == "sign-product"]
        if not below or not signs:
            raise ConfigError("the claim compares α below and above α_c of the sign product: leave alpha and link")
        # d^(-2/3) is the width of a spectrum's edge, and overlaps fluctuate most within 30 % of α_c.
        width = {"absolute": max(2 * r.point.d ** (-2 / 3) for r in results)}
        far = [r for r in above if r.point.alpha > 1.5 * critical(r.point.link)]
        met = agreement(far, **width)
        blind = max(float(r.measured(key)[0]) for r in below for key in ("asymmetric_overlap", "symmetric_overlap"))
        gaps = [
            amp_overlap(r.point.alpha) - float(r.measured(key)[0])
            for r in signs
            for key in ("asymmetric_overlap", "symmetric_overlap")
        ]
        best = max(signs, key=lambda r: r.point.alpha)
        overlaps = [float(best.measured(key)[0]) for key in ("asymmetric_overlap", "symmetric_overlap")]
        holds = met.holds and blind < 0.06 and min(gaps) > 0
        detail = (
            f"cos² {overlaps[0]:.3f} and {overlaps[1]:.3f} of the two against {amp_overlap(best.point.alpha):.3f} of "
            f"message passing at alpha {best.point.alpha:g} of sign(z₁z₂), at most {blind:.3f} below α_c; {met}"
        )
        return Claim(bool(holds), detail)

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((12, 7), layout="constrained")
        (plane, *rest), (other, *more) = figure.subplots(2, 3)
        for axis, alpha in ((plane, 1.5), (other, 5.0)):
            draw_plane(axis, alpha)
        last = max([r.point.alpha for r in results], default=7.0)
        at = np.linspace(0.2, last, 60)
        for link, panels in zip(get_args(Link), (rest, more), strict=True):
            of_link = [r for r in results if r.point.link == link]
            theory = [self.theory(Point(float(alpha), link)) for alpha in at]
            for key in theory[0]:
                axis = panels[int(key.endswith("overlap"))]
                draw_dots(axis, of_link, "alpha", key, key.replace("_", " "))
                if of_link:
                    axis.plot(at, [float(each[key]) for each in theory], color=axis.containers[-1].lines[0].get_color())
            panels[0].set(xlabel="n / d", ylabel="eigenvalue", title=link)
            panels[1].set(xlabel="n / d", ylabel="cos²", title=link)
        rest[1].plot(at, [amp_overlap(float(alpha)) for alpha in at], color="0.4", label="message passing")
        for axis in figure.axes:
            if axis.get_legend_handles_labels()[0]:
                axis.legend(fontsize="small")
        return figure


@lru_cache
def critical(link: Link) -> float:
    """α_c."""
    return _blocks(link)[0].threshold


@lru_cache
def amp_overlap(alpha: float) -> float:
    """cos² of the Bayes-optimal estimate of sign(z₁z₂): M itself."""
    return fixed_overlap(SignProduct(), alpha, np.eye(2))


def draw_plane(axis: Axes, alpha: float) -> None:
    """All eigenvalues of a block of L, with the disc and the outlier of theory."""
    rng = np.random.default_rng(0)
    data = _observed(Point(alpha, d=_PLANE if alpha < 2 else _PLANE // 3), rng)
    block = _blocks("sign-product")[0]
    gram = data.design @ data.design.T
    np.fill_diagonal(gram, 0)
    values = np.linalg.eigvals(gram * (data.labels * block.values[0]))
    theory = asymmetric_theory(block, alpha)
    angle = np.linspace(0, 2 * np.pi, 200)
    axis.plot(values.real, values.imag, ".", markersize=2)
    axis.plot(theory.edge * np.cos(angle), theory.edge * np.sin(angle), color="0.4")
    axis.set(title=f"sign-product, n/d = {alpha:g}", xlabel="Re", ylabel="Im", aspect="equal")
    if theory.overlap:
        axis.plot([theory.eigenvalue], [0], "x", color="C3", label="α / α_c")


def _observed(point: Point, rng: np.random.Generator) -> RegressionData:
    n, channel = max(2, round(point.alpha * point.d)), _CHANNELS[point.link]
    x = rng.standard_normal((n, point.d)) / np.sqrt(point.d)
    # Rows of one length and orthogonal: else the two outliers part by 1/√d, and mix.
    weights = np.sqrt(point.d) * np.linalg.qr(rng.standard_normal((point.d, 2)))[0]
    labels = channel.sample(rng, (x @ weights)[:, None])
    return RegressionData(Gaussian(2), channel, x, labels, weights)


@lru_cache
def _blocks(link: Link) -> list[Block]:
    return blocks(_CHANNELS[link])


STUDY = MultiIndexSpectral()
