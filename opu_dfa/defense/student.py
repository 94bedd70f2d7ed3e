"""The attacker who learns from queries alone: a network of one's own that answers as the target does."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opu_dfa.defense.model import drawn_linear, features_width, vgg_features
from opu_dfa.defense.target import Target
from opu_dfa.errors import DataError

CHANNELS = (16, 32, 64)  # of the stages, as many as the images can be halved


class Imitation(NamedTuple):
    """How well a network answers as its teacher does, of inputs that it was not fitted to.

    residual: the mean square by which it misses, as a part of the answers' variance; agreement: the part of inputs for
    which it gives the same class.
    """

    residual: float
    agreement: float


class Student(nn.Module):
    """A small network distilled from a target's logits; neither its features nor its optics are known.

    Pixels in [0, 1], `(batch, channels, height, width)` -> logits `(batch, n_classes)`; normalises by itself. It has a
    gradient, and what fools it is replayed (`attacks.Transfer`). Use `fit`.

    Papernot et al., "Practical black-box attacks against machine learning", 2017 (arXiv 1602.02697).

    Attributes:
        queries: images that the target was asked for.
        agreement: part of the images that it was not fitted to of which it says what the target said.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: nn.Module, readout: nn.Linear, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.features, self.readout = features, readout
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.queries, self.agreement = 0, math.nan

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.readout(self.features((images - self.mean) / self.std).flatten(1))
        return logits

    @classmethod
    def fit(
        cls,
        target: Target,
        images: Tensor,
        generator: torch.Generator,
        stages: list[list[int]] | None = None,
        steps: int = 1000,
        reach: float = 0.1,
    ) -> Student:
        """Ask the target for each image, and once more for it with noise; fit a small VGG to the logits.

        Args:
            target: a model of any kind; counts the queries.
            images: `(n, channels, height, width)` in [0, 1]; a tenth of the answers is held out.
            generator: on the CPU; draws noise, weights and order.
            stages: channels of each stage's convolutions; `CHANNELS` if None.
            steps: of Adam, on 128 answers each.
            reach: noise is uniform within it, times a number of each image's own in [0, 1).

        Raises:
            DataError: fewer than 2 images.

        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        >>> images = torch.rand(20, 1, 8, 8)
        >>> student = Student.fit(Target(model), images, torch.Generator().manual_seed(0), [[4]], steps=5)
        >>> student(images).shape, student.queries
        (torch.Size([20, 3]), 40)
        """
        if len(images) < 2:
            raise DataError(f"a student is fitted to at least 2 images, got {len(images)}")
        before = target.queries
        noise = 2 * torch.rand(images.shape, generator=generator) - 1
        size = reach * torch.rand(len(images), 1, 1, 1, generator=generator)
        shown = torch.cat([images, (images + (size * noise).to(images.device)).clamp(0, 1)])
        answers = target(shown)
        shape = (images.shape[1], images.shape[2], images.shape[3])
        halvings = max(1, int(math.log2(min(shape[1:]))))
        chosen = stages or [[channels] for channels in CHANNELS[:halvings]]
        features = vgg_features(chosen, shape, int(torch.randint(2**31, (1,), generator=generator)))
        readout = drawn_linear(features_width(features, shape), answers.shape[1], generator)
        mean, std = images.mean((0, 2, 3), keepdim=True)[0], images.std((0, 2, 3), keepdim=True)[0]
        student = cls(features, readout, mean, std.clamp(min=1e-3)).to(images.device)
        student.agreement = imitate(student, shown, answers, generator, steps).agreement
        student.queries = target.queries - before
        return student


def imitate(
    network: nn.Module, inputs: Tensor, answers: Tensor, generator: torch.Generator, steps: int, batch: int = 128
) -> Imitation:
    """Fit a network to answers `(n, n_classes)` to inputs `(n, ...)`, by Adam on the mean square; then freeze it.

    Args:
        generator: on the CPU; draws the tenth that is held out, and the order.

    >>> generator = torch.Generator().manual_seed(0)
    >>> inputs = torch.rand(200, 3, generator=generator)
    >>> imitate(drawn_linear(3, 2, generator), inputs, inputs[:, :2], generator, steps=2000).residual < 0.1
    True
    """
    order = torch.randperm(len(inputs), generator=generator)
    held, fitted = order[: math.ceil(len(inputs) / 10)], order[math.ceil(len(inputs) / 10) :]
    spread = (answers - answers.mean(dim=0)).square().mean().clamp(min=1e-12)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps))
    network.train()
    for _ in range(steps):
        rows = fitted[torch.randint(len(fitted), (batch,), generator=generator)]
        optimiser.zero_grad()
        (F.mse_loss(network(inputs[rows]), answers[rows]) / spread).backward()
        optimiser.step()
        schedule.step()
    network.eval().requires_grad_(False)
    with torch.no_grad():
        found = network(inputs[held])
    residual = (F.mse_loss(found, answers[held]) / spread).item()
    return Imitation(residual, (found.argmax(1) == answers[held].argmax(1)).float().mean().item())
