"""Which of a target's directions gradient descent on full batches learns: of the same samples, or of new ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.dynamics.descent import Committee, Descent, Overlaps, simulate
from opu_dfa.theory.dynamics.mean_field import mean_field, one_pass
from opu_dfa.theory.gaussian import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray
Target = Literal["two-index", "cubic"]
Data = Literal["reused", "fresh"]
_NODES = 2**17
_LEAST = 0.002  # spread of the theory over its random points


@dataclass(frozen=True)
class Point:
    """Hidden units that start without an overlap, |w|² = d, and n = alpha·d samples a step.

    Targets, with He_3(z) = z³ - 3z: two-index tanh(h*_1 + He_3(h*_2)), for two relu units of heads ±1/√2; cubic
    He_3(h*_2)/√6, for one tanh unit.
    """

    target: Target = "two-index"
    data: Data = "reused"
    alpha: float = 3.0
    rate: float = 0.2
    steps: int = 6
    d: int = 400

    def __post_init__(self) -> None:
        for value, known in ((self.target, get_args(Target)), (self.data, get_args(Data))):
            if value not in known:
                raise ConfigError(f"there is no {value!r}; choose one of {', '.join(known)}")
        if self.d < 4 or self.alpha * self.d < 1:
            raise ConfigError(f"d >= 4 dimensions and alpha·d >= 1 samples are wanted, got {self.d} and {self.alpha}")
        if not 2 <= self.steps <= 200:
            raise ConfigError(f"2 to 200 steps are wanted, got {self.steps}: reused samples tell from the second on")
        self.descent()

    def descent(self) -> Descent:
        units = len(self.loss().heads)
        return Descent(self.alpha, self.rate, self.steps, np.zeros((units, 2)), np.eye(units))

    def loss(self) -> Committee:
        if self.target == "cubic":
            return Committee("tanh", (1.0,), self.labels, teachers=2)
        return Committee("relu", (math.sqrt(0.5), -math.sqrt(0.5)), self.labels, teachers=2)

    def labels(self, teacher: Array) -> Array:
        """Of fields `(2, N)`."""
        cube = teacher[1] ** 3 - 3 * teacher[1]
        return np.tanh(teacher[0] + cube) if self.target == "two-index" else cube / math.sqrt(6)

    def seen(self) -> Array:
        """The direction E y h* that a first gradient sees; of the cubic target there is none, and h*_1 in its place.

        >>> Point().seen().round(3)
        array([ 0.768, -0.641])
        """
        if self.target == "cubic":
            return np.array([1.0, 0.0])
        rule = panels()
        pairs = np.stack(np.meshgrid(rule.nodes, rule.nodes, indexing="ij")).reshape(2, -1)
        linear = pairs @ (np.outer(rule.weights, rule.weights).ravel() * self.labels(pairs))
        return np.asarray(linear / np.linalg.norm(linear))


class BatchReuse(Study[Point]):
    """Overlaps with the direction a first gradient sees, and with one hidden from it.

    With new samples at every step what is hidden stays hidden here for good. Of relu units that know the seen field h_s
    alone, the next gradient has E[y h_⊥ relu'(h)] = E[y h_⊥]/2 = 0 along the other: relu' - 1/2 is odd in h, and
    E[y h_⊥ | h_s] even for labels y that are odd. Samples that are reused bring fields h_1 = g_1 - η F_0, in which
    their labels are, and so an E[y h_⊥ T(y)]. From the two-index target that makes an overlap of a few 0.001, below the
    experiment's errors; the cubic one, of which a first gradient sees nothing, is the test.

    The published equations for relu units leave out the kink of the loss's second derivative, which these do not need.
    """

    title = "Batches that are reused"
    paper = (
        "Dandi, Troiani, Arnaboldi, Pesce, Zdeborová, Krzakala, The benefits of reusing batches for gradient descent "
        "in two-layer networks: breaking the curse of information and leap exponents (arXiv 2402.03220)"
    )
    statement = (
        "From n ~ d samples, a second step on the same ones learns directions that gradient descent on new samples at "
        "every step never sees: those in which the target is linear only after a function of the label."
    )
    seeds = tuple(range(32))

    def sweep(self, size: Size) -> list[Point]:
        both: tuple[Data, ...] = ("reused", "fresh")
        if size == "small":
            return [Point(target, data) for target in get_args(Target) for data in both]
        return [Point(target, data, d=d) for target in get_args(Target) for data in both for d in (1000, 4000)]

    def theory(self, point: Point) -> Values:
        follow = mean_field if point.data == "reused" else one_pass
        return _values(point, follow(point.loss(), point.descent(), _NODES))

    def experiment(self, point: Point, seed: int = 0) -> Values:
        return _values(point, simulate(point.loss(), point.descent(), point.d, seed, fresh=point.data == "fresh"))

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        # Of 84 values one is beyond 3 standard errors by chance.
        met, said, holds = agreement(results, errors=4, absolute=_LEAST), [], True
        for result in results:
            mean, error = (each[-1] for each in result.measured("hidden"))
            error = math.hypot(error, _LEAST / 3)
            said.append(f"{result.point.target}, {result.point.data}: {mean:.4f} ± {error:.4f}")
            if result.point.data == "fresh":
                holds &= bool(abs(mean) < 4 * error)
            elif result.point.target == "cubic":
                holds &= bool(abs(mean) > 5 * error)
        return Claim(
            bool(holds and met.holds), f"overlaps with the hidden direction at the end: {'; '.join(said)}; {met}"
        )

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((12, 4), layout="constrained")
        for axis, key in zip(figure.subplots(1, 3), ("seen", "hidden", "norm"), strict=True):
            for result in results:
                point, steps = result.point, np.arange(result.point.steps + 1)
                mean, error = result.measured(key)
                (line,) = axis.plot(steps, result.theory[key], label=f"{point.target}, {point.data}, d {point.d}")
                axis.errorbar(steps, mean, error, fmt="o", markersize=4, capsize=3, color=line.get_color())
            axis.set(xlabel="step", ylabel=f"overlap with the {key} direction" if key != "norm" else "norm")
        axis.legend(fontsize="small")
        return figure


def _values(point: Point, found: Overlaps) -> Values:
    """Means over units, of overlaps times the head's sign, and of |w|²/d."""
    seen, signs = point.seen(), np.sign(point.loss().heads)
    overlap = np.einsum("j,tjk->tk", signs, found.teacher) / len(signs)
    return {
        "seen": overlap @ seen,
        "hidden": overlap @ np.array([-seen[1], seen[0]]),
        "norm": np.trace(found.own, axis1=1, axis2=2) / len(signs),
    }


STUDY = BatchReuse()
