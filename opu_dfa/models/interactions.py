"""How recommenders let fields interact: pairwise pooling, crosses, attention, logarithmic neurons, and a perceptron.

All but the pooling are blocks of a residual stream: from h `(batch, n_fields · width)`, each field's vector in its
place, and the embedding v that it began as, of the same shape, each gives the next h.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FieldEmbedding(nn.Module):
    """A vector for each category of each field: int64 `(batch, n_fields)` -> `(batch, n_fields · width)`.

    Categories are numbered from 0 in each field; all fields share one table.

    >>> FieldEmbedding((3, 5), width=4)(torch.tensor([[2, 4], [0, 0]])).shape
    torch.Size([2, 8])
    """

    first: Tensor

    def __init__(self, n_categories: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(sum(n_categories), width)
        ends = torch.tensor(n_categories).cumsum(0)
        self.register_buffer("first", torch.cat((torch.zeros(1, dtype=torch.long), ends[:-1])), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.table(x + self.first).flatten(1)


class FirstOrder(nn.Module):
    """Logistic regression on the categories: a weight for each, and a bias, `(batch, n_fields)` -> `(batch, 1)`."""

    def __init__(self, n_categories: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = FieldEmbedding(n_categories, 1)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight(x).sum(-1, keepdim=True) + self.bias


class PairwisePool(nn.Module):
    """Σ_{i<j} v_i ⊙ v_j = ½((Σ v_i)² − Σ v_i²), `(batch, n_fields · width)` -> `(batch, width)`; it has no parameters.

    Its sum is the second-order term of a factorisation machine (Rendle 2010).

    >>> PairwisePool(n_fields=3)(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[11.]])
    """

    def __init__(self, n_fields: int) -> None:
        super().__init__()
        self.n_fields = n_fields

    def forward(self, v: Tensor) -> Tensor:
        v = v.unflatten(1, (self.n_fields, -1))
        return (v.sum(1).square() - v.square().sum(1)) / 2


class Perceptron(nn.Module):
    """h + W₂ relu(W₁ LN(h)): a layer of the towers."""

    def __init__(self, stream: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(stream, elementwise_affine=False)
        self.up = nn.Linear(stream, hidden)
        self.down = nn.Linear(hidden, stream)

    def forward(self, h: Tensor, v: Tensor) -> Tensor:
        return h + self.down(F.relu(self.up(self.norm(h))))


class Cross(nn.Module):
    """h + v (w·h) + b, the cross layer of Deep & Cross (Wang et al. 2017, eq. 3), residual as it was published."""

    def __init__(self, stream: int) -> None:
        super().__init__()
        self.weight = nn.Linear(stream, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(stream))

    def forward(self, h: Tensor, v: Tensor) -> Tensor:
        return h + v * self.weight(h) + self.bias


class FieldAttention(nn.Module):
    """h + multi-head self-attention between the fields of LN(h) (AutoInt, Song et al. 2019).

    The published layer is relu(attention + W h); here the identity carries h, and the towers bend it.
    """

    def __init__(self, n_fields: int, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_fields, self.n_heads = n_fields, n_heads
        self.norm = nn.LayerNorm(n_fields * width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * n_heads * width)  # each head as wide as a field's vector
        self.down = nn.Linear(n_heads * width, width, bias=False)

    def forward(self, h: Tensor, v: Tensor) -> Tensor:
        fields = self.norm(h).unflatten(1, (self.n_fields, -1))
        q, k, values = self.qkv(fields).unflatten(2, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, values)  # (batch, heads, fields, width)
        return h + self.down(mixed.transpose(1, 2).flatten(2)).flatten(1)


class Logarithmic(nn.Module):
    """h + W LN(exp(Σ_i w_ji log|v_i| + b_j)): products of learned powers of the fields (AFN, Cheng et al. 2020).

    `n_neurons` products for each of the `width` coordinates. |v| is kept above 1e-4, where the logarithm stays finite.
    """

    def __init__(self, n_fields: int, width: int, n_neurons: int) -> None:
        super().__init__()
        self.n_fields = n_fields
        self.orders = nn.Linear(n_fields, n_neurons)
        self.norm = nn.LayerNorm(n_neurons * width, elementwise_affine=False)
        self.down = nn.Linear(n_neurons * width, n_fields * width)

    def forward(self, h: Tensor, v: Tensor) -> Tensor:
        logs = v.unflatten(1, (self.n_fields, -1)).abs().clamp_min(1e-4).log()
        products = self.orders(logs.transpose(1, 2)).exp()  # (batch, width, n_neurons)
        return h + self.down(self.norm(products.flatten(1)))
