"""Denoisers of rotation-invariant matrices against sampled ones, and quadratic networks against references."""

import math

import numpy as np
import pytest
from scipy import integrate

from opu_dfa.errors import ConfigError
from opu_dfa.theory.inference.iterate import iterate
from opu_dfa.theory.inference.matrix_denoising import (
    QuadraticNetwork,
    denoise,
    denoising_error,
    resolvent,
    wishart,
)
from opu_dfa.theory.spectra.freeprob import semicircle


def noisy(rng, d, kappa, delta):
    w, g = rng.standard_normal((d, round(kappa * d))), rng.standard_normal((d, d))
    s = w @ w.T / round(kappa * d)
    return s, s + math.sqrt(delta / (2 * d)) * (g + g.T)


@pytest.mark.parametrize("delta", [0.01, 0.3, 2.0])
def test_no_shrinkage_that_knows_the_truth_does_better(delta):
    """The best a matrix of Y's eigenvectors can be, u_iᵀ S u_i, is self-averaging: the denoiser comes as near."""
    s, y = noisy(np.random.default_rng(3), 600, 0.5, delta)
    vectors = np.linalg.eigh(y)[1]
    best = (vectors * np.einsum("ij,ij->j", vectors, s @ vectors)) @ vectors.T
    least, found = (float(((s - each) ** 2).sum()) / 600 for each in (best, denoise(y, wishart(0.5), delta)))
    assert least <= found < 1.01 * least
    assert denoising_error(wishart(0.5), delta) == pytest.approx(found, rel=0.015)


@pytest.mark.parametrize(("kappa", "delta"), [(0.5, 0.02), (0.5, 0.7), (2.0, 0.1)])
def test_the_resolvent_is_the_integral_of_the_density(kappa, delta):
    law = wishart(kappa) + semicircle(delta)
    (low, high) = law.support[0][0], law.support[-1][1]
    outside = [low - 0.5, high + 0.5]
    if len(law.support) > 1:  # the gap between what was the atom at 0 and the rest
        outside.append((law.support[0][1] + law.support[1][0]) / 2)
    expected = [
        sum(
            integrate.quad(lambda x, z=z: float(law.density(x)) / (z - x), *piece, limit=200)[0]
            for piece in law.support
        )
        for z in outside
    ]
    assert np.allclose(resolvent(law, np.array(outside)).real, expected, rtol=1e-4)
    inside = np.linspace(low, high, 41)[1:-1]
    assert np.allclose(-resolvent(law, inside).imag / math.pi, law.density(inside), atol=1e-5)


def test_the_error_s_integral_is_that_of_an_adaptive_rule():
    for kappa, delta in ((0.5, 0.05), (0.5, 1.3), (3.0, 0.4)):
        law = wishart(kappa) + semicircle(delta)
        cubed = sum(
            integrate.quad(lambda x, law=law: float(law.density(x)) ** 3, *piece, limit=300, epsabs=1e-9)[0]
            for piece in law.support
        )
        expected = delta - 4 * math.pi**2 / 3 * delta**2 * cubed
        assert denoising_error(wishart(kappa), delta) == pytest.approx(expected, rel=1e-4)


def test_the_error_goes_from_the_noise_to_the_prior_s_variance_and_counts_parameters():
    assert denoising_error(wishart(0.5), 1e4) == pytest.approx(2.0, rel=1e-3)
    for kappa in (0.2, 0.5, 0.8):  # of weak noise what lies along the κd-dimensional span of S is left
        assert denoising_error(wishart(kappa), 1e-5) / 1e-5 == pytest.approx(2 * kappa - kappa**2, rel=1e-3)
        assert QuadraticNetwork(kappa, 0.1).recovery == pytest.approx(kappa - kappa**2 / 2)
    assert denoising_error(wishart(2.0), 1e-5) / 1e-5 == pytest.approx(1.0, rel=1e-2)


