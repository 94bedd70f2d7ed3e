"""Gradient descent on the same samples: against eigenvalues, the memory's equations by quadrature, and networks."""

import math

import numpy as np
import pytest

from opu_dfa.errors import ConfigError, NotConverged
from opu_dfa.theory.dynamics.descent import Committee, Descent, simulate
from opu_dfa.theory.dynamics.mean_field import mean_field, one_pass, ridge_descent
from opu_dfa.theory.gaussian import hermite

LINEAR = Committee("linear", (1.0,), lambda teacher: teacher[0])
TANH = Committee("tanh", (1.0,), lambda teacher: np.tanh(2 * teacher[0]))
HALF = math.sqrt(0.5)
RELU = Committee("relu", (HALF, -HALF), lambda h: np.tanh(h[0] + h[1] ** 3 - 3 * h[1]), teachers=2)
TWO = Descent(3.0, 0.2, 6, np.zeros((2, 2)), np.eye(2))


def descent(alpha=3.0, rate=0.1, steps=49, m=0.2, q=1.04, ridge=0.5, batch=1.0):
    return Descent(alpha, rate, steps, np.array([[m]]), np.array([[q]]), ridge, batch)


def test_eigenvalues_give_the_reference_s_overlaps():
    at = [0, 1, 5, 10, 20, 49]
    overlap, norm = ridge_descent(descent())
    assert overlap[at] == pytest.approx([0.2, 0.43, 0.71226, 0.78243, 0.80890, 0.81379], abs=1.5e-5)
    assert norm[at] == pytest.approx([1.04, 0.65660, 0.60076, 0.64141, 0.66636, 0.67210], abs=1.5e-5)


@pytest.mark.parametrize("given", [{}, {"alpha": 0.5, "ridge": 0.0}, {"alpha": 1.5, "rate": 0.2, "m": -0.3, "q": 0.5}])
def test_of_a_quadratic_loss_the_field_equations_are_the_eigenvalues_law(given):
    start = descent(**given)
    found, (overlap, norm) = mean_field(LINEAR, start, 256), ridge_descent(start)
    assert found.teacher[:, 0, 0] == pytest.approx(overlap, abs=1e-7)
    assert found.own[:, 0, 0] == pytest.approx(norm, abs=1e-7)


def test_the_eigenvalues_law_is_that_of_one_large_matrix():
    """Of XᵀX/d with d = 800: means over the spectrum fluctuate by O(1/d)."""
    rng, d, start = np.random.default_rng(3), 800, descent(steps=12)
    x = rng.standard_normal((3 * d, d)) / math.sqrt(d)
    s = np.linalg.eigvalsh(x.T @ x)
    phi = (1 - 0.1 * (0.5 + s)) ** np.arange(13)[:, None]
    assert ridge_descent(start)[0] == pytest.approx((phi * 0.2 + s / (0.5 + s) * (1 - phi)).mean(axis=1), abs=2e-3)


def test_minibatches_leave_the_mean_overlap_of_a_quadratic_loss_and_add_to_the_norm():
    found, (overlap, norm) = mean_field(LINEAR, descent(batch=0.5, steps=20), 16384), ridge_descent(descent(steps=20))
    # fields of 16384 points, half of them drawn: 1/√N of the overlap's own size
    assert found.teacher[:, 0, 0] == pytest.approx(overlap, abs=4e-3)
    assert (found.own[1:6, 0, 0] > norm[1:6] + 0.008).all()


def test_first_minibatch_adds_the_forces_second_moment():
    """|w_1|²/d has η² α E F²/b: half a batch adds η² α E F² to the whole one's; 1 % for 2^16 points."""
    half, whole = (mean_field(LINEAR, descent(batch=b, steps=1), 2**16).own[1, 0, 0] for b in (0.5, 1.0))
    assert half - whole == pytest.approx(0.01 * 3 * (1.04 - 0.4 + 1), rel=0.03)


def test_two_steps_are_those_of_the_memory_equations():
    """C, M and h_1 = g_1 - η F_0 in terms of covariances and responses, by a product rule over (h*, g_0, g_1)."""
    start = descent(2.0, 0.3, 2, 0.1, 1.0, 0.1)
    rule, rate, alpha, keep = hermite(48), 0.3, 2.0, 1 - 0.03
    t, z, z1 = np.meshgrid(rule.nodes, rule.nodes, rule.nodes, indexing="ij")
    w = np.einsum("i,j,k->ijk", *(rule.weights,) * 3)

    def force(h):
        return (np.tanh(h) - np.tanh(2 * t)) * (1 - np.tanh(h) ** 2)

    h0 = 0.1 * t + math.sqrt(0.99) * z
    f0 = force(h0)
    m1 = keep * 0.1 - rate * alpha * (w * f0 * t).sum()
    c10 = keep - rate * alpha * (w * f0 * h0).sum()
    slope = (c10 - 0.1 * m1) / 0.99  # of g_1 on g_0 less its part in h*
    known = m1 * t + slope * math.sqrt(0.99) * z
    c11 = keep * c10 - rate * alpha * (w * f0 * (known - rate * f0)).sum()
    h1 = known + math.sqrt(c11 - m1**2 - slope**2 * 0.99) * z1 - rate * f0
    f1 = force(h1)
    m2 = keep * m1 - rate * alpha * (w * f1 * t).sum()
    loss = (w * (np.tanh(h1) - np.tanh(2 * t)) ** 2).sum() / 2
    found = mean_field(TANH, start, 2**16)
    assert found.teacher[1:, 0, 0] == pytest.approx([m1, m2], abs=3e-4)
    assert found.own[1, 0, 0] == pytest.approx(c11, abs=3e-4)
    assert found.loss[1] == pytest.approx(loss, abs=3e-4)


