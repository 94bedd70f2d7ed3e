"""A small VGG laid out as blocks: stages of convolutions, each closed by a pooling, then a linear head.

unit: h -> relu(norm(conv₃ₓ₃ h));  stage: units, then the maximum over 2 x 2;  out = W flatten(h_L) + b
(Simonyan and Zisserman 2015, arXiv 1409.1556, with batch norm). `stages.*` as taps is block-local backprop: a stage
learns inside exactly, and only its output from feedback. `stages.*.units.*` taps every convolution, which is plain DFA
and known to fail (Launay et al. 2019, arXiv 1906.04554; Refinetti et al. 2021, arXiv 2011.12428).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from opu_dfa.config import Count, settings
from opu_dfa.models.draw import draw_weights
from opu_dfa.models.layout import Layout


@settings
class Settings(Layout):
    """Sizes of a `VGG`, for tasks with an `image_shape`; stages: the channels of each stage's convolutions."""

    name: Literal["vgg"]
    stages: list[list[Count]]


class Unit(nn.Module):
    """relu(norm(conv h)), `(batch, n_in, height, width)` -> `(batch, n_out, height, width)`."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)  # the norm has a bias
        self.norm = nn.BatchNorm2d(n_out)

    def forward(self, h: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(h)))


class Stage(nn.Module):
    """Units, then the maximum over 2 x 2: half the height and width."""

    def __init__(self, n_in: int, channels: list[int]) -> None:
        super().__init__()
        self.units = nn.ModuleList(Unit(a, b) for a, b in zip([n_in, *channels[:-1]], channels, strict=True))

    def forward(self, h: Tensor) -> Tensor:
        for unit in self.units:
            h = unit(h)
        return F.max_pool2d(h, 2)


class VGG(nn.Module):
    """Images `(batch, channels, height, width)` -> `(batch, n_outputs)`.

    Weights are drawn N(0, 2/fan_in) (He et al. 2015), those of the head N(0, 1/fan_in).

    Args:
        image_shape: (channels, height, width); stages: the channels of each stage's convolutions.

    Raises:
        ValueError: no stage, a stage without convolutions, or more stages than the image can be halved.

    >>> import torch
    >>> VGG((3, 32, 32), n_outputs=10, stages=[[8], [16, 16]])(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 10])
    """

    def __init__(self, image_shape: tuple[int, ...], n_outputs: int, stages: list[list[int]], seed: int = 0) -> None:
        super().__init__()
        channels, height, width = image_shape
        side = 2 ** len(stages)
        if not stages or not all(stages) or min(height, width) < side:
            raise ValueError(
                f"stages={stages} on images of {height} x {width}: each needs a convolution, and halves them"
            )
        inputs = [channels, *(stage[-1] for stage in stages[:-1])]
        self.stages = nn.ModuleList(Stage(n, stage) for n, stage in zip(inputs, stages, strict=True))
        self.head = nn.Linear(stages[-1][-1] * (height // side) * (width // side), n_outputs)
        draw_weights(
            self, seed, lambda name, weight: math.sqrt((1 if name == "head.weight" else 2) / weight[0].numel())
        )

    def forward(self, images: Tensor) -> Tensor:
        h = images
        for stage in self.stages:
            h = stage(h)
        return self.head(h.flatten(1))


def build(chosen: Settings, task: Any, seed: int) -> VGG:
    """The network for a task of images."""
    return VGG(task.image_shape, task.n_outputs, chosen.stages, seed)
