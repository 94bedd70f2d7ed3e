"""Attacks against torchattacks' own, on an undefended network of scikit-learn's digits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from opu_dfa.defense.attacks import find_attack
from opu_dfa.defense.rules import Autograd
from opu_dfa.defense.target import Target

EPS = 0.15
N = 400  # one image is a quarter of a point


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A two-layer convolutional network, trained on some digits, and others: pixels in [0, 1], 1 x 8 x 8."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(data.images, dtype=torch.float32)[order, None] / 16
    labels = torch.tensor(data.target)[order].long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(144, 10),
        )
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for epoch in range(12):
        shuffled = torch.randperm(len(images) - N, generator=torch.Generator().manual_seed(epoch)) + N
        for batch in shuffled.split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimiser.step()
    return model.eval(), images[:N], labels[:N]


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return (Target(model)(images).argmax(1) == labels).float().mean().item()


def robust(digits: tuple[nn.Module, Tensor, Tensor], name: str, eps: float = EPS, **changes: Any) -> float:
    model, images, labels = digits
    generator = torch.Generator().manual_seed(0)
    return accuracy(
        model, find_attack(name, **changes)(Target(model), images, labels, eps, generator, Autograd(model)), labels
    )


@pytest.mark.parametrize(
    ("name", "changes", "theirs", "arguments"),
    [
        ("fgsm", {}, "FGSM", {}),
        ("pgd", {"steps": 40, "step_size": 0.01}, "PGD", {"alpha": 0.01, "steps": 40}),
        ("mifgsm", {"steps": 10, "step_size": 0.015}, "MIFGSM", {"alpha": 0.015, "steps": 10}),
        ("apgd-ce", {"steps": 50}, "APGD", {"steps": 50, "loss": "ce"}),
        ("apgd-dlr", {"steps": 50}, "APGD", {"steps": 50, "loss": "dlr"}),
    ],
)
def test_robust_accuracies_agree_with_torchattacks_within_two_points(
    digits: tuple[nn.Module, Tensor, Tensor], name: str, changes: dict[str, Any], theirs: str, arguments: dict[str, Any]
) -> None:
    torchattacks = pytest.importorskip("torchattacks", reason="the other library to compare with is torchattacks")
    model, images, labels = digits
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = getattr(torchattacks, theirs)(model, eps=EPS, **arguments)(images, labels)
    expected = accuracy(model, found, labels)
    ours = robust(digits, name, **changes)
    print(f"{name}: ours {ours:.4f}, torchattacks {expected:.4f}")
    assert 0.02 < expected < 0.5  # neither all nor nothing fails: the comparison says something
    assert abs(ours - expected) <= 0.02


def test_square_agrees_with_torchattacks_that_reaches_every_pixel(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    torchattacks = pytest.importorskip("torchattacks", reason="the other library to compare with is torchattacks")

    class Everywhere(torchattacks.Square):  # type: ignore[name-defined,misc]
        """Theirs places a square of side s at 0 to h - s - 1: never at the last row or column, 15 of 8 x 8 pixels."""

        def random_int(self, low: int = 0, high: int = 1, shape: Any = (1,)) -> Tensor:
            drawn: Tensor = super().random_int(low, high + 1, list(shape))
            return drawn

    model, images, labels = digits
    with torch.random.fork_rng(devices=[]):
        expected = accuracy(model, Everywhere(model, eps=EPS, n_queries=500)(images, labels), labels)
    ours = robust(digits, "square", queries=500)
    print(f"square: ours {ours:.4f}, torchattacks {expected:.4f}")
    assert abs(ours - expected) <= 0.02


def test_many_steps_are_no_worse_than_one_and_a_gradient_than_none(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = digits
    digits = model, images[:100], labels[:100]
    # a point, one image, for the local optima that attacks of finitely many steps end in
    assert robust(digits, "pgd") <= robust(digits, "fgsm") + 0.01
    assert robust(digits, "apgd-ce") <= robust(digits, "square", queries=500) + 0.01
    assert robust(digits, "square", queries=500) <= robust(digits, "noise") + 0.01


def test_robust_accuracy_falls_with_eps_to_nothing(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = digits
    accuracies = [robust((model, images[:100], labels[:100]), "pgd", eps) for eps in (0.0, 0.05, 0.1, 0.2, 0.5)]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > 0.9
    assert accuracies[-1] == 0


@pytest.mark.parametrize("name", ["nes", "spsa", "hopskipjump"])
def test_gradient_free_attacks_take_most_of_what_a_gradient_takes(
    digits: tuple[nn.Module, Tensor, Tensor], name: str
) -> None:
    model, images, labels = digits
    some = (model, images[:60], labels[:60])
    clean, best = accuracy(*some), robust(some, "apgd-ce")
    found = robust(some, name, queries=2000)
    print(f"{name}: {found:.3f}, clean {clean:.3f}, APGD {best:.3f}")
    assert clean - found > 0.5 * (clean - best)
