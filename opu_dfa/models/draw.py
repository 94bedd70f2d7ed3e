"""Drawing a model's first weights from a seed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


@torch.no_grad()
def draw_weights(model: nn.Module, seed: int, deviation: Callable[[str, Tensor], float]) -> None:
    """Weights of two dimensions and more from N(0, deviation²); biases zero, and the gains of norms one.

    Args:
        deviation: of a weight, by its name and itself.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    >>> draw_weights(net, seed=0, deviation=lambda name, weight: weight.shape[1] ** -0.5)
    >>> net[0].bias, net[1].weight
    (Parameter containing: tensor([0., 0., 0., 0.], requires_grad=True),
     Parameter containing: tensor([1., 1., 1., 1.], requires_grad=True))
    """
    generator = torch.Generator().manual_seed(seed)
    gains = {m.weight for m in model.modules() if isinstance(m, (nn.LayerNorm, nn.BatchNorm2d))}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(float(parameter in gains))
        else:
            parameter.normal_(std=deviation(name, parameter), generator=generator)
