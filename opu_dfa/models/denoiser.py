"""A denoising transformer laid out as blocks: patches and time embedded, transformer blocks, final norm, head.

h_0 = E x + p + T φ(t);  h_{l+1} = h_l + Attention(LN h_l) + MLP(LN ·);  out = W LN(h_L) + b, for each patch
(the DiT of Peebles & Xie 2023, arXiv 2212.09748, with the time added to the tokens).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from opu_dfa.config import Count, settings
from opu_dfa.models.draw import draw_weights
from opu_dfa.models.gpt import Block
from opu_dfa.models.layout import Layout

_FREQUENCIES = 16  # of the time's features


@settings
class Settings(Layout):
    """Sizes of a `Denoiser`, for tasks with n_tokens patches and as many outputs as inputs for each."""

    name: Literal["denoiser"]
    n_blocks: Count
    width: Count
    n_heads: Count
    hidden: Count | None


class Embedding(nn.Module):
    """Patches `(batch, tokens, pixels)` and times `(batch,)` in [0, 1] -> `(batch, tokens, width)`.

    The time is known by φ(t) = cos, sin of 1, 2, ... quarter turns.
    """

    def __init__(self, n_pixels: int, n_tokens: int, width: int) -> None:
        super().__init__()
        self.patch = nn.Linear(n_pixels, width)
        self.position = nn.Embedding(n_tokens, width)
        self.time = nn.Linear(2 * _FREQUENCIES, width, bias=False)

    def forward(self, patches: Tensor, times: Tensor) -> Tensor:
        turns = times[:, None] * torch.arange(1, _FREQUENCIES + 1, device=times.device) * (math.pi / 2)
        time = self.time(torch.cat((turns.cos(), turns.sin()), dim=1))
        return self.patch(patches) + self.position.weight + time[:, None]


class Denoiser(nn.Module):
    """Noisy patches `(batch, n_tokens, n_pixels)` at times `(batch,)` -> a number for each pixel, of the same shape.

    Args:
        n_pixels: of a patch; n_tokens: patches an image.
        n_blocks, width, n_heads: depth, residual width, attention heads (width is a multiple of n_heads).
        hidden: width inside the perceptrons, 4 · width if None.
        seed: draws the initial weights: embeddings N(0, 1/fan_in), blocks and head N(0, 0.02²), residual outputs
            scaled by 1/√(2 n_blocks).

    Raises:
        ValueError: a width that n_heads does not divide.

    >>> model = Denoiser(n_pixels=16, n_tokens=49, n_blocks=2, width=32, n_heads=2)
    >>> model(torch.zeros(3, 49, 16), torch.rand(3)).shape
    torch.Size([3, 49, 16])
    """

    def __init__(
        self,
        n_pixels: int,
        n_tokens: int,
        n_blocks: int = 4,
        width: int = 128,
        n_heads: int = 4,
        hidden: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if width % n_heads:
            raise ValueError(f"width must be a multiple of n_heads, got width {width} and n_heads {n_heads}")
        self.embedding = Embedding(n_pixels, n_tokens, width)
        self.blocks = nn.ModuleList(
            Block(width, n_heads, 4 * width if hidden is None else hidden, causal=False) for _ in range(n_blocks)
        )
        self.final_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_pixels)
        draw_weights(self, seed, self._deviation)

    def forward(self, patches: Tensor, times: Tensor) -> Tensor:
        h = self.embedding(patches, times)
        for block in self.blocks:
            h = block(h)
        return self.head(self.final_norm(h))

    def _deviation(self, name: str, weight: Tensor) -> float:
        if name.startswith("embedding"):
            return 1.0 if "position" in name else 1 / math.sqrt(weight.shape[1])
        residual = name.endswith(("out.weight", "down.weight"))
        return 0.02 / (2 * len(self.blocks)) ** 0.5 if residual else 0.02


def build(chosen: Settings, task: Any, seed: int) -> Denoiser:
    """The network for a task of patches."""
    return Denoiser(task.n_outputs, task.n_tokens, chosen.n_blocks, chosen.width, chosen.n_heads, chosen.hidden, seed)
