"""Classification of images: the class of each. Loss in nats per image, accuracy beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from opu_dfa.config import Fraction, settings
from opu_dfa.tasks.data import DataSettings
from opu_dfa.tasks.pictures import Pictures, read_pictures
from opu_dfa.tasks.task import Batch, Split, Task, error_of_uniform, evenly

Source = Literal["digits", "mnist", "fashion-mnist", "cifar10"]


@settings
class Settings:
    """data: "digits" (scikit-learn's 8 x 8, always there), "mnist", "fashion-mnist" or "cifar10" of the data folder;
    validation_fraction: the share of the training images that is held out to choose settings by."""

    name: Literal["images"]
    data: Source
    validation_fraction: Fraction
    augment: bool


class ImageTask(Task):
    """Images `(batch, channels, height, width)`, float32, standardised by the training set's mean and deviation of each
    channel; classes int64 `(batch,)`. With `augment`, training images are mirrored at random and shifted by up to an
    eighth of their width.

    Raises:
        DataError: the data set is not there.
    """

    unit = "nats per image"
    item = "images"

    def __init__(self, chosen: Settings, data: DataSettings) -> None:
        self.title = chosen.data
        self.augment = chosen.augment
        training, tested = read_pictures(chosen.data, data)
        # The held-out images are a fixed random choice: some sets are sorted by class.
        order = torch.randperm(len(training.labels), generator=torch.Generator().manual_seed(0))
        n_held_out = round(len(order) * chosen.validation_fraction)
        kept, held_out = order[n_held_out:], order[:n_held_out]
        self._parts = {
            "training": Pictures(training.images[kept], training.labels[kept]),
            "validation": Pictures(training.images[held_out], training.labels[held_out]),
            "test": tested,
        }
        self.image_shape = tuple(training.images.shape[1:])
        self.n_outputs = int(training.labels.max()) + 1
        self.fingerprint = hashlib.sha256(training.images.numpy().tobytes()).hexdigest()[:16]
        self._mean, self._deviation = _mean_and_deviation(self._parts["training"].images)

    @property
    def description(self) -> str:
        sizes = ", ".join(f"{len(part.labels):,} {name}" for name, part in self._parts.items())
        return f"Images: {self.title}, {sizes}, {'x'.join(map(str, self.image_shape))}, {self.n_outputs} classes"

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        part = self._parts["training"]
        x, y = self._examples(part, torch.randint(len(part.labels), (size,), generator=generator))
        return (_augmented(x, generator) if self.augment else x), y

    def examples(self, split: Split, size: int, at_most: int | None = None) -> Iterator[Batch]:
        part = self._parts[split]
        for some in evenly(len(part.labels), at_most).split(size):
            yield self._examples(part, some)

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy in nats per image."""
        return F.cross_entropy(out.float(), y)

    def scores(self, out: Tensor, y: Tensor) -> dict[str, float]:
        return {"accuracy": (out.argmax(-1) == y).float().mean().item()}

    def error_of_target(self, y: Tensor) -> Tensor:
        return error_of_uniform(y, self.n_outputs)

    def _examples(self, part: Pictures, which: Tensor) -> Batch:
        return (part.images[which].float() - self._mean) / self._deviation, part.labels[which]


def _mean_and_deviation(images: Tensor) -> tuple[Tensor, Tensor]:
    """Of the pixels of each channel, `(channels, 1, 1)` both; some images at a time, to spare memory."""
    total, squares = torch.zeros(2, images.shape[1], 1, 1, dtype=torch.float64)
    for some in images.split(2048):
        pixels = some.double()
        total += pixels.sum((0, 2, 3)).view_as(total)
        squares += pixels.square().sum((0, 2, 3)).view_as(total)
    n = images[:, 0].numel()
    mean = total / n
    return mean.float(), (squares / n - mean.square()).sqrt().float()


def _augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image mirrored with probability 1/2, and shifted by up to an eighth of its width, its edge repeated."""
    batch, _, height, width = x.shape
    reach = width // 8
    mirrored = torch.rand(batch, generator=generator) < 0.5
    x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
    x = F.pad(x, (reach,) * 4, mode="replicate")
    down, right = torch.randint(2 * reach + 1, (2, batch, 1), generator=generator)
    rows = (down + torch.arange(height))[:, :, None]
    columns = (right + torch.arange(width))[:, None, :]
    return x.permute(0, 2, 3, 1)[torch.arange(batch)[:, None, None], rows, columns].permute(0, 3, 1, 2).contiguous()


def build(chosen: Settings, data: DataSettings) -> ImageTask:
    """The task of the settings."""
    return ImageTask(chosen, data)
