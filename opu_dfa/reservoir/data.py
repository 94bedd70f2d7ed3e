"""Real series to forecast, `(T, D)` float64: some that ship with packages, and anyone's CSV file."""

from __future__ import annotations

import csv
import importlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from opu_dfa.errors import DataError

Array = np.ndarray


def sunspots() -> Array:
    """Yearly sunspot numbers, 1700 to 2008, `(309, 1)`; from statsmodels (National Geophysical Data Center)."""
    return _statsmodels("sunspots", "SUNACTIVITY")


def co2() -> Array:
    """Weekly CO₂ over Mauna Loa in ppm, 1958 to 2001, `(2284, 1)`; from statsmodels (Keeling and Whorf 2004).

    The 59 weeks without a measurement are filled by linear interpolation.
    """
    series = _statsmodels("co2", "co2")
    weeks, known = np.arange(len(series)), ~np.isnan(series[:, 0])
    return np.interp(weeks, weeks[known], series[known, 0])[:, None]


def santa_fe() -> Array:
    """Intensity of a chaotic far-infrared laser, `(10093, 1)`, in counts of 8 bits; from reservoirpy.

    Source: data set A of the Santa Fe competition (Hübner, Weiss, Abraham, Tang 1994).
    """
    return np.asarray(_module("reservoirpy.datasets", "reservoirpy").santafe_laser(), np.float64)


SERIES: dict[str, Callable[[], Array]] = {"sunspots": sunspots, "co2": co2, "santa-fe": santa_fe}


def load_series(name_or_path: str | Path, columns: Sequence[str | int] | None = None) -> Array:
    """One of `SERIES` by its name, or a CSV file by its path.

    Args:
        columns: of a file, as in `load_csv`.

    Raises:
        DataError: as the loaders do; a name that is neither.
    """
    name = str(name_or_path)
    if name in SERIES:
        return SERIES[name]()
    if not Path(name).suffix and not Path(name).exists():
        raise DataError(f"there is no series {name!r}. Name one of {', '.join(SERIES)}, or a CSV file.")
    return load_csv(name, columns)


def load_csv(path: str | Path, columns: Sequence[str | int] | None = None) -> Array:
    """The numbers of a UTF-8 file of comma-separated values, `(T, D)`: a row a step, a column a channel.

    A first line without any number is taken for the columns' names. Empty lines are passed over.

    Args:
        columns: the channels, by their names or their places from 0; None: all.

    Raises:
        DataError: no such file, not UTF-8, empty, no such column, rows of different lengths, or what is not a finite
            number, with its line and column.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "series.csv")
    ...     _ = path.write_text("day,x,y\\nMon,1,2\\nTue,3,4\\n")
    ...     load_csv(path, columns=["x", "y"])
    array([[1., 2.],
           [3., 4.]])
    """
    path = Path(path).expanduser()
    rows = _rows(path)
    names = None if any(_is_number(field) for field in rows[0][1]) else [field.strip() for field in rows[0][1]]
    if names:
        rows = rows[1:]
    if not rows:
        raise DataError(f"{path} holds no numbers, only a line of names. Give a line of numbers for each step.")
    width = len(names or rows[0][1])
    chosen = range(width) if columns is None else [_place(column, names, width, path) for column in columns]
    series = np.empty((len(rows), len(chosen)))
    for t, (line, row) in enumerate(rows):
        if len(row) != width:
            raise DataError(f"line {line} of {path} has {len(row)} columns, those before it {width}. Mend that line.")
        for d, place in enumerate(chosen):
            try:
                series[t, d] = float(row[place])
            except ValueError:
                series[t, d] = math.nan
            if not math.isfinite(series[t, d]):
                called = repr(names[place]) if names else f"{place}, counted from 0,"
                raise DataError(
                    f"line {line} of {path}: column {called} holds {row[place]!r}, which is not a finite number. Fill "
                    "the gap or leave the line out; if the column is no channel, choose others with columns=[...]."
                )
    return series


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The file's lines that are not empty, each with its number from 1; at least one."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, row) for row in reader if any(field.strip() for field in row)]
    except OSError as error:
        folder = path.absolute().parent
        raise DataError(f"{path} cannot be read: {error.strerror}. Name a CSV file; looked in {folder}.") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x}. Convert it first, for example with "
            "`iconv -f latin1 -t utf-8`."
        ) from error
    except csv.Error as error:
        raise DataError(f"{path} is not comma-separated values: {error}.") from error
    if not rows:
        raise DataError(f"{path} is empty. Give a line of numbers for each step.")
    return rows


def _place(column: str | int, names: list[str] | None, width: int, path: Path) -> int:
    if isinstance(column, int) and 0 <= column < width:
        return column
    if names and column in names:
        return names.index(str(column))
    known = f"it has {', '.join(names)}" if names else f"it has {width} without names: choose from 0 to {width - 1}"
    raise DataError(f"{path} has no column {column!r}; {known}.")


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _statsmodels(dataset: str, column: str) -> Array:
    frame = _module(f"statsmodels.datasets.{dataset}", "'opu-dfa[series]'").load_pandas().data
    return frame[[column]].to_numpy(np.float64)


def _module(name: str, requirement: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise DataError(f"this series ships with {package}: pip install {requirement}") from error
