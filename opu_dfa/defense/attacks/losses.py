"""What an attack raises: losses of logits `(batch, n_classes)` and labels `(batch,)`, one number per image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from opu_dfa.errors import DataError


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(z)_y: what the model was trained on; its gradient vanishes where the model is sure.

    >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor([0.6931])
    """
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max over j ≠ y of z_j - z_y: above zero exactly where the image is classified wrongly.

    >>> margin(torch.tensor([[3.0, 1.0, 0.5]]), torch.tensor([0]))
    tensor([-2.])
    """
    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).amax(1) - logits.masked_fill(~own, -torch.inf).amax(1)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """(max over j ≠ y of z_j - z_y) / (z_(1) - z_(3)), z_(k) the k-th largest: logits may be scaled and shifted.

    Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", 2020.

    Raises:
        DataError: fewer than three classes.

    >>> dlr(torch.tensor([[3.0, 1.0, 0.5]]), torch.tensor([0]))
    tensor([-0.8000])
    """
    if logits.shape[1] < 3:
        raise DataError(
            f"the DLR loss compares three classes, got {logits.shape[1]}: take loss='margin' or 'cross-entropy'"
        )
    largest = logits.topk(3, dim=1).values
    return margin(logits, labels) / (largest[:, 0] - largest[:, 2] + 1e-12)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cross-entropy": cross_entropy, "margin": margin, "dlr": dlr}
