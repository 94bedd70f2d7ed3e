"""Attacks: within budget and range, optimal where that is known in closed form, monotone in what they spend."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from opu_dfa.defense.attacks import ATTACKS, PGD, Feature, Search, Transfer, dlr, find_attack, margin
from opu_dfa.defense.combined import EOT
from opu_dfa.defense.rules import Autograd
from opu_dfa.defense.target import Attack, Target
from opu_dfa.errors import ConfigError, DataError

SMALL: dict[str, dict[str, Any]] = {  # parameters that make each attack fast
    "pgd": {"steps": 5},
    "mifgsm": {"steps": 5},
    "apgd-ce": {"steps": 10},
    "apgd-dlr": {"steps": 10},
    "square": {"queries": 40},
    "nes": {"queries": 60, "samples": 10},
    "spsa": {"queries": 60, "samples": 10},
    "hopskipjump": {"queries": 200, "samples": 20},
    "feature": {"steps": 5},
}
SCORES_OR_DECISIONS = ["square", "nes", "spsa", "hopskipjump"]


class Net(nn.Module):
    """Three classes of 1 x 4 x 4 images, with features as a defence has them."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first, self.second = nn.Linear(16, 12), nn.Linear(12, 3)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=generator) / weight.shape[-1] ** 0.5

    def hidden(self, images: Tensor) -> Tensor:
        return self.first(images.flatten(1) - 0.5).tanh()

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.hidden(images))


class Linear(nn.Module):
    """Two classes by the sign of w·(x - 1/2): the least margin in the ball is m - eps |w|_1 while no pixel is cut."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(64, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        score = (images.flatten(1) - 0.5) @ self.weight
        return torch.stack([torch.zeros_like(score), score], 1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(name: str) -> Attack:
    return find_attack(name, **SMALL.get(name, {}))


def drawn(n: int = 24, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Images with many pixels at 0 and 1, where the range cuts the ball; labels by the net, but for every fourth."""
    images = (torch.rand(n, 1, 4, 4, generator=seeded(seed)) * 1.6 - 0.3).clamp(0, 1)
    labels = Net()(images).argmax(1)
    labels[::4] = (labels[::4] + 1) % 3
    return images, labels


def attacked(
    attack: Attack, eps: float, seed: int = 0, model: nn.Module | None = None, n: int = 24
) -> tuple[Tensor, Target]:
    images, labels = drawn(n)
    model = model or Net()
    target = Target(model)
    rule = Autograd(model) if attack.needs_gradient else None
    return attack(target, images, labels, eps, seeded(seed), rule), target


@pytest.mark.parametrize("name", ATTACKS)
@settings(max_examples=4, deadline=None)
@given(eps=st.floats(0, 1), seed=st.integers(0, 100))
def test_images_stay_within_budget_and_range(name: str, eps: float, seed: int) -> None:
    found, _ = attacked(small(name), eps, seed)
    assert 0 <= found.min() <= found.max() <= 1
    assert (found - drawn()[0]).abs().max() <= eps + 1e-7  # half a unit in the last place of a pixel: 2^-24


@pytest.mark.parametrize("name", ATTACKS)
def test_same_generator_same_images(name: str) -> None:
    assert torch.equal(attacked(small(name), 0.1)[0], attacked(small(name), 0.1)[0])


@pytest.mark.parametrize("name", ATTACKS)
def test_no_budget_changes_nothing(name: str) -> None:
    assert torch.equal(attacked(small(name), 0.0)[0], drawn()[0])


@pytest.mark.parametrize("name", ATTACKS)
def test_no_image_is_left_with_a_smaller_margin(name: str) -> None:
    images, labels = drawn()
    found, target = attacked(small(name), 0.1)
    assert (margin(target(found), labels) >= margin(target(images), labels) - 1e-6).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_no_images_give_no_images_and_ask_nothing(name: str) -> None:
    found, target = attacked(small(name), 0.1, n=0)
    assert found.shape == (0, 1, 4, 4)
    assert target.queries == 0


@pytest.mark.parametrize("name", ATTACKS)
def test_model_is_in_evaluation_mode_and_left_as_it_was(name: str) -> None:
    model = Net().train()
    modes = []
    model.second.register_forward_hook(lambda module, *_: modes.append(module.training))
    attacked(small(name), 0.1, model=model)
    assert not any(modes)
    assert model.training
    assert model.second.training
    assert all(weight.grad is None for weight in model.parameters())


