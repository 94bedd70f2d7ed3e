"""Networks of extensive width, attention to positions or meanings, and multi-class message passing: reference numbers,
identities, and experiments at a point of each study with seeds of their own."""

import math

import numpy as np
import pytest

from opu_dfa.errors import ConfigError, NotConverged
from opu_dfa.studies import load
from opu_dfa.studies.extensive_width import Point as Wide
from opu_dfa.studies.extensive_width import extrapolated
from opu_dfa.studies.multiclass_amp import Point as Many
from opu_dfa.studies.positional_semantic_attention import Point as Attending
from opu_dfa.theory.inference.attention import Attention, own
from opu_dfa.theory.inference.channels import Softmax
from opu_dfa.theory.inference.iterate import iterate
from opu_dfa.theory.inference.matrix_denoising import QuadraticNetwork

# extensive width


def test_errors_of_wide_networks_extrapolate_to_theory():
    study = load("extensive-width")
    results = [study.run(Wide(0.5, 0.25, d), seeds=range(500, 500 + k)) for d, k in ((24, 16), (48, 6))]
    limit, error, bias = extrapolated(results)
    theory = results[0].theory["error"]
    assert abs(limit - theory) < max(3 * error, 0.03 * theory)
    assert 0 < bias / theory < 12  # finite networks are learned worse
    assert error < 0.2 * theory


def test_what_finite_networks_are_learned_worse_by_is_that_their_measurements_are_not_normal():
    law, errors = QuadraticNetwork(0.5, 0.5, 0.25), []
    for seed in range(12):  # the same network, seen both ways
        both = (law.observe(np.random.default_rng(seed), 32, by) for by in ("network", "normal"))
        errors.append([iterate(d.step, d.start(), d.error, 50, tolerance=1e-6).measured[-10:].mean() for d in both])
    network, normal = np.array(errors).T / law.error - 1
    assert (network - normal).mean() > 2 * (network - normal).std(ddof=1) / math.sqrt(12) > 0
    assert abs(normal.mean()) < 0.03 + 3 * normal.std(ddof=1) / math.sqrt(12)


def test_a_line_through_errors_and_their_dimension_is_found():
    study = load("extensive-width")
    results = [study.run(Wide(0.5, 0.25, d), seeds=()) for d in (20, 40)]
    exact = [type(r)(r.point, r.theory, ({"error": 0.2 + 3 / r.point.d},) * 2) for r in results]
    assert extrapolated(exact) == pytest.approx((0.2, 0.0, 3.0), abs=1e-7)


# attention


@pytest.mark.parametrize(
    ("alpha", "branch", "q", "overlap", "loss", "tolerance"),
    [  # numbers of a coarse public quadrature: losses to half a per cent, overlaps to two
        (1.01636, "positional", 0.04333, 0.24904, 0.00219, 0.02),
        (1.46429, "semantic", 0.09208, 0.13437, 0.00301, 0.02),
        (1.46429, "positional", 0.04817, 0.25564, 0.00321, 0.025),
        (2.0, "semantic", 0.11415, 0.15856, 0.00360, 0.02),
        (2.0, "positional", 0.05001, 0.25857, 0.00452, 0.025),
        (1.01636, "semantic", 0.06956, None, 0.00235, 0.02),  # θ = 0.104 there, 0.096 of finer quadratures
    ],
)
def test_branches_are_those_of_reference(alpha, branch, q, overlap, loss, tolerance):
    found = Attention().branch(branch, alpha, nodes=8192)
    assert found.loss == pytest.approx(loss, rel=0.005, abs=1.5e-5)
    assert found.q == pytest.approx(q, rel=tolerance)
    if overlap is not None:
        assert found.m + found.theta == pytest.approx(overlap, rel=tolerance)


