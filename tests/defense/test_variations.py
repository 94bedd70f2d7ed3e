"""Variations of the defence, against closed forms, autograd and what they were made of."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hardware import SimulatedOPU
from opu_dfa.defense.combined import Expected
from opu_dfa.defense.model import OpticalDefense, binarised, vgg_features
from opu_dfa.defense.rules import Autograd, StraightThrough
from opu_dfa.defense.training import Recipe, train
from opu_dfa.defense.variations import (
    FreshMedium,
    HiddenNoise,
    MeanOf,
    OneOf,
    Thresholds,
    ThroughMean,
    many_thresholds,
    renewed,
)
from opu_dfa.errors import ConfigError

SHAPE = (1, 8, 8)
LABELS = torch.arange(12) % 3


def medium(number=0, n_mirrors=24):
    return SimulatedOPU(n_mirrors, 60, seed=number)


def build(head="optical", seed=0):
    model = OpticalDefense(vgg_features([[4], [8]], SHAPE, seed), 3, medium(seed), head, image_shape=SHAPE, seed=seed)
    model(images(100))  # running statistics
    return model.eval()


def fresh(seed=0):
    return FreshMedium(vgg_features([[4], [8]], SHAPE, seed), 3, medium, image_shape=SHAPE, seed=seed).eval()


def images(n=12, seed=3):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def rows(n=7, width=11):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(1)) * 3 + 1


def loss(logits):
    return F.cross_entropy(logits, LABELS, reduction="none")


def backpropagated(model, x):
    """The loss's gradient at the images, by autograd through the whole model."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss(model(x)).sum(), x)[0]


def test_thresholds_show_h_against_the_quantiles_of_each_sample():
    h = rows()
    shown = binarised(Thresholds(4)(h)).view(7, 4, 11)
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor([0.2, 0.4, 0.6, 0.8]))
    level = h.mean(1)[:, None] + quantiles * h.std(1, correction=0)[:, None]
    assert torch.equal(shown, (h[:, None] > level[..., None]).float())


def test_a_higher_threshold_never_shows_more():
    shown = binarised(Thresholds(5)(rows())).view(7, 5, 11)
    assert (shown.diff(dim=1) <= 0).all()


def test_one_threshold_changes_nothing():
    torch.testing.assert_close(Thresholds(1)(rows()), rows(), rtol=0, atol=0)


def test_many_thresholds_keep_the_mirrors_and_learn():
    model = many_thresholds(build(), 4, seed=0)
    assert model.hidden(images()).shape == (12, 24)
    assert model.linear[0].out_features == 6
    step = StraightThrough(model, beta=2.0)(images(), loss)
    assert step.gradient.flatten(1).norm(dim=1).min() > 0
    labels = (images(128).mean((1, 2, 3)) > 0.5).long()
    epochs = train(model, images(128), labels, Recipe(epochs=6, batch=32), torch.Generator().manual_seed(0))
    assert epochs[-1].loss < epochs[0].loss


def test_thresholds_ask_for_a_binarisation_and_mirrors_to_share():
    with pytest.raises(ConfigError, match="24 cannot"):
        many_thresholds(build(), 5, seed=0)
    with pytest.raises(ConfigError, match="'plain'"):
        many_thresholds(build("plain"), 4, seed=0)
    with pytest.raises(ConfigError, match="at least 1"):
        Thresholds(0)


def test_hidden_noise_has_the_deviation_of_each_sample_and_is_of_training_alone():
    h = torch.cat([rows(1, 40_000), 5 * rows(1, 40_000)])
    noise = HiddenNoise(0.5, seed=0)
    found = (noise(h) - h).std(1) / h.std(1)
    torch.testing.assert_close(found, torch.full((2,), 0.5), rtol=3 / (2 * 40_000) ** 0.5, atol=0)  # three errors
    assert torch.equal(noise.eval()(h), h)


def test_hidden_noise_goes_on_from_its_state():
    noise, other = HiddenNoise(0.5, seed=0), HiddenNoise(0.5, seed=1)
    noise(rows())
    other.load_state_dict(noise.state_dict())
    assert torch.equal(noise(rows()), other(rows()))


def test_hidden_noise_has_a_deviation():
    with pytest.raises(ConfigError, match="-1"):
        HiddenNoise(-1, seed=0)


def test_a_session_learns_its_readout_alone_and_leaves_the_model_as_it_was():
    model = build()
    before = {name: value.clone() for name, value in model.named_parameters()}
    session = renewed(model, medium(9), seed=9)
    labels = (images(128).mean((1, 2, 3)) > 0.5).long()
    epochs = train(session, images(128), labels, Recipe(epochs=6, batch=32), torch.Generator().manual_seed(0))
    assert epochs[-1].loss < epochs[0].loss
    assert torch.equal(session.hidden(images()), model.hidden(images()))
    assert not torch.equal(session.readout.weight, before["readout.weight"])
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]), name
    assert model.features.stages[0].units[0].conv.weight.requires_grad


