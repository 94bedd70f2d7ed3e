"""Stepping in the backward pass is the same optimiser at another time; half-precision weights are unbiased."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from opu_dfa import DirectFeedback, GaussianFeedback
from opu_dfa.training.optimizer import NotFinite, Stepper, stochastically_rounded


def chosen(**changed):
    return SimpleNamespace(
        **({"name": "adamw", "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1, "clip_norm": 0.0} | changed)
    )


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Linear(6, 8), nn.Tanh()), nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Linear(8, 3)
    )


def groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    return {name: list(part.parameters()) for name, part in model.named_children()}


def rounding() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def trained(model: nn.Module, stepper: Stepper, n_steps: int = 5, taught: bool = True) -> list[float]:
    engine = DirectFeedback(model, ["0", "1"], GaussianFeedback(3, 8))
    draw = torch.Generator().manual_seed(1)
    norms = []
    for _ in range(n_steps):
        x, y = torch.randn(16, 6, generator=draw), torch.randint(3, (16,), generator=draw)
        stepper.begin(1e-2)
        out = model(x)
        loss = nn.functional.cross_entropy(out, y)
        engine.backward(loss, out)
        norms.append(stepper.finish())
    engine.detach()
    return norms


@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor"])
def test_stepping_in_the_backward_pass_takes_the_same_steps(name):
    models, norms = [network(), network()], []
    for model, early in zip(models, (False, True), strict=True):
        norms.append(trained(model, Stepper(groups(model), chosen(name=name), 1e-2, early, rounding())))
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_no_more_than_one_group_has_gradients_at_a_time():
    model = network()
    alive = []
    for p in model.parameters():  # before the stepper's own hooks
        p.register_post_accumulate_grad_hook(
            lambda _: alive.append({n for n, own in groups(model).items() if any(q.grad is not None for q in own)})
        )
    trained(model, Stepper(groups(model), chosen(), 1e-2, True, rounding()), n_steps=1)
    assert len(alive) == 6
    assert all(len(names) == 1 for names in alive)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("early", [False, True])
def test_the_clipped_gradient_of_the_whole_is_below_the_limit(early):
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    stepper = Stepper(
        groups(model), chosen(name="sgd", beta1=0.0, weight_decay=0.0, clip_norm=1e-3), 1.0, early, rounding()
    )
    stepper_norm = trained(model, stepper, n_steps=1)[0]
    moved = math.hypot(*((p - q).norm().item() for p, q in zip(model.parameters(), before, strict=True))) / 1e-2
    assert stepper_norm > 1e-3
    assert moved <= 1e-3 * (1 + 1e-3)
    assert moved >= 1e-3 / math.sqrt(3) * (1 - 1e-3)  # at least one group was at its limit


def test_a_gradient_that_is_no_number_is_named_before_the_step():
    model = network()
    for early in (False, True):
        stepper = Stepper(groups(model), chosen(), 1e-2, early, rounding())
        stepper.begin(1e-2)
        kept = model[1][0].weight.detach().clone()
        with pytest.raises(NotFinite, match="of 1"):  # noqa: PT012
            (model[1](torch.ones(2, 8)).sum() * math.nan).backward()
            stepper.finish()
        assert torch.equal(model[1][0].weight, kept)


def test_passes_outside_of_steps_change_nothing():
    model = network()
    Stepper(groups(model), chosen(), 1e-2, True, rounding())
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.ones(2, 6)).sum().backward()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert model[0][0].weight.grad is not None


def test_rounding_is_unbiased_and_to_the_neighbours():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(2))
    draw, n = rounding(), 400
    rounded = torch.stack([stochastically_rounded(x, draw) for _ in range(n)]).double()
    gap = torch.tensor(2.0) ** (x.abs().log2().floor() - 7)
    assert (rounded - x).abs().max() < gap.max()
    assert ((rounded - x).abs() < gap).all()
    deviations = (rounded.mean(0) - x) / (gap / 2 / math.sqrt(n))  # a rounding's deviation is at most half a gap
    assert deviations.abs().max() < 5
    exact = stochastically_rounded(x, draw).float()
    assert torch.equal(stochastically_rounded(exact, draw).float(), exact)


def test_half_precision_weights_follow_steps_below_their_last_bit():
    """A thousand steps of 2⁻¹² from 1, where neighbours are 2⁻⁷ apart: nearest rounding would never move."""
    weight = nn.Parameter(torch.ones(4000, 2, dtype=torch.bfloat16))
    settings = chosen(name="sgd", beta1=0.0, weight_decay=0.0)
    stepper = Stepper({"w": [weight]}, settings, 2**-12, False, rounding())
    for _ in range(1000):
        stepper.begin(2**-12)
        weight.grad = torch.full_like(weight, -1.0)
        stepper.finish()
    expected = 1 + 1000 * 2**-12
    # Each step adds less than 2⁻¹² · 2⁻⁷ of variance.
    error = math.sqrt(1000 * 2**-12 * 2**-7 / weight.numel())
    assert weight.float().mean().item() == pytest.approx(expected, abs=5 * error)


@pytest.mark.parametrize("early", [False, True])
def test_a_state_continues_to_the_same_bits(early):
    models = [network(), network()]
    for model in models:
        model.bfloat16()
    data = torch.randn(8, 6).bfloat16()

    def steps(model: nn.Module, stepper: Stepper, n: int) -> None:
        for _ in range(n):
            stepper.begin(1e-2)
            model(data).square().sum().backward()
            stepper.finish()

    whole, half = (Stepper(groups(m), chosen(), 1e-2, early, rounding()) for m in models)
    steps(models[0], whole, 6)
    steps(models[1], half, 3)
    again = Stepper(groups(models[1]), chosen(), 1e-2, early, torch.Generator().manual_seed(9)) if not early else half
    again.load_state(half.state())
    steps(models[1], again, 3)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