@pytest.mark.parametrize("batch", [1.0, 0.5])
def test_small_networks_have_no_bias_beyond_their_errors(batch):
    start = descent(2.0, 0.3, 20, 0.1, 1.0, 0.1, batch)
    theory = mean_field(TANH, start, 16384)
    runs = [simulate(TANH, start, 200, seed) for seed in range(100)]
    for one in ("teacher", "own"):
        values = np.array([getattr(run, one)[[1, 5, 20], 0, 0] for run in runs])
        error = values.std(axis=0, ddof=1) / 10
        assert (np.abs(values.mean(axis=0) - getattr(theory, one)[[1, 5, 20], 0, 0]) < 3.5 * error + 0.002).all()


def test_overlaps_of_relu_committees_are_those_of_published_networks():
    """Means and standard errors of 32 networks in d = 5000, first unit (Dandi et al., arXiv 2402.03220)."""
    first, first_error = (
        [0.0757, 0.1238, 0.1562, 0.1800, 0.1989, 0.2147],
        [0.0004, 0.0007, 0.0008, 0.0009, 0.0009, 0.0009],
    )
    second = [-0.0626, -0.1018, -0.1276, -0.1461, -0.1604, -0.1722]
    second_error = [0.0004, 0.0007, 0.0009, 0.0011, 0.0012, 0.0014]
    found = mean_field(RELU, TWO, 2**17).teacher
    assert (np.abs(found[1:, 0, 0] - first) < 3 * np.array(first_error)).all()
    assert (np.abs(found[1:, 0, 1] - second) < 3 * np.array(second_error)).all()
    assert found[:, 1] == pytest.approx(-found[:, 0], abs=0.002)


def test_the_kink_of_relus_is_in_their_norms():
    """A loss's curvature has a delta at h = 0; an equation that takes it without would come out far too small."""
    runs = np.array([simulate(RELU, TWO, 600, seed).own for seed in range(8)])
    found = mean_field(RELU, TWO, 16384).own[6]
    assert np.diag(found).mean() == pytest.approx(runs[:, 6, [0, 1], [0, 1]].mean(), rel=0.015)
    assert found[0, 1] == pytest.approx(runs[:, 6, 0, 1].mean(), abs=3 * runs[:, 6, 0, 1].std(ddof=1) / math.sqrt(8))


def test_one_pass_of_a_quadratic_loss_is_closed():
    found, (m, q) = one_pass(LINEAR, descent(steps=10, batch=0.5), 256), (0.2, 1.04)
    for t in range(11):
        assert (found.teacher[t, 0, 0], found.own[t, 0, 0]) == pytest.approx((m, q), abs=1e-10)
        keep, error = 1 - 0.05, q - 2 * m + 1
        q = keep**2 * q - 2 * keep * 0.3 * (q - m) + 0.01 * (6 + 9) * error
        m = keep * m - 0.3 * (m - 1)


def test_one_pass_and_reused_samples_agree_on_the_first_step_alone():
    reused, fresh = mean_field(RELU, TWO, 8192), one_pass(RELU, TWO, 8192)
    assert reused.own[1] == pytest.approx(fresh.own[1], abs=0.01)
    assert abs(reused.own[2, 0, 0] - fresh.own[2, 0, 0]) > 0.03
    runs = np.array([simulate(RELU, TWO, 300, seed, fresh=True).own[6, 0, 0] for seed in range(12)])
    assert fresh.own[6, 0, 0] == pytest.approx(runs.mean(), rel=0.03)


def test_networks_start_from_the_overlaps_that_are_asked_for():
    q = np.array([[1.0, 0.3], [0.3, 0.8]])
    m = np.array([[0.2, 0.1], [-0.3, 0.5]])
    found = simulate(RELU, Descent(1.0, 0.1, 1, m, q), 50, seed=1)
    assert found.teacher[0] == pytest.approx(m, abs=1e-12)
    assert found.own[0] == pytest.approx(q, abs=1e-12)


def test_rates_that_are_too_large_are_said():
    with pytest.raises(NotConverged, match="lower the rate"):
        mean_field(LINEAR, descent(rate=5.0, steps=60), 256)
    with pytest.raises(NotConverged, match="lower the rate"):
        one_pass(LINEAR, descent(rate=5.0, steps=60), 256)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: descent(batch=0.0), r"batch in \(0, 1\]"),
        (lambda: descent(m=1.1), "C - M Mᵀ >= 0"),
        (lambda: descent(rate=-1.0), "rate > 0"),
        (lambda: Committee("sine", (1.0,), lambda h: h[0]), "no activation 'sine'"),
        (lambda: mean_field(RELU, descent(), 256), r"starts from overlaps \(2, 2\)"),
        (lambda: mean_field(LINEAR, descent(), 64), "need more than"),
        (lambda: mean_field(LINEAR, descent(), 1000), "powers of two"),
        (lambda: simulate(RELU, TWO, 3), "d >= 4"),
    ],
)
def test_what_is_out_of_the_domain_is_said(ask, said):
    with pytest.raises(ConfigError, match=said):
        ask()
