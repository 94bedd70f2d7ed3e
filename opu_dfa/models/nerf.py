"""Radiance fields laid out as blocks: the plain network of the paper, and a residual one with a final norm.

Both map positions and viewing directions to red, green, blue and density before their activations, from
γ(p) = (p, sin 2^k p, cos 2^k p for k < n_frequencies) of each coordinate (Mildenhall et al. 2020, arXiv 2003.08934).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opu_dfa.config import Count, NonNegativeInt, settings
from opu_dfa.models.layout import Layout


@settings
class Settings(Layout):
    """kind: "residual" or "plain"; n_blocks, width: depth and width; frequencies: octaves of the encoding of positions
    and of directions."""

    name: Literal["nerf"]
    kind: Literal["residual", "plain"]
    n_blocks: Count
    width: Count
    position_frequencies: NonNegativeInt
    direction_frequencies: NonNegativeInt


class Encoding(nn.Module):
    """γ(p): `(..., 3)` -> `(..., 3 + 6 n_frequencies)`.

    >>> Encoding(n_frequencies=2)(torch.zeros(1, 3))
    tensor([[0., 0., 0., 0., 0., 0., 0., 0., 0., 1., 1., 1., 1., 1., 1.]])
    """

    frequencies: Tensor

    def __init__(self, n_frequencies: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2.0 ** torch.arange(n_frequencies), persistent=False)
        self.width = 3 + 6 * n_frequencies

    def forward(self, p: Tensor) -> Tensor:
        phases = (p.unsqueeze(-2) * self.frequencies.unsqueeze(-1)).flatten(-2)
        return torch.cat((p, phases.sin(), phases.cos()), dim=-1)


class Residual(nn.Module):
    """h + W₂ relu(W₁ LN(h)), `(..., width)` to the same; the linear map absorbs the gain and bias the norm lacks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.down(F.relu(self.up(self.norm(h))))


class RadianceField(nn.Module):
    """Base of the networks: they see γ of positions and directions, and weights drawn from the seed."""

    def __init__(
        self,
        n_blocks: int = 4,
        width: int = 64,
        position_frequencies: int = 6,
        direction_frequencies: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encode_position = Encoding(position_frequencies)
        self.encode_direction = Encoding(direction_frequencies)
        self.lay_out(n_blocks, width)
        _draw_weights(self, seed)

    @abstractmethod
    def lay_out(self, n_blocks: int, width: int) -> None:
        """Make the modules behind the encodings."""


class ResidualNeRF(RadianceField):
    """h_0 = W γ(position) + V γ(direction); residual blocks; output = W_head LN(h_L).

    Positions `(rays, samples, 3)` and unit directions `(rays, 1, 3)` or one a sample -> `(rays, samples, 4)`.

    >>> net = ResidualNeRF(n_blocks=2, width=16)
    >>> net(torch.zeros(5, 7, 3), torch.zeros(5, 1, 3)).shape
    torch.Size([5, 7, 4])
    """

    def lay_out(self, n_blocks: int, width: int) -> None:
        self.position = nn.Linear(self.encode_position.width, width)
        self.direction = nn.Linear(self.encode_direction.width, width, bias=False)
        self.blocks = nn.ModuleList(Residual(width) for _ in range(n_blocks))
        self.final_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 4)

    def forward(self, positions: Tensor, directions: Tensor) -> Tensor:
        h = self.position(self.encode_position(positions)) + self.direction(self.encode_direction(directions))
        for block in self.blocks:
            h = block(h)
        return self.head(self.final_norm(h))


class PlainNeRF(RadianceField):
    """The paper's: linear maps and ReLU, the position again half-way, density before the direction enters.

    h_l = relu(W_l h_{l-1}), with γ(position) joined to the input of block n_blocks / 2; density = w h_L;
    g = relu(V (h_L, γ(direction))); colours = W_c g. Shapes as of `ResidualNeRF`.

    >>> net = PlainNeRF(n_blocks=2, width=16)
    >>> net(torch.zeros(5, 7, 3), torch.zeros(5, 1, 3)).shape
    torch.Size([5, 7, 4])
    """

    def lay_out(self, n_blocks: int, width: int) -> None:
        seen = self.encode_position.width
        self._rejoins = n_blocks // 2
        inputs = [seen if n == 0 else width + seen * (n == self._rejoins) for n in range(n_blocks)]
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(n, width), nn.ReLU()) for n in inputs)
        self.facing = nn.Sequential(nn.Linear(width + self.encode_direction.width, width // 2), nn.ReLU())
        self.density = nn.Linear(width, 1)
        self.colour = nn.Linear(width // 2, 3)

    def forward(self, positions: Tensor, directions: Tensor) -> Tensor:
        seen = self.encode_position(positions)
        h = seen
        for n, block in enumerate(self.blocks):
            h = block(torch.cat((h, seen), dim=-1) if n and n == self._rejoins else h)
        facing = self.encode_direction(directions).expand(*h.shape[:-1], -1)
        g = self.facing(torch.cat((h, facing), dim=-1))
        return torch.cat((self.colour(g), self.density(h)), dim=-1)


@torch.no_grad()
def _draw_weights(model: nn.Module, seed: int) -> None:
    """N(0, 2/fan_in) in front of a ReLU, N(0, 1/fan_in) else; zero biases; norms as they are; residual outputs scaled
    by 1/√(2 n_blocks)."""
    generator = torch.Generator().manual_seed(seed)
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        rectified = name.endswith((".up", ".0"))
        deviation = math.sqrt((2 if rectified else 1) / module.in_features)
        if name.endswith(".down"):
            deviation /= math.sqrt(2 * len(model.blocks))  # type: ignore[arg-type]
        module.weight.normal_(std=deviation, generator=generator)
        if module.bias is not None:
            module.bias.zero_()


KINDS: dict[str, type[RadianceField]] = {"residual": ResidualNeRF, "plain": PlainNeRF}


def build(chosen: Settings, task: Any, seed: int) -> nn.Module:
    """The network for a task of views."""
    return KINDS[chosen.kind](
        chosen.n_blocks, chosen.width, chosen.position_frequencies, chosen.direction_frequencies, seed
    )
