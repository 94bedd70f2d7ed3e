"""The text task: what it reads, how it splits, what it refuses."""

import math

import pytest
import torch

from opu_dfa.errors import ConfigError, DataError
from opu_dfa.tasks import build_task
from opu_dfa.tasks.data import DataSettings
from opu_dfa.tasks.text import TextTask

SECTION = {
    "name": "text",
    "text": None,
    "test": None,
    "level": "char",
    "vocabulary": 300,
    "context": 16,
    "validation_fraction": 0.1,
    "test_fraction": 0.0,
}


def task(**changes) -> TextTask:
    return build_task(SECTION | changes)


@pytest.fixture
def write(tmp_path):
    def file(content: bytes) -> str:
        path = tmp_path / "some.txt"
        path.write_bytes(content)
        return str(path)

    return file


def test_the_default_corpus_is_on_every_machine():
    default = task()
    assert default.n_symbols_text > 300_000
    assert 80 < default.n_outputs < 200


@pytest.mark.parametrize("level", ["char", "byte"])
def test_encoding_and_back(write, level):
    text = "Grüße, λόγος — " * 40
    mine = task(text=write(text.encode()), level=level)
    assert mine.alphabet.decode(mine.alphabet.encode(text)) == text
    assert mine.n_outputs == (256 if level == "byte" else len(set(text)))


def test_targets_are_the_inputs_one_symbol_later():
    x, y = task().batch(5, torch.Generator().manual_seed(0))
    assert x.shape == y.shape == (5, 16)
    assert torch.equal(x[:, 1:], y[:, :-1])


def test_training_never_sees_the_held_out_end(write):
    mine = task(text=write(("a" * 900 + "b" * 100).encode()))
    x, y = mine.batch(500, torch.Generator().manual_seed(0))
    assert mine.alphabet.decode(torch.cat((x.flatten(), y.flatten()))).count("b") == 0


def test_every_window_of_text_can_be_drawn(write):
    mine = task(text=write(b"x" * 17 + b"y" * 17), validation_fraction=0.5)
    x, _ = mine.batch(4, torch.Generator().manual_seed(0))  # one window fits exactly
    assert mine.alphabet.decode(x[0]) == "x" * 16


def test_validation_windows_tile_the_held_out_text_once():
    mine = task()
    seen = torch.cat([x.flatten() for x, _ in mine.examples("validation", 7)])
    assert torch.equal(seen, mine.held_out[: len(seen)])
    assert len(mine.held_out) - len(seen) <= 16


def test_uniform_logits_cost_the_log_of_the_alphabet():
    mine = task()
    _, y = mine.batch(3, torch.Generator().manual_seed(0))
    loss = mine.loss(torch.zeros(3, 16, mine.n_outputs), y)
    assert loss.item() == pytest.approx(math.log(mine.n_outputs), rel=1e-6)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"short", "too short: its training part has 4 symbols, and a window needs 17"),
        (b"x" * 100, "its validation part has 10"),
        (b"caf\xe9" * 100, "not UTF-8: byte 0xe9 at position 3"),
    ],
)
def test_unfit_texts_are_refused_with_the_reason(write, content, says):
    with pytest.raises(DataError, match=says):
        task(text=write(content))


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        task(text=str(tmp_path / "none.txt"))
    with pytest.raises(DataError, match="directory"):
        task(text=str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"level": "word"}, "task.level=word"),
        ({"context": 0}, "task.context=0"),
        ({"validation_fraction": 1.0}, "task.validation_fraction=1.0"),
        ({"name": "sounds"}, "task.name=sounds is unknown"),
        ({"colour": 1}, "task.colour=1"),
    ],
)
def test_settings_that_do_not_fit_are_named(changes, says):
    with pytest.raises(ConfigError, match=says):
        task(**changes)


def test_byte_pairs_return_the_text_and_are_learned_from_the_training_part_alone(write):
    text = "low lower lowest newer newest " * 60
    mine = task(text=write((text + "zqx" * 30).encode()), level="bpe")
    assert mine.alphabet.decode(mine.alphabet.encode(text)) == text
    assert len(mine.alphabet.encode(text)) < len(text) / 2
    assert len(mine.alphabet.encode("zqx")) == 3  # seen in the held-out end only: never merged
    assert mine.n_outputs <= 300


def test_the_test_part_is_the_end_or_a_file_of_its_own(write, tmp_path):
    mine = task(text=write(("a" * 800 + "b" * 100 + "c" * 100).encode()), test_fraction=0.1)
    assert mine.splits == ("validation", "test")
    assert mine.alphabet.decode(mine.held_out) == "b" * 100
    assert mine.alphabet.decode(mine.tested) == "c" * 100
    other = tmp_path / "other.txt"
    other.write_text("d" * 50)
    mine = task(text=write(b"a" * 1000), test=str(other))
    assert mine.alphabet.decode(mine.tested) == "d" * 50
    assert task().splits == ("validation",)


def test_a_text_is_looked_for_in_the_data_folder_too(tmp_path):
    (tmp_path / "mine.txt").write_text("abc" * 400)
    assert build_task(SECTION | {"text": "mine.txt"}, DataSettings(root=str(tmp_path), download=False)).n_outputs == 3


def test_two_test_texts_are_refused(write):
    with pytest.raises(ConfigError, match="test_fraction=0"):
        task(text=write(b"abc" * 400), test="other.txt", test_fraction=0.1)
    with pytest.raises(ConfigError, match="leaves nothing to train on"):
        task(validation_fraction=0.6, test_fraction=0.5)
