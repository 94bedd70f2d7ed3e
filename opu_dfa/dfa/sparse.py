"""Sparse feedback: each component of the signal hears one component of the error. No product is computed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from opu_dfa.dfa.feedback import Feedback


class SparseFeedback(Feedback):
    """One non-zero, ±1, in each row of B: signal_i = sign_i · error_{index_i}.

    Every run of n_features rows is a random permutation with random signs, so that each component of the error is heard
    equally often; entries have variance 1/n_features over the draw. Rows are prefix-stable. An error costs
    n_components additions in place of n_components · n_features.
    Source: Crafton, Parihar, Gebhardt, Raychowdhury, "Direct feedback alignment with sparse connections for local
    learning", 2019 (arXiv 1903.02083).

    >>> SparseFeedback(n_features=3, n_components=6).columns().count_nonzero(dim=1)
    tensor([1, 1, 1, 1, 1, 1])
    """

    index: Tensor
    sign: Tensor

    def prepare(self) -> None:
        order, signs = np.random.default_rng(self.seed).spawn(2)
        runs = -(-self.n_components // self.n_features)
        index = np.argsort(order.random((runs, self.n_features)), axis=1).ravel()[: self.n_components]
        sign = np.where(signs.random(self.n_components) < 0.5, 1, -1).astype(np.float32)
        self.register_buffer("index", torch.from_numpy(index.astype(np.int64)))
        self.register_buffer("sign", torch.from_numpy(sign))

    def project(self, shown: Tensor) -> Tensor:
        return shown.index_select(1, self.index).mul_(self.sign)
