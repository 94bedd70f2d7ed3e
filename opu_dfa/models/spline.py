"""SplineConv of PyTorch Geometric in plain PyTorch: its own needs compiled operators that not every machine has.

h'_i = mean_j Σ_k b_k(u_ij) W_k h_j + R h_i + b

b_k are the linear B-splines of the edges' coordinates u in [0, 1] (Fey et al., "SplineCNN", 2018, arXiv 1711.08920).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.inits import uniform


def spline_basis(u: Tensor, kernel_size: Sequence[int]) -> Tensor:
    """The linear B-splines with evenly spaced knots at some coordinates: hats that sum to one everywhere.

    Args:
        u: `(edges, dim)` in [0, 1]; kernel_size: hats in each dimension, at least 2.

    Returns:
        `(edges, ∏ kernel_size)`, the first dimension's hats changing fastest.

    >>> spline_basis(torch.tensor([[0.0], [0.25], [1.0]]), [2])
    tensor([[1.0000, 0.0000],
            [0.7500, 0.2500],
            [0.0000, 1.0000]])
    """
    basis = u.new_ones(len(u), 1)
    for column, size in zip(u.unbind(1), kernel_size, strict=True):
        hats = (1 - (column[:, None] * (size - 1) - torch.arange(size, device=u.device)).abs()).clamp(min=0)
        basis = (hats[:, :, None] * basis[:, None, :]).flatten(1)
    return basis


class SplineConv(MessagePassing):
    """PyTorch Geometric's SplineConv of degree 1 with open splines: the same parameters, the same function.

    Args:
        in_channels, out_channels: widths; kernel_size: hats in each dimension of the edges' coordinates.

    >>> conv = SplineConv(4, 3, kernel_size=[2])
    >>> conv(torch.ones(2, 4), torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0.5], [1.0]])).shape
    torch.Size([2, 3])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sequence[int]) -> None:
        super().__init__(aggr="mean", node_dim=0)
        self.kernel_size = tuple(kernel_size)
        self.weight = nn.Parameter(torch.empty(math.prod(kernel_size), in_channels, out_channels))
        self.lin = nn.Linear(in_channels, out_channels)
        uniform(self.weight.shape[0] * in_channels, self.weight)
        uniform(in_channels, self.lin.weight)
        nn.init.zeros_(self.lin.bias)

    def forward(self, x: Tensor, edge_index: Tensor, u: Tensor) -> Tensor:
        """Nodes `(nodes, in_channels)`, edges `(2, edges)`, coordinates `(edges, dim)` -> `(nodes, out_channels)`."""
        # The products before the edges: there are fewer nodes, and what is sent is narrower.
        mapped = torch.einsum("ni,kio->nko", x, self.weight)
        return self.propagate(edge_index, x=mapped, basis=spline_basis(u, self.kernel_size)) + self.lin(x)

    def message(self, x_j: Tensor, basis: Tensor) -> Tensor:
        return torch.einsum("ek,eko->eo", basis, x_j)


class SplinePropagation(MessagePassing):
    """The terms that a SplineConv is a linear map of: mean_j b_k(u_ij) h_j for each k, then h_i.

    >>> terms = SplinePropagation(kernel_size=[2])
    >>> terms(torch.ones(2, 4), torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0.5], [1.0]])).shape
    torch.Size([2, 12])
    """

    def __init__(self, kernel_size: Sequence[int]) -> None:
        super().__init__(aggr="mean", node_dim=0)
        self.kernel_size = tuple(kernel_size)

    def forward(self, h: Tensor, edge_index: Tensor, u: Tensor) -> Tensor:
        sent = self.propagate(edge_index, x=h, basis=spline_basis(u, self.kernel_size))
        return torch.cat((sent, h), dim=1)

    def message(self, x_j: Tensor, basis: Tensor) -> Tensor:
        return (basis[:, :, None] * x_j[:, None, :]).flatten(1)
