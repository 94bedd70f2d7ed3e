"""A vision transformer laid out as blocks: patches embedded, transformer blocks, neck (norm and pooling), head.

h_0 = E patch + p;  h_{l+1} = h_l + Attention(LN h_l) + MLP(LN ·);  out = W mean over patches of LN(h_L) + b
(Dosovitskiy et al. 2021, arXiv 2010.11929, with the mean in place of a class token). For image to image the mean is
left out, and each patch has an output of its own.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor, nn

from opu_dfa.config import Count, settings
from opu_dfa.models.draw import draw_weights
from opu_dfa.models.gpt import Block
from opu_dfa.models.layout import Layout

Output = Literal["image", "patches"]


@settings
class Settings(Layout):
    """Sizes of a `ViT`, for tasks with an `image_shape`; patch: null takes the task's."""

    name: Literal["vit"]
    output: Output
    patch: Count | None
    n_blocks: Count
    width: Count
    n_heads: Count
    hidden: Count | None


class Embedding(nn.Module):
    """Square patches plus learned positions: `(batch, channels, height, width)` -> `(batch, patches, n_features)`."""

    def __init__(self, image_shape: tuple[int, ...], patch: int, n_features: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.patch = nn.Conv2d(channels, n_features, patch, stride=patch)
        self.position = nn.Embedding((height // patch) * (width // patch), n_features)

    def forward(self, images: Tensor) -> Tensor:
        return self.patch(images).flatten(2).transpose(1, 2) + self.position.weight


class Mean(nn.Module):
    """`(batch, patches, width)` -> `(batch, width)`. Its derivative spreads what is taught to the mean over the
    patches, to each alike."""

    def forward(self, h: Tensor) -> Tensor:
        return h.mean(1)


class ViT(nn.Module):
    """Images `(batch, channels, height, width)` -> `(batch, n_outputs)`, or `(batch, patches, n_outputs)`.

    Args:
        image_shape: (channels, height, width); patch: pixels a side, which divides height and width.
        n_outputs: of an image, or of each patch, as `output` says: "image" or "patches".
        n_blocks, width, n_heads: depth, residual width, attention heads (width is a multiple of n_heads).
        hidden: width inside the perceptrons, 4 · width if None.
        seed: draws the initial weights, N(0, 1/fan_in), residual outputs scaled by 1/√(2 n_blocks); positions and head
            N(0, 0.02²).

    Raises:
        ValueError: an image that patches do not tile, or a width that n_heads does not divide.

    >>> import torch
    >>> model = ViT((3, 32, 32), n_outputs=10, patch=8, n_blocks=2, width=16, n_heads=2)
    >>> model(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        n_outputs: int,
        patch: int = 4,
        n_blocks: int = 4,
        width: int = 64,
        n_heads: int = 4,
        hidden: int | None = None,
        output: Output = "image",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if image_shape[1] % patch or image_shape[2] % patch:
            raise ValueError(f"patches of {patch} pixels a side do not tile images of {image_shape[1:]}")
        if width % n_heads:
            raise ValueError(f"width must be a multiple of n_heads, got width {width} and n_heads {n_heads}")
        hidden = 4 * width if hidden is None else hidden
        self.embedding = Embedding(image_shape, patch, width)
        self.blocks = nn.ModuleList(Block(width, n_heads, hidden, causal=False) for _ in range(n_blocks))
        self.neck = nn.Sequential()
        self.neck.add_module("norm", nn.LayerNorm(width))
        self.neck.add_module("pool", Mean() if output == "image" else nn.Identity())
        self.head = nn.Linear(width, n_outputs)
        draw_weights(self, seed, self._deviation)

    def forward(self, images: Tensor) -> Tensor:
        h = self.embedding(images)
        for block in self.blocks:
            h = block(h)
        return self.head(self.neck(h))

    def _deviation(self, name: str, weight: Tensor) -> float:
        if name in ("embedding.position.weight", "head.weight"):
            return 0.02
        residual = name.endswith(("out.weight", "down.weight"))
        return 1 / math.sqrt(weight[0].numel() * (2 * len(self.blocks) if residual else 1))


def build(chosen: Settings, task: Any, seed: int) -> ViT:
    """The network for a task of images."""
    return ViT(
        task.image_shape,
        task.n_outputs,
        task.patch if chosen.patch is None else chosen.patch,
        chosen.n_blocks,
        chosen.width,
        chosen.n_heads,
        chosen.hidden,
        chosen.output,
        seed,
    )
