"""What a study is: points, what theory says of each, what an experiment finds there, and a claim about all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np

from opu_dfa.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Values = dict[str, float | np.ndarray]
Size = Literal["small", "paper"]
Point = TypeVar("Point")


@dataclass(frozen=True)
class Claim:
    """Whether a paper's central claim holds of the results, and the numbers that say so."""

    holds: bool
    detail: str


@dataclass(frozen=True)
class Result(Generic[Point]):
    """A point, with theory's values and those of one experiment for each seed."""

    point: Point
    theory: Values
    experiments: tuple[Values, ...]


class Study(ABC, Generic[Point]):
    """A paper's theory next to an experiment.

    Attributes:
        title: what is studied; paper: authors, title and arXiv number; statement: the claim in a sentence; seeds: of
            the experiments at every point.
    """

    title: str
    paper: str
    statement: str
    seeds: tuple[int, ...] = (0, 1, 2)

    @abstractmethod
    def sweep(self, size: Size) -> list[Point]:
        """The points of the figure: "small" takes seconds, "paper" is of the paper's size."""

    @abstractmethod
    def theory(self, point: Point) -> Values:
        """What theory says of a point."""

    @abstractmethod
    def experiment(self, point: Point, seed: int = 0) -> Values:
        """The same quantities, measured at finite size."""

    @abstractmethod
    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        """Check the statement."""

    @abstractmethod
    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        """Theory and experiments in one picture."""

    def run(self, point: Point) -> Result[Point]:
        """Theory and all experiments of a point."""
        return Result(point, self.theory(point), tuple(self.experiment(point, seed) for seed in self.seeds))


_STUDIES = {
    "reservoir-kernel-convergence": "reservoir_kernel_convergence",
    "structured-reservoir": "structured_reservoir",
}


def names() -> list[str]:
    """The studies there are."""
    return list(_STUDIES)


def load(name: str) -> Study[Any]:
    """A study by its name.

    Raises:
        ConfigError: there is none of that name.

    >>> load("reservoir-kernel-convergence").title
    'Reservoirs converge to recurrent kernels'
    """
    if name not in _STUDIES:
        raise ConfigError(f"there is no study {name!r}; choose one of {', '.join(_STUDIES)}")
    found: Study[Any] = import_module(f"opu_dfa.studies.{_STUDIES[name]}").STUDY
    return found
