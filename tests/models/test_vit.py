"""The vision transformer: what it computes, how it is drawn, and how a pooled error reaches its patches."""

import pytest
import torch

from opu_dfa.dfa import DirectFeedback, GaussianFeedback
from opu_dfa.models.vit import ViT


def vit(**changed) -> ViT:
    return ViT(**({"image_shape": (3, 8, 12), "n_outputs": 5, "patch": 4, "n_blocks": 2, "width": 16} | changed))


def test_without_positions_the_order_of_patches_does_not_matter():
    model = vit()
    torch.nn.init.zeros_(model.embedding.position.weight)
    x = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    halves = torch.cat((x[:, :, 4:], x[:, :, :4]), dim=2)
    # float32, values of order one
    assert torch.allclose(model(x), model(halves), atol=1e-5)
    assert not torch.allclose(vit()(x), vit()(halves), atol=1e-5)


def test_every_patch_sees_every_other():
    model = vit(output="patches")
    x = torch.randn(1, 3, 8, 12, generator=torch.Generator().manual_seed(0), requires_grad=True)
    first = model(x)[0, 0].sum()
    (gradient,) = torch.autograd.grad(first, x)
    assert (gradient.abs().amax((0, 1)) > 0).all()


def test_an_image_s_output_is_the_mean_of_its_patches():
    """Norm, then mean, then a linear map: the mean commutes with the head."""
    pooled, each = vit(), vit(output="patches")
    each.load_state_dict(pooled.state_dict())
    x = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(pooled(x), each(x).mean(1), atol=1e-6)


def test_patches_run_in_reading_order():
    embedding = vit().embedding
    x = torch.zeros(1, 3, 8, 12)
    x[:, :, 4:, 8:] = 1  # the last of two rows of three
    changed = (embedding(x) - embedding(torch.zeros_like(x)))[0].abs().sum(1) > 0
    assert changed.tolist() == [False] * 5 + [True]


def test_the_same_seed_draws_the_same_weights():
    first, again, other = vit(seed=1), vit(seed=1), vit(seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.head.weight, other.head.weight)


@pytest.mark.parametrize("output", ["image", "patches"])
def test_the_error_reaches_patches_by_the_exact_derivative_of_the_neck(output: str):
    model = vit(output=output)
    feedback = GaussianFeedback(n_features=5, n_components=16)
    dfa = DirectFeedback(model, ["blocks.*"], feedback, through="neck")
    x = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    out = model(x)
    dfa.backward(out.square().sum(), out)
    by_feedback = model.blocks[-1].mlp.down.weight.grad.clone()
    dfa.detach()
    # The same by autograd, with B in the head's place: the last block sees no other difference.
    model.zero_grad()
    error = 2 * model(x).detach()
    h = model.embedding(x)
    for block in model.blocks:
        h = block(h)
    (model.neck(h) * (error @ feedback.matrix.T)).sum().backward()
    assert torch.allclose(by_feedback, model.blocks[-1].mlp.down.weight.grad, rtol=1e-4, atol=1e-6)


def test_a_pooled_error_is_spread_over_the_patches_alike():
    model = vit()
    feedback = GaussianFeedback(n_features=5, n_components=16)
    dfa = DirectFeedback(model, ["blocks.*"], feedback, through="neck.pool")
    x = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    out = model(x)
    dfa.backward(out.square().sum(), out)
    by_feedback = model.blocks[-1].mlp.down.bias.grad.clone()
    # The last block adds its bias to each of the six patches: their signals, B e / 6 each, add up to B e.
    assert torch.allclose(by_feedback, (2 * out.detach() @ feedback.matrix.T).sum(0), rtol=1e-4, atol=1e-6)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="patches of 5 pixels a side do not tile"):
        vit(patch=5)
    with pytest.raises(ValueError, match="width must be a multiple of n_heads"):
        vit(n_heads=3)
