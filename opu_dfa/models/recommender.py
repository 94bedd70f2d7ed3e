"""Five recommenders laid out as blocks: FM, DeepFM, Deep & Cross, AutoInt and AFN, as kinds of one model.

v = E[x];  h_0 = v;  h_{l+1} = block_l(h_l, v);  logit = w·g ⊙ LN(h_L) + what the kind adds beside the tower

The published towers are plain and, in Deep & Cross, beside the crosses. Here all blocks stand on one residual stream
of n_fields · width, the interactions first: one projection of the error, pulled through the final norm, serves all.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from opu_dfa.config import Count, NonNegativeInt, settings
from opu_dfa.models.interactions import (
    Cross,
    FieldAttention,
    FieldEmbedding,
    FirstOrder,
    Logarithmic,
    PairwisePool,
    Perceptron,
)
from opu_dfa.models.layout import Layout

Kind = Literal["fm", "deepfm", "dcn", "autoint", "afn"]
_DEVIATION = 0.1  # of the embedding's entries, and of what a block adds to them at first


@settings
class Settings(Layout):
    """Sizes of a `Recommender`, for tasks with `n_categories`; those that a kind has no use for are of no effect."""

    name: Literal["recommender"]
    kind: Kind
    width: Count
    n_interactions: NonNegativeInt
    n_blocks: NonNegativeInt
    hidden: Count
    n_heads: Count


class Recommender(nn.Module):
    """A click predictor: int64 `(batch, n_fields)` -> logits `(batch, 1)`.

    Kinds, by what their blocks are and what is added to the tower's logit:

    - "fm": no blocks; w·pool(v) in the tower's place, with w = 1 Rendle's factorisation machine; first order.
    - "deepfm": `n_blocks` perceptrons; first order and the sum of pool(v) (Guo et al. 2017).
    - "dcn": `n_interactions` crosses, then the perceptrons; nothing (Wang et al. 2017).
    - "autoint": `n_interactions` attentions between fields, then the perceptrons; first order (Song et al. 2019).
    - "afn": a layer of `hidden` logarithmic neurons, then the perceptrons; first order (Cheng et al. 2020).

    Args:
        n_categories: of each field; kind: see above; width: of a category's vector.
        n_interactions, n_blocks: depth of the interactions and of the tower; hidden: width inside a perceptron, and
            logarithmic neurons; n_heads: of the attentions.
        seed: draws the initial weights.

    Raises:
        ValueError: a kind with a tower, but no blocks.

    >>> Recommender((3, 5, 2), "autoint", width=4)(torch.zeros(6, 3, dtype=torch.long)).shape
    torch.Size([6, 1])
    """

    def __init__(
        self,
        n_categories: tuple[int, ...],
        kind: Kind,
        width: int = 8,
        n_interactions: int = 2,
        n_blocks: int = 2,
        hidden: int = 128,
        n_heads: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        n_fields = len(n_categories)
        stream = n_fields * width
        self.kind = kind
        self.embedding = FieldEmbedding(n_categories, width)
        self.first_order = None if kind == "dcn" else FirstOrder(n_categories)
        self.pool = PairwisePool(n_fields)
        interactions: list[nn.Module] = []
        if kind == "dcn":
            interactions = [Cross(stream) for _ in range(n_interactions)]
        elif kind == "autoint":
            interactions = [FieldAttention(n_fields, width, n_heads) for _ in range(n_interactions)]
        elif kind == "afn":
            interactions = [Logarithmic(n_fields, width, hidden)]
        if kind != "fm":
            tower = [Perceptron(stream, hidden) for _ in range(n_blocks)]
            self.blocks = nn.ModuleList([*interactions, *tower])
            if not len(self.blocks):
                raise ValueError(f"{kind} without blocks has no tower: raise n_blocks, or choose the kind fm")
            self.final_norm = nn.LayerNorm(stream)
        self.head = nn.Linear(width if kind == "fm" else stream, 1, bias=self.first_order is None)
        self._draw_weights(torch.Generator().manual_seed(seed))

    def forward(self, x: Tensor) -> Tensor:
        v = h = self.embedding(x)
        if self.kind == "fm":
            out = self.head(self.pool(v))
        else:
            for block in self.blocks:
                h = block(h, v)
            out = self.head(self.final_norm(h))
            if self.kind == "deepfm":
                out = out + self.pool(v).sum(-1, keepdim=True)
        return out if self.first_order is None else out + self.first_order(x)

    @torch.no_grad()
    def _draw_weights(self, generator: torch.Generator) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2 or name.startswith("first_order"):
                parameter.zero_()
                continue
            deviation = _DEVIATION if name.endswith(("table.weight", "down.weight")) else 1.0
            fan_in = 1 if name.endswith("table.weight") or name == "head.weight" else parameter.shape[1]
            parameter.normal_(std=deviation / fan_in**0.5, generator=generator)
        if self.kind != "fm":
            # The head's entries are of size 1, as the feedback's columns; this makes its logits so too.
            self.final_norm.weight.fill_(self.final_norm.weight.numel() ** -0.5)


def build(chosen: Settings, task: Any, seed: int) -> Recommender:
    """The network for a task of categories."""
    return Recommender(
        task.n_categories,
        chosen.kind,
        chosen.width,
        chosen.n_interactions,
        chosen.n_blocks,
        chosen.hidden,
        chosen.n_heads,
        seed,
    )
