"""Attention with tied weights of rank one, learned by message passing: one layer, or two, the last of them first.

The threshold of the second of two layers is a quadrature here, and is measured too: one step of message passing from an
overlap m₀ gives m₁ = F(m₀), and F'(0) = α/α_c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.studies.figures import draw_curves
from opu_dfa.studies.multi_index_limits import draw_dots
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.inference.iterate import iterate
from opu_dfa.theory.inference.priors import Gaussian
from opu_dfa.theory.inference.regression import GeneralisedLinear
from opu_dfa.theory.inference.sequence_channels import AttentionOneLayer, AttentionTwoLayers
from opu_dfa.theory.inference.thresholds import control, fixed_overlap, weak_recovery

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NODES = 2500  # labels of the quadrature of thresholds
_FROM = 0.05  # overlap of starts
_SECOND = np.diag([0.0, 1.0])


@dataclass(frozen=True)
class Point:
    """n = alpha d sequences of `tokens`, labelled by one layer of attention, or by two with a skip connection.

    steps: of message passing, which starts with an overlap m0 of the last layer.
    """

    alpha: float = 0.4
    layers: int = 1
    skip: float = 1.0
    tokens: int = 2
    m0: float = _FROM
    d: int = 2000
    steps: int = 100

    def __post_init__(self) -> None:
        if self.layers not in (1, 2) or (self.layers == 2 and self.tokens != 2):
            raise ConfigError(f"one layer, or two of two tokens: got {self.layers} layers and {self.tokens} tokens")
        if not (self.alpha > 0 and self.skip > 0 and 0 < self.m0 < 1 and self.d >= 10 and self.steps >= 1):
            raise ConfigError(f"alpha, skip > 0, m0 between 0 and 1, d >= 10 and a step are wanted, got {self}")

    @property
    def channel(self) -> AttentionOneLayer | AttentionTwoLayers:
        return AttentionOneLayer(self.tokens) if self.layers == 1 else AttentionTwoLayers(self.skip, 21)


class SequenceMultiIndex(Study[Point]):
    title = "Sequence models and attention in layers"
    paper = (
        "Troiani, Cui, Dandi, Krzakala, Zdeborová, Fundamental limits of learning in sequence multi-index models and "
        "deep attention networks, ICML 2025 (arXiv 2502.00901)"
    )
    statement = (
        "One layer of attention on L tokens is learned from n/d = 1/(L(L + 1)) on; of two layers the last is learned "
        "first, from a threshold that falls to 1/6 as the skip connection grows."
    )
    seeds = tuple(range(6))

    def sweep(self, size: Size) -> list[Point]:
        # One step from an overlap, which tells the growth α/α_c, needs few of them but large d.
        if size == "small":
            return [
                *(Point(alpha, d=1500) for alpha in (0.1, 0.3, 0.4, 0.6)),
                Point(0.2, tokens=3, d=1500),
                *(Point(0.15, 2, skip, m0=0.15, d=4000, steps=1) for skip in (0.5, 1.0, 4.0)),
            ]
        return [
            *(Point(float(a), d=5000) for a in (0.1, 0.14, 0.18, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)),
            *(Point(float(a), tokens=3, d=5000) for a in (0.06, 0.1, 0.15, 0.2, 0.3)),
            *(Point(0.15, 2, skip, m0=m0, d=8000, steps=1) for skip in (0.5, 1.0, 2.0, 4.0) for m0 in (0.1, 0.3)),
            *(Point(float(a), 2, d=3000) for a in (0.15, 0.25, 0.3, 0.4, 0.5)),
        ]

    def theory(self, point: Point) -> Values:
        """The overlap of the last layer."""
        if point.steps == 1:
            direction = _SECOND if point.layers == 2 else np.eye(1)
            prior = Gaussian(point.channel.size)
            found = prior.overlap(point.alpha * point.channel.information(point.m0 * direction, prior.second))
            return {"overlap": float(found[-1, -1])}
        return {"overlap": _overlap(point.alpha, point.layers, point.skip, point.tokens)}

    def experiment(self, point: Point, seed: int = 0) -> Values:
        rng = np.random.default_rng(seed)
        data = GeneralisedLinear(Gaussian(point.channel.size), point.channel, point.alpha).observe(rng, point.d)
        # Of both layers the precision is summed over samples: the law's would be an integral of eight variables.
        data = replace(data, precision="law" if point.layers == 1 else "samples")
        known = point.m0 * (_SECOND if point.layers == 2 else np.eye(1))
        state = iterate(data.step, data.knowing(rng, known), most=point.steps, tolerance=1e-9).state
        found = float(data.products(state)[-1, -1]) / float((data.truth[:, -1] ** 2).mean())
        # After one step the sign is that of the start; later it may have been lost.
        return {"overlap": found if point.steps == 1 else abs(found)}

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        # An estimate that knows nothing has |ŵ·w|/d of order 1/√d, of few samples n = αd 1/√n.
        met = agreement(results, absolute=0.02)
        learned = {r.point: float(r.measured("overlap")[0]) for r in results}
        sides: tuple[list[float], list[float]] = ([], [])
        growths = []
        for point, overlap in learned.items():
            if point.steps > 1:
                sides[point.alpha > critical(point.layers, point.skip, point.tokens)].append(overlap)
            elif point.alpha < critical(point.layers, point.skip, point.tokens):
                growths.append(overlap / point.m0)
        if not (all(sides) and growths):
            raise ConfigError("the claim compares both sides of thresholds, and steps of two layers: leave alpha")
        skips = [critical(2, skip, 2) for skip in (0.5, 1.0, 4.0)]
        holds = met.holds and max(sides[0]) < 0.1 < min(sides[1]) and max(growths) < 1
        holds = holds and skips == sorted(skips, reverse=True) and skips[-1] > 1 / 6
        detail = (
            f"α_c = {critical(1, 1.0, 2):.4f} of one layer and 2 tokens, {critical(1, 1.0, 3):.4f} of 3; of the "
            f"last of two layers {skips[0]:.4f}, {skips[1]:.4f}, {skips[2]:.4f} at skips 0.5, 1, 4, "
            f"below which, at n/d = 0.15, an overlap shrinks in a step to {max(growths):.2f} of itself at most; {met}"
        )
        return Claim(bool(holds), detail)

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((11, 4), layout="constrained")
        first, second = figure.subplots(1, 2)
        m = np.linspace(0.003, 0.997, 80)
        for tokens in sorted({r.point.tokens for r in results}):
            own = [r for r in results if (r.point.layers, r.point.tokens) == (1, tokens)]
            draw_dots(first, own, "alpha", "overlap", f"one layer, {tokens} tokens")
            if own:
                branch = [control(AttentionOneLayer(tokens), float(each)) for each in m]
                first.plot(branch, m, color=first.containers[-1].lines[0].get_color())
        draw_curves(
            first, [r for r in results if r.point.layers == 2 and r.point.steps > 1], "alpha", "overlap", "skip"
        )
        one = [r for r in results if r.point.steps == 1]
        draw_curves(second, one, "skip", "overlap", lambda p: f"from {p.m0:g}, n/d = {p.alpha:g}")
        for start in sorted({r.point.m0 for r in one}):
            second.axhline(start, color="0.6", linestyle=":", label=f"the start, {start:g}")
        first.set(xlabel="n / d", ylabel="overlap of the last layer")
        second.set(xlabel="skip connection", ylabel="overlap of layer 2 after a step")
        for axis in (first, second):
            axis.legend(fontsize="small")
        return figure


@lru_cache
def critical(layers: int, skip: float, tokens: int) -> float:
    """α_c of the last layer."""
    channel = AttentionOneLayer(tokens) if layers == 1 else AttentionTwoLayers(skip)
    return float(weak_recovery(channel, nodes=_NODES).alpha)


@lru_cache
def _overlap(alpha: float, layers: int, skip: float, tokens: int) -> float:
    if layers == 1:
        return fixed_overlap(AttentionOneLayer(tokens), alpha)
    return fixed_overlap(AttentionTwoLayers(skip, 21), alpha, _SECOND, points=12)


STUDY = SequenceMultiIndex()
