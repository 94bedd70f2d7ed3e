"""Message passing on a known design: ridge regression, state evolution, tokens, and precisions."""

from dataclasses import replace

import numpy as np
import pytest

from opu_dfa.errors import ConfigError
from opu_dfa.theory.inference.channels import GaussianNoise, Sign
from opu_dfa.theory.inference.index_channels import SignProduct
from opu_dfa.theory.inference.iterate import branches, iterate
from opu_dfa.theory.inference.priors import Gaussian, rademacher
from opu_dfa.theory.inference.regression import GeneralisedLinear
from opu_dfa.theory.inference.sequence_channels import AttentionOneLayer


def test_of_gaussian_noise_message_passing_is_ridge_regression():
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    data = GeneralisedLinear(Gaussian(), GaussianNoise(0.3), alpha=1.5).observe(rng, 300)
    history = iterate(data.step, data.start(rng))
    ridge = Ridge(alpha=0.3, fit_intercept=False, tol=1e-12).fit(data.design, data.labels)
    assert history.converged
    assert history.state.weights[:, 0] == pytest.approx(ridge.coef_, abs=1e-5)


def test_of_gaussian_noise_state_evolution_solves_its_quadratic_equation():
    """M = M̂/(1 + M̂), M̂ = α/(Δ + 1 - M)."""
    law = GeneralisedLinear(Gaussian(), GaussianNoise(0.3), alpha=1.5)
    ends = branches(law.evolve, law.nothing, law.truth)
    exact = [m.real for m in np.roots([1, -(1 + 0.3 + 1.5), 1.5]) if 0 < m < 1]
    assert (ends.uninformed[0, 0], ends.informed[0, 0]) == pytest.approx((exact[0], exact[0]), abs=1e-8)


@pytest.mark.parametrize(
    ("law", "d", "tolerance"),
    [
        (GeneralisedLinear(Gaussian(), Sign(0.1), 3.0), 800, 0.02),
        (GeneralisedLinear(rademacher(), GaussianNoise(0.5), 1.0), 1200, 0.03),
        (GeneralisedLinear(Gaussian(2), SignProduct(), 6.0), 500, 0.03),
        (GeneralisedLinear(Gaussian(), AttentionOneLayer(3), 0.25), 1000, 0.05),
    ],
)
def test_message_passing_comes_to_where_state_evolution_does(law, d, tolerance):
    p = law.channel.size
    start = 0.2 * law.truth
    for _ in range(60):
        start = law.evolve(start)
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        data = law.observe(rng, d)
        known = data.knowing(rng, 0.2 * law.truth)
        found.append(data.products(iterate(data.step, known, most=60).state))
    overlap = np.linalg.svd(np.mean([np.abs(np.diagonal(m)) for m in found], axis=0)[:, None], compute_uv=False)
    # Three experiments scatter by 1/√d each, times what the slope of state evolution makes of it.
    assert overlap[0] / np.sqrt(p) == pytest.approx(np.trace(start) / p, abs=tolerance)


def test_a_start_knows_what_it_says():
    rng = np.random.default_rng(1)
    data = GeneralisedLinear(Gaussian(2), SignProduct(), 0.01).observe(rng, 40_000)
    overlap = np.array([[0.4, 0.1], [0.1, 0.2]])
    state = data.knowing(rng, overlap)
    assert state.covariance == pytest.approx(np.eye(2) - overlap)
    # Means of 40,000 products of a variance below 1 have a standard error below 0.005.
    assert data.products(state) == pytest.approx(overlap, abs=0.02)
    assert state.weights.T @ state.weights / 40_000 == pytest.approx(overlap, abs=0.02)


def test_the_law_s_precision_is_the_samples_at_large_size():
    rng = np.random.default_rng(2)
    law = GeneralisedLinear(Gaussian(), Sign(0.1), 3.0)
    data = law.observe(rng, 1500)
    one = data.step(data.knowing(rng, np.array([[0.5]])))
    rng = np.random.default_rng(2)
    data = replace(law.observe(rng, 1500), precision="law")
    other = data.step(data.knowing(rng, np.array([[0.5]])))
    assert one.covariance == pytest.approx(other.covariance, rel=0.05)
    assert other.covariance == pytest.approx(1 - law.evolve(np.array([[0.5]])), rel=2e-3)


def test_a_ratio_of_samples_that_is_not_positive_is_refused():
    with pytest.raises(ConfigError, match="positive, got 0"):
        GeneralisedLinear(Gaussian(), Sign(), 0.0)
