"""Alignment: what it measures, and that measuring it changes nothing."""

import json
import math

import pytest
import torch
from torch import Tensor, nn

from opu_dfa import DirectFeedback, GaussianFeedback
from opu_dfa.dfa.alignment import Alignment


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TwoInputs(nn.Module):
    """Dropout and batch statistics inside the block, so that a second pass differs unless care is taken."""

    def __init__(self) -> None:
        super().__init__()
        # A bias in front of batch statistics has no gradient but roundings, whose signs say nothing.
        self.block = nn.Sequential(nn.Linear(3, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.block(x) * scale)}


def loss(out: dict[str, Tensor], y: Tensor) -> Tensor:
    return (out["logits"] - y).square().mean()


def exact(net: TwoInputs, scale: float = 1.0) -> GaussianFeedback:
    operator = GaussianFeedback(4, 6)
    operator.matrix.copy_(scale * net.head.weight.detach().T)
    return operator


@pytest.mark.parametrize("scale", [1.0, -3.0])
def test_exact_feedback_is_aligned_in_angle_norm_and_signs_under_the_same_dropout(scale):
    with torch.random.fork_rng():
        torch.manual_seed(0)  # weights, and masks that leave every unit somewhere
        net, x = TwoInputs(), (draw(7, 3), torch.ones(7, 1))
        (found,) = DirectFeedback(net, ["block"], exact(net, scale)).alignment(loss, x, draw(7, 4, seed=1)).values()
    assert found == pytest.approx(math.copysign(1, scale), abs=1e-5)
    assert found.norm_ratio == pytest.approx(abs(scale), rel=1e-5)
    assert found.sign_agreement == (1.0 if scale > 0 else 0.0)


def test_random_feedback_agrees_in_half_of_the_signs():
    ours, theirs = draw(10_000).double(), draw(10_000, seed=1).double()
    found = Alignment.between(ours, theirs)
    assert abs(found) < 4 / 100
    assert abs(found.sign_agreement - 0.5) < 4 * 0.5 / 100
    assert found.norm_ratio == pytest.approx((ours.norm() / theirs.norm()).item())


def test_an_alignment_is_written_as_a_number():
    assert json.loads(json.dumps({"block": Alignment(0.25, 2.0, 0.5)})) == {"block": 0.25}


def test_measuring_leaves_no_trace():
    net, x, y = TwoInputs(), (draw(7, 3), torch.ones(7, 1)), draw(7, 4, seed=1)
    operator = GaussianFeedback(4, 6)
    operator.register_parameter("learned", nn.Parameter(torch.ones(2)))
    operator.learn = lambda error, taps: setattr(operator.learned, "grad", torch.ones(2))
    operator.learned.grad = torch.full((2,), 5.0)
    net.head.weight.grad = torch.full((4, 6), 7.0)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    with torch.no_grad():  # measuring asks for its own gradients
        DirectFeedback(net, ["block"], operator).alignment(loss, x, y)
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(net.head.weight.grad, torch.full((4, 6), 7.0))
    assert torch.equal(operator.learned.grad, torch.full((2,), 5.0))
    assert net.block[0].weight.grad is None
