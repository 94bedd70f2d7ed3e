"""The click task: what it reads, how it numbers and splits, what it scores, what it refuses."""

import os
from pathlib import Path

import pytest
import torch

from opu_dfa.errors import DataError
from opu_dfa.tasks import build_task
from opu_dfa.tasks.clicks import ClickTask
from opu_dfa.tasks.data import DataSettings

SECTION = {
    "name": "clicks",
    "data": "adult",
    "rows": None,
    "n_bins": 4,
    "min_count": 1,
    "validation_fraction": 0.1,
    "test_fraction": 0.1,
}
NAMES = (
    "age,type_employer,fnlwgt,education,education_num,marital,occupation,relationship,race,sex,gain,loss,hours,country"
)


def adult_row(i: int) -> str:
    """A census row in which everything but the age is the same, and every third earns more."""
    rest = "Private, 77516, HS-grad, 9, Divorced, ?, Unmarried, White, Female, 0, 0, 40, Cuba"
    return f"{20 + i % 50}, {rest}, {'>50K' if i % 3 == 0 else '<=50K'}"


def criteo_row(i: int, category: str = "68fd1e64") -> str:
    counts = [str(i % 5), "", "-1", "1000", *[""] * 9]
    return "\t".join([str(int(i % 3 == 0)), *counts, category, *[""] * 25])


@pytest.fixture
def write(tmp_path: Path):
    """Write a data set's file into a data folder of its own, and give the task of it."""

    def task(lines: list[str], **changes) -> ClickTask:
        section = SECTION | changes
        name = {"adult": "adult/adult.data", "criteo": "criteo/train.txt"}[section["data"]]
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
        return build_task(section, DataSettings(root=str(tmp_path), download=False))

    return task


def part(task: ClickTask, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    return next(task.examples(split, 10**6))


def test_a_tenth_of_the_rows_validates_and_another_tests(write):
    task = write([adult_row(i) for i in range(200)])
    assert len(part(task, "validation")[1]) == len(part(task, "test")[1]) == 20
    assert "160 training, 20 validation, 20 test, 14 fields" in task.description


def test_a_line_of_names_and_blank_lines_are_no_rows(write):
    rows = [adult_row(i) for i in range(200)]
    plain, named = write(rows), write([NAMES + ",income", *rows, ""])
    assert plain.fingerprint == named.fingerprint


def test_labels_are_the_income(write):
    task = write([adult_row(i) for i in range(300)])
    labels = torch.cat([task._parts[name][1] for name in ("training", "validation", "test")])
    assert labels.sum() == 100
    assert labels.dtype == torch.float32


def test_an_amount_is_cut_at_the_quantiles_of_its_distinct_values(write):
    task = write([adult_row(i) for i in range(500)])  # ages 20..69, so four bins of about 12 years
    x, _ = task.batch(2000, torch.Generator().manual_seed(0))
    assert x[:, 0].unique().tolist() == [1, 2, 3, 4]
    assert torch.bincount(x[:, 0])[1:].min() > 400  # of 500 expected


def test_a_category_not_seen_often_enough_in_training_is_rare(write):
    rows = [criteo_row(i, f"{i:08x}" if i % 10 == 5 else "0000beef") for i in range(300)]
    task = write(rows, data="criteo", min_count=2)
    column = torch.cat([x[:, 13] for x, _ in task._parts.values()])
    assert (column == 0).sum() == 30  # each of these categories occurs once, in training or not
    assert task.n_categories[13] == 2


def test_missing_criteo_cells_are_a_category_of_their_own(write):
    task = write([criteo_row(i) for i in range(300)], data="criteo")
    assert len(task.n_categories) == 39
    # The counts 0, 1, 2, and 3 with 4 in one bin; then constants; 0 is kept for the rare.
    assert task.n_categories[:5] == (5, 2, 2, 2, 2)


def test_no_more_rows_are_read_than_asked(write):
    rows = [criteo_row(i) for i in range(300)]
    task = write([*rows, "not a row"], data="criteo", rows=300)
    assert sum(len(y) for _, y in task._parts.values()) == 300


def test_the_area_under_the_curve_is_the_chance_to_rank_a_yes_above_a_no(write):
    task = write([adult_row(i) for i in range(300)], n_bins=40)
    weights = torch.randn(100, generator=torch.Generator().manual_seed(0))
    x, y = part(task, "test")
    out = weights[x[:, 0]]
    yes, no = out[y == 1], out[y == 0]
    wins = (yes[:, None] > no).double() + 0.5 * (yes[:, None] == no).double()
    scores = task.evaluate(lambda x: weights[x[:, :1]], "test")
    assert scores["auc"] == pytest.approx(wins.mean().item())
    assert scores["loss"] == pytest.approx(task.loss(out[:, None], y).item())


def test_the_known_part_of_the_error_is_what_the_label_adds_to_it(write):
    task = write([adult_row(i) for i in range(100)])
    _, y = task.batch(8, torch.Generator().manual_seed(0))
    out = torch.randn(8, 1, generator=torch.Generator().manual_seed(1)).requires_grad_()
    task.loss(out, y).backward()
    assert torch.allclose(out.grad, out.detach().sigmoid() / 8 + task.error_of_target(y))


def test_a_missing_file_is_named_with_its_source(tmp_path):
    with pytest.raises(DataError, match=r"adult/adult\.data.*https://archive\.ics\.uci\.edu"):
        build_task(SECTION, DataSettings(root=str(tmp_path), download=False))


@pytest.mark.parametrize("bad", ["1, 2, 3", adult_row(0).replace("40", "many")])
def test_a_row_of_something_else_is_named(write, bad):
    with pytest.raises(DataError, match="row 3 of"):
        write([adult_row(0), adult_row(1), bad])


def test_an_empty_file_is_refused(write):
    with pytest.raises(DataError, match="no rows"):
        write([""])


def test_a_part_with_one_label_is_refused(write):
    with pytest.raises(DataError, match="both labels"):
        write([adult_row(1)] * 50)


@pytest.mark.skipif("OPU_DFA_DATA" not in os.environ, reason="OPU_DFA_DATA names no data folder")
def test_every_high_income_of_the_census_is_found():
    data = DataSettings(root=None, download=False)
    path = data.folder / "adult/adult.data"
    if not path.exists():
        pytest.skip("the data folder has no adult/adult.data")
    task = build_task(SECTION | {"n_bins": 24, "min_count": 5}, data)
    labels = torch.cat([y for _, y in task._parts.values()])
    assert labels.sum() == path.read_text().count(">50K")
