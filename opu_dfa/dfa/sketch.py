"""Sketches: what is fed back in place of a wide error."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from opu_dfa.errors import ConfigError


class Sketch(nn.Module):
    """Base of the sketches: rows `(rows, n_features)` -> `(rows, n_components)`."""

    def __init__(self, n_features: int, n_components: int) -> None:
        super().__init__()
        if not 1 <= n_components <= n_features:
            raise ConfigError(
                f"a sketch of {n_features} components keeps 1 to {n_features} of them, got {n_components}"
            )
        self.n_features = n_features
        self.n_components = n_components

    @abstractmethod
    def forward(self, error: Tensor) -> Tensor:
        """The sketch of error rows."""


class RandomSketch(Sketch):
    """Se with entries of S from N(0, 1/n_components): E[SᵀS] = I, so norms and angles of errors survive.

    For large vocabularies, and devices with fewer mirrors than the error is wide. B S then has entries of variance
    1/n_components, not 1/n_features.

    >>> RandomSketch(n_features=1000, n_components=16)(torch.ones(2, 1000)).shape
    torch.Size([2, 16])
    """

    matrix: Tensor

    def __init__(self, n_features: int, n_components: int, seed: int = 0) -> None:
        super().__init__(n_features, n_components)
        drawn = np.random.default_rng([seed, *b"sketch"]).standard_normal((n_components, n_features), dtype=np.float32)
        self.register_buffer("matrix", torch.from_numpy((drawn / math.sqrt(n_components)).astype(np.float32)))

    def forward(self, error: Tensor) -> Tensor:
        return error @ self.matrix.T.to(error.dtype)


class TopK(Sketch):
    """The k entries of a row that are largest in magnitude, zeros elsewhere; the width stays. Biased.

    >>> TopK(n_features=3, k=1)(torch.tensor([[0.5, -1.0, 0.0]]))
    tensor([[ 0., -1.,  0.]])
    """

    def __init__(self, n_features: int, k: int) -> None:
        super().__init__(n_features, n_features)
        if not 1 <= k <= n_features:
            raise ConfigError(f"top-k of an error of width {n_features} keeps 1 to {n_features} entries, got k={k}")
        self.k = k

    def forward(self, error: Tensor) -> Tensor:
        kept = error.abs().topk(self.k, dim=1).indices
        return torch.zeros_like(error).scatter_(1, kept, error.gather(1, kept))
