"""Evaluations against closed forms, and against models made to fail each of their checks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from hardware import open_opu
from opu_dfa.defense import sanity
from opu_dfa.defense.attacks import FGSM, PGD, Feature, Noise, Square
from opu_dfa.defense.evaluate import by_queries, evaluate, sweep
from opu_dfa.defense.model import OpticalDefense, vgg_features
from opu_dfa.defense.outcome import Report
from opu_dfa.defense.rules import Autograd, StraightThrough, Surrogate, known_matrix
from opu_dfa.defense.student import Student
from opu_dfa.defense.target import Attack, GradientRule, Target
from opu_dfa.defense.threats import KNOWLEDGE, MEDIUM, NOTHING, PARTIAL, QUERIES, Efforts, Threat, recovered, standard
from opu_dfa.errors import ConfigError, DataError

EPS = 0.02
SHORT = {"steps": 5}  # of a fit, where it is not what is tested


@dataclass(frozen=True)
class _Shift(Attack):
    """All pixels by so many eps."""

    by: float

    def __call__(
        self,
        target: Target,
        images: Tensor,
        labels: Tensor,
        eps: float,
        generator: torch.Generator,
        rule: GradientRule | None = None,
    ) -> Tensor:
        return images + self.by * eps


class _Step(nn.Module):
    """Pixels rounded to 0 and 1 before a linear layer: no gradient at all."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, images: Tensor) -> Tensor:
        return self.linear((images > 0.5).float())


class _OfTheBatch(_Step):
    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images - images.mean())


class _Noisy(_Step):
    """Of logits that vary by 1."""

    generator = torch.Generator().manual_seed(0)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.linear(images)
        return logits + torch.randn(logits.shape, generator=self.generator)


def _linear(classes: int = 2) -> nn.Module:
    linear = nn.Linear(64, classes)
    linear.weight.data = torch.randn(classes, 64, generator=torch.Generator().manual_seed(1))
    linear.bias.data = linear.weight.data.sum(dim=1) * -0.5  # balanced
    return nn.Sequential(nn.Flatten(), linear)


def _images(count: int = 300) -> Tensor:
    """Away from 0 and 1, so that the ball is not clipped."""
    return 0.2 + 0.6 * torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def closed_form() -> tuple[Report, Tensor]:
    """A report on the linear model, and which images are robust: margin > eps ‖w_0 - w_1‖_1."""
    model, images = _linear(), _images()
    with torch.no_grad():
        logits = model(images)
    labels = logits.argmax(dim=1)
    labels[:20] = 1 - labels[:20]  # some that are wrong unattacked
    weight = model[1].weight.detach()
    margin = (logits[:, 0] - logits[:, 1]) * (1 - 2 * labels)
    rule = Autograd(model)
    attacks = {
        "fgsm": Threat(FGSM(), rule, MEDIUM),
        "pgd": Threat(PGD(steps=20), rule, MEDIUM),
        "square": Threat(Square(queries=30), None, QUERIES),
        "noise": Threat(Noise(), None, KNOWLEDGE[0]),
    }
    return evaluate(model, images, labels, EPS, attacks), margin > EPS * (weight[0] - weight[1]).abs().sum()


def test_robust_accuracy_of_a_linear_model_is_the_closed_form(closed_form: tuple[Report, Tensor]) -> None:
    report, robust = closed_form
    assert 0.1 < robust.float().mean() < 0.9
    assert torch.equal(report.worst_case, robust)
    assert report.robust_accuracy == pytest.approx(robust.float().mean().item())
    assert report.clean_accuracy == pytest.approx(280 / 300)


def test_the_worst_case_is_no_better_than_any_attack(closed_form: tuple[Report, Tensor]) -> None:
    report, _ = closed_form
    for outcome in report.outcomes:
        assert not (report.worst_case & ~outcome.right).any()
        assert report.robust_accuracy <= report.accuracy[outcome.name] <= report.clean_accuracy
    knowledge = list(report.by_knowledge().values())
    assert knowledge == sorted(knowledge, reverse=True)
    assert knowledge[-1] == report.robust_accuracy


