"""Rules made of rules against the rules they are made of, and what they are worth to an attack."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardware import SimulatedOPU
from opu_dfa.defense.attacks import APGD, MIFGSM, PGD, Transfer, margin
from opu_dfa.defense.combined import EOT, Annealed, Averaged, Ensemble
from opu_dfa.defense.model import OpticalDefense, vgg_features
from opu_dfa.defense.rules import Autograd, StraightThrough, TrueFeedback
from opu_dfa.defense.target import GradientRule, Loss, Step, Target
from opu_dfa.errors import ConfigError

SHAPE = (1, 8, 8)


def net(seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 3))
    for weight in model.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) / weight.shape[-1] ** 0.5
    model[1].bias.data = model[1].weight.sum(1) * -0.5  # about grey, so that all classes are met
    return model.eval()


def drawn(n: int = 12) -> tuple[Tensor, Tensor]:
    images = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(3))
    return images, net(0)(images).argmax(1)


def loss(labels: Tensor) -> Loss:
    return lambda logits: F.cross_entropy(logits, labels, reduction="none")


def optical(preset: str) -> OpticalDefense:
    opu = SimulatedOPU(24, 60, seed=5, preset=preset)
    model = OpticalDefense(vgg_features([[4]], SHAPE), 3, opu, image_shape=SHAPE)
    model(drawn(200)[0])  # running statistics
    return model.eval()


class Marked(GradientRule):
    """One whose gradient is a number."""

    def __init__(self, number: float) -> None:
        self.number = number

    def __call__(self, images: Tensor, loss: Loss) -> Step:
        logits = torch.zeros(len(images), 3)
        return Step(logits, loss(logits), torch.full_like(images, self.number))


def test_averaging_at_the_head_is_averaging_all_of_it() -> None:
    """Features once and `pull` once, since it is linear: the mean of whole evaluations with the same noise."""
    images, labels = drawn()
    for kind in (TrueFeedback, StraightThrough):
        once, apart = (kind(optical("noisy-8bit")) for _ in range(2))
        ours = EOT(once, 4)(images, loss(labels))
        steps = [apart(images, loss(labels)) for _ in range(4)]
        assert not torch.equal(steps[0].logits, steps[1].logits)
        for mine, theirs in zip(ours, zip(*steps, strict=True), strict=True):
            torch.testing.assert_close(mine, torch.stack(theirs).mean(0), rtol=1e-3, atol=1e-5)


def test_annealing_goes_through_its_rules_in_the_course_of_an_attack() -> None:
    asked: list[float] = []

    class Noted(Marked):
        def __call__(self, images: Tensor, loss: Loss) -> Step:
            asked.append(self.number)
            return super().__call__(images, loss)

    images, labels = drawn()
    rule = Annealed([Noted(1.0), Noted(2.0), Noted(3.0)])
    for attack in (PGD(steps=6), MIFGSM(steps=6)):
        asked.clear()
        attack(Target(net(0)), images, labels, 0.1, torch.Generator(), EOT(rule, 2))
        assert asked == [1.0] * 4 + [2.0] * 4 + [3.0] * 4
    asked.clear()
    APGD(steps=5)(Target(net(0)), images, labels, 0.1, torch.Generator(), rule)
    assert asked == sorted(asked)
    assert set(asked) == {1.0, 2.0, 3.0}
    assert rule(images, loss(labels)).gradient.unique().item() == 3.0


def test_an_ensemble_weighs_its_rules_alike_whatever_their_scale() -> None:
    images, labels = drawn()
    first, second = Autograd(net(1)), Autograd(net(2))

    class Scaled(GradientRule):
        def __call__(self, images: Tensor, loss: Loss) -> Step:
            step = second(images, loss)
            return step._replace(gradient=1000 * step.gradient)

    plain, scaled = (Ensemble([first, rule])(images, loss(labels)) for rule in (second, Scaled()))
    torch.testing.assert_close(plain.gradient, scaled.gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(Averaged([net(1), net(2)])(images), plain.logits)
    one = first(images, loss(labels)).gradient
    two = second(images, loss(labels)).gradient
    expected = one / one.abs().mean((1, 2, 3), True) + two / two.abs().mean((1, 2, 3), True)
    torch.testing.assert_close(plain.gradient, expected / 2, rtol=1e-4, atol=1e-6)


def test_an_attack_on_an_ensemble_fools_each_of_its_models_more_than_their_neighbour_alone() -> None:
    images, labels = drawn(200)
    models = [net(1), net(2)]
    right = torch.stack([model(images).argmax(1) for model in models])
    labels = right[0]
    both = right[0] == right[1]
    images, labels = images[both], labels[both]

    def standing(source: nn.Module, rule: GradientRule, victim: nn.Module) -> float:
        attack = Transfer(model=source, rule=rule, attack=MIFGSM())
        found = attack(Target(victim), images, labels, 0.3, torch.Generator().manual_seed(0))
        return (margin(victim(found), labels) < 0).float().mean().item()

    together = [standing(Averaged(models), Ensemble([Autograd(m) for m in models]), victim) for victim in models]
    from_the_other = [standing(models[1 - i], Autograd(models[1 - i]), victim) for i, victim in enumerate(models)]
    assert together[0] < from_the_other[0]
    assert together[1] < from_the_other[1]


def test_nothing_to_combine_is_refused() -> None:
    for kind in (Annealed, Ensemble):
        with pytest.raises(ConfigError, match="at least one rule"):
            kind([])
