"""Feedback that moves: B learned beside the head (Kolen-Pollack), or pulled towards the Jacobian (GrAPE)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn

from hardware import Encoding
from opu_dfa.dfa.feedback import DenseFeedback, Feedback, Layout, gaussian_matrix
from opu_dfa.errors import ConfigError


class LearnedFeedback(DenseFeedback):
    """B is a parameter, whose gradient from block l is h_lᵀe: that of a head Wᵀ which reads h_l.

    `learn` adds it to `matrix.grad`; give `feedback.parameters()` to the model's optimiser, with the head's learning
    rate and weight decay. B and the weights that read h then move alike, and decay forgets what they began with: after
    t steps of SGD, B - Wᵀ = (1 - lr · decay)ᵗ (B₀ - W₀ᵀ). With independent slices each block has a B of its own;
    a shared B gets the mean over the blocks. Over ranks gradients are averaged, as DistributedDataParallel does.
    Source: Webster, Choi, Ahn, "Learning the connections in direct feedback alignment", 2021; Kolen and Pollack,
    "Backpropagation without weight transport", 1994.

    Args:
        n_features, n_components, layout, seed, encoding: see `Feedback`.
        initial: B at the start, `(n_components, n_features)`, for instance a device's `columns()`; Gaussian if None.

    Raises:
        ConfigError: `initial` of another shape.

    >>> feedback = LearnedFeedback(n_features=3, n_components=8)
    >>> feedback.learn(torch.ones(5, 3), [torch.ones(5, 8)])
    >>> feedback.matrix.grad.unique()
    tensor([5.])
    """

    def __init__(
        self,
        n_features: int,
        n_components: int,
        layout: Layout = "shared",
        seed: int = 0,
        encoding: Encoding | None = None,
        initial: Tensor | None = None,
    ) -> None:
        super().__init__(n_features, n_components, layout, seed, encoding)
        self.matrix = nn.Parameter(_start(initial, n_features, n_components, seed))

    @torch.no_grad()
    def learn(self, error: Tensor, taps: Sequence[Tensor]) -> None:
        if self.matrix.requires_grad:
            moved = _outer_products(self, error, taps)
            self.matrix.grad = moved if self.matrix.grad is None else self.matrix.grad + moved


class GradientAlignedFeedback(DenseFeedback):
    """B_l ← (1 - rate) B_l + rate · mean over rows of v_l uᵀ, where u = Σ_l J_l v_l is a forward-mode product.

    With v_l ~ N(0, I) independent, E[v_l uᵀ] = J_lᵀ: B_l tends to the mean over rows of J_lᵀ, in its own units, so
    that B_l e estimates the exact gradient; a shared B tends to the mean over the blocks too. What B began with is
    forgotten as (1 - rate)ⁿ. Where rows do not mix, the squared error relative to J_lᵀ is about rate / (2 rows) times
    the widths of all blocks together: choose `rate` well below rows / widths.
    Source: GrAPE (ICLR 2026); Bacho and Chu, "Low-variance forward gradients using direct feedback alignment and
    momentum", 2022 (arXiv 2212.07282).

    Args:
        n_features, n_components, layout, seed, encoding: see `Feedback`.
        rate: weight of the newest sample, in (0, 1].
        initial: B at the start, `(n_components, n_features)`; Gaussian if None.

    Raises:
        ConfigError: `rate` out of range, or `initial` of another shape.

    >>> feedback = GradientAlignedFeedback(n_features=3, n_components=8, rate=1.0)
    >>> feedback.align([torch.ones(5, 8)], torch.ones(5, 3))
    >>> feedback.matrix.unique()
    tensor([1.])
    """

    def __init__(
        self,
        n_features: int,
        n_components: int,
        layout: Layout = "shared",
        seed: int = 0,
        encoding: Encoding | None = None,
        rate: float = 0.01,
        initial: Tensor | None = None,
    ) -> None:
        super().__init__(n_features, n_components, layout, seed, encoding)
        if not 0 < rate <= 1:
            raise ConfigError(f"rate is the weight of the newest sample, in (0, 1]; got {rate}")
        self.rate = rate
        self.register_buffer("matrix", _start(initial, n_features, n_components, seed))

    @torch.no_grad()
    def align(self, tangents: Sequence[Tensor], out_tangent: Tensor) -> None:
        reached = max(s.stop for s in self.slices([v.shape[1] for v in tangents]))
        sample = _outer_products(self, out_tangent / len(out_tangent), tangents)
        self.matrix[:reached].lerp_(sample[:reached], self.rate)


def _start(initial: Tensor | None, n_features: int, n_components: int, seed: int) -> Tensor:
    if initial is None:
        return gaussian_matrix(n_features, n_components, seed)
    if initial.shape != (n_components, n_features):
        raise ConfigError(f"initial columns must be of shape {(n_components, n_features)}, got {tuple(initial.shape)}")
    return initial.detach().float().clone()


def _outer_products(feedback: Feedback, error: Tensor, values: Sequence[Tensor]) -> Tensor:
    """Σ over rows of h_l eᵀ where block l's slice of B is, `(n_components, n_features)`; the mean where blocks share.

    Values that several blocks of one slice have in common are multiplied once.
    """
    slices = feedback.slices([h.shape[1] for h in values])
    error = error.float()
    total = error.new_zeros(feedback.n_components, feedback.n_features)
    blocks = error.new_zeros(feedback.n_components, 1)
    for s, h in {(s.start, h.data_ptr(), h.stride()): (s, h) for s, h in zip(slices, values, strict=True)}.values():
        total[s].addmm_(h.float().T, error)
        blocks[s] += 1
    total /= blocks.clamp_(min=1)
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(total)
        total /= distributed.get_world_size()
    return total
