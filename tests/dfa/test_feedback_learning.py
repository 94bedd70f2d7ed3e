"""Operators that move: Kolen-Pollack against its closed form, forward-mode alignment against autograd's Jacobian."""

import pytest
import torch
from torch import nn

from opu_dfa.dfa import (
    CenteredFeedback,
    GaussianFeedback,
    GradientAlignedFeedback,
    LearnedFeedback,
    RandomSketch,
    SketchedFeedback,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def head_and_feedback_after(steps: int, optimizer_of) -> tuple[torch.Tensor, torch.Tensor]:
    """(B - Wᵀ) at the start and after some steps of a linear head on fixed features, B learning beside it."""
    features, target = draw(64, 8), draw(64, 3, seed=1)
    head, feedback = nn.Linear(8, 3, bias=False), LearnedFeedback(3, 8, seed=2)
    head.weight.data.copy_(draw(3, 8, seed=3))
    apart = feedback.columns() - head.weight.detach().T
    optimizer = optimizer_of([*head.parameters(), *feedback.parameters()])
    for _ in range(steps):
        optimizer.zero_grad()
        out = head(features)
        out.retain_grad()
        (out - target).square().mean().backward()
        feedback.learn(out.grad, [features, features])
        optimizer.step()
    return apart, feedback.columns() - head.weight.detach().T


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_feedback_and_weights_converge_at_the_rate_of_the_weight_decay(kind):
    """Equal gradients move both alike, so that their difference only decays: (1 - lr · decay) a step."""
    before, after = head_and_feedback_after(40, lambda p: getattr(torch.optim, kind)(p, lr=0.05, weight_decay=0.4))
    assert torch.allclose(after, (1 - 0.05 * 0.4) ** 40 * before, rtol=1e-3, atol=1e-5)


def test_independent_blocks_learn_their_own_slices_and_a_shared_one_the_mean():
    error, taps = draw(20, 3), [draw(20, 8, seed=1), draw(20, 5, seed=2)]
    products = [h.T @ error for h in taps]
    independent = LearnedFeedback(3, 14, "independent")
    independent.learn(error, taps)
    independent.learn(error.half(), [h.half() for h in taps])  # accumulates, and takes what autocast gives
    assert torch.allclose(independent.matrix.grad[:8], 2 * products[0], rtol=0.01, atol=0.05)
    assert torch.allclose(independent.matrix.grad[8:13], 2 * products[1], rtol=0.01, atol=0.05)
    assert not independent.matrix.grad[13:].any()
    shared = LearnedFeedback(3, 8)
    shared.learn(error, taps)
    assert torch.allclose(shared.matrix.grad[:5], (products[0][:5] + products[1]) / 2, atol=1e-5)
    assert torch.allclose(shared.matrix.grad[5:], products[0][5:], atol=1e-5)


def test_a_learned_operator_starts_where_it_is_told_and_its_signals_ask_for_no_gradient():
    columns = draw(8, 3)
    feedback = LearnedFeedback(3, 8, initial=columns)
    assert torch.equal(feedback.columns(), columns)
    assert not feedback(draw(4, 3), [8])[0].requires_grad
    assert torch.equal(LearnedFeedback(3, 8, seed=7).columns(), GaussianFeedback(3, 8, seed=7).columns())


def test_operators_around_a_learner_teach_it():
    inner, sketch = LearnedFeedback(3, 8), RandomSketch(10, 3)
    error, tap = draw(20, 10), draw(20, 8, seed=1)
    CenteredFeedback(SketchedFeedback(inner, sketch)).learn(error, [tap])
    assert torch.allclose(inner.matrix.grad, tap.T @ (error @ sketch.matrix.T), atol=1e-5)
    aligned = GradientAlignedFeedback(3, 8, rate=1.0)
    SketchedFeedback(aligned, sketch).align([tap], error)
    assert torch.allclose(aligned.matrix, tap.T @ (error @ sketch.matrix.T) / 20, atol=1e-5)


W2, W3 = draw(6, 5, seed=10) / 5**0.5, draw(4, 6, seed=11) / 6**0.5


def downstream(first: torch.Tensor, second: torch.Tensor, squash) -> torch.Tensor:
    """The network after its first block, with what is added at each of its two taps."""
    return (squash((HIDDEN + first) @ W2.T) + second) @ W3.T


HIDDEN = draw(40_000, 5, seed=12)


@pytest.mark.parametrize("squash", [nn.Identity(), torch.tanh])
def test_alignment_finds_the_mean_transposed_jacobian(squash):
    """Against autograd's Jacobians: within 4.5 standard errors of the samples, entry by entry."""
    v = (draw(40_000, 5, seed=1), draw(40_000, 6, seed=2))
    zeros = tuple(torch.zeros_like(x) for x in v)
    u = torch.func.jvp(lambda a, b: downstream(a, b, squash), zeros, v)[1]
    feedback = GradientAlignedFeedback(4, 11, "independent", rate=1.0)
    feedback.align(v, u)
    slope = torch.func.vmap(torch.func.jacrev(lambda h: squash(h @ W2.T) @ W3.T))(HIDDEN).mean(dim=0)
    exact = torch.cat((slope.T, W3.T))
    samples = torch.cat(v, dim=1)[:, :, None] * u[:, None, :]
    assert ((feedback.matrix - exact).abs() < 4.5 * samples.std(dim=0) / 40_000**0.5).all()


def test_alignment_is_an_exponential_average_at_its_rate():
    feedback = GradientAlignedFeedback(3, 8, rate=0.25)
    start = feedback.columns()
    v, u = draw(20, 5), draw(20, 3, seed=1)
    for _ in range(3):
        feedback.align([v, v], u)
    kept = 0.75**3
    assert torch.allclose(feedback.matrix[:5], kept * start[:5] + (1 - kept) * v.T @ u / 20, atol=1e-6)
    assert torch.equal(feedback.matrix[5:], start[5:])  # no block reads them


def test_ranks_learn_the_mean_of_what_each_sees(monkeypatch):
    """The other of two ranks, with the second half of the rows, stands behind a stubbed all_reduce."""
    error, tap = draw(20, 3), draw(20, 8, seed=1)
    theirs = tap[10:].T @ error[10:]
    for name, stub in (("is_initialized", lambda: True), ("get_world_size", lambda: 2)):
        monkeypatch.setattr(torch.distributed, name, stub)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.add_(theirs))
    learned = LearnedFeedback(3, 8)
    learned.learn(error[:10], [tap[:10]])
    assert torch.allclose(learned.matrix.grad, tap.T @ error / 2, atol=1e-5)  # as DistributedDataParallel averages
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.add_(theirs / 10))
    aligned = GradientAlignedFeedback(3, 8, rate=1.0)
    aligned.align([tap[:10]], error[:10])
    assert torch.allclose(aligned.matrix, tap.T @ error / 20, atol=1e-5)
