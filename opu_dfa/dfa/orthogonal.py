"""Orthogonal feedback: every direction of the error is heard equally loud."""

from __future__ import annotations

import math

import numpy as np
import torch

from opu_dfa.dfa.feedback import DenseFeedback


class OrthogonalFeedback(DenseFeedback):
    """B = √(max(n_components, n_features) / n_features) Q, Q with orthonormal columns (rows where B is wide).

    Q is the QR factor of a Gaussian matrix, uniformly distributed; the factor in front gives entries the variance
    1/n_features of the other operators. Where B is tall, BᵀB = (n_components / n_features) I: the signal's norm is the
    error's, times a constant. A Gaussian B distorts it by O(√(n_features / n_components)).

    >>> matrix = OrthogonalFeedback(n_features=4, n_components=12).matrix
    >>> torch.allclose(matrix.T @ matrix, 3 * torch.eye(4), atol=1e-5)
    True
    """

    def prepare(self) -> None:
        short, tall = sorted((self.n_features, self.n_components))
        drawn = np.random.default_rng(self.seed).standard_normal((tall, short))
        # In float64: what LAPACKs differ by is gone once the result is rounded to float32.
        q, r = np.linalg.qr(drawn)
        q *= math.sqrt(tall / self.n_features) * np.sign(np.diag(r))
        matrix = q if self.n_components == tall else q.T
        self.register_buffer("matrix", torch.from_numpy(np.ascontiguousarray(matrix, dtype=np.float32)))