def test_the_branches_cross_where_the_reference_does():
    """1.262 by a coarse public quadrature; 1.251 by 65,536 nodes. An error of 10⁻³ of a loss moves it by 0.004."""
    law, at = Attention(), (1.2, 1.3)
    gaps = [law.branch("positional", a).loss - law.branch("semantic", a).loss for a in at]
    assert np.interp(0.0, gaps, at) == pytest.approx(1.2565, abs=0.012)


def test_the_prox_is_the_least_of_a_fine_grid():
    law, rng = Attention(), np.random.default_rng(5)
    fields, targets = 0.4 * rng.standard_normal((40, 2)), law.targets(0.5 * rng.standard_normal((40, 2)))
    x = law.prox(fields, targets, 15.0)
    side = np.linspace(-3, 3, 241)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    for i in range(40):

        def cost(y, i=i):
            return ((y - fields[i]) ** 2).sum(axis=1) / 30 + law.cost(y, targets[i])

        assert cost(x[i : i + 1])[0] <= cost(grid).min() + 1e-9
    near = np.concatenate([x + 1e-5 * step for step in np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])])
    value = ((near - np.tile(fields, (4, 1))) ** 2).sum(axis=1) / 30 + law.cost(near, np.tile(targets, (4, 1)))
    here = ((x - fields) ** 2).sum(axis=1) / 30 + law.cost(x, targets)
    assert np.all(value.reshape(4, -1) >= here - 1e-13)  # stationary


def test_attention_is_a_softmax_over_two_tokens():
    h = np.random.default_rng(0).standard_normal((5, 2))
    scores = np.exp(h[:, :, None] * h[:, None])
    assert np.allclose(own(h), np.einsum("naa->na", scores / scores.sum(axis=2, keepdims=True)))


def test_the_loss_in_two_fields_is_the_frobenius_norm_of_tokens():
    study, point = load("positional-semantic-attention"), Attending(alpha=0.1, d=50)
    module = __import__(type(study).__module__, fromlist=["_Data"])
    data = module._Data.draw(point, np.random.default_rng(2))
    p, d, n = data.position, 50, 5
    x = np.stack([data.tokens[:n] - p, data.tokens[n:] + p], axis=1)  # without positions
    w = np.random.default_rng(3).standard_normal(d)
    h = (x + np.stack([p, -p])) @ w / math.sqrt(d)
    rows = np.stack([own(h), data.targets], axis=0)
    student, teacher = (np.stack([r, 1 - r], axis=-1) for r in rows)
    student[:, 1], teacher[:, 1] = student[:, 1, ::-1].copy(), teacher[:, 1, ::-1].copy()
    whole = 0.5 * (((student - teacher) @ x) ** 2).sum(axis=(1, 2)) / d
    assert np.allclose(whole, data.weights * ((rows[0] - rows[1]) ** 2).sum(axis=1) / 2)


def test_minima_of_attention_meet_theory(meets):
    meets("positional-semantic-attention", Attending(1.4, d=300), 8, "semantic", "theta", "semantic_test", errors=4)
    meets("positional-semantic-attention", Attending(1.4, d=300), 8, "positional", "m", "positional_test", errors=4)


# multiclass message passing


@pytest.mark.parametrize(
    ("alpha", "ridge", "norm", "measured"),
    [  # public numbers by 20,000 samples, of an error of 1.5 %, and those of the minimiser at d = 500 with s.e.
        (1.0, 0.1, 3.735, (3.686, 0.009)),
        (2.0, 0.1, 4.892, (4.80, 0.15)),
        (4.0, 0.1, 2.565, (2.51, 0.12)),
        (4.0, 0.02, 3.906, (3.83, 0.26)),
    ],
)
def test_norms_of_softmax_regression_are_those_of_reference(alpha, ridge, norm, measured):
    found = load("multiclass-amp").theory(Many(alpha, ridge))["norm"]
    assert found == pytest.approx(norm, rel=0.015)
    assert abs(found - measured[0]) < 3 * measured[1]


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_the_score_is_the_step_of_the_prox_and_its_stiffness_the_derivative(classes):
    rng, channel = np.random.default_rng(classes), Softmax(classes)
    a = rng.standard_normal((classes, classes))
    v, y, omega = a @ a.T, rng.integers(classes, size=20), 3 * rng.standard_normal((20, 1, classes))
    g = channel.score(y, omega, v)
    x = omega + g @ v
    p = np.exp(x) / np.exp(x).sum(axis=2, keepdims=True)
    assert np.allclose(g, np.eye(classes)[y][:, None] - p, atol=1e-10)
    slope = channel.stiffness(y, omega, v)
    for j in range(classes):
        step = 1e-5 * np.eye(classes)[j]
        change = channel.score(y, omega + step, v) - channel.score(y, omega - step, v)
        assert np.allclose(-change[:, 0] / 2e-5, slope[:, :, j], atol=1e-8)


