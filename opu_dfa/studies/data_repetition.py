"""One neuron that uses every sample twice, on targets whose information exponent is three or four."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.dynamics.repetition import Loss, Repeated, flow, simulate
from opu_dfa.theory.gaussian import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray
Target = Literal["cubic", "quartic", "bounded"]
_ZEROS = [0.0, math.sqrt(3), -math.sqrt(3), *(s * math.sqrt(3 + t * math.sqrt(6)) for s in (1, -1) for t in (1, -1))]
_SHARES = (0.05, 0.125, 0.25, 0.5, 1.0)  # of the time, at which overlaps are read
_LEAST = 1e-6  # rounding of overlaps that are 0


@dataclass(frozen=True)
class Point:
    """A relu neuron in d dimensions, of overlap `start` with the target's direction; `time`: samples over d.

    Targets: cubic He_3(z) = z³ - 3z, quartic He_4(z) = z⁴ - 6z² + 3, and bounded tanh(He_3(z)), of which, odd though it
    is, a linear part is left. `repeat`: how far, ρ, the first use of a sample goes; 0 is plain SGD.
    """

    target: Target = "cubic"
    repeat: float = 0.1
    loss: Loss = "correlation"
    rate: float = 0.1
    start: float = 0.0
    time: float = 20.0
    d: int = 300

    def __post_init__(self) -> None:
        if self.target not in get_args(Target):
            raise ConfigError(f"there is no target {self.target!r}; choose one of {', '.join(get_args(Target))}")
        if not (abs(self.start) < 1 and 0 < self.time <= 1000 and self.d >= 2):
            raise ConfigError(
                "an overlap |start| < 1, a time in (0, 1000] and d >= 2 are wanted, got "
                f"{self.start}, {self.time} and {self.d}"
            )
        self.law()

    def law(self) -> Repeated:
        return Repeated(self.rate, self.repeat, self.loss)

    @property
    def times(self) -> list[float]:
        return [self.time * share for share in _SHARES]

    def labels(self, z: Array) -> Array:
        if self.target == "quartic":
            return z**4 - 6 * z**2 + 3
        cube = z**3 - 3 * z
        return cube if self.target == "cubic" else np.tanh(cube)


class DataRepetition(Study[Point]):
    """Of one neuron and a target of one direction. tanh(He_3) has a linear part, and is learned in any case.

    The flow takes several directions too. To sign(z_1 z_2 z_3) + He_4(z_1), the paper's staircase, samples used twice
    couple z_2 and z_3 once there is an overlap with z_1, and plain ones do not. A single neuron at a rate of 0.05 loses
    its overlaps with both all the same, faster than they feed each other: that networks climb it is not shown here.
    """

    title = "Every sample twice"
    paper = (
        "Arnaboldi, Dandi, Krzakala, Pesce, Stephan, Repetita iuvant: data repetition allows SGD to learn "
        "high-dimensional multi-index functions (arXiv 2405.15459)"
    )
    statement = (
        "Using each sample twice, SGD learns He_3 from an overlap of 0 in n ~ d samples and leaves the saddle of an "
        "even target exponentially; of samples that are used once it learns neither."
    )
    seeds = tuple(range(24))

    def sweep(self, size: Size) -> list[Point]:
        time, d, repeats = (
            (20.0, 300, (0.0, 0.1, 0.3)) if size == "small" else (40.0, 1500, (-0.1, 0.0, 0.05, 0.1, 0.3))
        )
        return [
            *(Point("cubic", repeat, time=time, d=d) for repeat in repeats),
            Point("cubic", 0.1, "square", time=time, d=d),
            *(Point("quartic", repeat, rate=0.05, start=0.3, time=time, d=d) for repeat in (0.0, 1.0)),
        ]

    def theory(self, point: Point) -> Values:
        rule = panels(_ZEROS)
        found = flow(point.law(), rule, point.labels(rule.nodes), np.array([point.start]), point.times)
        return {"overlap": found[:, 0]}

    def experiment(self, point: Point, seed: int = 0) -> Values:
        start = np.array([point.start])
        found = simulate(point.law(), lambda nu: point.labels(nu[:, 0]), start, point.times, point.d, seed)
        return {"overlap": found[:, 0]}

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        met, holds, said = (
            agreement(results, errors=4, absolute=_LEAST),
            True,
            [],
        )  # of 30 values one may be beyond 3 by chance
        for result in results:
            point, (mean, error) = result.point, (each[-1] for each in result.measured("overlap"))
            gain = abs(mean) - point.start
            # He_3 may be learned with either sign; of He_4 the sign of the overlap is kept.
            learns = gain > 4 * error + _LEAST if point.repeat else gain < 4 * error + _LEAST
            holds &= bool(learns) or point.target == "bounded"
            said.append(f"{point.target}, ρ {point.repeat:g} ({point.loss}): {mean:.3f} ± {error:.3f}")
        return Claim(bool(holds and met.holds), f"overlaps at the end: {'; '.join(said)}; {met}")

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((10, 4), layout="constrained")
        panels_of = {"cubic": "He₃", "quartic": "He₄", "bounded": "tanh He₃"}
        shown = [target for target in panels_of if any(r.point.target == target for r in results)]
        for axis, target in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            for result in (r for r in results if r.point.target == target):
                point, (mean, error) = result.point, result.measured("overlap")
                (line,) = axis.plot(point.times, result.theory["overlap"], label=f"ρ {point.repeat:g}, {point.loss}")
                axis.errorbar(point.times, mean, error, fmt="o", markersize=4, capsize=3, color=line.get_color())
            axis.set(xlabel="samples / d", ylabel="overlap with the target's direction", title=panels_of[target])
            axis.legend(fontsize="small")
        return figure


STUDY = DataRepetition()
