"""Rotation-invariant couplings: equilibrium and stability against reference numbers and closed forms, dynamics of
random refreshes against a simulation of their Gaussian process and against the linearisation."""

import math

import numpy as np
import pytest

from opu_dfa.errors import ConfigError
from opu_dfa.theory.inference.rotation_invariant import Couplings, equilibrium, pass_messages, residuals


@pytest.mark.parametrize(
    ("beta", "almeida", "q"),
    [(0.5, 0.2154, 0.0739), (1.0, 0.5534, 0.3025), (1.2, 0.6654, 0.3923), (1.6, 0.8694, 0.5294), (2.2, 1.1582, 0.6562)],
)
def test_overlaps_and_stability_of_gaussian_couplings_are_those_of_reference(beta, almeida, q):
    state = equilibrium(Couplings(), beta, 0.5)
    assert (state.almeida, state.q) == pytest.approx((almeida, q), abs=1.5e-4)
    chi = 1 - state.q
    assert state.variance == pytest.approx(beta**2 * state.q)
    assert state.shift == pytest.approx(beta**2 * (1 - state.q) + 1 / (1 - state.q))
    assert state.power == pytest.approx(beta**2 * chi**2 / (1 - beta**2 * chi**2))
    # μ = (AT / β²χ² - 1) β²χ² / (1 - β²χ²) crosses 1 where AT does
    x = (beta * (1 - state.q)) ** 2
    assert state.stability == pytest.approx((state.almeida / x - 1) * x / (1 - x))
    assert (state.stability < 1) == (state.almeida < 1)


def test_bimodal_couplings_have_a_closed_form():
    """(λ - βJ)⁻¹ = (λ + βJ) / (λ² - β²) of J² = 1: λ = (1 + √(1 + 4β²χ²)) / 2χ and A = βJ / λ."""
    state, rng = equilibrium(Couplings("bimodal"), 2.0, 0.5), np.random.default_rng(0)
    chi = 1 - state.q
    assert state.shift == pytest.approx((1 + math.sqrt(1 + 16 * chi**2)) / (2 * chi))
    j = Couplings("bimodal").draw(40, rng)
    assert np.allclose(j @ j, np.eye(40))
    assert np.allclose(state.matrix(j), 2.0 / state.shift * j)
    assert state.power == pytest.approx((2.0 / state.shift) ** 2)


@pytest.mark.parametrize("law", ["semicircle", "bimodal", "marchenko-pastur"])
def test_the_matrix_of_large_couplings_has_no_trace_and_the_power_of_its_law(law):
    state, rng = equilibrium(Couplings(law), 0.8, 0.4), np.random.default_rng(1)
    spectra = [np.linalg.eigvalsh(Couplings(law).draw(400, rng)) for _ in range(12)]
    a = np.array([1 / ((1 - state.q) * (state.shift - 0.8 * s)) - 1 for s in spectra])
    # few modes at the spectrum's edge make up much of both: matrices of this size differ by 30 %
    for found, wanted in ((a.mean(1), 0.0), ((a**2).mean(1), state.power)):
        assert abs(found.mean() - wanted) < 4 * found.std(ddof=1) / math.sqrt(12) + 1e-9
    z = rng.standard_normal(10**6) * math.sqrt(state.variance)
    assert (state.activation(z) ** 2).mean() * state.power == pytest.approx(state.variance, rel=0.01)


def test_refreshes_of_a_random_share_are_those_of_the_gaussian_process():
    """20,000 spins whose fields are drawn anew each step, jointly normal with the covariances measured of f: no A."""
    state, share, n, steps = equilibrium(Couplings("bimodal"), 4.0, 0.5), 0.25, 20_000, 12
    rng = np.random.default_rng(2)
    gamma = math.sqrt(state.variance) * rng.standard_normal(n)
    past_f, past_z, found = [], [], []
    for _ in range(steps + 1):
        past_f.append(state.activation(gamma))
        gram = state.power * np.array([[np.mean(a * b) for b in past_f] for a in past_f])
        root = np.linalg.cholesky(gram)
        past_z.append(rng.standard_normal(n))
        phi = root[-1] @ np.array(past_z)
        found.append(np.mean((phi - gamma) ** 2))
        chosen = rng.random(n) < share
        gamma = np.where(chosen, phi, gamma)
    assert np.array(found) == pytest.approx(residuals(state, share, steps), rel=0.05)


@pytest.mark.parametrize(
    ("law", "beta", "share"), [("semicircle", 1.6, 0.2), ("bimodal", 4.0, 0.5), ("bimodal", 4.0, 1.0)]
)
def test_residuals_decay_at_the_rate_of_the_linearisation(law, beta, share):
    state = equilibrium(Couplings(law), beta, 0.5)
    per_sweep = round(1 / share)
    found = residuals(state, share, 40 * per_sweep)[::per_sweep]
    assert found[40] / found[39] == pytest.approx(state.rate(share), rel=2e-3)


def test_above_the_line_theory_does_not_settle():
    state = equilibrium(Couplings(), 2.2, 0.5)
    found = residuals(state, 0.2, 200)[::5]
    assert found[40] / found[30] > 0.95
    assert found[40] > 0.3


def test_below_the_line_a_finite_matrix_settles_at_its_fixed_point():
    """Random shares, at the rates of reference to the scatter of one matrix: 2e-16 after 39 sweeps at β = 1."""
    state, rng = equilibrium(Couplings(), 1.0, 0.5), np.random.default_rng(3)
    j = Couplings().draw(500, rng)
    history = pass_messages(state, j, 0.2, 40, rng)
    assert history.measured[-1, 1] < 1e-12
    assert history.measured[-1, 0] == pytest.approx(0.3025, abs=0.03)
    gamma = history.state[0]
    assert np.allclose(state.matrix(j) @ state.activation(gamma), gamma, atol=1e-5)


def test_parallel_updates_of_gaussian_couplings_are_unstable_by_a_mode_that_random_shares_damp():
    """At μ = 0.13 an eigenvalue of A diag(f') far beyond √μ, not there of f' permuted, nor of bimodal couplings."""

    def least(law, seed, permute=False):
        state, rng = equilibrium(Couplings(law), 1.0, 0.5), np.random.default_rng(seed)
        j = Couplings(law).draw(400, rng)
        gamma = pass_messages(state, j, 0.2, 40, rng).state[0]
        slope = (1 - np.tanh(0.5 + gamma) ** 2) / (1 - state.q) - 1
        slope = rng.permutation(slope) if permute else slope
        return np.linalg.eigvals(state.matrix(j) * slope).real.min()

    true, permuted = (np.array([least("semicircle", s, p) for s in range(4)]) for p in (False, True))
    assert true.mean() < -0.7 < permuted.mean() - 0.1
    assert np.all(np.abs(1 - 0.2 * (1 - true)) < 1)
    assert abs(least("bimodal", 0)) < 0.2


def test_what_is_out_of_range_is_refused():
    state = equilibrium(Couplings(), 1.0, 0.5)
    for call in (
        lambda: Couplings("cauchy"),
        lambda: equilibrium(Couplings(), 0.0, 0.5),
        lambda: equilibrium(Couplings(), 1.0, -0.5),
        lambda: residuals(state, 0.0, 3),
        lambda: residuals(state, 0.5, 0),
        lambda: pass_messages(state, np.eye(3), 0.1, 3, np.random.default_rng(0)),
    ):
        with pytest.raises(ConfigError):
            call()
