"""Output channels against the densities that they are of, and the equivalent Gaussian model against its numbers."""

import math

import numpy as np
import pytest
from scipy import special, stats

from opu_dfa.errors import ConfigError
from opu_dfa.theory.inference.iterate import branches
from opu_dfa.theory.inference.outputs import (
    Absolute,
    Cauchy,
    Counts,
    Edges,
    EntrywiseOutput,
    Linear,
    Quantised,
    power,
)
from opu_dfa.theory.inference.priors import Discrete, Gaussian, rademacher

BITS = (-0.6, 0.2, 1.0)
LINE = np.linspace(-30, 30, 60_001)
HALF = np.arange(0.0005, 30, 0.001)  # middles of cells
FAR = np.tan(np.linspace(-1, 1, 200_001)[1:-1] * np.pi / 2)
POSITIVE = Discrete(np.sqrt([[0.2], [1.8]]))  # x of u = x² in {0.2, 1.8}


def cells(levels):
    edges = np.array([-np.inf, *levels, np.inf])
    return lambda w: np.diff(special.ndtr(edges - w))


# Output, its values y, weights of their sum, and P(y | w)
CHANNELS = [
    (Linear(), LINE, np.gradient(LINE), lambda w: stats.norm.pdf(LINE - w)),
    (Quantised(), np.arange(2), np.ones(2), cells((0.0,))),
    (Quantised(BITS), np.arange(4), np.ones(4), cells(BITS)),
    (Cauchy(), FAR, np.gradient(FAR), lambda w: stats.cauchy.pdf(FAR - w)),
    (Counts(2.0), np.arange(60), np.ones(60), lambda w: stats.poisson.pmf(np.arange(60), 2.0 * np.exp(w))),
    (Edges(0.3), np.arange(2), np.ones(2), lambda w: np.array([1 - (p := special.expit(special.logit(0.3) + w)), p])),
    (
        Absolute(),
        HALF,
        np.gradient(HALF),
        lambda w: stats.norm.pdf(HALF - w) + stats.norm.pdf(HALF + w),
    ),
]
each = pytest.mark.parametrize(("output", "y", "weights", "density"), CHANNELS)


@each
def test_scores_are_the_first_derivative_that_is_not_blind(output, y, weights, density):
    h = 1e-3
    first = (density(h) - density(-h)) / (2 * h)
    second = (density(h) - 2 * density(0) + density(-h)) / h**2
    common = density(0) > 1e-6
    if output.order == 2:
        assert np.abs(first[common] / density(0)[common]).max() < 1e-9
    derivative = first if output.order == 1 else second / 2
    assert np.allclose(output.score(y)[common], derivative[common] / density(0)[common], rtol=2e-5, atol=2e-4)


@each
def test_moments_of_scores_have_the_orders_that_are_said(output, y, weights, density):
    """E S = (w^k + b w^2k)/Δ and Var S = (1 + c w^k)/Δ, up to the next order."""
    score, k = output.score(y), output.order
    p0 = density(0.0) * weights
    assert p0.sum() == pytest.approx(1, abs=1e-4)
    assert p0 @ score == pytest.approx(0, abs=1e-6)
    assert p0 @ score**2 == pytest.approx(output.fisher, rel=2e-5)
    for w in (0.02, 0.04):
        p = density(w) * weights
        mean = float(p @ score)
        assert mean / output.fisher == pytest.approx(w**k + output.bend * w ** (2 * k), abs=0.8 * w ** (3 * k) + 1e-7)
        variance = float(p @ score**2) - mean**2
        assert variance / output.fisher == pytest.approx(1 + output.excess * w**k, abs=3 * w ** (2 * k) + 1e-4)


@each
def test_draws_are_of_the_density(output, y, weights, density):
    w, n = 0.7, 200_000
    drawn = output.score(output.sample(np.random.default_rng(1), np.full(n, w)))
    p = density(w) * weights
    mean = float(p @ output.score(y))
    deviation = math.sqrt(float(p @ output.score(y) ** 2) - mean**2)
    assert drawn.mean() == pytest.approx(mean, abs=4 * deviation / math.sqrt(n))


def test_fine_levels_lose_nothing_and_a_sign_two_over_pi():
    assert Quantised(tuple(np.linspace(-5, 5, 400))).fisher == pytest.approx(1, abs=1e-3)
    assert Quantised().fisher == pytest.approx(2 / np.pi, rel=1e-12)
    assert Quantised().fisher < Quantised(BITS).fisher < 1


