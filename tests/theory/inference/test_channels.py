"""Channels of labels: scores against rejection sampling, Nishimori's identity, and informations in closed form."""

import numpy as np
import pytest

from opu_dfa.errors import ConfigError
from opu_dfa.theory.gaussian import root
from opu_dfa.theory.inference.channels import Channel, GaussianNoise, Sign
from opu_dfa.theory.inference.index_channels import (
    MonteCarlo,
    Product,
    SignProduct,
    SquaredNorm,
    Staircase,
    same_sign,
)
from opu_dfa.theory.inference.sequence_channels import AttentionOneLayer, AttentionTwoLayers, PhaseRetrieval

COVARIANCE = {
    1: np.array([[0.6]]),
    2: np.array([[0.5, 0.2], [0.2, 0.4]]),
    3: np.array([[0.5, 0.2, 0.1], [0.2, 0.6, -0.1], [0.1, -0.1, 0.7]]),
}
DISCRETE = [(SignProduct(), 1.0), (SignProduct(), -1.0), (Sign(0.3), 1.0)]
REAL = [
    (PhaseRetrieval(), 0.8),
    (Product(), 0.4),
    (Product(), -0.7),
    (SquaredNorm(2), 0.5),
    (SquaredNorm(3), 0.9),
    (Staircase(), 0.5),
    (Staircase(), 1.7),
    (Staircase(), -0.4),
]


def accepted(channel, y, omega, v, width, draws=1_000_000):
    """Scores of fields that have this label, up to a width."""
    rng = np.random.default_rng(3)
    z = omega + rng.standard_normal((draws, channel.tokens, channel.size)) @ root(v)
    kept = z[np.abs(channel.sample(rng, z) - y).reshape(draws, -1).max(axis=1) <= width]
    scores = (kept - omega) @ np.linalg.inv(v)
    return scores.mean(axis=0), scores.std(axis=0) / np.sqrt(len(scores))


@pytest.mark.parametrize(("channel", "y"), DISCRETE + REAL)
def test_scores_are_those_of_fields_that_have_the_label(channel, y):
    omega = np.array([0.3, -0.6, 0.4])[None, : channel.size]
    v = COVARIANCE[channel.size]
    mean, error = accepted(channel, y, omega, v, 0.02 if (channel, y) in REAL else 0)
    # Labels of a width of 0.02 add a bias of its square.
    assert np.abs(channel.score(np.array([y]), omega[None], v)[0] - mean).max() < 4 * error.max() + 2e-3


def test_scores_of_two_layers_of_attention_are_those_of_fields_that_have_the_label():
    channel, rng = AttentionTwoLayers(1.0), np.random.default_rng(5)
    omega = 0.4 * rng.standard_normal((2, 2))
    y = channel.labels(0.5 * rng.standard_normal((1, 2, 2)), None)
    mean, error = accepted(channel, y, omega, COVARIANCE[2], 0.02)
    assert np.abs(channel.score(y, omega[None], COVARIANCE[2])[0] - mean).max() < 4 * error.max() + 0.01


@pytest.mark.parametrize(
    "channel",
    [GaussianNoise(0.3), Sign(0.2), PhaseRetrieval(), AttentionOneLayer(3), SignProduct(), Product(), Staircase()],
    ids=lambda c: type(c).__name__,
)
def test_matched_scores_have_mean_zero_and_their_curvature_too(channel):
    """E g = 0, and E (∂g + g gᵀ) = 0 is Nishimori's -E ∂g = E g gᵀ."""
    rng, n = np.random.default_rng(0), 3000 if isinstance(channel, Product) else 30_000
    p = channel.size
    v = COVARIANCE[p]
    omega = rng.standard_normal((n, channel.tokens, p)) @ root(np.eye(p) - v)
    z = omega + rng.standard_normal(omega.shape) @ root(v)
    y = channel.sample(rng, z)
    for found in (channel.score(y, omega, v), channel.curvature(y, omega, v)):
        mean, error = found.mean(axis=0), found.std(axis=0) / np.sqrt(n)
        assert (np.abs(mean) < 4.5 * error + 1e-6).all()