def test_all_checks_hold_on_a_linear_model(closed_form: tuple[Report, Tensor]) -> None:
    report, _ = closed_form
    assert {check.name: check.holds for check in report.checks} == {
        sanity.CHANCE: True,
        sanity.ONE_STEP: True,
        sanity.STEPS: True,
        sanity.RESTARTS: True,
        sanity.BATCH: True,
        sanity.NOISE: True,
        sanity.FALLEN: None,
        sanity.MASKING: True,
    }


def test_queries_are_those_of_the_attack(closed_form: tuple[Report, Tensor]) -> None:
    report, _ = closed_form
    queries = {outcome.name: outcome.queries for outcome in report.outcomes}
    assert queries["noise"] < queries["fgsm"] < queries["pgd"]
    before = evaluate(_linear(), _images(5), torch.zeros(5, dtype=torch.long), 0.0, {"a": Threat(_Shift(0), queries=7)})
    assert before.outcomes[0].queries == 7  # those spent before the attack


def test_an_attack_does_not_depend_on_those_beside_it(closed_form: tuple[Report, Tensor]) -> None:
    report, _ = closed_form
    alone = evaluate(_linear(), _images(), report.labels, EPS, {"square": (Square(queries=30), None)}, sanity=0)
    square = next(outcome for outcome in report.outcomes if outcome.name == "square")
    assert torch.equal(alone.outcomes[0].images, square.images)


def test_a_wrong_image_stays_wrong_when_an_attack_mends_it() -> None:
    linear = nn.Linear(1, 2)
    linear.weight.data, linear.bias.data = torch.tensor([[1.0], [-1.0]]), torch.tensor([-0.5, 0.5])
    model, images = nn.Sequential(nn.Flatten(), linear), torch.full((1, 1, 1, 1), 0.4)
    report = evaluate(model, images, torch.tensor([0]), 0.2, {"up": (_Shift(1), None)}, sanity=0)
    assert report.outcomes[0].rate.item() == 1  # mended
    assert report.accuracy["up"] == report.clean_accuracy == 0


def test_an_attack_that_leaves_the_ball_is_refused() -> None:
    model, images, labels = _linear(), _images(5), torch.zeros(5, dtype=torch.long)
    with pytest.raises(DataError, match=r"changed pixels by 0\.04"):
        evaluate(model, images, labels, EPS, {"far": (_Shift(2), None)}, sanity=0)
    with pytest.raises(DataError, match="within \\[0, 1\\]"):
        evaluate(model, images, labels, 0.5, {"outside": (_Shift(1), None)}, sanity=0)


def test_a_lucky_measurement_does_not_break_an_image() -> None:
    """Square keeps what one noisy measurement called wrong; fresh ones show that these images are mostly right."""
    linear = _linear()
    with torch.no_grad():
        images = _images(2000)
        margins = linear(images).diff(dim=1).flatten().abs()
        images = images[(margins > 2) & (margins < 3)][:60]  # wrong in 2 to 8 % of measurements
        labels = linear(images).argmax(dim=1)
    report = evaluate(_Noisy(linear), images, labels, 1e-6, {"square": (Square(queries=100), None)}, sanity=0)
    assert report.repeats == 20
    assert report.clean_accuracy == 1
    assert report.accuracy["square"] == 1
    assert 0.9 < report.outcomes[0].rate.mean() < 0.99  # 0.96 on average


def test_masked_gradients_are_called_by_their_name() -> None:
    model = _Step(_linear())
    images = _images()
    labels = model(images).argmax(dim=1)
    attacks = {"pgd": (PGD(steps=5, start="image"), Autograd(model)), "square": (Square(queries=100), None)}
    report = evaluate(model, images, labels, EPS, attacks, sanity=0)
    verdict = sanity.masking(report)
    assert report.accuracy["pgd"] > report.accuracy["square"]
    assert verdict.holds is False
    assert "GRADIENTS ARE MASKED" in verdict.detail
    assert sanity.masking(replace(report, outcomes=report.outcomes[:1])).holds is None


