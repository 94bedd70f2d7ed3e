"""An epidemic held back by tests of those whom inference from contacts finds most at risk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.inference.epidemics import belief_propagation, expected_auc, mean_field, tracing
from opu_dfa.theory.inference.outbreaks import Contacts, Epidemic, Observations, Outbreak, ring_contacts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray
Policy = Literal["random", "tracing", "mean-field", "beliefs"]
_RANKED = ("beliefs", "mean_field", "tracing")


@dataclass(frozen=True)
class Point:
    """An epidemic on a ring of nodes that meet; each day `tests` of nodes not known as cases, chosen by a policy.

    Cases that are known are isolated. infection: probability a contact; sources: cases at the start, on average;
    instances: that theory averages over.
    """

    policy: Policy = "random"
    infection: float = 0.1
    tests: int = 10
    nodes: int = 320
    days: int = 10
    partners: int = 12
    reach: int = 30
    sources: float = 6.0
    instances: int = 6

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise ConfigError(f"there is no policy {self.policy!r}; choose one of {', '.join(get_args(Policy))}")
        if not (1 <= self.tests <= self.nodes // 10 and 0 < self.sources < self.nodes / 4 and self.instances >= 1):
            raise ConfigError(
                f"a test a day to one for each ten nodes, and fewer sources than n/4 are wanted, got {self}"
            )
        if not (0 < self.infection < 1 and self.days >= 2):
            raise ConfigError(f"an infection probability in (0, 1) and two days or more are wanted, got {self}")

    @property
    def model(self) -> Epidemic:
        return Epidemic(self.infection, seed=self.sources / self.nodes)


@dataclass(frozen=True)
class Season:
    """What was true of an epidemic, what beliefs from tests and contacts expect of the same, and cases day by day."""

    true: Values
    expected: Values
    daily: Array


class EpidemicMitigation(Study[Point]):
    """Theory is what Bayes's posterior, by belief propagation, expects: of how many are infected, and of how well each
    ranking tells the infectious from others. If beliefs are right that is true on average, whatever tests were chosen.
    It is taken of epidemics of theory's own, whose scatter is as large as that of the experiments; surplus and
    auc_surplus are of the same ones, cases and beliefs' area beyond what is expected of them.

    auc_*: of nodes not known as cases, on the last day; cases: infected at any time, of all nodes; overcount: the
    number of infectious nodes not known that mean field expects, over that there is.
    """

    title = "Epidemic mitigation by inference from contacts"
    paper = (
        "Baker, Biazzo, Braunstein, Catania, Dall'Asta, Ingrosso, Krzakala, Mazza, Mézard, Muntoni, Refinetti, Sarao "
        "Mannelli, Zdeborová, Epidemic mitigation by statistical inference from contact tracing data, PNAS 2021 "
        "(arXiv 2009.09422)"
    )
    statement = (
        "Belief propagation, and mean field while cases are few, tell from contacts and tests who is infectious better "
        "than counting contacts with known cases, and testing those holds the epidemic back."
    )
    seeds = tuple(range(10))

    def sweep(self, size: Size) -> list[Point]:
        policies = get_args(Policy)
        if size == "small":
            watched = [Point("random", infection) for infection in (0.08, 0.12, 0.2)]
            return watched + [Point(policy, 0.1, 20, days=12, sources=14.0, instances=4) for policy in policies]
        watched = [Point("random", infection, 20, 2000, 14, 24, 60) for infection in (0.03, 0.045, 0.06, 0.09)]
        return watched + [Point(policy, 0.045, 100, 2000, 18, 24, 60, 40.0, 4) for policy in policies]

    def theory(self, point: Point) -> Values:
        seeds = np.random.SeedSequence(20_090).generate_state(point.instances)
        values = [season(point, int(seed)).expected for seed in seeds]
        means: Values = {key: float(np.mean([v[key] for v in values])) for key in values[0]}
        return means | {"surplus": 0.0, "auc_surplus": 0.0}

    def experiment(self, point: Point, seed: int = 0) -> Values:
        found = season(point, seed)
        beyond = {key: float(found.true[key] - found.expected[key]) for key in ("cases", "auc_beliefs")}
        return found.true | {"surplus": beyond["cases"], "auc_surplus": beyond["auc_beliefs"]}

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        watched = [r for r in results if r.point.sources == results[0].point.sources]
        tested = {r.point.policy: r for r in results if r not in watched}
        if tested.keys() != set(get_args(Policy)) or len(watched) < 2:
            raise ConfigError(
                "the claim compares policies and infections: leave policy, infection and sources as the sweep's"
            )
        # The standard error of theory's own six epidemics beside that of the experiments' ten: 3 √(1 + 10/6).
        met = agreement(watched, *(f"auc_{name}" for name in _RANKED), "cases", errors=4.9, relative=0.05)
        paired = agreement(results, "surplus", "auc_surplus", errors=4)
        held = {policy: r.measured("cases") for policy, r in tested.items()}
        gains = {r.point.infection: [_gain(r, "beliefs"), _gain(r, "mean_field")] for r in watched}
        few, many = gains[min(gains)], gains[max(gains)]
        (free, spread), *inferred = (held[policy] for policy in ("random", "mean-field", "beliefs"))
        best, error = np.mean(inferred, axis=0) / np.array([1, np.sqrt(2)])
        counted = [float(r.measured("overcount")[0]) for r in watched]
        holds = (
            met.holds
            and paired.holds
            and min(each[0] for each in gains.values()) > 0
            and few[1] > max(many[1], 0)
            and free - best > 3 * float(np.hypot(spread, error))
            and min(counted) > 1.3
        )
        policies = ", ".join(f"{float(value[0]):.2f} ({name})" for name, value in held.items())
        detail = (
            f"AUC beyond tracing's, by infection: belief propagation {_listed(gains, 0)}, mean field "
            f"{_listed(gains, 1)}; infected of all: {policies}; mean field counts "
            f"{min(counted):.1f} times the hidden cases or more; {met}; {paired}"
        )
        return Claim(bool(holds), detail)

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((11, 4), layout="constrained")
        ranking, cases, days = figure.subplots(1, 3)
        watched = [r for r in results if r.point.sources == results[0].point.sources]
        for i, name in enumerate(_RANKED):
            mean, error = np.array([r.measured(f"auc_{name}") for r in watched]).T
            at = [r.point.infection for r in watched]
            ranking.plot(at, [r.theory[f"auc_{name}"] for r in watched], color=f"C{i}")
            ranking.errorbar(at, mean, error, fmt="o", capsize=3, color=f"C{i}", label=name.replace("_", " "))
        ranking.set(xlabel="infection probability a contact", ylabel="AUC", title="random tests (lines: posterior)")
        ranking.legend(fontsize="small")
        same = [r for r in results if r not in watched]
        for i, result in enumerate(same):
            mean, error = result.measured("cases")
            cases.bar(i, result.theory["cases"], color=f"C{i}", alpha=0.4)
            cases.errorbar(i, mean, error, fmt="o", capsize=3, color=f"C{i}")
            curve = np.mean([season(result.point, s).daily for s in self.seeds_at(result.point)], axis=0)
            days.plot(curve, color=f"C{i}", label=result.point.policy)
        cases.set_xticks(range(len(same)), [r.point.policy for r in same])
        cases.set(ylabel="infected, of all", title="bars: posterior")
        days.set(xlabel="day", ylabel="infected, of all", title="mean of the epidemics")
        days.legend(fontsize="small")
        return figure


@lru_cache(maxsize=256)
def season(point: Point, seed: int) -> Season:
    """An epidemic with daily tests."""
    rng, model = np.random.default_rng(seed), point.model
    plan = ring_contacts(point.nodes, point.partners, point.reach, 1 / 3, point.days, rng)
    outbreak, nothing = Outbreak(model, point.nodes, rng), np.zeros(0, np.int64)
    active = np.zeros_like(plan.active)
    seen = Observations(nothing, nothing, nothing.astype(bool), np.full(point.nodes, -1))
    daily = [float(np.mean(outbreak.infected <= 0))]
    for day in range(point.days):
        known = seen.known
        active[day] = plan.active[day] & ~known[plan.pairs].any(axis=1)
        outbreak.advance(plan.pairs[active[day]])
        daily.append(float(np.mean(outbreak.infected <= outbreak.day)))
        seen = Observations(seen.nodes, seen.days, seen.positive, outbreak.reports())
        so_far = Contacts(point.nodes, plan.pairs, active[: day + 1])
        risk = _risk(point, so_far, seen) + 1e-9 * rng.random(point.nodes)
        chosen = np.argsort(np.where(seen.known, -np.inf, risk))[-point.tests :]
        seen = Observations(
            np.append(seen.nodes, chosen),
            np.append(seen.days, np.full(point.tests, outbreak.day)),
            np.append(seen.positive, outbreak.infectious()[chosen]),
            seen.reports,
        )
    return _compared(point, Contacts(point.nodes, plan.pairs, active), seen, outbreak, np.array(daily))


def _risk(point: Point, contacts: Contacts, seen: Observations) -> Array:
    if point.policy == "tracing":
        return tracing(contacts, seen)
    if point.policy == "mean-field":
        return mean_field(point.model, contacts, seen)
    if point.policy == "beliefs":
        return np.asarray(belief_propagation(point.model, contacts, seen, most=4, tolerance=1e-5).state[0])
    return np.zeros(contacts.nodes)


def _compared(point: Point, contacts: Contacts, seen: Observations, outbreak: Outbreak, daily: Array) -> Season:
    risk, beliefs = belief_propagation(point.model, contacts, seen, tolerance=1e-6).state
    field, count = mean_field(point.model, contacts, seen), tracing(contacts, seen)
    hidden, ill = ~seen.known, outbreak.infectious().astype(np.float64)
    scores = dict(zip(_RANKED, (risk, field, count), strict=True))

    def values(chance: Array, cases: float) -> Values:
        found: Values = {f"auc_{name}": expected_auc(s[hidden], chance[hidden]) for name, s in scores.items()}
        total = max(float(chance[hidden].sum()), 1.0)
        return found | {"cases": cases, "overcount": float(field[hidden].sum()) / total}

    true = values(ill, float(daily[-1]))
    return Season(true, values(risk, 1 - float(beliefs[:, -1].sum(axis=1).mean())), daily)


def _gain(result: Result[Point], name: str) -> float:
    return float(result.measured(f"auc_{name}")[0] - result.measured("auc_tracing")[0])


def _listed(gains: dict[float, list[float]], which: int) -> str:
    return ", ".join(f"{each[which]:+.3f} ({infection:g})" for infection, each in gains.items())


STUDY = EpidemicMitigation()
