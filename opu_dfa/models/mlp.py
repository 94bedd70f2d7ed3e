"""A fully connected network laid out as blocks: h_{l+1} = f(W_l h_l + b_l), then a linear head."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor, nn

from opu_dfa.config import Count, settings
from opu_dfa.models.draw import draw_weights
from opu_dfa.models.layout import Layout

Activation = Literal["tanh", "relu", "gelu"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}


@settings
class Settings(Layout):
    """Sizes of an `MLP`, for tasks with an `image_shape`."""

    name: Literal["mlp"]
    n_blocks: Count
    width: Count
    activation: Activation


class MLP(nn.Module):
    """Images or vectors `(batch, ...)`, flattened to n_features, -> `(batch, n_outputs)`.

    Weights are drawn N(0, 1/fan_in), biases zero; with ReLU the variance is doubled (He et al. 2015).

    >>> import torch
    >>> MLP(n_features=64, n_outputs=10, n_blocks=2, width=32)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        n_blocks: int = 2,
        width: int = 1024,
        activation: Activation = "tanh",
        seed: int = 0,
    ) -> None:
        super().__init__()
        widths = [n_features] + [width] * n_blocks
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(a, b), ACTIVATIONS[activation]()) for a, b in pairwise(widths)
        )
        self.head = nn.Linear(width, n_outputs)
        gain = 2 if activation == "relu" else 1
        draw_weights(
            self, seed, lambda name, weight: math.sqrt((1 if name == "head.weight" else gain) / weight.shape[1])
        )

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(1)
        for block in self.blocks:
            h = block(h)
        return self.head(h)


def build(chosen: Settings, task: Any, seed: int) -> MLP:
    """The network for a task of images."""
    return MLP(math.prod(task.image_shape), task.n_outputs, chosen.n_blocks, chosen.width, chosen.activation, seed)
