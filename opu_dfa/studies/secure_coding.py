"""Bits sent as a Gaussian random field: all are decoded or none, and an eavesdropper with more noise learns nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.inference.random_codes import Field, capacity, decoding, enumerated, secret, threshold

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHORT = 0.5  # times 1 / n: nats, or overlap, by which codes away from the threshold may differ from n = ∞
_WIRETAP = 1.4  # load of the points that have an eavesdropper


@dataclass(frozen=True)
class Point:
    """n bits in n / load observations of the field x^⊗power (inf: independent words) with Gaussian noise.

    noise: its variance; share: of the bits, that are secret; the rest are random. codes: that an experiment averages.
    """

    power: float = 3.0
    load: float = 1.0
    noise: float = 0.25
    share: float = 0.0
    n: int = 12
    codes: int = 40

    def __post_init__(self) -> None:
        Field(self.power)
        if not (self.load > 0 and self.n >= 2 and self.observations >= 1 and self.codes >= 3):
            raise ConfigError(f"a load above 0 and at most 2n, n >= 2 bits and 3 codes or more are wanted, got {self}")
        if not 0 <= self.share < 1 or self.secret >= self.n:
            raise ConfigError(f"the share of secret bits is in [0, 1), got {self.share}")
        capacity(self.noise)

    @property
    def observations(self) -> int:
        return round(self.n / self.load)

    @property
    def secret(self) -> int:
        return round(self.share * self.n)

    @property
    def actual(self) -> float:
        """The load, with as many observations as there are."""
        return self.n / self.observations

    @property
    def far(self) -> bool:
        """The threshold, over which n bits are spread by √n, is not near."""
        return abs(math.log(self.actual * math.log(2) / capacity(self.noise))) > 0.4


class SecureCoding(Study[Point]):
    """Theory is of n = ∞; the mutual information of finite codes is exact, by enumeration of all 2^n words.

    An annealed p(y) would give each code a density of information whose mean, the capacity C, is known: what codes
    of an experiment happen to have beyond C is taken out by regression.
    """

    title = "Secure coding with Gaussian random fields"
    paper = "Bereyhi, Loureiro, Krzakala, Müller, Schulz-Baldes, Secure coding via Gaussian random fields"
    statement = (
        "Bits sent as a strictly nonlinear Gaussian random field are all decoded up to a load and lost beyond, which "
        "for steep fields is the channel's capacity; with random bits that use up an eavesdropper's capacity, the "
        "others are secret."
    )
    seeds = tuple(range(6))

    def sweep(self, size: Size) -> list[Point]:
        small = size == "small"
        sizes, codes = ((6, 9, 12), 40) if small else ((8, 12, 16, 20), 60)
        loads = (0.5, 1.0, 1.4, 2.0, 2.8) if small else (0.5, 0.7, 0.9, 1.0, 1.1, 1.2, 1.4, 1.7, 2.0, 2.8)
        return [
            *(Point(power, load, n=n, codes=codes) for power in (1.0, 3.0, math.inf) for n in sizes for load in loads),
            *(
                Point(power, _WIRETAP, noise, 0.4, sizes[-1], codes)
                for power in (3.0, math.inf)
                for noise in (0.02, 2.0)
            ),
        ]

    def theory(self, point: Point) -> Values:
        field = Field(point.power)
        found = decoding(field, point.actual, point.noise)
        hidden = secret(field, point.actual, point.noise, point.secret / point.n)
        return {"overlap": found.overlap, "information": found.information, "secret": hidden}

    def experiment(self, point: Point, seed: int = 0) -> Values:
        seeds = np.random.SeedSequence(seed).generate_state(point.codes)
        found = [
            enumerated(Field(point.power), point.n, point.observations, point.noise, int(each), point.secret)
            for each in seeds
        ]
        beyond = np.array([each.density for each in found]) - capacity(point.noise)

        def mean(values: list[float]) -> float:
            return float(np.polyfit(beyond, values, 1)[1])

        return {
            "overlap": mean([each.overlap for each in found]),
            "information": mean([each.information for each in found]),
            "secret": mean([each.secret for each in found]),
        }

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        largest = max(r.point.n for r in results)
        codes = [r for r in results if r.point.share == 0]
        last = [r for r in codes if r.point.n == largest]
        met = agreement(
            [r for r in last if r.point.far or r.point.power == 1], "information", absolute=_SHORT / largest
        )
        smooth = agreement([r for r in last if r.point.power == 1], "overlap", absolute=_SHORT / largest)
        missing = {n: _missing([r for r in codes if r.point.n == n]) for n in sorted({r.point.n for r in codes})}
        steep = {p: _drop([r for r in last if r.point.power == p]) for p in (1.0, 3.0, math.inf)}
        small = _drop([r for r in codes if r.point.power == 3 and r.point.n == min(missing)])
        limits = [threshold(Field(p), 0.25) * math.log(2) / capacity(0.25) for p in (3.0, 4.0, 8.0)]
        tapped = [r for r in results if r.point.share > 0]
        secrets = agreement(tapped, "secret", absolute=_SHORT / largest)
        leaks, heard = (
            [float(r.measured("secret")[0]) for r in tapped if (r.point.noise > 1) is noisy] for noisy in (True, False)
        )
        holds = (
            met.holds
            and smooth.holds
            and secrets.holds
            and missing[largest] < 0.7 * missing[min(missing)]
            and steep[3.0] > max(steep[1.0] + 0.1, small + 0.05)
            and limits == sorted(limits, reverse=True)
            and limits[-1] < 1.0001
            and max(leaks) < 0.2 * min(heard)
        )
        shortfalls = ", ".join(f"{value:.3f} at n = {n}" for n, value in missing.items())
        detail = (
            f"thresholds of q³, q⁴, q⁸ are {', '.join(f'{x:.4f}' for x in limits)} of C / ln 2; from load 1 to 2 "
            f"the overlap of q, q³, independent words falls by "
            f"{', '.join(f'{x:.2f}' for x in steep.values())} "
            f"(q³ at n = {min(missing)}: {small:.2f}); nats short of theory: {shortfalls}; {met}; secret bits: "
            f"{min(heard):.2f} nats received, {max(leaks):.3f} leaked; {secrets}"
        )
        return Claim(bool(holds), detail)

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((11, 4), layout="constrained")
        codes = [r for r in results if r.point.share == 0]
        largest, noise = max(r.point.n for r in results), codes[0].point.noise
        last, cubic = ([r for r in codes if r.point.n == largest], [r for r in codes if r.point.power == 3])
        fine = np.linspace(0.4, max(r.point.actual for r in codes), 200)
        for axis, shown, key, name in zip(
            figure.subplots(1, 3),
            (last, cubic, last),
            ("overlap", "overlap", "information"),
            (lambda p: f"power {p.power:g}", lambda p: f"n {p.n}", lambda p: f"power {p.power:g}"),
            strict=True,
        ):
            for i, label in enumerate(dict.fromkeys(name(r.point) for r in shown)):
                group = [r for r in shown if name(r.point) == label]
                mean, error = np.array([r.measured(key) for r in group]).T
                at = [r.point.actual for r in group]
                axis.errorbar(at, mean, error, fmt="o", markersize=4, capsize=3, color=f"C{i}", label=label)
                if shown is last or i == 0:
                    field = Field(group[0].point.power)
                    theory = [getattr(decoding(field, float(load), noise), key) for load in fine]
                    axis.plot(fine, theory, color=f"C{i}" if shown is last else "black")
            axis.axvline(capacity(noise) / math.log(2), color="grey", linewidth=0.8, linestyle=":")
            axis.set(xlabel="load N / M", ylabel=key, title=f"n = {largest}" if shown is last else "power 3")
            axis.legend(fontsize="small")
        figure.axes[2].set_ylabel("nats an observation")
        return figure


def _missing(results: Sequence[Result[Point]]) -> float:
    """Mean information by which codes away from the threshold fall short of theory."""
    far = [r.theory["information"] - r.measured("information")[0] for r in results if r.point.far]
    return float(np.mean(far))


def _drop(results: Sequence[Result[Point]]) -> float:
    """By how much the measured overlap falls from load 1 to 2."""
    by_load = {r.point.load: float(r.measured("overlap")[0]) for r in results}
    if not {1.0, 2.0} <= by_load.keys():
        raise ConfigError("the claim compares powers, sizes and loads: leave power, load, noise and n as the sweep's")
    return by_load[1.0] - by_load[2.0]


STUDY = SecureCoding()