@pytest.mark.parametrize(
    ("alpha", "noise", "expected", "tolerance"),
    [
        (0.2, 0.25, 0.93482, 1.5e-5),
        (0.5, 0.25, 0.20760, 1.5e-5),
        # The public numbers without noise are 3e-4 below what an adaptive integral and the fixed point itself give.
        (0.1, 0.0, 1.44688, 6e-4),
        (0.2, 0.0, 0.78408, 4e-4),
        (0.3, 0.0, 0.25602, 3e-4),
        (0.35, 0.0, 0.07840, 3e-4),
    ],
)
def test_errors_are_those_of_reference(alpha, noise, expected, tolerance):
    assert QuadraticNetwork(0.5, alpha, noise).error == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(("alpha", "noise"), [(0.1, 0.0), (0.3, 0.0), (0.5, 0.25)])
def test_errors_solve_the_published_equation_of_the_inverse_noise(alpha, noise):
    """1 - 2α + δ q̂/2 = 4π²/(3 q̂) ∫ ρ³, mse = 2α/q̂ - δ/2, with the integral by an adaptive rule."""
    error = QuadraticNetwork(0.5, alpha, noise).error
    q = 2 * alpha / (error + noise / 2)
    law = wishart(0.5) + semicircle(1 / q)
    cubed = sum(integrate.quad(lambda x: float(law.density(x)) ** 3, *p, limit=300)[0] for p in law.support)
    assert 1 - 2 * alpha + noise * q / 2 == pytest.approx(4 * math.pi**2 / (3 * q) * cubed, abs=1e-7)


def test_without_noise_as_many_samples_as_parameters_determine_the_network():
    assert QuadraticNetwork(0.5, 0.376).error == 0.0
    assert 0 < QuadraticNetwork(0.5, 0.374).error < 0.01
    assert QuadraticNetwork(1.5, 0.51).error == 0.0
    assert QuadraticNetwork(1.5, 0.48).error > 1e-3


def test_measurements_are_traces_with_the_sensing_matrices():
    data = QuadraticNetwork(0.5, 0.5).observe(np.random.default_rng(0), 12)
    z = (np.einsum("ni,nj->nij", data.inputs, data.inputs) - np.eye(12)) / math.sqrt(12)
    assert np.allclose(data.labels, np.einsum("nij,ij->n", z, data.truth))


def test_normal_measurements_have_the_moments_of_a_network_s_and_their_sum_is_the_adjoint():
    data = QuadraticNetwork(0.5, 20.0).observe(np.random.default_rng(4), 8, "normal")
    s, g = data.truth, np.random.default_rng(5).standard_normal(len(data.labels))
    s = (s + s.T) / 2
    assert g @ data.measure(s) == pytest.approx((data.gather(g) * s).sum())
    expected = 2 * (s**2).sum() / 8  # as of (xᵀ S x - Tr S)/√d
    assert data.labels.var() == pytest.approx(expected, rel=4 * math.sqrt(2 / 1280))
    network = QuadraticNetwork(0.5, 20.0).observe(np.random.default_rng(4), 8)
    assert g @ network.measure(s) == pytest.approx((network.gather(g) * s).sum())


def test_message_passing_expects_the_error_that_it_has():
    network = QuadraticNetwork(0.5, 0.6, 0.5)
    data = network.observe(np.random.default_rng(1), 100)
    history = iterate(data.step, data.start(), data.error, most=40)
    # The scores' own noise is 1/d above state evolution's: at d = 100 the bias is under 12 %.
    assert history.measured[-1] == pytest.approx(network.error, rel=0.12)
    assert history.state.variance / 2 == pytest.approx(network.error, rel=0.12)
    assert history.measured[0] == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: wishart(0.0),
        lambda: denoising_error(wishart(1.0), 0.0),
        lambda: QuadraticNetwork(0.5, 0.0),
        lambda: QuadraticNetwork(0.5, 0.2, -0.1),
        lambda: QuadraticNetwork(-0.5, 0.2),
    ],
)
def test_what_is_out_of_the_domain_is_refused(ask):
    with pytest.raises(ConfigError, match="positive"):
        ask()
