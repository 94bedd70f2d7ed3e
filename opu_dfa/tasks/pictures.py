"""Reading labelled images: scikit-learn's digits, MNIST, Fashion-MNIST, and CIFAR-10 as a JPEG copy or the original."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from opu_dfa.errors import DataError
from opu_dfa.tasks.data import DataSettings

_TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10"}
_FOLDERS = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw", "cifar10": "cifar-10-batches-py"}


@dataclass(frozen=True)
class Pictures:
    """images: uint8 `(n, channels, height, width)`; labels: int64 `(n,)`."""

    images: Tensor
    labels: Tensor


def read_pictures(name: str, data: DataSettings) -> tuple[Pictures, Pictures]:
    """Training and test images of a set.

    Args:
        name: "digits", "mnist", "fashion-mnist" or "cifar10" (a folder cifar10-jpeg with train.tar and test.tar of
            class/NNNN.jpg is preferred to the original where both are there).

    Raises:
        DataError: the set is not in the data folder, nor to be downloaded; or a file of it is damaged.

    >>> training, tested = read_pictures("digits", DataSettings(root=None, download=False))
    >>> training.images.shape, tested.images.shape
    (torch.Size([1438, 1, 8, 8]), torch.Size([359, 1, 8, 8]))
    """
    if name == "digits":
        return _digits()
    if name == "cifar10" and (data.folder / "cifar10-jpeg").is_dir():
        folder = data.folder / "cifar10-jpeg"
        return _tar(folder / "train.tar"), _tar(folder / "test.tar")
    return _of_torchvision(name, data)


def _digits() -> tuple[Pictures, Pictures]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images * (255 / 16)).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    n = round(0.8 * len(labels))
    return Pictures(images[:n], labels[:n]), Pictures(images[n:], labels[n:])


def _of_torchvision(name: str, data: DataSettings) -> tuple[Pictures, Pictures]:
    from torchvision import datasets

    kind = getattr(datasets, _TORCHVISION[name])
    try:
        parts = [kind(data.folder, train=train, download=data.download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"there is no {_FOLDERS[name]} in the data folder {data.folder} (data.root=FOLDER or OPU_DFA_DATA names "
            f"another){' and its download failed' if data.download else ''}: {error}. With a network, "
            f"data.download=true fetches it; else copy torchvision's {_TORCHVISION[name]} files there."
        ) from error

    def pictures(part: object) -> Pictures:
        images = torch.as_tensor(part.data)  # type: ignore[attr-defined]
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
        return Pictures(images, torch.as_tensor(part.targets).long())  # type: ignore[attr-defined]

    return pictures(parts[0]), pictures(parts[1])


@lru_cache(maxsize=2)  # a process that trains several times reads them once
def _tar(path: Path) -> Pictures:
    """The images of a tar of class/NNNN.jpg by the order of names; classes are numbered by the order of theirs."""
    from PIL import Image

    images: dict[str, np.ndarray] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    images[member.name] = np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))
        names = sorted(images)
        pixels = np.stack([images[name] for name in names])
    except (OSError, tarfile.TarError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a tar of class/NNNN.jpg: {error}. Copy it again.") from error
    of_each = [PurePosixPath(name).parent.name for name in names]
    classes = {name: number for number, name in enumerate(sorted(set(of_each)))}
    if len(classes) < 2:
        raise DataError(f"{path} holds {len(names)} images of {len(classes)} classes; it should hold class/NNNN.jpg.")
    return Pictures(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor([classes[name] for name in of_each])
    )
