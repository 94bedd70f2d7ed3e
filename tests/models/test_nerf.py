"""Radiance fields: shapes, the encoding, and learning by feedback against backprop."""

import math

import pytest
import torch

from opu_dfa.dfa import DirectFeedback, GaussianFeedback
from opu_dfa.models.nerf import Encoding, PlainNeRF, ResidualNeRF

TAPS = {ResidualNeRF: ["blocks.*"], PlainNeRF: ["blocks.*", "facing"]}


def samples(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 5, 3, generator=generator), torch.randn(6, 1, 3, generator=generator)


def test_the_encoding_is_of_octaves():
    p = torch.tensor([0.3, -1.2, 0.7])
    waves = [f(2**k * c) for f in (math.sin, math.cos) for k in range(3) for c in p.tolist()]
    torch.testing.assert_close(Encoding(3)(p), torch.tensor([*p.tolist(), *waves]))


@pytest.mark.parametrize("kind", [ResidualNeRF, PlainNeRF])
def test_a_direction_for_the_ray_is_one_for_each_sample(kind):
    net = kind(n_blocks=3, width=16)
    positions, directions = samples()
    out = net(positions, directions)
    assert out.shape == (6, 5, 4)
    torch.testing.assert_close(net(positions, directions.expand(6, 5, 3)), out)
    assert not torch.allclose(net(positions, -directions), out)


def test_the_plain_network_s_density_does_not_depend_on_the_direction():
    net = PlainNeRF(n_blocks=3, width=16)
    positions, directions = samples()
    out, other = net(positions, directions), net(positions, -directions)
    torch.testing.assert_close(out[..., 3], other[..., 3])
    assert not torch.allclose(out[..., :3], other[..., :3])


@pytest.mark.parametrize("kind", [ResidualNeRF, PlainNeRF])
def test_weights_come_from_the_seed_alone(kind):
    def weights(seed: int) -> torch.Tensor:
        return torch.cat([p.flatten() for p in kind(n_blocks=2, width=16, seed=seed).parameters()])

    first = weights(0)
    torch.manual_seed(1)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


@pytest.mark.parametrize("kind", [ResidualNeRF, PlainNeRF])
def test_every_weight_learns_from_feedback(kind):
    net = kind(n_blocks=3, width=16)
    dfa = DirectFeedback(net, TAPS[kind], GaussianFeedback(n_features=4, n_components=16))
    out = net(*samples())
    dfa.backward(out.square().mean(), out)
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert p.grad.any(), name


def test_feedback_through_the_head_and_the_norm_is_backprop_in_the_last_block():
    net = ResidualNeRF(n_blocks=2, width=16)
    feedback = GaussianFeedback(n_features=4, n_components=16)
    feedback.matrix.copy_(net.head.weight.detach().T)
    dfa = DirectFeedback(net, ["blocks.*"], feedback, through="final_norm")
    x = samples()
    out = net(*x)
    dfa.backward(out.square().sum(), out)
    by_feedback = [p.grad.clone() for p in net.blocks[1].parameters()]
    net.zero_grad()
    with dfa.exact():
        net(*x).square().sum().backward()
    torch.testing.assert_close(by_feedback, [p.grad for p in net.blocks[1].parameters()])
