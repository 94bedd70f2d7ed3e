"""An SIR epidemic on a graph of contacts, day by day, and the tests that are taken of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opu_dfa.errors import ConfigError

Array = np.ndarray
_NEVER = 1 << 20  # a day that does not come


@dataclass(frozen=True)
class Epidemic:
    """Probabilities: infection λ a contact, recovery μ a day, seed, and of a case to be reported `delay` days later."""

    infection: float = 0.045
    recovery: float = 0.05
    seed: float = 0.004
    reported: float = 0.5
    delay: int = 4

    def __post_init__(self) -> None:
        probabilities = (self.infection, self.recovery, self.seed, self.reported)
        if not all(0 <= p < 1 for p in probabilities) or self.seed == 0 or self.delay < 1:
            raise ConfigError(f"probabilities are in [0, 1), seeds' above 0, and a delay a day or more; got {self}")


@dataclass(frozen=True)
class Contacts:
    """Pairs of nodes `(edges, 2)` that may meet, and whether they do: active `(days, edges)`."""

    nodes: int
    pairs: Array
    active: Array

    @property
    def days(self) -> int:
        return len(self.active)


@dataclass(frozen=True)
class Observations:
    """Tests of nodes `(tests,)` on days, positive where infectious; reports: the day of each node's report, or -1."""

    nodes: Array
    days: Array
    positive: Array
    reports: Array

    @property
    def known(self) -> Array:
        """Reported, or tested positive once `(nodes,)`."""
        found = np.asarray(self.reports >= 0)
        found[self.nodes[self.positive]] = True
        return found


def ring_contacts(nodes: int, partners: int, reach: int, meet: float, days: int, rng: np.random.Generator) -> Contacts:
    """A ring of nodes with `partners` each, on average, within `reach` sites; a pair meets on a day with that chance.

    >>> contacts = ring_contacts(100, partners=4, reach=10, meet=0.5, days=7, rng=np.random.default_rng(0))
    >>> contacts.pairs.shape, contacts.active.shape
    ((200, 2), (7, 200))
    """
    if not (2 <= partners <= 2 * reach < nodes and partners % 2 == 0 and 0 < meet <= 1 and days >= 1):
        raise ConfigError(
            "an even number of partners up to 2 reach < nodes, a chance to meet and a day are wanted, "
            f"got {partners=}, {reach=}, {nodes=}, {meet=}, {days=}"
        )
    steps = np.argsort(rng.random((nodes, reach)), axis=1)[:, : partners // 2] + 1
    first = np.repeat(np.arange(nodes), partners // 2)
    pairs = np.stack([first, (first + steps.ravel()) % nodes], axis=1)
    return Contacts(nodes, pairs, rng.random((days, len(pairs))) < meet)


class Outbreak:
    """An epidemic day by day, so that tests may change contacts: `advance` makes one day of it.

    Attributes:
        day: that has been reached; infected, recovered, will_report: days `(nodes,)`, or a number larger than any.
    """

    def __init__(self, model: Epidemic, nodes: int, rng: np.random.Generator) -> None:
        self.model, self.rng, self.day = model, rng, 0
        self.infected = np.where(rng.random(nodes) < model.seed, 0, _NEVER)
        self.recovered = np.full(nodes, _NEVER)
        self.will_report = rng.random(nodes) < model.reported

    def infectious(self) -> Array:
        return (self.infected <= self.day) & (self.recovered > self.day)

    def advance(self, meeting: Array) -> None:
        """Contacts `(meetings, 2)` of the day, then the day's recoveries."""
        ill = self.infectious()
        both = np.concatenate([meeting, meeting[:, ::-1]])
        risky = both[ill[both[:, 0]] & (self.infected[both[:, 1]] == _NEVER)]
        caught = risky[self.rng.random(len(risky)) < self.model.infection, 1]
        self.infected[caught] = self.day + 1
        self.recovered[ill & (self.rng.random(len(ill)) < self.model.recovery)] = self.day + 1
        self.day += 1

    def reports(self) -> Array:
        """Days of reports up to today."""
        when = self.infected + self.model.delay
        return np.where(self.will_report & (when <= self.day), when, -1)