def test_a_session_takes_an_optical_head_and_its_mirrors():
    with pytest.raises(ConfigError, match="'sign'"):
        renewed(build("sign"), medium(), seed=0)
    with pytest.raises(ConfigError, match="10 features, wanted 24"):
        renewed(build(), medium(0, 10), seed=0)


def test_a_fresh_medium_is_another_one_at_every_measurement():
    model = fresh()
    seen = []
    for _ in range(3):
        model(images())
        seen.append(model.opu.identity)
    assert len(set(seen)) == 3


def test_the_mean_over_fresh_media_counts_the_mirrors_that_are_on():
    model = fresh()
    shown = torch.zeros(2, 24)
    shown[0, :6], shown[1, ::2] = 1, 1
    means = []
    for number in range(200):
        model.set_extra_state(torch.tensor(number))
        means.append(model.optics(shown).mean(1))
    found = torch.stack(means)
    expected = 2 * shown.sum(1) / 24  # E|Tb|² = 2 Σb / n_mirrors
    assert ((found.mean(0) - expected).abs() < 4 * found.std(0) / 200**0.5 + 1 / 255).all()


def test_a_fresh_medium_goes_on_from_its_state():
    model, other = fresh(), fresh(seed=5)
    for _ in range(3):
        model(images())
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(images()), other(images()))


def test_the_straight_through_rule_passes_the_medium_that_was_just_measured():
    model = fresh()
    step = StraightThrough(model, beta=2.0)(images(), loss)
    held = OpticalDefense(vgg_features([[4], [8]], SHAPE), 3, medium(model.number), image_shape=SHAPE, seed=0)
    held.norm, held.readout = model.norm, model.readout
    held.read = model.read
    torch.testing.assert_close(StraightThrough(held, beta=2.0)(images(), loss).gradient, step.gradient)


def test_the_gradient_of_the_mirrors_that_are_on_spreads_h_and_flips_none():
    model = fresh()
    model.readout.weight.data = torch.tensor([[1.0], [0.0], [0.0]])
    h = model.hidden(images(1)).detach()
    pulled = torch.zeros_like(h)
    for number in range(200):
        model.set_extra_state(torch.tensor(number))
        pulled += StraightThrough(model).pull(h, torch.tensor([[1.0, 0.0, 0.0]]))
    along = binarised(h) - binarised(h).mean()
    assert F.cosine_similarity(pulled, along).item() > 0.95


def test_an_ensemble_has_the_mean_of_the_logits_and_all_of_h():
    members = [build("projection", seed) for seed in (0, 1, 2)]
    model = MeanOf(members)
    torch.testing.assert_close(model(images()), sum(member(images()) for member in members) / 3)
    assert torch.equal(model.hidden(images())[:, 24:48], members[1].hidden(images()))


def test_the_rule_of_an_ensemble_is_backpropagation_where_the_members_have_it():
    model = MeanOf([build("plain", seed) for seed in (0, 1, 2)]).eval()
    step = ThroughMean(model, [Autograd(member) for member in model.members])(images(), loss)
    torch.testing.assert_close(step.gradient, backpropagated(model, images()), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(step.loss, loss(model(images())))


def test_an_ensemble_of_one_is_attacked_as_its_member():
    member = build()
    rule = StraightThrough(member, beta=2.0)
    found = ThroughMean(MeanOf([member]), [rule])(images(), loss)
    torch.testing.assert_close(found.gradient, rule(images(), loss).gradient)


def test_one_of_the_members_answers_by_chance():
    members = [build("plain", seed) for seed in (0, 1)]
    model = OneOf(members, seed=0).eval()
    x = images(1).expand(2_000, -1, -1, -1)
    answers = model(x)
    first, second = (torch.isclose(answers, member(x[:1]), atol=1e-5).all(1) for member in members)
    assert (first ^ second).all()
    assert abs(first.float().mean().item() - 0.5) < 3 * 0.5 / 2_000**0.5


def test_the_expected_rule_is_the_mean_of_the_members_gradients():
    members = [build("plain", seed) for seed in (0, 1)]
    step = Expected([Autograd(member) for member in members])(images(), loss)
    wanted = sum(backpropagated(member, images()) for member in members) / 2
    torch.testing.assert_close(step.gradient, wanted, rtol=1e-4, atol=1e-7)


def test_ensembles_have_members_and_a_rule_for_each():
    with pytest.raises(ConfigError, match="at least one member"):
        MeanOf([])
    with pytest.raises(ConfigError, match="each of 2 members"):
        ThroughMean(MeanOf([nn.Identity(), nn.Identity()]), [Autograd(nn.Identity())])
    with pytest.raises(ConfigError, match="at least one rule"):
        Expected([])
