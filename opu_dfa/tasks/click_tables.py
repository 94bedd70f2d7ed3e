"""Reading tables of categorical fields with a yes-or-no label: the Adult census, and Criteo's advertisements."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from opu_dfa.errors import DataError
from opu_dfa.tasks.data import DataSettings

_MISSING = -(2**40)  # of a Criteo field; no count or category has this number
_ADULT_FIELDS = (
    *("age", "employer", "weight", "education", "education_years", "marital", "occupation"),
    *("relationship", "race", "sex", "capital_gain", "capital_loss", "hours", "country"),
)
_ADULT_NUMERIC = frozenset({"age", "weight", "education_years", "capital_gain", "capital_loss", "hours"})
_CRITEO_COUNTS, _CRITEO_CATEGORIES = 13, 26

Row = TypeVar("Row")


@dataclass(frozen=True)
class Table:
    """values: int64 `(rows, fields)`, an amount or a category's number each; labels: bool `(rows,)`; fields: their
    names; numeric: those of them that are amounts, still to be binned."""

    values: np.ndarray
    labels: np.ndarray
    fields: tuple[str, ...]
    numeric: frozenset[str]


def read_table(name: str, data: DataSettings, at_most: int | None = None) -> Table:
    """The rows of a data set, or its first `at_most`.

    Args:
        name: "adult", the census of 1994 (Kohavi 1996; label: an income above 50,000 dollars; with or without a line
            of names), or "criteo", the Display Advertising Challenge of 2014 (label: clicked).

    Raises:
        DataError: the file is missing, empty, or a line of it is not a row of that set.
    """
    if name == "adult":
        path = data.find(
            "adult/adult.data",
            "Get adult.data from https://archive.ics.uci.edu/dataset/2/adult, and put it into a folder adult there.",
        )
        with path.open(newline="") as lines:
            rows = (row for row in csv.reader(lines, skipinitialspace=True) if row and row[0] != "age")
            return _adult(list(_parsed(islice(rows, at_most), path, _adult_row)))
    path = data.find(
        "criteo/train.txt",
        "Get train.txt of Criteo's Display Advertising Challenge (Kaggle), and put it into a folder criteo there.",
    )
    with path.open() as lines:
        rows = (line.rstrip("\n").split("\t") for line in lines)
        return _criteo(_parsed(islice(rows, at_most), path, _criteo_row))


def _parsed(rows: Iterator[list[str]], path: Path, parse: Callable[[list[str]], Row]) -> Iterator[Row]:
    """Each row parsed; at least one."""
    number = 0
    for number, row in enumerate(rows, start=1):
        try:
            yield parse(row)
        except (ValueError, IndexError) as error:
            raise DataError(
                f"row {number} of {path} is not of this data set: {error}; it is {str(row)[:200]}. Get the file again."
            ) from error
    if not number:
        raise DataError(f"{path} has no rows. Get the file again.")


def _adult_row(row: list[str]) -> list[str]:
    if len(row) != len(_ADULT_FIELDS) + 1:
        raise ValueError(f"it has {len(row)} columns, and a row has {len(_ADULT_FIELDS) + 1}")
    for name, cell in zip(_ADULT_FIELDS, row, strict=False):
        if name in _ADULT_NUMERIC:
            int(cell)
    return row


def _adult(rows: list[list[str]]) -> Table:
    *columns, income = zip(*rows, strict=True)
    values = [
        np.array(column, dtype=np.int64) if name in _ADULT_NUMERIC else np.unique(column, return_inverse=True)[1]
        for name, column in zip(_ADULT_FIELDS, columns, strict=True)
    ]
    labels = np.array([cell.startswith(">50K") for cell in income])
    return Table(np.stack(values, axis=1), labels, _ADULT_FIELDS, _ADULT_NUMERIC)


def _criteo_row(row: list[str]) -> list[int]:
    if len(row) != 1 + _CRITEO_COUNTS + _CRITEO_CATEGORIES:
        raise ValueError(f"it has {len(row)} columns, and a row has {1 + _CRITEO_COUNTS + _CRITEO_CATEGORIES}")
    label, counts, categories = row[0], row[1 : 1 + _CRITEO_COUNTS], row[1 + _CRITEO_COUNTS :]
    if label not in ("0", "1"):
        raise ValueError(f"its label is {label!r}, wanted 0 or 1")
    return [
        int(label),
        *(_log_bin(int(cell)) if cell else _MISSING for cell in counts),
        *(int(cell, 16) if cell else _MISSING for cell in categories),
    ]


def _log_bin(count: int) -> int:
    """⌊log²(count)⌋, and the counts up to 2 by themselves: the bins of the challenge's winners.

    >>> [_log_bin(count) for count in (0, 2, 3, 10, 1000)]
    [-2, 0, 1, 5, 47]
    """
    return math.floor(math.log(count) ** 2) if count > 2 else count - 2


def _criteo(rows: Iterable[list[int]]) -> Table:
    # Straight into one array: as lists of numbers, millions of rows would not fit in memory.
    table = np.fromiter(chain.from_iterable(rows), dtype=np.int64).reshape(-1, 1 + _CRITEO_COUNTS + _CRITEO_CATEGORIES)
    fields = [f"I{i + 1}" for i in range(_CRITEO_COUNTS)] + [f"C{i + 1}" for i in range(_CRITEO_CATEGORIES)]
    return Table(table[:, 1:], table[:, 0] == 1, tuple(fields), frozenset())
