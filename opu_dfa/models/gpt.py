"""A GPT laid out as blocks: embedding, transformer blocks with norms in front or behind, final norm, head.

h_0 = E[token] + P[position];  h_{l+1} = h_l + Attention(LN h_l) + MLP(LN ·);  logits = W LN(h_L)
(Radford et al. 2019; pre-LN placement as in Xiong et al. 2020, arXiv 2002.04745.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opu_dfa.config import Count, settings
from opu_dfa.models.draw import draw_weights
from opu_dfa.models.layout import Layout

Activation = Literal["gelu", "relu"]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}


@settings
class Settings(Layout):
    """Sizes of a `GPT`, for tasks of symbols, and where its norms are."""

    name: Literal["gpt"]
    n_blocks: Count
    width: Count
    n_heads: Count
    hidden: Count | None
    norm: Literal["pre", "post"]
    activation: Activation
    tie_weights: bool


class Embedding(nn.Module):
    """Token plus learned position: int64 `(batch, time)` -> `(batch, time, width)`."""

    def __init__(self, n_symbols: int, context: int, width: int) -> None:
        super().__init__()
        self.token = nn.Embedding(n_symbols, width)
        self.position = nn.Embedding(context, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.token(tokens) + self.position.weight[: tokens.shape[1]]


class Residual(nn.Module):
    """h + f(LN h), or LN(h + f(h)) with `post`; subclasses give f as `branch`.

    In front of f the norm has no gain and bias: the linear map behind it would absorb both. So where the input is cut
    there is nothing to train in front of the first product, and that product's input gradient is never computed.
    """

    def __init__(self, width: int, post: bool) -> None:
        super().__init__()
        self.post = post
        self.norm = nn.LayerNorm(width, elementwise_affine=post)

    def branch(self, h: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, h: Tensor) -> Tensor:
        return self.norm(h + self.branch(h)) if self.post else h + self.branch(self.norm(h))


class Attention(Residual):
    """Self-attention on the residual stream, `(batch, time, width)` to the same; `causal` attention looks back only."""

    def __init__(self, width: int, n_heads: int, causal: bool = True, post: bool = False) -> None:
        super().__init__(width, post)
        self.n_heads = n_heads
        self.causal = causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width, bias=False)

    def branch(self, h: Tensor) -> Tensor:
        batch, time, width = h.shape
        qkv = self.qkv(h).view(batch, time, 3, self.n_heads, width // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, time, width / heads)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).reshape(batch, time, width))


class MLP(Residual):
    """A two-layer perceptron on the residual stream, `(batch, time, width)` to the same."""

    def __init__(self, width: int, hidden: int, post: bool = False, activation: Activation = "gelu") -> None:
        super().__init__(width, post)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.activation = _ACTIVATIONS[activation]

    def branch(self, h: Tensor) -> Tensor:
        return self.down(self.activation(self.up(h)))


class Block(nn.Module):
    """Attention, then the perceptron, on the residual stream."""

    def __init__(
        self,
        width: int,
        n_heads: int,
        hidden: int,
        causal: bool = True,
        post: bool = False,
        activation: Activation = "gelu",
    ) -> None:
        super().__init__()
        self.attention = Attention(width, n_heads, causal, post)
        self.mlp = MLP(width, hidden, post, activation)

    def forward(self, h: Tensor) -> Tensor:
        return self.mlp(self.attention(h))


class GPT(nn.Module):
    """A causal language model: int64 tokens `(batch, time)` -> logits `(batch, time, n_symbols)`.

    Args:
        n_symbols: size of the alphabet.
        context: longest sequence.
        n_blocks, width, n_heads: depth, residual width, attention heads (width is a multiple of n_heads).
        hidden: width inside the perceptrons, 4 · width if None.
        tie_weights: the head is the token embedding.
        post: norms stand behind the sums of the residual stream instead of in front of what is added (Vaswani et al.
            2017); activation: of the perceptrons.
        seed: draws the initial weights, N(0, 0.02²), residual outputs scaled by 1/√(2 n_blocks).

    Raises:
        ValueError: a size below 1, or a width that n_heads does not divide.

    >>> GPT(n_symbols=50, context=8, n_blocks=2, width=16, n_heads=2)(torch.zeros(3, 8, dtype=torch.long)).shape
    torch.Size([3, 8, 50])
    """

    def __init__(
        self,
        n_symbols: int,
        context: int,
        n_blocks: int = 4,
        width: int = 128,
        n_heads: int = 4,
        hidden: int | None = None,
        tie_weights: bool = False,
        seed: int = 0,
        post: bool = False,
        activation: Activation = "gelu",
    ) -> None:
        super().__init__()
        hidden = 4 * width if hidden is None else hidden
        sizes = {
            "n_symbols": n_symbols,
            "context": context,
            "n_blocks": n_blocks,
            "width": width,
            "n_heads": n_heads,
            "hidden": hidden,
        }
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if width % n_heads:
            raise ValueError(f"width must be a multiple of n_heads, got width {width} and n_heads {n_heads}")
        self.n_symbols = n_symbols
        self.context = context
        self.embedding = Embedding(n_symbols, context, width)
        self.blocks = nn.ModuleList(Block(width, n_heads, hidden, True, post, activation) for _ in range(n_blocks))
        self.final_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_symbols, bias=False)
        if tie_weights:
            self.head.weight = self.embedding.token.weight
        draw_weights(self, seed, self._deviation)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embedding(tokens)
        for block in self.blocks:
            h = block(h)
        return self.head(self.final_norm(h))

    @torch.no_grad()
    def generate(self, tokens: Tensor, n_new: int, generator: torch.Generator, temperature: float = 0.8) -> Tensor:
        """Continue `(batch, time)` tokens by `n_new` symbols drawn from softmax(logits / temperature)."""
        for _ in range(n_new):
            logits = self(tokens[:, -self.context :])[:, -1] / temperature
            drawn = torch.multinomial(logits.softmax(-1).to(generator.device), 1, generator=generator)
            tokens = torch.cat((tokens, drawn.to(tokens.device)), dim=1)
        return tokens

    def _deviation(self, name: str, weight: Tensor) -> float:
        residual = name.endswith(("out.weight", "down.weight"))
        return 0.02 / (2 * len(self.blocks)) ** 0.5 if residual else 0.02


def build(chosen: Settings, task: Any, seed: int) -> GPT:
    """The network for a task of symbols."""
    return GPT(
        task.n_outputs,
        task.context,
        chosen.n_blocks,
        chosen.width,
        chosen.n_heads,
        chosen.hidden,
        chosen.tie_weights,
        seed,
        chosen.norm == "post",
        chosen.activation,
    )
