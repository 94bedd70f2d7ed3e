"""Labelled images: what is read from each format, how it is split, standardised, augmented and scored."""

import gzip
import io
import os
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from opu_dfa.errors import DataError
from opu_dfa.tasks.data import DataSettings
from opu_dfa.tasks.images import ImageTask, Settings, _augmented
from opu_dfa.tasks.pictures import read_pictures


def folder(path: Path) -> DataSettings:
    return DataSettings(root=str(path), download=False)


def digits(augment: bool = False) -> ImageTask:
    return ImageTask(Settings("images", "digits", 0.1, augment), folder(Path("/nowhere")))


def write_tar(path: Path, colours: dict[str, tuple[int, int, int]]) -> None:
    """A tar of plain 8 x 8 JPEG images by name."""
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, colour in colours.items():
            file = io.BytesIO()
            image.new("RGB", (8, 8), colour).save(file, "JPEG", quality=75)
            member = tarfile.TarInfo(name)
            member.size = file.tell()
            file.seek(0)
            archive.addfile(member, file)


def test_a_tar_of_jpegs_is_read_in_the_order_of_names_and_classes(tmp_path: Path):
    colours = {"b/0001.jpg": (200, 40, 40), "a/0002.jpg": (20, 20, 220), "a/0001.jpg": (128, 128, 128)}
    for name in ("train.tar", "test.tar"):
        write_tar(tmp_path / "cifar10-jpeg" / name, colours)
    training, tested = read_pictures("cifar10", folder(tmp_path))
    assert training.labels.tolist() == tested.labels.tolist() == [0, 0, 1]
    expected = torch.tensor([colours[name] for name in sorted(colours)])
    # Plain colours lose by JPEG what its conversion rounds: less than three levels.
    assert (training.images.float().mean((2, 3)) - expected).abs().max() < 3
    assert training.images.shape == (3, 3, 8, 8)


@pytest.mark.parametrize("content", [b"not a tar at all" * 100, b""])
def test_a_damaged_tar_is_named(tmp_path: Path, content: bytes):
    (tmp_path / "cifar10-jpeg").mkdir()
    (tmp_path / "cifar10-jpeg" / "train.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"train\.tar cannot be read"):
        read_pictures("cifar10", folder(tmp_path))


def test_a_tar_with_a_broken_image_is_named(tmp_path: Path):
    (tmp_path / "cifar10-jpeg").mkdir()
    with tarfile.open(tmp_path / "cifar10-jpeg" / "train.tar", "w") as archive:
        member = tarfile.TarInfo("a/0001.jpg")
        member.size = 10
        archive.addfile(member, io.BytesIO(b"no picture"))
    with pytest.raises(DataError, match=r"train\.tar cannot be read"):
        read_pictures("cifar10", folder(tmp_path))


def test_a_tar_of_one_class_is_refused(tmp_path: Path):
    write_tar(tmp_path / "cifar10-jpeg" / "train.tar", {"a/1.jpg": (1, 2, 3)})
    with pytest.raises(DataError, match="1 images of 1 classes"):
        read_pictures("cifar10", folder(tmp_path))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_an_absent_set_says_what_is_missing_where_and_how_to_get_it(tmp_path: Path, name: str):
    with pytest.raises(DataError) as caught:
        read_pictures(name, folder(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "data.download=true" in str(caught.value)


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_files_are_read_bit_for_bit(tmp_path: Path, zipped: bool):
    draw = np.random.default_rng(0)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    written = {}
    for part, n in (("train", 20), ("t10k", 10)):
        images, labels = draw.integers(0, 256, (n, 28, 28), dtype=np.uint8), np.arange(n, dtype=np.uint8) % 10
        written[part] = images
        for kind, content in (
            ("images-idx3", struct.pack(">4I", 2051, n, 28, 28) + images.tobytes()),
            ("labels-idx1", struct.pack(">2I", 2049, n) + labels.tobytes()),
        ):
            path = raw / f"{part}-{kind}-ubyte"
            path.write_bytes(content)
            if zipped:  # torchvision keeps the archives beside what they hold
                path.with_suffix(".gz").write_bytes(gzip.compress(content))
    training, tested = read_pictures("mnist", folder(tmp_path))
    assert np.array_equal(training.images[:, 0].numpy(), written["train"])
    assert np.array_equal(tested.images[:, 0].numpy(), written["t10k"])
    assert tested.labels.tolist() == list(range(10))


def test_no_image_is_both_learned_from_and_held_out():
    task = digits()
    sizes = {name: len(part.labels) for name, part in task._parts.items()}
    assert sizes == {"training": 1294, "validation": 144, "test": 359}
    both = torch.cat([task._parts["training"].images, task._parts["validation"].images]).flatten(1)
    whole, _ = read_pictures("digits", folder(Path("/nowhere")))
    assert sorted(map(bytes, both.numpy())) == sorted(map(bytes, whole.images.flatten(1).numpy()))


def test_training_images_are_standardised():
    task = digits()
    x, _ = task._examples(task._parts["training"], torch.arange(1294))
    # float32 sums of 1,294 x 64 pixels
    assert x.mean().abs() < 1e-4
    assert (x.std() - 1).abs() < 1e-4


def test_examples_cover_a_split_once():
    labels = torch.cat([y for _, y in digits().examples("test", 64)])
    _, tested = read_pictures("digits", folder(Path("/nowhere")))
    assert torch.equal(labels, tested.labels)
    assert sum(len(y) for _, y in digits().examples("test", 64, at_most=100)) == 100


def test_the_same_generator_draws_the_same_batch():
    task = digits(augment=True)
    first, second = (task.batch(16, torch.Generator().manual_seed(3))[0] for _ in range(2))
    assert torch.equal(first, second)


def test_an_augmented_image_is_a_shifted_image_or_its_mirror():
    x = torch.randn(40, 2, 8, 16, generator=torch.Generator().manual_seed(0))
    moved = _augmented(x, torch.Generator().manual_seed(1))
    for image, found in zip(x, moved, strict=True):
        padded = F.pad(torch.stack((image, image.flip(-1))), (2, 2, 2, 2), mode="replicate")
        ways = [padded[:, :, down : down + 8, right : right + 16] for down in range(5) for right in range(5)]
        assert (torch.cat(ways) == found).flatten(1).all(1).any()


def test_the_error_of_the_target_is_the_error_of_a_model_that_knows_nothing():
    task = digits()
    _, y = task.batch(6, torch.Generator().manual_seed(0))
    out = torch.zeros(6, 10, requires_grad=True)
    task.loss(out, y).backward()
    assert torch.allclose(out.grad, task.error_of_target(y), atol=1e-7)


def test_accuracy_is_the_share_of_right_classes():
    task = digits()
    y = torch.tensor([1, 2, 3, 4])
    out = F.one_hot(torch.tensor([1, 2, 0, 0]), 10).float()
    assert task.scores(out, y) == {"accuracy": 0.5}


@pytest.mark.skipif("OPU_DFA_DATA" not in os.environ, reason="OPU_DFA_DATA names no folder of data sets")
def test_the_jpeg_copy_of_cifar10_has_a_thousand_test_images_a_class():
    from opu_dfa.tasks.pictures import _tar

    path = Path(os.environ["OPU_DFA_DATA"]) / "cifar10-jpeg" / "test.tar"
    if not path.exists():
        pytest.skip(f"there is no {path}")
    tested = _tar(path)
    assert tested.images.shape == (10_000, 3, 32, 32)
    assert tested.labels.bincount().tolist() == [1000] * 10