@pytest.mark.parametrize(("strength", "overlap"), [(1.2, 0.0), (2, 0.24177), (3, 0.58665), (4, 0.75874), (6, 0.90561)])
def test_signs_of_a_spike_of_signs_are_those_of_reference(strength, overlap):
    law = EntrywiseOutput(rademacher(), Quantised(), strength)
    same = law.equivalent
    found = branches(same.evolve, same.nothing + 1e-6, same.truth).uninformed[0, 0, 0]
    assert float(found) == pytest.approx(overlap, abs=1.5e-5)
    assert law.error_at(math.inf) == pytest.approx(1 - overlap, abs=3e-5)


@pytest.mark.parametrize(
    ("strength", "overlap", "error"),
    [
        (1, 1.18190, 0.45810),
        (3, 1.41512, 0.22488),
        (6, 1.56023, 0.07977),
        (12, 1.62788, 0.01212),
        (20, 1.63882, 0.00118),
    ],
)
def test_absolute_values_of_a_positive_spike_are_those_of_reference(strength, overlap, error):
    law = EntrywiseOutput(POSITIVE, Absolute(), strength)
    same = law.equivalent
    found = float(branches(same.evolve, same.nothing, same.truth).uninformed[0, 0, 0])
    assert (found, law.error_at(math.inf)) == pytest.approx((overlap, error), abs=1.5e-5)
    assert found + law.error_at(math.inf) == pytest.approx(1.64, abs=1e-5)  # Nishimori, of E u² = 1.64


def test_at_finite_size_the_next_order_counts_as_one_over_the_root():
    """(error - limit)·√n settles, and of a channel without a next order it is nothing."""
    law = EntrywiseOutput(POSITIVE, Absolute(), 3.0)
    limit = law.error_at(math.inf)
    slopes = [(law.error_at(n) - limit) * math.sqrt(n) for n in (1e4, 1e6, 1e8)]
    assert slopes[2] == pytest.approx(slopes[1], rel=0.01)
    assert slopes[1] == pytest.approx(slopes[0], rel=0.05)
    assert slopes[2] > 1
    u = Discrete(np.array([[0.2], [1.8]]))
    assert EntrywiseOutput(u, Quantised(), 3.0).error_at(100) == EntrywiseOutput(u, Quantised(), 3.0).error_at(1e9)


def test_scores_are_a_spiked_matrix_of_the_equivalent_model():
    """Of x² seen by |w + ξ|: its mean along u uᵀ, and its variance 1/Δ (1 + 2 w²)."""
    law, n = EntrywiseOutput(POSITIVE, Absolute(), 3.0), 1200
    data = law.observe(np.random.default_rng(0), n)
    assert set(np.round(data.truth.ravel(), 9)) == {0.2, 1.8}
    assert (data.score == data.score.T).all()
    u, upper = data.truth[:, 0], np.triu_indices(n, 1)
    products = np.outer(u, u)[upper]
    entries = data.score[upper] / math.sqrt(3.0 / n)
    fitted = float(entries @ products / (products @ products))
    error = math.sqrt(0.5 / float(products @ products))
    assert fitted == pytest.approx(0.5 * math.sqrt(3.0 / n), abs=5 * error)
    for value in np.unique(products.round(6)):
        some = entries[np.abs(products - value) < 1e-4]
        wanted = (1 + 2 * math.sqrt(3.0 / n) * value) / 2
        assert some.var() == pytest.approx(wanted, rel=4 * math.sqrt(14 / len(some)))  # kurtosis 15 of a square


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: EntrywiseOutput(rademacher(), Linear(), 0.0), "is positive, got 0"),
        (lambda: Quantised((1.0, 0.0)), "rising order"),
        (lambda: Counts(0.0), "positive, got 0"),
        (lambda: Edges(1.0), "between 0 and 1, got 1"),
        (lambda: power(Gaussian(), 2), "got Gaussian"),
        (lambda: power(rademacher(2), 2), "of 2 unknowns a row"),
        (lambda: EntrywiseOutput(Gaussian(), Linear(), 1.0).error_at(100), "Discrete priors"),
    ],
)
def test_channels_that_are_none_are_refused(ask, said):
    with pytest.raises(ConfigError, match=said):
        ask()