def test_a_model_that_looks_at_its_batch_is_found_out() -> None:
    model = _OfTheBatch(_linear())
    images = _images(50)
    report = evaluate(model, images, model(images).argmax(dim=1), EPS, {"noise": (Noise(), None)})
    held = {check.name: check.holds for check in report.checks}
    assert held[sanity.BATCH] is False
    assert held[sanity.STEPS] is held[sanity.CHANCE] is None


def test_the_undefended_twin_must_fall(closed_form: tuple[Report, Tensor]) -> None:
    report, _ = closed_form
    model = _linear()
    attacks = {"pgd": (PGD(steps=5), Autograd(model))}
    fallen = evaluate(model, _images(), report.labels, 0.3, attacks, sanity=0)
    for eps, twin, holds in ((0.3, fallen, True), (EPS, report, False), (EPS, fallen, None)):
        again = evaluate(model, _images(), report.labels, eps, attacks, sanity=10, undefended=twin)
        assert {check.name: check.holds for check in again.checks}[sanity.FALLEN] is holds


def test_a_sweep_is_an_evaluation_at_each_eps(closed_form: tuple[Report, Tensor]) -> None:
    report, _ = closed_form
    model = _linear()
    small, large = sweep(model, _images(), report.labels, (0.01, EPS), ["fgsm"], sanity=10)
    assert (small.eps, large.eps) == (0.01, EPS)
    assert not small.checks
    assert large.checks
    assert small.robust_accuracy > large.robust_accuracy == report.accuracy["fgsm"]
    with pytest.raises(DataError, match="ascending"):
        sweep(model, _images(), report.labels, (0.1, 0.05))


def _defence(preset: str = "ideal") -> OpticalDefense:
    opu = open_opu("simulated", n_features=16, n_components=32, seed=0, preset=preset)
    return OpticalDefense(vgg_features([[4]], (1, 8, 8)), 10, opu, image_shape=(1, 8, 8)).eval()


@pytest.mark.parametrize("preset", ["ideal", "noisy-8bit"])
def test_gradients_of_each_knowledge_are_used_and_averaged_where_the_device_is_noisy(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Surrogate, "fit", partial(Surrogate.fit, **SHORT))
    monkeypatch.setattr(Student, "fit", partial(Student.fit, **SHORT))
    attacks = {"pgd": PGD(steps=4), "fgsm": FGSM(), "square": Square(queries=3), "feature": Feature(steps=2)}
    images, noisy = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)), preset != "ideal"
    model = _defence(preset)
    threats = standard(model, images, attacks=attacks, efforts=Efforts((3, 4), 5, (0.3,)))
    of_each = {"random feedback": NOTHING, "surrogate": QUERIES, "true feedback": KNOWLEDGE[2]}
    of_each["straight-through, tanh"] = MEDIUM
    every = {f"{attack} / {rule}": known for attack in ("pgd", "fgsm") for rule, known in of_each.items()}
    every |= {f"pgd / straight-through, {slope}": MEDIUM for slope in ("identity", "annealed")}
    every |= {"pgd / T known to 0.3": PARTIAL, "square": QUERIES, "feature": NOTHING}
    every["transfer / distilled student"] = QUERIES
    if noisy:
        every |= {f"pgd / surrogate x{n}": QUERIES for n in (3, 4)} | {"square x5": QUERIES}
        every |= {f"pgd / straight-through, tanh x{n}": MEDIUM for n in (3, 4)}
    assert {name: threat.knowledge for name, threat in threats.items()} == every
    assert threats["transfer / distilled student"].queries == 24  # each image, and with noise
    report = evaluate(model, images, torch.arange(12) % 10, EPS, threats, repeats=3, sanity=0)
    assert report.repeats == (3 if noisy else 1)
    assert set(report.accuracy) == set(threats)
    assert "Transfer(restarts=1) of PGD(" in threats["transfer / distilled student"].settings


