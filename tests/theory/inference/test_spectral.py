"""Edges, outliers and overlaps of matrices with blocks, against closed forms and diagonalised matrices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opu_dfa.errors import ConfigError
from opu_dfa.theory.inference.iterate import branches
from opu_dfa.theory.inference.low_rank import SpikedWigner
from opu_dfa.theory.inference.priors import Gaussian, rademacher, sparse_signs
from opu_dfa.theory.inference.spectral import Blocks, cosine, leading, linearised, operator, plain

FRACTIONS = np.array([0.3, 0.7])
NOISES = [np.array([[1.0, 3.0], [3.0, 2.0]]), np.array([[1.0, 4.0], [4.0, 8.0]])]


def law(noise, snr, prior=None):
    prior = prior or Gaussian()
    return SpikedWigner(prior, noise * SpikedWigner(prior, noise, FRACTIONS).snr / snr, FRACTIONS)


@pytest.mark.parametrize("variance", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("theta", [0.6, 1.5, 3.0])
def test_of_one_block_edges_and_outliers_are_those_of_baik_ben_arous_and_peche(variance, theta):
    """Of semicircle √v and a spike θ√v: edge 2√v, outlier √v (θ + 1/θ), cos² 1 - 1/θ²."""
    sigma = np.sqrt(variance)
    one = Blocks(np.array([0.7]), np.array([[variance]]), np.array([[theta * sigma]]), np.ones(1))
    assert one.edge == pytest.approx(0.7 + 2 * sigma, abs=1e-9)
    assert one.strength == pytest.approx(theta, abs=1e-8)
    expected = (0.7 + sigma * (theta + 1 / theta), 1 - theta**-2) if theta > 1 else (0.7 + 2 * sigma, 0.0)
    assert tuple(one.outlier()) == pytest.approx(expected, abs=1e-8)
    x = np.linspace(-1.9, 1.9, 7)
    wanted = np.sqrt(4 - x**2) / (2 * np.pi * sigma)
    assert one.density(0.7 + sigma * x, height=1e-4 * sigma) == pytest.approx(wanted, abs=1e-3 / sigma)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("snr", [0.4, 0.8, 1.2, 1.6, 2.4, 4.0])
def test_the_linearised_eigenvector_is_the_gaussian_prior_s_estimate(noise, snr):
    """Eigenvalue 1 and the overlap of state evolution, above snr 1; an edge below 1 and nothing, below."""
    this = law(noise, snr)
    value, overlap = linearised(this).outlier()
    found = branches(this.evolve, this.nothing + 1e-6, this.truth).uninformed
    assert overlap == pytest.approx(float(this.total(found)[0, 0]), abs=1e-6)
    assert linearised(this).edge < 1
    assert value == pytest.approx(1.0, abs=1e-9) if snr > 1 else value == linearised(this).edge


@given(entries=st.tuples(*[st.floats(0.05, 20)] * 6), fractions=st.tuples(st.floats(0.05, 0.5), st.floats(0.05, 0.45)))
@settings(max_examples=25, deadline=None)
def test_the_linearised_bulk_touches_one_at_the_threshold(entries, fractions):
    noise = np.zeros((3, 3))
    noise[np.triu_indices(3)] = entries
    noise = np.maximum(noise, noise.T)
    rho = np.array([*fractions, 1 - sum(fractions)])
    snr = SpikedWigner(Gaussian(), noise, rho).snr
    best = linearised(SpikedWigner(Gaussian(), noise * snr, rho))
    assert best.edge == pytest.approx(1.0, abs=1e-6)
    assert best.strength == pytest.approx(1.0, abs=1e-6)
    assert plain(SpikedWigner(Gaussian(), noise * snr, rho)).strength <= 1 + 1e-9  # nobody starts earlier


@pytest.mark.parametrize(("noise", "starts"), [(NOISES[0], 1.1194), (NOISES[1], 2.5778)])
def test_pca_starts_later(noise, starts):
    """The threshold that its own outlier has; above and below it by the strength, which grows as √snr."""
    assert plain(law(noise, 1.0)).strength ** -2 == pytest.approx(starts, abs=1e-4)
    assert plain(law(noise, 0.97 * starts)).outlier().overlap == 0
    assert 0 < plain(law(noise, 1.03 * starts)).outlier().overlap < 0.1


@pytest.mark.parametrize("noise", NOISES)
def test_edges_outliers_and_overlaps_are_those_of_matrices(noise):
    """Means over 8 matrices of n = 500, with what the theory says of a bulk's first two eigenvalues at that size."""
    n, found = 500, {0.5: [], 3.0: []}
    for snr, values in found.items():
        this = law(noise, snr)
        for seed in range(8):
            data = this.observe(np.random.default_rng([seed, int(10 * snr)]), n)
            first, vectors = leading(operator(data), 2)
            y = data.score * this.noise[np.ix_(data.groups, data.groups)]
            top, component = leading(y)
            values.append([*first, cosine(vectors[:, 0], data.truth), top[0], cosine(component, data.truth)])
    for snr, values in found.items():
        best, pca = linearised(law(noise, snr)), plain(law(noise, snr))
        out = snr > 1
        expected = [
            best.outlier().value if out else best.largest(n),
            best.largest(n, 1 if out else 2),
            best.outlier().overlap,
            pca.outlier().value if pca.strength > 1 else pca.largest(n),
            pca.outlier().overlap,
        ]
        mean, error = np.mean(values, axis=0), np.std(values, axis=0, ddof=1) / np.sqrt(8)
        # 0.05: an edge's cos² of order 1/n, and eigenvalues there n^(-2/3) apart
        assert (np.abs(mean - expected) < np.maximum(4 * error, [0.01, 0.03, 0.05, 0.03, 0.05])).all(), (mean, expected)


def test_the_density_is_that_of_the_eigenvalues():
    this = law(NOISES[1], 0.6)
    data = this.observe(np.random.default_rng(0), 1000)
    values = np.linalg.eigvalsh(operator(data))
    best = linearised(this)
    x = np.linspace(values[0] - 0.3, best.edge + 0.3, 600)
    density = best.density(x)
    assert np.trapezoid(density, x) == pytest.approx(1.0, abs=5e-3)
    for cut in np.quantile(values, [0.1, 0.3, 0.5, 0.7, 0.9]):
        below = np.trapezoid(np.where(x < cut, density, 0.0), x)
        assert below == pytest.approx((values < cut).mean(), abs=0.008)


def test_the_resolvent_solves_its_equation():
    best = linearised(law(NOISES[0], 2.0))
    z = best.edge + 0.1
    u = best.resolvent(z)
    assert u * (z - best.shifts - best.variances @ (best.fractions * u)) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: linearised(law(NOISES[0], 2.0)).resolvent(0.0), "beyond the bulk's edge"),
        (lambda: plain(SpikedWigner(sparse_signs(0.5), np.ones((1, 1)))), "mean 0 and variance 1"),
        (lambda: plain(SpikedWigner(rademacher(2), np.ones((1, 1)))), "one unknown a row"),
        (lambda: Blocks(np.zeros(1), np.zeros((1, 1)), np.ones((1, 1)), np.ones(1)), "symmetric and positive"),
    ],
)
def test_what_has_no_spectrum_here_is_refused(ask, said):
    with pytest.raises(ConfigError, match=said):
        ask()
