"""The Python examples of the README and the guides run as printed."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def examples(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.mark.parametrize(
    ("page", "printed"),
    [
        (
            "README.md",
            ["Usage(frames=128", "0.0"],
        ),  # 32 errors, two patterns each, two frames a pattern; no error at first
        # 100 rows: one frame each, 2 frames of each of 16 bit planes, and 56 to calibrate.
        ("docs/device.md", ["Usage(frames=3356", ""]),
        ("docs/forecasting.md", ["'ridge': "]),
        # A centred intensity has nothing linear; the closed forms of the last are in tests/theory.
        ("docs/theory.md", ["linear=0.0", "300 2.06", "0.637", "0.61844", "[0.333 0.0", "100.0 0."]),
    ],
)
def test_the_examples_run(page, printed, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = examples(page)
    assert len(found) == len(printed)
    for example, expected in zip(found, printed, strict=True):
        exec(compile(example, page, "exec"), {})
        assert expected in capsys.readouterr().out
