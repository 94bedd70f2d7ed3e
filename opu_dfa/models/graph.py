"""Graph networks laid out as blocks: graph convolutions, then the last layer as propagation and a linear head.

h_{l+1} = f(C_l(h_l));  out = P(h_L) W + b

C are PyTorch Geometric's convolutions. The last layer of such a network is one too, and linear in its weights, so it
is split where they enter: P(h) is what the convolution sends along the edges, and the head W is its matrix. With P as
`through`, a node's projected error goes back along the edges that its output came by, to nodes without a label, which
have no error of their own.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import APPNP, ChebConv, DNAConv, GATConv, GCNConv
from torch_geometric.utils import degree

from opu_dfa.config import Count, settings
from opu_dfa.models.layout import Layout
from opu_dfa.models.spline import SplineConv, SplinePropagation

Conv = Literal["gcn", "cheb", "spline", "gat", "dna", "sgc"]
_KNOTS = [2]  # of the splines, in the one coordinate that edges have


@settings
class Settings(Layout):
    """Sizes of a `GraphNet`, for tasks with a graph: n_nodes, n_features, edge_index."""

    name: Literal["graph"]
    conv: Conv
    n_blocks: Count
    width: Count
    n_heads: Count


class Block(nn.Module):
    """f(C(h)): a convolution and its nonlinearity."""

    def __init__(self, conv: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.activation = activation

    def forward(self, h: Tensor, *edges: Tensor) -> Tensor:
        return self.activation(self.conv(h, *edges))


class GraphNet(nn.Module):
    """The features of a graph's nodes `(n_nodes, n_features)` -> `(n_nodes, n_outputs)`.

    Args:
        conv: "gcn" (Kipf & Welling 2017), "cheb" of order 2 (Defferrard et al. 2016), "spline" on the edges' indegree
            (Fey et al. 2018), "gat" (Veličković et al. 2018), "dna" (Fey 2019), whose blocks attend to what all blocks
            before them made of the neighbours, or "sgc" (Wu et al. 2019): no nonlinearity, the matrix in two factors.
        edge_index: int64 `(2, edges)`, each edge in both directions; n_nodes: nodes of the graph.
        n_blocks, width: depth and width of the hidden layers; n_heads: attention heads, of "gat" and "dna".
        seed: draws the initial weights, from the distributions that PyTorch Geometric chose.

    Raises:
        ValueError: a width that n_heads does not divide.

    >>> ring = torch.tensor([[0, 1, 2, 1, 2, 0], [1, 2, 0, 0, 1, 2]])
    >>> GraphNet("gcn", ring, n_nodes=3, n_features=5, n_outputs=2, n_blocks=1, width=16)(torch.ones(3, 5)).shape
    torch.Size([3, 2])
    """

    edge_index: Tensor
    coordinates: Tensor

    def __init__(
        self,
        conv: Conv,
        edge_index: Tensor,
        n_nodes: int,
        n_features: int,
        n_outputs: int,
        n_blocks: int = 1,
        width: int = 16,
        n_heads: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if conv in ("gat", "dna") and width % n_heads:
            raise ValueError(f"width must be a multiple of n_heads, got width {width} and n_heads {n_heads}")
        self.conv = conv
        self.register_buffer("edge_index", edge_index, persistent=False)
        indegree = degree(edge_index[1], n_nodes)[edge_index[1], None]
        self.register_buffer("coordinates", indegree / indegree.max(), persistent=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.Sequential(nn.Linear(n_features, width), nn.ReLU()) if conv == "dna" else None
            widths = [n_features] + [width] * n_blocks
            self.blocks = nn.ModuleList(
                Block(_convolution(conv, a, b, n_heads), _activation(conv)) for a, b in itertools.pairwise(widths)
            )
            self.propagation = _propagation(conv, width)
            self.head = nn.Linear(width * _TERMS.get(conv, 1), n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        edges = (self.edge_index, self.coordinates) if self.conv == "spline" else (self.edge_index,)
        if self.stem is not None:  # each block reads all that came before it, (nodes, layers, width)
            made = [self.stem(x)]
            for block in self.blocks:
                made.append(block(torch.stack(made, dim=1), *edges))
            h = made[-1]
        else:
            h = x
            for block in self.blocks:
                h = block(h, *edges)
        return self.head(self.propagation(h, *edges))


_TERMS = {"cheb": 2, "spline": 3}  # what P(h) is wider by than h


class _ChebConv(ChebConv):
    """Sends what it is given along the edges once: the features of a graph are the same tensor at every step."""

    _sent: tuple[Tensor, Tensor] | None = None

    def propagate(self, edge_index: Tensor, size: Any = None, **given: Any) -> Tensor:
        x = given["x"]
        if x.requires_grad:
            return super().propagate(edge_index, size=size, **given)
        if self._sent is None or self._sent[0] is not x:
            self._sent = (x, super().propagate(edge_index, size=size, **given))
        return self._sent[1]


class _Columns(nn.Module):
    """h in its own of several sets of columns, zeros in the others: a sum of these is a concatenation."""

    def __init__(self, which: int, n: int) -> None:
        super().__init__()
        self.which, self.n = which, n

    def forward(self, h: Tensor) -> Tensor:
        return F.pad(h, (self.which * h.shape[1], (self.n - 1 - self.which) * h.shape[1]))


def _convolution(conv: Conv, n_in: int, n_out: int, n_heads: int) -> nn.Module:
    if conv == "cheb":
        return _ChebConv(n_in, n_out, K=_TERMS[conv])
    if conv == "spline":
        return SplineConv(n_in, n_out, _KNOTS)
    if conv == "gat":
        return GATConv(n_in, n_out // n_heads, heads=n_heads)
    if conv == "dna":
        return DNAConv(n_out, heads=n_heads)
    return GCNConv(n_in, n_out, bias=conv == "gcn")


def _activation(conv: Conv) -> nn.Module:
    if conv == "sgc":
        return nn.Identity()
    return nn.ELU() if conv in ("gat", "spline") else nn.ReLU()


def _propagation(conv: Conv, width: int) -> nn.Module:
    """What the convolution does besides its matrix: the matrix is the head."""
    if conv == "cheb":
        propagation = ChebConv(width, width, K=_TERMS[conv], bias=False)
        propagation.lins = nn.ModuleList(_Columns(k, _TERMS[conv]) for k in range(_TERMS[conv]))
        return propagation
    if conv == "spline":
        return SplinePropagation(_KNOTS)
    if conv == "gat":  # one head's attention, which has weights of its own
        propagation = GATConv(width, width, bias=False)
        propagation.lin = nn.Identity()
        return propagation
    return APPNP(K=1, alpha=0.0)


def build(chosen: Settings, task: Any, seed: int) -> GraphNet:
    """The network for a task on a graph."""
    return GraphNet(
        chosen.conv,
        task.edge_index,
        task.n_nodes,
        task.n_features,
        task.n_outputs,
        chosen.n_blocks,
        chosen.width,
        chosen.n_heads,
        seed,
    )
