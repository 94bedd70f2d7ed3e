"""Real series against what is known of them, and CSV files good and bad."""

import sys

import numpy as np
import pytest

from opu_dfa.errors import DataError
from opu_dfa.reservoir.data import SERIES, load_csv, load_series
from opu_dfa.reservoir.metrics import power_spectrum

PACKAGE = {"sunspots": "statsmodels", "co2": "statsmodels", "santa-fe": "reservoirpy"}


@pytest.fixture
def series(request):
    pytest.importorskip(PACKAGE[request.param])
    return load_series(request.param)


@pytest.mark.parametrize("series", ["sunspots"], indirect=True)
def test_sunspots_come_every_eleven_years(series):
    assert series.shape == (309, 1)
    frequencies, power = power_spectrum(series, dt=1.0, segment=309)
    assert 1 / frequencies[power[:, 0].argmax()] == pytest.approx(11, abs=0.5)


@pytest.mark.parametrize("series", ["co2"], indirect=True)
def test_co2_rises_with_the_seasons_and_has_no_gaps(series):
    assert series.shape == (2284, 1)
    assert np.isfinite(series).all()
    assert np.abs(np.diff(series[:, 0])).max() < 4  # ppm in a week
    years = series[: 43 * 52, 0].reshape(43, 52).mean(1)
    assert (np.diff(years) > 0).all()


@pytest.mark.parametrize("series", ["santa-fe"], indirect=True)
def test_the_laser_is_the_competitions_eight_bit_series(series):
    assert series.shape == (10_093, 1)
    assert series[:5, 0].tolist() == [86, 141, 95, 41, 22]
    assert np.array_equal(series, series.round())
    assert (series.min(), series.max()) == (0, 255)


@pytest.mark.parametrize("name", SERIES)
def test_a_missing_package_is_told_with_the_command_that_gets_it(name, monkeypatch):
    for module in [m for m in sys.modules if m.partition(".")[0] == PACKAGE[name]]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, PACKAGE[name], None)
    with pytest.raises(DataError, match=f"ships with {PACKAGE[name]}: pip install "):
        load_series(name)


def file_of(folder, text):
    path = folder / "series.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_what_numpy_writes_is_read_again_exactly(tmp_path):
    values = np.random.default_rng(0).standard_normal((50, 3)) * [1, 1e-300, 1e300]
    path = tmp_path / "series.csv"
    np.savetxt(path, values, delimiter=",")
    assert np.array_equal(load_csv(path), values)
    np.savetxt(path, values, delimiter=",", header="x,y,z", comments="")
    assert np.array_equal(load_series(path), values)
    assert load_csv(path).dtype == np.float64


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [
        ("1,2\n3,4\n", None, [[1, 2], [3, 4]]),
        ("1\n\n2\n\n", None, [[1], [2]]),  # empty lines
        ("\ufeffx, y\r\n1, 2\r\n", None, [[1, 2]]),  # a spreadsheet's byte order mark and line ends
        ("day,x,y\nMon,1,2\nTue,3,4\n", ["y", "x"], [[2, 1], [4, 3]]),
        ("day,x,y\nMon,1,2\nTue,,4\n", [2], [[2], [4]]),  # what is not asked for may be missing
        ("2001-01-01,1\n2001-01-02,2\n", [1], [[1], [2]]),
        ('"x","of, two"\n"1","2"\n', ["of, two"], [[2]]),
    ],
)
def test_files_as_people_have_them_are_read(tmp_path, text, columns, expected):
    assert load_csv(file_of(tmp_path, text), columns).tolist() == expected


@pytest.mark.parametrize(
    ("text", "columns", "match"),
    [
        ("x,y\n1,2\n3,oops\n", None, "line 3 of .*column 'y' holds 'oops'"),
        ("1,2\n\n3,nan\n", None, "line 3 of .*column 1, counted from 0, holds 'nan'"),
        ("1,2\n3,\n", None, "line 2 of .*column 1, counted from 0, holds ''"),
        ("1\ninf\n", None, "line 2 .*'inf'"),
        ("2001-01-01,1\n", None, r"'2001-01-01'.*choose others with columns=\[...\]"),
        ("1,2\n3,4\n5\n", None, "line 3 of .* has 1 columns, those before it 2"),
        ("", None, "is empty"),
        ("\n\n", None, "is empty"),
        ("x,y\n", None, "only a line of names"),
        ("x,y\n1,2\n", ["z"], "no column 'z'; it has x, y"),
        ("1,2\n", ["x"], "no column 'x'; it has 2 without names: choose from 0 to 1"),
        ("1,2\n", [2], "no column 2; "),
        (b"1\n\xe9\n", None, "not UTF-8: byte 0xe9"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_place(tmp_path, text, columns, match):
    with pytest.raises(DataError, match=match):
        load_csv(file_of(tmp_path, text), columns)


def test_missing_files_and_unknown_names_are_told(tmp_path):
    with pytest.raises(DataError, match=f"No such file.*looked in {tmp_path}"):
        load_series(tmp_path / "none.csv")
    with pytest.raises(DataError, match="Is a directory"):
        load_csv(tmp_path)
    with pytest.raises(DataError, match=r"no series 'sunspot'.*sunspots, co2, santa-fe, or a CSV file"):
        load_series("sunspot")