def test_a_medium_is_recovered_through_its_camera_and_better_without() -> None:
    model = _defence("noisy-8bit")
    found = recovered(model, 0, [200])
    assert list(found) == ["T recovered, 200 patterns", "T recovered, 200 patterns, no noise"]
    h, g = torch.randn(2, 20, 16, generator=torch.Generator().manual_seed(0))
    g = g[:, :10]
    exact = StraightThrough(model, known_matrix(model.opu), 2.0).pull(h, g)  # type: ignore[arg-type]
    camera, without = (rule.pull(h, g) - exact for rule, _, _ in found.values())  # type: ignore[attr-defined]
    assert without.norm() < camera.norm() / 10
    assert without.norm() < 1e-2 * exact.norm()


def test_all_attacks_run_on_a_plain_module() -> None:
    model, images = _linear(3), _images(8)
    small = {"square": Square(queries=3), "pgd": PGD(steps=2)}
    report = evaluate(_Noisy(model), images, model(images).argmax(1), EPS, standard(_Noisy(model), images, 0, small))
    assert list(report.accuracy) == [
        "square",
        "square x20",
        "pgd / autograd",
        "pgd / autograd x5",
        "pgd / autograd x20",
    ]


def test_averaged_scores_are_counted_measurement_by_measurement() -> None:
    model, images = _linear(), _images(5)
    labels = model(images).argmax(dim=1)
    once, often = (Threat(Noise(), measurements=n) for n in (1, 20))
    report = evaluate(model, images, labels, EPS, {"once": once, "often": often}, sanity=0)
    assert report.outcomes[1].queries == 20 * report.outcomes[0].queries
    assert "20 measurements" in often.settings


def test_the_queries_that_broke_an_image_are_in_the_report(closed_form: tuple[Report, Tensor]) -> None:
    report, _ = closed_form
    square = next(outcome for outcome in report.outcomes if outcome.name == "square")
    assert square.broken_at is not None
    assert torch.equal(square.broken_at >= 0, ~square.right)  # answers do not vary
    assert next(outcome for outcome in report.outcomes if outcome.name == "pgd").broken_at is None


def test_phase_retrieval_is_evaluated_by_its_queries() -> None:
    images, labels = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(6).long()
    reports = by_queries(_defence(), images, labels, (32, 64), attack=PGD(steps=2))
    assert list(reports) == [32, 64]
    first, second = (report.outcomes[0] for report in reports.values())
    assert second.queries - first.queries == 32
    assert first.threat.knowledge == QUERIES
    plain = OpticalDefense(vgg_features([[4]], (1, 8, 8)), 10, None, "plain", n_mirrors=16, image_shape=(1, 8, 8))
    with pytest.raises(ConfigError, match="no medium to recover"):
        by_queries(plain, images, labels, (32,))


def test_bad_inputs_are_refused() -> None:
    model, images, labels = _linear(), _images(5), torch.zeros(5, dtype=torch.long)
    attacks = {"noise": (Noise(), None)}
    for broken, wrong, eps in ((images * 2, labels, EPS), (images, labels[:4], EPS), (images, labels, -0.1)):
        with pytest.raises(DataError):
            evaluate(model, broken, wrong, eps, attacks)
    with pytest.raises(DataError, match="labels are 0 to 1"):
        evaluate(model, images, labels + 2, EPS, attacks)
    with pytest.raises(DataError, match="an image"):
        evaluate(model, images[:0], labels[:0], EPS, attacks)
    with pytest.raises(ConfigError, match="no attack is named 'carlini'"):
        evaluate(model, images, labels, EPS, "carlini")
    with pytest.raises(ConfigError, match="needs attacks"):
        evaluate(model, images, labels, EPS, {})
    with pytest.raises(ConfigError, match="follows a gradient"):
        Threat(PGD())
    with pytest.raises(ConfigError, match="knowledge is one of"):
        Threat(Noise(), knowledge="everything")
