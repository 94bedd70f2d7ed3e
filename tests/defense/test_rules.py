"""Gradient rules against finite differences, autograd and closed forms."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hardware import SimulatedOPU
from opu_dfa.defense.combined import EOT
from opu_dfa.defense.model import OpticalDefense, binarised, vgg_features
from opu_dfa.defense.rules import (
    Autograd,
    RandomFeedback,
    StraightThrough,
    Surrogate,
    TrueFeedback,
    known_matrix,
    with_error,
)
from opu_dfa.defense.target import GradientRule, Step, Target
from opu_dfa.errors import ConfigError, DataError

SHAPE = (1, 8, 8)
LABELS = torch.arange(12) % 10


def build(head="optical", preset="ideal", n_mirrors=24):
    opu = SimulatedOPU(n_mirrors, 60, seed=5, preset=preset)
    model = OpticalDefense(vgg_features([[4], [8]], SHAPE), 10, opu, head, image_shape=SHAPE)
    model(images(200))  # running statistics
    return model.eval()


def images(n=12):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(3))


def loss(logits):
    return F.cross_entropy(logits, LABELS, reduction="none")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_autograd_agrees_with_finite_differences():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 10)).double()
    x, direction, step = images().double(), normal(12, *SHAPE).double(), 1e-5
    found = Autograd(net)(x, loss)
    with torch.no_grad():
        difference = (loss(net(x + step * direction)) - loss(net(x - step * direction))) / (2 * step)
    torch.testing.assert_close((found.gradient * direction).sum((1, 2, 3)), difference, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.loss, loss(net(x)))


def test_autograd_through_a_binarisation_finds_nothing():
    step = Autograd(build())(images(), loss)
    assert not step.gradient.any()
    assert step.loss.isfinite().all()


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("head", ["plain", "projection", "intensity"])
def test_straight_through_is_autograd_where_nothing_is_binarised(head, known):
    model = build(head)
    matrix = known_matrix(model.opu) if known and model.opu else None
    exact, ours = Autograd(model)(images(), loss), StraightThrough(model, matrix)(images(), loss)
    torch.testing.assert_close(ours.gradient, exact.gradient, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ours.logits, exact.logits)


@pytest.mark.parametrize("beta", [None, 1.5])
@pytest.mark.parametrize("known", [False, True])
def test_straight_through_the_optical_head_is_its_closed_form(known, beta):
    """g_h = P s, s = slope · 2 Re(T† diag(g_y) T b), with g_y = Vᵀ g / σ and P the removal of the mean."""
    model = build()
    matrix = known_matrix(model.opu)
    h, g = model.hidden(images()).detach(), normal(12, 10)
    g_y = g @ model.readout.weight / (model.norm.running_var + model.norm.eps).sqrt()
    field = binarised(h).to(torch.complex64) @ matrix.T
    g_b = 2 * ((field * g_y) @ matrix.conj()).real
    c = h - h.mean(1, keepdim=True)
    if beta is not None:
        scale = c.square().mean(1, keepdim=True).sqrt()
        g_b = g_b * beta / scale * (1 - torch.tanh(beta * c / scale) ** 2)
    expected = (g_b - g_b.mean(1, keepdim=True)) / 2
    pulled = StraightThrough(model, matrix if known else None, beta).pull(h, g)
    torch.testing.assert_close(pulled, expected, rtol=1e-3, atol=1e-4)


def test_the_phase_and_conjugation_of_a_row_do_not_matter():
    model = build()
    matrix = known_matrix(model.opu)
    turned = matrix * torch.exp(1j * normal(60, 1))
    turned[::2] = turned[::2].conj()
    torch.testing.assert_close(
        StraightThrough(model, turned)(images(), loss).gradient,
        StraightThrough(model, matrix)(images(), loss).gradient,
        rtol=1e-3,
        atol=1e-5,
    )


def test_a_matrix_known_to_an_error_has_that_error_and_the_same_size():
    matrix = torch.complex(normal(200, 200), normal(200, 200, seed=1))
    known = with_error(matrix, 0.7, torch.Generator().manual_seed(2))
    error = known * (1 + 0.7**2) ** 0.5 - matrix
    # 40,000 entries: the relative deviation of a mean square of complex normals is 1/200
    assert (error.abs().square().mean() / matrix.abs().square().mean()).sqrt().item() == pytest.approx(0.7, rel=0.02)
    assert (known.abs().square().mean() / matrix.abs().square().mean()).item() == pytest.approx(1, rel=0.03)
    assert torch.equal(with_error(matrix, 0.0, torch.Generator()), matrix)


def test_the_less_is_known_of_the_matrix_the_less_its_gradient_is_aligned():
    model = build()
    matrix = known_matrix(model.opu)
    h, g = model.hidden(images()).detach(), normal(12, 10)
    exact = StraightThrough(model, matrix).pull(h, g)
    cosines = []
    for r in (0.0, 0.5, 1.0, 5.0):
        known = with_error(matrix, r, torch.Generator().manual_seed(1))
        cosines.append(F.cosine_similarity(StraightThrough(model, known).pull(h, g), exact).mean().item())
    assert cosines[0] == pytest.approx(1, abs=1e-5)
    assert cosines == sorted(cosines, reverse=True)
    assert cosines[-1] < 0.3


def test_feedback_rules_pull_by_their_matrix():
    model = build()
    h, g = model.hidden(images()).detach(), normal(12, 10)
    torch.testing.assert_close(TrueFeedback(model).pull(h, g), g @ model.feedback.matrix.T)
    other = RandomFeedback(model, seed=7)
    assert F.cosine_similarity(other.pull(h, g), TrueFeedback(model).pull(h, g)).abs().mean() < 0.6
    with pytest.raises(ConfigError, match="own B"):
        RandomFeedback(model, seed=0)


def test_from_h_to_the_pixels_a_rule_is_exact():
    model = build()
    step = TrueFeedback(model)(images(), loss)
    x = images().requires_grad_()
    g_logits = torch.softmax(step.logits, 1) - F.one_hot(LABELS, 10)
    (expected,) = torch.autograd.grad(model.hidden(x), x, g_logits @ model.feedback.matrix.T)
    torch.testing.assert_close(step.gradient, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(step.logits, model(images()))


def test_rules_leave_the_model_as_it_was():
    model = build().train()
    model.features.stages[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items() if name != "_extra_state"}
    surrogate = Surrogate.fit(Target(model), images(), torch.Generator(), steps=1)
    for rule in (Autograd(model), TrueFeedback(model), StraightThrough(model), surrogate, EOT(TrueFeedback(model), 2)):
        rule(images(), loss)
    assert model.training
    assert not model.features.stages[0].training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_a_surrogate_counts_its_queries_and_learns_the_head():
    model = build("plain")
    target, x = Target(model), images(600)
    surrogate = Surrogate.fit(target, x, torch.Generator().manual_seed(0), width=64, steps=600)
    assert surrogate.queries == target.queries == 600
    assert surrogate.residual < 0.25  # a linear head of 24 numbers; 1 is what their mean would miss
    h, g = model.hidden(images()).detach(), normal(12, 10)
    exact = StraightThrough(model).pull(h, g)
    assert F.cosine_similarity(surrogate.pull(h, g), exact).mean() > 0.5


def test_a_surrogate_is_fixed_by_its_generator():
    fits = [Surrogate.fit(Target(build()), images(50), torch.Generator().manual_seed(4), steps=20) for _ in range(2)]
    gradients = [fit(images(), loss).gradient for fit in fits]
    assert torch.equal(*gradients)


def test_eot_averages_noisy_steps_and_counts_them():
    class Noisy(GradientRule):
        generator = torch.Generator().manual_seed(0)

        def __call__(self, images, loss):
            noise = torch.randn(images.shape, generator=self.generator)
            return Step(torch.zeros(len(images), 2), noise.mean((1, 2, 3)), 3.0 + noise)

    rule = EOT(Noisy(), 400)
    step = rule(images(), loss)
    assert rule.queries_per_image == 400
    assert EOT(rule, 2).queries_per_image == 800
    # 768 entries of standard error 1/20
    assert (step.gradient - 3).std().item() == pytest.approx(1 / 20, rel=0.1)
    assert step.loss.shape == (12,)


def test_eot_of_a_noisy_device_nears_the_logits_without_noise():
    noisy, quiet = build(preset="noisy-8bit"), build(preset="noisy-8bit")
    many = EOT(TrueFeedback(quiet), 100)(images(), loss).logits
    errors = [(EOT(TrueFeedback(noisy), n)(images(), loss).logits - many).square().mean() for n in (1, 16)]
    assert errors[1] < errors[0] / 4  # expected 1/16 of it, and the little that `many` itself is off


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda model: TrueFeedback(nn.Identity()), "needs an OpticalDefense"),
        (lambda model: StraightThrough(model, torch.zeros(60, 23, dtype=torch.complex64)), "matrix is complex"),
        (lambda model: StraightThrough(model, torch.zeros(60, 24)), "matrix is complex"),
        (lambda model: StraightThrough(model, beta=0.0), "positive slope"),
        (lambda model: EOT(TrueFeedback(model), 0), "at least 1 measurement"),
        (lambda model: with_error(known_matrix(model.opu), -1.0, torch.Generator()), "at least 0"),
        (lambda model: Surrogate.fit(Target(nn.Identity()), images(), torch.Generator()), "an OpticalDefense"),
    ],
)
def test_rules_that_do_not_fit_are_named(attempt, message):
    with pytest.raises(ConfigError, match=message):
        attempt(build())


def test_a_surrogate_of_one_image_is_refused():
    with pytest.raises(DataError, match="at least 2"):
        Surrogate.fit(Target(build()), images(1), torch.Generator())