def closed_form(n: int = 32) -> tuple[Linear, Tensor, Tensor, float, Tensor]:
    """A linear model, images that no eps of 0.1 takes out of the range, labels, eps, the largest margin within it."""
    model = Linear(seeded(3))
    images = 0.2 + 0.6 * torch.rand(n, 1, 8, 8, generator=seeded(4))
    labels = model(images).argmax(1)
    eps = 0.1
    return model, images, labels, eps, margin(model(images), labels) + eps * model.weight.abs().sum()


@pytest.mark.parametrize("name", ["fgsm", "pgd", "mifgsm", "apgd-ce"])
def test_gradient_attacks_reach_the_optimum_of_a_linear_model(name: str) -> None:
    model, images, labels, eps, optimum = closed_form()
    found = find_attack(name)(Target(model), images, labels, eps, seeded(), Autograd(model))
    # 64 products of 6e-8 relative rounding each, of |w| |x| summing to less than 64
    torch.testing.assert_close(margin(model(found), labels), optimum, rtol=0, atol=64 * 64 * 6e-8)


@pytest.mark.parametrize("name", SCORES_OR_DECISIONS)
def test_gradient_free_attacks_succeed_where_the_optimum_does(name: str) -> None:
    model, images, labels, eps, _ = closed_form()
    # an eps of which nine tenths are enough for the optimal attack; none is certain of the last tenth
    enough = -margin(model(images), labels) / model.weight.abs().sum() / 0.9
    eps = enough.max().item()
    assert 0 < eps < 0.2
    found = find_attack(name)(Target(model), images, labels, eps, seeded())
    assert (margin(model(found), labels) > 0).all()


@pytest.mark.parametrize("name", SCORES_OR_DECISIONS)
def test_gradient_free_attacks_fail_where_the_optimum_does(name: str) -> None:
    model, images, labels, _, _ = closed_form()
    eps = 0.99 * (-margin(model(images), labels) / model.weight.abs().sum()).min().item()
    found = small(name)(Target(model), images, labels, eps, seeded())
    assert (margin(model(found), labels) < 0).all()


@pytest.mark.parametrize("name", SCORES_OR_DECISIONS)
@pytest.mark.parametrize("restarts", [1, 2])
def test_no_image_is_asked_for_more_often_than_its_budget(name: str, restarts: int) -> None:
    attack: Any = replace(small(name), restarts=restarts)  # type: ignore[type-var]
    _, target = attacked(attack, 0.01)
    _, labels = drawn()
    right = int((Net()(drawn()[0]).argmax(1) == labels).sum())
    assert len(labels) < target.queries <= len(labels) + restarts * right * attack.queries


@pytest.mark.parametrize("name", SCORES_OR_DECISIONS)
def test_an_image_is_noted_when_a_query_of_it_is_wrong_within_the_budget(name: str) -> None:
    """Against a count of what the model was really asked, image by image: none is like another."""
    images, labels = drawn()
    images = images + torch.linspace(-1e-3, 1e-3, 24)[:, None, None, None]  # each its own, also where it was cut
    images = images.clamp(0, 1)
    eps, model, asked = 0.1, Net(), []
    model.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[0].clone()))
    attack: Any = replace(small(name), restarts=2)  # type: ignore[type-var]
    target = Target(model)
    found = attack(target, images, labels, eps, seeded())
    wrong = Net()(found).argmax(1) != labels
    assert target.broken_at is not None
    assert torch.equal(target.broken_at >= 0, wrong)
    assert (target.broken_at[Net()(images).argmax(1) != labels] == 1).all()
    assert target.broken_at.max() <= 1 + attack.restarts * getattr(attack, "queries", 1)
    assert 1 < target.broken_at[wrong].max() < target.queries
    alone = int(target.broken_at.argmax())
    asked.clear()
    one = slice(alone, alone + 1)
    again = Target(model)
    attack(again, images[one], labels[one], eps, seeded(3))
    within = [((batch - images[one]).abs() <= eps + 1e-6).flatten(1).all(1) for batch in asked]
    broken = [(Net()(batch).argmax(1) != labels[one]) & near for batch, near in zip(asked, within, strict=True)]
    hits = torch.cat(broken).nonzero()
    assert again.broken_at is not None
    assert again.broken_at.item() == (int(hits[0]) + 1 if len(hits) else -1)


def test_attacks_that_follow_gradients_note_no_queries() -> None:
    target = Target(Net())
    small("square")(target, *drawn(), 0.1, seeded())
    small("pgd")(target, *drawn(), 0.1, seeded(), Autograd(Net()))
    assert target.broken_at is None


