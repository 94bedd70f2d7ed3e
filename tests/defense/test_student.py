"""A student against models it can and cannot copy, and what its copies are worth to an attacker."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from opu_dfa.defense.attacks import PGD, Transfer
from opu_dfa.defense.rules import Autograd
from opu_dfa.defense.student import Student, imitate
from opu_dfa.defense.target import Target
from opu_dfa.errors import DataError


class Hidden(nn.Module):
    """Three classes by smooth masks of 1 x 8 x 8 pixels in [0, 1], rounded to a gradient of zero."""

    def forward(self, images: Tensor) -> Tensor:
        masks = torch.cos(torch.arange(3)[:, None, None] + torch.arange(64).reshape(8, 8) / 9.0)
        return ((images - 0.5).flatten(1) @ masks.flatten(1).T * 20).round() / 10


def drawn(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def student() -> tuple[Student, Target]:
    target = Target(Hidden())
    return Student.fit(target, drawn(600), torch.Generator().manual_seed(0), [[8], [16]], steps=300), target


def test_a_student_agrees_with_its_teacher_on_images_it_has_not_seen(student: tuple[Student, Target]) -> None:
    images = drawn(500, seed=1)
    found = (student[0](images).argmax(1) == Hidden()(images).argmax(1)).float().mean().item()
    assert found > 0.8  # a constant answer agrees on about a third
    assert student[0].agreement == pytest.approx(found, abs=0.12)  # of 120 images held out: three errors


def test_every_image_is_asked_for_once_plain_and_once_with_noise(student: tuple[Student, Target]) -> None:
    assert student[0].queries == student[1].queries == 1200
    asked: list[Tensor] = []
    teacher = Hidden()
    teacher.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[0]))
    images = drawn(20)
    Student.fit(Target(teacher), images, torch.Generator().manual_seed(0), [[4]], steps=1, reach=0.2)
    plain, noisy = torch.cat(asked).chunk(2)
    assert torch.equal(plain, images)
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    assert 0 < (noisy - images).abs().max() <= 0.2


def test_what_fools_the_student_fools_a_teacher_without_a_gradient(student: tuple[Student, Target]) -> None:
    teacher, images = Hidden(), drawn(100, seed=2)
    labels = teacher(images).argmax(1)

    def left(attack: Transfer | PGD, rule: Autograd | None) -> float:
        found = attack(Target(teacher), images, labels, 0.1, torch.Generator().manual_seed(0), rule)
        return (teacher(found).argmax(1) == labels).float().mean().item()

    assert left(PGD(steps=10), Autograd(teacher)) > 0.8
    assert left(Transfer(model=student[0], rule=Autograd(student[0]), attack=PGD(steps=10)), None) < 0.3


def test_a_student_is_fixed_by_its_generator_and_frozen() -> None:
    fits = [Student.fit(Target(Hidden()), drawn(30), torch.Generator().manual_seed(4), steps=3) for _ in range(2)]
    assert torch.equal(fits[0](drawn(5)), fits[1](drawn(5)))
    assert not any(weight.requires_grad for weight in fits[0].parameters())
    assert not fits[0].training


def test_what_cannot_be_imitated_leaves_all_of_its_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, answers = torch.randn(2000, 3, generator=generator), torch.randn(2000, 2, generator=generator)
    found = imitate(nn.Linear(3, 2), inputs, answers, generator, steps=200)
    # 400 held-out numbers: relative error of their mean square √(2/400); and the fit's own, of 8 weights on 1800 rows
    assert found.residual == pytest.approx(1, abs=0.25)
    assert found.agreement == pytest.approx(0.5, abs=0.11)  # 200 rows: three errors


def test_one_image_is_refused() -> None:
    with pytest.raises(DataError, match="at least 2"):
        Student.fit(Target(Hidden()), drawn(1), torch.Generator())
