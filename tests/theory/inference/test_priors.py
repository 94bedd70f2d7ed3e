"""Posteriors of priors against sums and quadratures of their definition, and overlaps against draws."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import integrate

from opu_dfa.errors import ConfigError
from opu_dfa.theory.gaussian import root
from opu_dfa.theory.inference.priors import (
    Discrete,
    GaussBernoulli,
    Gaussian,
    activity,
    independent,
    nodes,
    rademacher,
    sparse_signs,
)

PRIORS = [
    Gaussian(),
    Gaussian(variance=0.4),
    rademacher(),
    sparse_signs(0.2),
    activity(0.1),
    Discrete(np.array([[0.2], [1.8]])),
    GaussBernoulli(0.3),
    GaussBernoulli(1.0),
]
PAIRS = [
    Gaussian(2),
    rademacher(2),
    independent(activity(0.3), 2),
    Discrete(np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]), np.array([0.5, 0.3, 0.2])),
]
fields = st.floats(-6, 6)
precisions = st.floats(0.01, 20)


def density(prior, x):
    """The continuous part of a prior of one unknown."""
    if isinstance(prior, Gaussian):
        return np.exp(-x * x / (2 * prior.variance)) / np.sqrt(2 * np.pi * prior.variance)
    return prior.density * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


def moments(prior, b, a):
    """∫ x^k P(x) exp(bx - ax²/2), k = 0, 1, 2, by definition."""
    if isinstance(prior, Discrete):
        x, w = prior.points[:, 0], prior.weights
        return [float(w @ (x**k * np.exp(b * x - a * x * x / 2))) for k in range(3)]

    def weighed(x, k):
        return x**k * density(prior, x) * np.exp(b * x - a * x * x / 2)

    stiffness = a + 1 / getattr(prior, "variance", 1.0)
    middle, reach = b / stiffness, 12 / np.sqrt(stiffness)  # a peak in a wide interval may be missed
    edges = np.linspace(middle - reach, middle + reach, 9)
    continuous = [
        sum(integrate.quad(weighed, *pair, (k,), epsabs=1e-13)[0] for pair in pairwise(edges)) for k in range(3)
    ]
    if isinstance(prior, GaussBernoulli):
        continuous[0] += 1 - prior.density
    return continuous


@given(b=fields, a=precisions, which=st.integers(0, len(PRIORS) - 1))
@example(b=6e-8, a=1.0, which=0)
@settings(max_examples=60, deadline=None)
def test_posterior_mean_and_variance_are_those_of_the_definition(b, a, which):
    prior = PRIORS[which]
    zeroth, first, second = moments(prior, b, a)
    found = prior.denoise(np.array([[b]]), np.array([[a]]))
    assert found.mean[0, 0] == pytest.approx(first / zeroth, rel=1e-6, abs=1e-9)
    assert found.covariance[0, 0, 0] == pytest.approx(second / zeroth - (first / zeroth) ** 2, rel=1e-5, abs=1e-8)


@given(b=st.tuples(fields, fields), scale=precisions, tilt=st.floats(-0.9, 0.9), which=st.integers(0, len(PAIRS) - 1))
@settings(max_examples=40, deadline=None)
def test_the_covariance_is_the_derivative_of_the_mean_by_the_field(b, scale, tilt, which):
    prior, h = PAIRS[which], 1e-5
    precision = scale * np.array([[1.0, tilt], [tilt, 1.0]])
    covariance = prior.denoise(np.array([b]), precision).covariance[0]
    moved = np.array(b) + h * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    means = prior.denoise(moved, precision).mean
    slopes = np.stack([(means[0] - means[1]) / (2 * h), (means[2] - means[3]) / (2 * h)], axis=1)
    assert np.allclose(covariance, slopes, atol=1e-6 * (1 + np.abs(prior.points).max() ** 3 if which else 1))
    assert np.allclose(covariance, covariance.T)


@pytest.mark.parametrize("prior", [*PRIORS, *PAIRS])
def test_the_overlap_is_the_mean_over_draws_and_obeys_nishimori(prior):
    """E x x̂ᵀ = E x̂ x̂ᵀ, and both are what `overlap` says."""
    rng, n, p = np.random.default_rng(3), 200_000, prior.second.shape[0]
    precision = 1.7 * np.eye(p) + 0.4 * (np.ones((p, p)) - np.eye(p))
    x = prior.sample(rng, n)
    field = x @ precision + rng.standard_normal((n, p)) @ root(precision)
    mean = prior.denoise(field, precision).mean
    expected = prior.overlap(precision)
    for products in (x[:, :, None] * mean[:, None], mean[:, :, None] * mean[:, None]):
        error = products.std(axis=0) / np.sqrt(n)
        assert (np.abs(products.mean(axis=0) - expected) < 4.5 * error + 1e-12).all()


@pytest.mark.parametrize("prior", [*PRIORS, *PAIRS])
def test_draws_have_the_mean_and_the_second_moment(prior):
    x = prior.sample(np.random.default_rng(5), 100_000)
    squares = x[:, :, None] * x[:, None]
    assert (np.abs(x.mean(axis=0) - prior.mean) < 4.5 * x.std(axis=0) / np.sqrt(len(x))).all()
    assert (np.abs(squares.mean(axis=0) - prior.second) <= 4.5 * squares.std(axis=0) / np.sqrt(len(x)) + 1e-12).all()


@pytest.mark.parametrize("prior", [*PRIORS, *PAIRS])
def test_overlaps_go_from_the_mean_s_to_the_second_moment(prior):
    p = prior.second.shape[0]
    few, much = prior.overlap(1e-9 * np.eye(p)), prior.overlap(2e4 * np.eye(p))
    assert np.allclose(few, np.outer(prior.mean, prior.mean), atol=1e-6)
    assert np.allclose(much, prior.second, atol=2e-3)


def test_signs_posterior_is_tanh_and_its_overlap_that_of_two_signs_apart():
    b = np.linspace(-40, 40, 9)[:, None]
    assert np.allclose(rademacher().denoise(b, np.eye(1)).mean, np.tanh(b), atol=1e-14)
    both = rademacher(2).overlap(np.diag([0.7, 2.0]))
    each = [rademacher().overlap(np.array([[a]]))[0, 0] for a in (0.7, 2.0)]
    assert np.allclose(both, np.diag(each), atol=1e-9)


def test_precisions_of_rows_are_those_of_one_each():
    b, a = np.array([[0.3, -1.0], [2.0, 0.5]]), np.stack([np.eye(2), np.array([[2.0, 0.3], [0.3, 1.0]])])
    for prior in PAIRS:
        together = prior.denoise(b, a)
        for i in range(2):
            alone = prior.denoise(b[i : i + 1], a[i])
            assert np.allclose(together.mean[i], alone.mean[0])
            assert np.allclose(together.covariance[i], alone.covariance[0])


@pytest.mark.parametrize("dims", [1, 2, 3, 4])
def test_nodes_have_the_moments_of_the_normal_law(dims):
    x, w = nodes(dims)
    assert w.sum() == pytest.approx(1)
    assert np.allclose(x.T @ (w[:, None] * x), np.eye(dims), atol=1e-9 if dims < 4 else 2e-2)


def test_the_root_of_a_singular_matrix():
    a = np.array([[1.0, 1.0], [1.0, 1.0]])
    assert np.allclose(root(a) @ root(a), a)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: Gaussian(variance=-1.0), "positive variance"),
        (lambda: Discrete(np.ones(3)), r"\(s, p\), got shape \(3,\)"),
        (lambda: Discrete(np.ones((2, 1)), np.array([0.5, 0.6])), "of sum 1"),
        (lambda: sparse_signs(0.0), "got 0"),
        (lambda: GaussBernoulli(1.2), "got 1.2"),
        (lambda: activity(1.0), "between 0 and 1, got 1"),
        (lambda: independent(rademacher(2), 2), "one unknown a row, got 2"),
    ],
)
def test_priors_that_are_none_are_refused(ask, said):
    with pytest.raises(ConfigError, match=said):
        ask()