def test_labels_are_drawn_with_the_softmax_s_probabilities():
    z = np.tile([1.0, 0.0, -0.5], (40_000, 1, 1))
    drawn = np.bincount(Softmax(3).sample(np.random.default_rng(0), z), minlength=3) / 40_000
    p = np.exp(z[0, 0]) / np.exp(z[0, 0]).sum()
    assert np.all(np.abs(drawn - p) < 4 * np.sqrt(p * (1 - p) / 40_000))


def test_the_replicon_of_two_classes_is_that_of_logistic_regression():
    """In the difference of scores: α V² E[(ℓ''/(1 + V ℓ''))²], with ω ~ N(0, q)."""
    q, v, alpha = 1.7, 2.3, 1.5
    project = np.array([[1.0, -1.0], [-1.0, 1.0]])
    found = Softmax(2).replicon(alpha, q / 4 * project, v / 4 * project)
    rng = np.random.default_rng(0)
    omega = math.sqrt(q) * rng.standard_normal(200_000)
    t = omega.copy()
    for _ in range(60):  # prox of log(1 + e^-t)
        s = 1 / (1 + np.exp(t))
        t += (omega - t + v * s) / (1 + v * s * (1 - s))
    curve = s * (1 - s)
    samples = alpha * v**2 * (curve / (1 + v * curve)) ** 2
    assert found == pytest.approx(samples.mean(), abs=4 * samples.std() / math.sqrt(200_000) + 1e-4)


def test_message_passing_for_many_classes_meets_theory(meets):
    meets("multiclass-amp", Many(3.0, 0.1, d=160), 6, "norm", "loss", "rate", errors=4, absolute=0.005)


@pytest.mark.parametrize("classes", [2, 4])
def test_other_numbers_of_classes_have_one_minimum_too(classes):
    found = load("multiclass-amp").experiment(Many(2.0, 0.1, classes, d=120), seed=1)
    assert found["distance"] < 1e-4
    assert found["rate"] < 1


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: Wide(d=2), "4 dimensions"),
        (lambda: Wide(alpha=0.0), "positive"),
        (lambda: Wide(measurements="optical"), "network or normal"),
        (lambda: Wide(d=200, measurements="normal"), "lower it"),
        (lambda: load("extensive-width").claim([load("extensive-width").run(Wide(d=20), seeds=(1, 2))]), "dimensions"),
        (lambda: Many(classes=1), "2 classes"),
        (lambda: Many(ridge=0.0), "a ridge > 0"),
        (lambda: Attending(alpha=0.0), "a sample"),
        (lambda: Attending(omega=1.5), "omega between 0 and 1"),
        (lambda: Attending(sigma=0.0), "sigma > 0"),
        (lambda: Attention().branch("lexical", 1.0), "positional or semantic"),
    ],
)
def test_what_is_out_of_the_domain_of_matrices_and_attention_is_said(ask, said):
    with pytest.raises(ConfigError, match=said):
        ask()


def test_without_samples_there_is_no_semantic_branch():
    with pytest.raises(NotConverged, match="no semantic branch"):
        Attention().branch("semantic", 0.3, nodes=4096)
