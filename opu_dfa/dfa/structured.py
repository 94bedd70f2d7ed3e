"""Structured feedback: a random matrix that is never held, multiplied by Walsh-Hadamard transforms."""

from __future__ import annotations

from torch import Tensor

from hardware.structured import StructuredMedium
from opu_dfa.dfa.feedback import Feedback


class StructuredFeedback(Feedback):
    """B = Re(H D₃ H D₂ H D₁) in blocks: diagonals D of random quarter turns, drawn again from the seed at every step.

    Its memory is O(n_features) and an error costs O(n_components log n_features); entries are Gaussian to
    O(1/n_features) with variance 1/n_features, and rows are prefix-stable. It is the matrix of a simulated device with
    `medium="structured"` and the same seed (`hardware.structured.StructuredMedium`).
    Source: Choromanski, Rowland, Weller, NeurIPS 2017 (arXiv 1703.00864).

    >>> import torch
    >>> feedback = StructuredFeedback(n_features=1000, n_components=4096)
    >>> feedback(torch.ones(2, 1000), widths=[4096])[0].shape, sum(b.numel() for b in feedback.buffers())
    (torch.Size([2, 4096]), 0)
    """

    def project(self, shown: Tensor) -> Tensor:
        medium = StructuredMedium(self.n_features, self.n_components, self.seed)
        return medium.field(shown, 0, self.n_components, parts=1)[0]
