"""Training a defence: against autograd, against the engine of `opu_dfa.dfa`, and that it learns."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from hardware import SimulatedOPU
from opu_dfa.defense.model import OpticalDefense, vgg_features
from opu_dfa.defense.rules import StraightThrough, TrueFeedback
from opu_dfa.defense.target import Attack
from opu_dfa.defense.training import Adversary, Recipe, Training, augmented, teach, train
from opu_dfa.dfa import DirectFeedback
from opu_dfa.errors import ConfigError, DataError, DivergedError

SHAPE = (1, 8, 8)


def build(head="optical", seed=0, preset="ideal"):
    opu = SimulatedOPU(128, 512, seed=seed, preset=preset)
    features = vgg_features([[16], [32]], SHAPE, seed)
    return OpticalDefense(features, 10, opu, head, image_shape=SHAPE, seed=seed)


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.from_numpy(data.images).float()[:, None] / 16
    y = torch.from_numpy(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order[:1400]], y[order[:1400]], x[order[1400:]], y[order[1400:]]


def accuracy(model, x, y):
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_straight_through_a_plain_head_is_backpropagation(digits):
    x, y = digits[0][:32], digits[1][:32]
    model = build("plain")
    teach(model, StraightThrough(model), x, y)
    ours = gradients(model)
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    for name, exact in gradients(model).items():
        torch.testing.assert_close(ours[name], exact, rtol=1e-4, atol=1e-6, msg=name)


def test_dfa_is_what_the_engine_of_direct_feedback_does(digits):
    x, y = digits[0][:32], digits[1][:32]
    model = build()
    teach(model, TrueFeedback(model), x, y)
    ours = gradients(model)
    model.zero_grad()
    engine = DirectFeedback(model, blocks=["standardised"], feedback=model.feedback)
    out = model(x)
    engine.backward(F.cross_entropy(out, y), out)
    for name, theirs in gradients(model).items():
        torch.testing.assert_close(ours[name], theirs, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize(("head", "rule"), [("optical", "dfa"), ("optical", "straight-through"), ("plain", "dfa")])
def test_digits_are_learned(digits, head, rule):
    x, y, x_test, y_test = digits
    model = build(head)
    epochs = train(model, x, y, Recipe(epochs=8, batch=64, rule=rule), torch.Generator().manual_seed(0))
    assert accuracy(model, x_test, y_test) > 0.85
    assert epochs[-1].loss < epochs[0].loss
    assert not model.training


def test_training_is_fixed_by_its_seeds_noise_included(digits):
    models = [build(preset="noisy-8bit") for _ in range(2)]
    for number, model in enumerate(models):
        torch.manual_seed(number)
        train(model, digits[0][:200], digits[1][:200], Recipe(epochs=2, augment=True), torch.Generator().manual_seed(1))
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_statistics_of_the_readout_are_learned_once_a_batch(digits):
    """Straight-through walks the head twice; the running mean must move by one step of momentum all the same."""
    x, y = digits[0][:64], digits[1][:64]
    model = build("plain").train()
    mean = model.hidden(x).mean(0)
    model.norm.reset_running_stats()
    teach(model, StraightThrough(model), x, y)
    torch.testing.assert_close(model.norm.running_mean, 0.1 * mean.detach(), rtol=1e-3, atol=1e-5)


def test_frozen_features_stay_as_they_are(digits):
    model = build()
    model.features.requires_grad_(False)
    before = {name: value.clone() for name, value in model.features.state_dict().items()}
    weight = model.linear.weight.clone()
    train(model, digits[0][:200], digits[1][:200], Recipe(epochs=1), torch.Generator())
    assert all(torch.equal(value, model.features.state_dict()[name]) for name, value in before.items())
    assert not torch.equal(weight, model.linear.weight)
    model.linear.requires_grad_(False)
    train(model, digits[0][:200], digits[1][:200], Recipe(epochs=1), torch.Generator())  # the readout alone


@dataclass(frozen=True)
class Sign(Attack):
    """One step along the rule's sign."""

    def __call__(self, target, images, labels, eps, generator, rule=None):
        step = rule(images, lambda logits: F.cross_entropy(logits, labels, reduction="none"))
        return (images + eps * step.gradient.sign()).clamp(0, 1)


def test_adversarial_training_resists_what_it_was_trained_with(digits):
    x, y, x_test, y_test = digits
    robust = []
    for adversary in (None, Adversary(Sign(), 0.1)):
        model = build("plain")
        recipe = Recipe(epochs=6, batch=64, rule="straight-through")
        train(model, x, y, recipe, torch.Generator().manual_seed(0), adversary)
        step = StraightThrough(model)(x_test, lambda logits: F.cross_entropy(logits, y_test, reduction="none"))
        robust.append(accuracy(model, (x_test + 0.1 * step.gradient.sign()).clamp(0, 1), y_test))
    assert robust[1] > robust[0] + 0.1


def test_a_training_taken_up_between_epochs_ends_in_the_same_bits(digits):
    def begun() -> Training:
        chosen = Recipe(epochs=3, augment=True)
        return Training(build(), digits[0][:100], digits[1][:100], chosen, torch.Generator().manual_seed(5))

    whole = begun()
    while not whole.done:
        whole.epoch()
    left = begun()
    left.epoch()
    taken = begun()
    taken.load_state_dict(left.state_dict())
    while not taken.done:
        taken.epoch()
    assert [e.number for e in taken.epochs] == [1, 2, 3]
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(taken.model.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_augmentation_shifts_and_mirrors_each_image_by_itself():
    x = torch.rand(64, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    found = set()
    changed = augmented(x, torch.Generator().manual_seed(1))
    for before, after in zip(F.pad(x, [2] * 4), changed, strict=True):
        choices = {
            (i, j, flip): before[:, i : i + 16, j : j + 16].flip(2) if flip else before[:, i : i + 16, j : j + 16]
            for i in range(5)
            for j in range(5)
            for flip in (False, True)
        }
        (match,) = [key for key, choice in choices.items() if torch.equal(choice, after)]
        found.add(match)
    assert len(found) > 25  # of 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "bp"}, "rule is one of"),
        ({"optimiser": "adamw"}, "optimiser is one of"),
        ({"batch": 1}, "batch >= 2"),
        ({"epochs": -1}, "epochs >= 0"),
        ({"learning_rate": float("nan")}, "learning_rate > 0"),
        ({"weight_decay": -1.0}, "weight_decay >= 0"),
    ],
)
def test_a_recipe_that_cannot_be_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        Recipe(**change)


def test_images_that_cannot_be_trained_on_are_named(digits):
    x, y = digits[0][:8], digits[1][:8]
    for images, labels in ((x * 2, y), (x, y + 10), (x[0], y), (x, y[:4]), (x[:1], y[:1])):
        with pytest.raises(DataError):
            train(build(), images, labels, Recipe(epochs=1), torch.Generator())


def test_a_loss_that_explodes_stops_the_training(digits):
    model = build("plain")
    with torch.no_grad():
        model.readout.weight.fill_(float("inf"))
    with pytest.raises(DivergedError, match="learning_rate"):
        train(model, digits[0][:100], digits[1][:100], Recipe(epochs=1), torch.Generator())


def test_a_model_frozen_all_over_is_refused(digits):
    model = build("plain").requires_grad_(False)
    with pytest.raises(ConfigError, match="trainable"):
        train(model, digits[0][:100], digits[1][:100], Recipe(epochs=1), torch.Generator())
