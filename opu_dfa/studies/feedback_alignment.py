"""Direct feedback alignment of a two-layer network: equations of motion, with ternary errors and a noisy device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.dynamics.codes import Code, Device, Exact, StochasticTernary, ThresholdTernary
from opu_dfa.theory.dynamics.flow import Trajectory, descend
from opu_dfa.theory.dynamics.overlaps import Overlaps, Teacher
from opu_dfa.theory.dynamics.rules import Rule
from opu_dfa.theory.dynamics.simulate import chain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray
Encoding = Literal["exact", "threshold", "stochastic"]
Source = Literal["none", "additive", "relative", "shown", "common"]
_NODES = 2048  # of averages without a closed form; on them a threshold jumps from node to node, and needs no digits
_FINE, _COARSE = 1e-6, 3e-4


@dataclass(frozen=True)
class Point:
    """A student of K = `hidden` units learns M = `teacher` units of erf, with `outputs` outputs, in N = `dims` inputs.

    backprop: exact backpropagation, in place of DFA. encoding: of the error, "threshold" with a cut of 0.2 (of a row's
    largest error where level is 0, as the device's; else of the error itself) or "stochastic", at a fixed level, or 0
    for each row's own. source, noise: what noise the device adds, and its standard deviation. rate: of both layers.
    decay: time in which the medium's matrix turns by a radian, 0 for never. until: the last of the times t = steps/N.
    """

    backprop: bool = False
    encoding: Encoding = "exact"
    level: float = 0.0
    source: Source = "none"
    noise: float = 0.0
    rate: float = 0.5
    label_noise: float = 0.1
    hidden: int = 2
    teacher: int = 2
    outputs: int = 1
    decay: float = 0.0
    until: float = 40.0
    dims: int = 500

    def __post_init__(self) -> None:
        if self.encoding not in get_args(Encoding) or self.source not in get_args(Source):
            raise ConfigError(
                f"an error is {', '.join(get_args(Encoding))} and noise {', '.join(get_args(Source))}; "
                f"got {self.encoding!r} and {self.source!r}"
            )
        if min(self.hidden, self.teacher, self.outputs) < 1 or self.dims < self.hidden + self.teacher:
            raise ConfigError(f"units and outputs are 1 or more, and dims at least as many as all units; got {self}")
        if not (self.until > 0 and self.level >= 0 and self.decay >= 0):
            raise ConfigError(f"until is positive, level and decay are 0 or more; got {self}")
        self.rule  # noqa: B018  # what else is out of range it says itself

    @property
    def times(self) -> Array:
        """From 0 to the end, closer at first."""
        return np.array([0.0, *(self.until * np.array([0.003, 0.01, 0.03, 0.1, 0.3, 1.0]))])

    @property
    def problem(self) -> tuple[Teacher, Overlaps]:
        """The teacher, and a student that knows nearly nothing, whose second layer is zero."""
        rng = np.random.default_rng(0)
        head = np.ones((1, self.teacher))
        if self.outputs > 1:
            head = rng.standard_normal((self.outputs, self.teacher))
            head /= np.linalg.norm(head, axis=1, keepdims=True)
        ignorant = 0.05 * rng.standard_normal((self.hidden, self.teacher))
        start = Overlaps(np.diag(np.linspace(0.25, 0.3, self.hidden)), ignorant, np.zeros((self.outputs, self.hidden)))
        return Teacher(head, np.eye(self.teacher), self.label_noise), start

    @property
    def rule(self) -> Rule:
        code: Code = Exact()
        if self.encoding != "exact":
            level = self.level or None
            code = ThresholdTernary(0.2, level) if self.encoding == "threshold" else StochasticTernary(level)
        device = Device() if self.source == "none" else Device(**{self.source: self.noise})
        return Rule(self.rate, self.rate, None if self.backprop else self._medium, code, device)

    def _medium(self, t: float) -> Array:
        """B: fixed, or turning from one random matrix to another and on."""
        rng = np.random.default_rng([1, self.hidden, self.outputs])
        first, second = rng.standard_normal((2, self.hidden, self.outputs)) / np.sqrt(self.outputs)
        if (self.hidden, self.outputs) == (2, 1):
            first = np.array([[1.0], [-0.5]])
        angle = t / self.decay if self.decay else 0.0
        return np.asarray(np.cos(angle) * first + np.sin(angle) * second)


class FeedbackAlignment(Study[Point]):
    title = "Optical direct feedback alignment, by its equations of motion"
    paper = (
        "Refinetti, d'Ascoli, Ohana, Goldt, Align, then memorise: the dynamics of learning with feedback alignment "
        "(arXiv 2011.12428); noise of a device, ternary errors and several outputs are derived here"
    )
    statement = (
        "A network under DFA aligns its output weights with the feedback before it learns; noise and unbiased ternary "
        "errors do not enter what it learns but diffuse its weights, with a floor of rate times variance, while a "
        "threshold on the error biases it."
    )
    seeds = tuple(range(6))

    def sweep(self, size: Size) -> list[Point]:
        one = Point() if size == "small" else Point(dims=4000, until=100.0)
        several = replace(one, hidden=4, teacher=3, outputs=3, label_noise=0.0, until=100.0)
        unit = replace(one, hidden=1, teacher=1, label_noise=0.0, source="additive", dims=min(one.dims, 300))
        noises: tuple[tuple[Source, float], ...] = (("additive", 0.5), ("relative", 1), ("shown", 1), ("common", 0.5))
        points = [
            replace(one, backprop=True, dims=4000),  # its escape from V = 0 amplifies 1/√N most
            one,
            *(replace(one, source=source, noise=noise) for source, noise in noises),
            replace(one, decay=40.0),
            replace(one, encoding="threshold", level=0.5),
            replace(one, encoding="stochastic", level=0.5),
            *(replace(several, encoding=e) for e in ("exact", "threshold", "stochastic")),
            *(replace(unit, rate=r, noise=n, until=40.0 / r) for r, n in ((0.4, 0.3), (0.2, 0.3), (0.4, 0.15))),
        ]
        return points

    def theory(self, point: Point) -> Values:
        teacher, start = point.problem
        nodes, tolerance = (0, _FINE) if point.encoding == "exact" else (_NODES, _COARSE)
        found = descend(point.rule, teacher, start, point.times, nodes=nodes, tolerance=tolerance)
        return _values(found)

    def experiment(self, point: Point, seed: int = 0) -> Values:
        teacher, start = point.problem
        return _values(chain(point.rule, teacher, start, point.dims, point.times, seed))

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        # Networks that leave a plateau differ by 1/√N in when they do.
        found = agreement(results, "risk", relative=0.06, absolute=2e-4)
        plain = _only(results, encoding="exact", source="none", backprop=False, outputs=1, decay=0.0)
        aligned, risk = plain.measured("alignment")[0], plain.measured("risk")[0]
        learns = int(np.argmax(risk < risk[0] / 2))
        early = float(aligned[1:learns].max())
        floors = [
            float(_only(results, source="additive", rate=r, noise=n).measured("risk")[0][-1])
            for r, n in ((0.4, 0.3), (0.2, 0.3), (0.4, 0.15))
        ]
        exact, cut, fair = (
            float(_only(results, outputs=3, encoding=e).measured("risk")[0][-1])
            for e in ("exact", "threshold", "stochastic")
        )
        holds = (
            found.holds
            and early > 0.95
            and 1.6 < floors[0] / floors[1] < 2.3  # 2 and 4 of small noise
            and 3.2 < floors[0] / floors[2] < 4.6
            and fair < 1.3 * exact
            and cut > 1.3 * fair
        )
        detail = (
            f"cos(Vᵀ, B) is {early:.3f} before half of the risk is learned; the floor of additive noise falls by "
            f"{floors[0] / floors[1]:.2f} with half the rate and by {floors[0] / floors[2]:.2f} with half the noise; "
            f"three outputs end at a risk of {exact:.2g} with exact errors, {fair:.2g} with unbiased ternary and "
            f"{cut:.2g} with thresholded ones; {found}"
        )
        return Claim(bool(holds), detail)

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((12, 7), layout="constrained")
        panels = figure.subplots(2, 2).ravel()
        one = [r for r in results if r.point.outputs == 1 and r.point.teacher > 1]
        noisy = [r for r in one if r.point.encoding == "exact" and not r.point.backprop and not r.point.decay]
        self._draw(panels[0], [r for r in one if r not in noisy or r.point.source == "none"], "risk", _error)
        self._draw(panels[1], noisy, "risk", lambda p: p.source)
        self._draw(panels[2], [r for r in results if r.point.outputs == 3], "risk", _error)
        self._draw(
            panels[3], [r for r in one if not r.point.backprop], "alignment", lambda p: f"{_error(p)}, {p.source}"
        )
        panels[0].set(title="backpropagation and DFA", ylabel="risk", yscale="log")
        panels[1].set(title="noise of the device", ylabel="risk", yscale="log")
        panels[2].set(title="three outputs", ylabel="risk", yscale="log", xlabel="t, samples / N")
        panels[3].set(title="alignment of output weights", ylabel="cos(Vᵀ, B)", xlabel="t, samples / N", ylim=(0, 1.05))
        for axes in panels:
            axes.set_xscale("symlog", linthresh=0.3)
            axes.set_xlim(0, None)
            axes.legend(fontsize="x-small")
        return figure

    def _draw(self, axes: object, results: Sequence[Result[Point]], key: str, label: object) -> None:
        for index, result in enumerate(results):
            colour = f"C{index}"
            axes.plot(result.point.times, result.theory[key], color=colour, label=label(result.point))  # type: ignore
            mean, error = result.measured(key)
            axes.errorbar(result.point.times, mean, error, fmt="o", ms=3, color=colour)  # type: ignore


def _values(found: Trajectory) -> Values:
    return {"risk": found.risk, "alignment": found.alignment}


def _error(point: Point) -> str:
    """What a curve is called."""
    if point.backprop:
        return "backpropagation"
    if point.decay:
        return f"exact, medium turns in {point.decay:g}"
    return point.encoding + (f", level {point.level:g}" if point.level else "")


def _only(results: Sequence[Result[Point]], **values: object) -> Result[Point]:
    """The one point with these parameters."""
    found = [r for r in results if all(getattr(r.point, name) == value for name, value in values.items())]
    if not found:
        raise ConfigError(
            f"the claim compares points of the sweep, and there is none with {values}; leave them as they are"
        )
    return found[0]


STUDY = FeedbackAlignment()