def test_answers_are_averaged_over_measurements_of_the_head_alone() -> None:
    class Noisy(Net):
        calls = 0

        def hidden(self, images: Tensor) -> Tensor:
            self.calls += 1
            return super().hidden(images)

        def head(self, h: Tensor) -> Tensor:
            logits = self.second(h)
            return logits + torch.randn(logits.shape, generator=self.generator)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.hidden(images))

    model, images = Noisy(), drawn(200)[0]
    model.generator = seeded()
    target = Target(model, chunk=50, measurements=16)
    error = target(images) - Net()(images)
    assert target.queries == 16 * len(images)
    assert model.calls == 4
    # 600 numbers of deviation 1/4: the relative error of theirs is 1/√1200
    assert error.std().item() == pytest.approx(0.25, rel=0.1)
    with pytest.raises(ConfigError, match="at least 1 measurement"):
        Target(model, measurements=0)


def test_queries_of_gradient_attacks_are_steps_and_looks() -> None:
    images, labels = drawn()
    assert attacked(PGD(steps=7), 0.01)[1].queries == len(images) * (1 + 7 + 1)
    assert attacked(find_attack("apgd-ce", steps=7), 0.01)[1].queries == len(images) * (1 + 8 + 1)
    model = Net()
    target = Target(model)
    PGD(steps=7)(target, images, labels, 0.01, seeded(), EOT(Autograd(model), 3))
    assert target.queries == len(images) * (1 + 7 * 3 + 1)


@pytest.mark.parametrize("name", SCORES_OR_DECISIONS)
def test_wrongly_classified_images_are_asked_for_once(name: str) -> None:
    images, labels = drawn()
    target = Target(Net())
    found = small(name)(target, images, (labels + 1) % 3, 0.1, seeded())
    wrong = Net()(images).argmax(1) != (labels + 1) % 3
    assert torch.equal(found[wrong], images[wrong])
    target.queries = 0
    small(name)(target, images[wrong], ((labels + 1) % 3)[wrong], 0.1, seeded())
    assert target.queries == wrong.sum()


@pytest.mark.parametrize("name", ["pgd", "apgd-ce", "square", "nes", "spsa", "hopskipjump", "feature", "noise"])
def test_more_restarts_never_leave_more_standing(name: str) -> None:
    _, labels = drawn()
    margins = []
    for restarts in (1, 2, 4):
        attack: Any = replace(small(name), restarts=restarts)  # type: ignore[type-var]
        found, target = attacked(attack, 0.08)
        margins.append(margin(target(found), labels) > 0)
    assert (margins[0] <= margins[1]).all()
    assert (margins[1] <= margins[2]).all()


def test_square_starts_from_stripes_and_moves_one_square_of_an_image_at_a_time() -> None:
    asked: list[Tensor] = []
    model = Net()
    model.register_forward_pre_hook(lambda _, images: asked.append(images[0].clone()))
    images = 0.4 + 0.2 * torch.rand(24, 1, 4, 4, generator=seeded(1))
    small("square")(Target(model), images, Net()(images).argmax(1), 0.05, seeded())
    stripes = asked[1] - images
    torch.testing.assert_close(stripes, stripes[:, :, :1].expand_as(stripes))
    torch.testing.assert_close(stripes.abs(), torch.full_like(stripes, 0.05))
    assert 0 < (stripes > 0).float().mean() < 1
    late = [batch for batch in asked[2:] if len(batch) == len(asked[-1])][-2:]
    changed = (late[1] - late[0]).abs().gt(1e-6).flatten(1).sum(1)
    assert changed.max() <= 2  # at the end squares are single pixels: the one tried now, and the one tried before


def test_features_reach_another_class_when_anything_is_allowed() -> None:
    found, target = attacked(Feature(steps=50, restarts=3), 1.0)
    assert (target(found).argmax(1) != drawn()[1]).float().mean() > 0.9


def test_features_of_a_single_class_move_away_from_their_own() -> None:
    images, _ = drawn()
    labels = Net()(images).argmax(1)
    one = labels == labels.mode().values
    found = Feature(steps=5)(Target(Net()), images[one], labels[one], 0.3, seeded())
    assert (found != images[one]).any()


def test_transfer_asks_the_target_to_look_only() -> None:
    images, labels = drawn()
    source = Net(seed=5)
    target = Target(Net())
    attack = Transfer(model=source, rule=Autograd(source), attack=PGD(steps=5))
    found = attack(target, images, labels, 0.1, seeded())
    assert attack.name == "transfer-pgd"
    assert target.queries == 2 * len(images)
    assert (found - images).abs().max() <= 0.1 + 1e-7


