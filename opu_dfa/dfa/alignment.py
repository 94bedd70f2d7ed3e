"""How far two gradients of the same parameters agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Alignment(float):
    """The cosine between a DFA and a backpropagation gradient, as a float, and two more numbers beside it.

    Attributes:
        norm_ratio: |DFA| / |backpropagation|, NaN where both vanish.
        sign_agreement: share of the entries that have the same sign.

    >>> a = Alignment.between(torch.tensor([3.0, 4.0]), torch.tensor([-3.0, 4.0]))
    >>> round(a, 2), a.norm_ratio, a.sign_agreement
    (0.28, 1.0, 0.5)
    """

    norm_ratio: float
    sign_agreement: float

    def __new__(cls, cosine: float, norm_ratio: float, sign_agreement: float) -> Alignment:
        self = super().__new__(cls, cosine)
        self.norm_ratio = norm_ratio
        self.sign_agreement = sign_agreement
        return self

    @classmethod
    def between(cls, ours: Tensor, exact: Tensor) -> Alignment:
        """The alignment of two flat gradients."""
        cosine = torch.nn.functional.cosine_similarity(ours, exact, dim=0).item()
        ratio = (ours.norm() / exact.norm()).item()
        return cls(cosine, ratio, (ours.sign() == exact.sign()).double().mean().item())


def flat_gradient(parameters: Sequence[Tensor]) -> Tensor:
    """The gradients of some parameters as one float64 vector; zeros where there is none."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten().double() for p in parameters])