@pytest.mark.parametrize(
    ("channel", "y"),
    [
        (PhaseRetrieval(), [0.5, 2.0]),
        (SignProduct(), [1.0, -1.0]),
        (Product(), [0.4, -2.0]),
        (SquaredNorm(3), [0.3, 1.5]),
        (AttentionOneLayer(3), None),
        (AttentionTwoLayers(), None),
    ],
)
def test_curvatures_in_closed_form_are_differences_of_scores(channel, y):
    rng = np.random.default_rng(1)
    shape = (2, channel.tokens, channel.size)
    labels = channel.labels(rng.standard_normal(shape), None) if y is None else np.array(y)
    args = labels, np.zeros(shape), np.eye(channel.size)
    # In three dimensions directions are 512 Sobol points, a per cent off.
    digits = 0.02 if isinstance(channel, SquaredNorm) else 2e-5
    assert channel.curvature(*args) == pytest.approx(Channel.curvature(channel, *args), abs=digits)
    if channel.size == 1:
        args = labels, 0.4 * rng.standard_normal(shape), np.array([[0.7]])
        assert channel.curvature(*args) == pytest.approx(Channel.curvature(channel, *args), abs=1e-6)


@pytest.mark.parametrize(
    ("channel", "overlap"),
    [
        (PhaseRetrieval(), [0.3]),
        (AttentionOneLayer(2), [0.3]),
        (AttentionOneLayer(4), [0.2]),
        (SignProduct(), [0.3, 0.6]),
        (Staircase(), [0.5, 0, 0]),
        (Sign(0.2), [0.4]),
        (GaussianNoise(0.2), [0.4]),
    ],
)
def test_informations_in_closed_form_are_those_of_sobol_points(channel, overlap):
    args = np.diag(overlap), np.eye(len(overlap))
    exact = channel.information(*args)
    assert exact == pytest.approx(Channel.information(channel, *args), rel=5e-3, abs=5e-3)


def test_weak_overlaps_give_the_information_of_the_curvature():
    """Î(M) = E G M Gᵀ to first order: of z², E (z² - 1)² = 2."""
    assert PhaseRetrieval().information(np.array([[1e-4]]), np.eye(1))[0, 0] == pytest.approx(2e-4, rel=1e-3)
    assert PhaseRetrieval().information(np.array([[2e-4]]), 2 * np.eye(1))[0, 0] == pytest.approx(2e-4 / 2, rel=1e-3)


def test_orthants_are_those_of_the_bivariate_normal_law():
    from scipy.stats import multivariate_normal

    omega, v = np.array([[0.3, -0.6], [1.0, 2.0], [-0.5, 0.0]]), COVARIANCE[2]
    law = multivariate_normal(np.zeros(2), v)
    exact = [law.cdf(w) + law.cdf(-w) for w in omega]
    found, gradient = same_sign(omega, v)
    assert found == pytest.approx(exact, abs=1e-6)
    for k in range(2):
        step = 1e-5 * np.eye(2)[k]
        slope = (same_sign(omega + step, v)[0] - same_sign(omega - step, v)[0]) / 2e-5
        assert gradient[:, k] == pytest.approx(slope, abs=1e-7)


def test_attention_tells_fields_up_to_their_common_sign():
    z = np.random.default_rng(0).standard_normal((200, 4, 1))
    channel = AttentionOneLayer(4)
    s = channel.fields(channel.labels(z, None))
    assert np.minimum(np.abs(s - z[:, :, 0]).max(1), np.abs(s + z[:, :, 0]).max(1)).max() < 1e-6
    assert np.array_equal(channel.labels(z, None), channel.labels(-z, None))


def test_sampled_scores_are_those_in_closed_form():
    channel = MonteCarlo(2, lambda z, _: np.sign(z.prod(1)), lambda y, z: y == np.sign(z.prod(2)), draws=2**14)
    omega = np.array([[[0.3, -0.6]], [[0.5, 0.2]]])
    y = np.array([1.0, -1.0])
    exact = SignProduct().score(y, omega, COVARIANCE[2])
    assert channel.score(y, omega, COVARIANCE[2]) == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: AttentionOneLayer(1), "two tokens or more, got 1"),
        (lambda: AttentionTwoLayers(0.0), "skip connection is positive, got 0"),
        (lambda: SquaredNorm(1), "p >= 2 fields, got 1"),
    ],
)
def test_channels_out_of_their_domain_say_so(ask, said):
    with pytest.raises(ConfigError, match=said):
        ask()