def test_transfer_from_the_target_itself_is_the_attack_itself() -> None:
    images, labels = drawn()
    model = Net()
    replayed = Transfer(model=model, rule=Autograd(model))(Target(model), images, labels, 0.1, seeded())
    assert torch.equal(replayed, PGD()(Target(model), images, labels, 0.1, seeded(), Autograd(model)))


def test_margin_tells_right_from_wrong_and_dlr_forgets_scale_and_shift() -> None:
    logits = torch.randn(50, 5, generator=seeded(), dtype=torch.float64)
    labels = torch.randint(5, (50,), generator=seeded())
    assert torch.equal(margin(logits, labels) > 0, logits.argmax(1) != labels)
    torch.testing.assert_close(dlr(7 * logits - 3, labels), dlr(logits, labels))
    assert torch.equal(dlr(logits, labels) > 0, margin(logits, labels) > 0)


def test_unknown_attacks_and_parameters_are_named() -> None:
    with pytest.raises(ConfigError, match=r"'pdg'.*fgsm, pgd"):
        find_attack("pdg")
    with pytest.raises(ConfigError, match=r"pgd has no step;.*step_size"):
        find_attack("pgd", step=3)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("pgd", {"steps": 0}, "steps is above zero, got 0"),
        ("pgd", {"loss": "hinge"}, "loss is one of cross-entropy, margin, dlr, got 'hinge'"),
        ("pgd", {"start": "far"}, "start is 'random' or 'image', got 'far'"),
        ("noise", {"restarts": -1}, "restarts is above zero"),
        ("nes", {"samples": 7}, "samples is even"),
        ("square", {"share": float("nan")}, "share is above zero, got nan"),
    ],
)
def test_parameters_out_of_range_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_attack(name, **changes)


@pytest.mark.parametrize("name", ["pgd", "square"])
@pytest.mark.parametrize(
    ("images", "labels", "eps", "message"),
    [
        (torch.rand(2, 16), torch.zeros(2).long(), 0.1, "channels, height, width"),
        (torch.rand(2, 1, 4, 4) * 255, torch.zeros(2).long(), 0.1, "normalise inside the model"),
        (torch.full((2, 1, 4, 4), torch.nan), torch.zeros(2).long(), 0.1, r"\[0, 1\]"),
        (torch.rand(2, 1, 4, 4), torch.zeros(3).long(), 0.1, "as many labels"),
        (torch.rand(2, 1, 4, 4), torch.tensor([0, 3]), 0.1, "labels are 0 to 2"),
        (torch.rand(2, 1, 4, 4), torch.tensor([0, -1]), 0.1, "labels are 0 to"),
        (torch.rand(2, 1, 4, 4), torch.zeros(2).long(), -0.1, "eps"),
        (torch.rand(2, 1, 4, 4), torch.zeros(2).long(), 8.0, "8/255"),
    ],
)
def test_what_is_not_pixels_labels_and_a_budget_is_refused(
    name: str, images: Tensor, labels: Tensor, eps: float, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        small(name)(Target(Net()), images, labels, eps, seeded(), Autograd(Net()))


def test_missing_rules_features_and_classes_are_explained() -> None:
    images, labels = drawn()
    with pytest.raises(ConfigError, match="pgd needs a gradient"):
        PGD()(Target(Net()), images, labels, 0.1, seeded())
    with pytest.raises(ConfigError, match="Linear has none"):
        Feature()(Target(Linear(seeded())), torch.rand(2, 1, 8, 8), torch.zeros(2).long(), 0.1, seeded())
    model = Linear(seeded())
    with pytest.raises(DataError, match="three classes"):
        find_attack("apgd-dlr")(
            Target(model), torch.rand(2, 1, 8, 8), torch.zeros(2).long(), 0.1, seeded(), Autograd(model)
        )


def test_starts_are_uniform_in_the_ball() -> None:
    images = torch.full((50, 1, 4, 4), 0.5)
    moved = Search(Target(Net()), images, torch.zeros(50).long(), 0.2, seeded()).anywhere() - images
    assert moved.abs().max() <= 0.2
    error = 0.2 / 12**0.5 / moved.numel() ** 0.5  # of the mean of |moved|, uniform in [0, 0.2]
    assert moved.abs().mean().item() == pytest.approx(0.1, abs=3 * error)
    assert moved.mean().item() == pytest.approx(0, abs=3 * 2 * error)
