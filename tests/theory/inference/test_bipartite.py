"""Rectangular matrices of two kinds of unknowns: state evolution against reference numbers and closed forms, the free
energy against averages of log-likelihoods, transitions against the branches themselves, and message passing."""

import math
from dataclasses import replace

import numpy as np
import pytest

from opu_dfa.errors import ConfigError
from opu_dfa.theory.gaussian import panels
from opu_dfa.theory.inference.bipartite import Bipartite
from opu_dfa.theory.inference.iterate import branches, growth, iterate
from opu_dfa.theory.inference.priors import GaussBernoulli, Gaussian, rademacher


def clusters(sparsity, ratio, alpha=2.0):
    unit = Bipartite(GaussBernoulli(sparsity), rademacher(), 1.0, alpha)
    return replace(unit, snr=ratio * unit.threshold)


@pytest.mark.parametrize(
    ("sparsity", "ratio", "expected"),
    [
        (0.5, 1.2, (0.16092, 0.11124)),
        (0.5, 1.6, (0.37910, 0.24707)),
        (0.5, 2.5, (0.63349, 0.36657)),
        (0.1, 1.2, (0.39629, 0.07022)),
        (0.1, 1.6, (0.52936, 0.08267)),
        (0.1, 2.5, (0.70567, 0.09194)),
        (0.02, 1.05, (0.43482, None)),
        (0.005, 1.05, (0.45373, None)),
    ],
)
def test_beyond_the_threshold_overlaps_are_those_of_reference_from_any_start(sparsity, ratio, expected):
    law = clusters(sparsity, ratio)
    ends = branches(law.evolve, 1e-6 * law.truth, law.truth)
    for end in ends:
        for found, wanted in zip(end.ravel(), expected, strict=True):
            assert wanted is None or found == pytest.approx(wanted, abs=1.5e-5)


@pytest.mark.parametrize(
    ("sparsity", "ratio", "told"),
    [(0.5, 0.8, 0.0)]
    + [(0.02, ratio, q) for ratio, q in ((0.5, 0.16844), (0.7, 0.29798), (0.85, 0.36371), (0.95, 0.40109))]
    + [(0.005, ratio, q) for ratio, q in ((0.5, 0.25128), (0.7, 0.33718), (0.85, 0.39119), (0.95, 0.42365))],
)
def test_before_the_threshold_clusters_are_known_to_who_was_told_if_centres_are_sparse(sparsity, ratio, told):
    law = clusters(sparsity, ratio)
    ends = branches(law.evolve, 1e-6 * law.truth, law.truth)
    assert ends.uninformed.max() < 1e-6
    assert ends.informed[0, 0, 0] == pytest.approx(told, abs=1.5e-5)


@pytest.mark.parametrize("sparsity", [0.5, 0.1, 0.02, 0.005])
def test_knowing_nothing_grows_by_alpha_snr_squared_sparsity_squared(sparsity):
    law = clusters(sparsity, 0.9)
    assert law.threshold == pytest.approx(1 / (sparsity * math.sqrt(2)))
    # steps of 1e-6 are linear to a few parts in 10⁶ of precisions of some hundreds
    assert growth(law.evolve, law.nothing) == pytest.approx(0.81, rel=1e-2)


def test_gaussian_unknowns_on_both_sides_are_known_as_well_as_their_matrix_s_singular_vectors_tell():
    law = Bipartite(Gaussian(), Gaussian(), snr=2.0, alpha=1.5)
    u, v = branches(law.evolve, 1e-6 * law.truth, law.truth).uninformed.ravel()
    a, b = law.snr, law.alpha * law.snr  # q_u = a q_v / (1 + a q_v), q_v = b q_u / (1 + b q_u)
    assert (u, v) == pytest.approx(((a * b - 1) / (b * (1 + a)), (a * b - 1) / (a * (1 + b))), abs=1e-8)


def test_the_potential_is_made_of_averages_of_log_likelihoods():
    rule, law = panels(order=32), clusters(0.1, 0.9)
    q = np.array([0.3, 0.05]).reshape(2, 1, 1)
    x, a = law.snr * 0.05, law.alpha * law.snr * 0.3
    signs = float(rule.weights @ np.log(np.cosh(x + math.sqrt(x) * rule.nodes))) - x / 2
    rng = np.random.default_rng(5)
    v = law.features.sample(rng, 1_000_000)[:, 0]
    field = a * v + math.sqrt(a) * rng.standard_normal(len(v))
    drawn = np.log(0.9 + 0.1 / math.sqrt(1 + a) * np.exp(field**2 / (2 * (1 + a))))
    expected = law.alpha * signs + drawn.mean() - law.alpha * law.snr / 2 * 0.3 * 0.05
    assert law.potential(q) == pytest.approx(expected, abs=4 * drawn.std() / 1000)


def test_fixed_points_are_where_the_potential_is_stationary():
    law = clusters(0.02, 0.7)
    q = branches(law.evolve, law.nothing, law.truth, tolerance=1e-12).informed
    for side in (0, 1):
        step = np.zeros((2, 1, 1))
        step[side] = 1e-3 * q[side]
        slope = (law.potential(q + step) - law.potential(q - step)) / 2e-3  # per relative change
        # the free energy itself varies by tenths; what is left is of third order in the step
        assert abs(slope) < 1e-5


def test_the_information_threshold_is_where_being_told_and_not_have_equal_free_energy():
    unit = clusters(0.02, 1.0)
    spinodal, information, algorithm = unit.transitions
    assert spinodal < information < algorithm
    for snr, better in ((0.99 * information, False), (1.01 * information, True)):
        law = replace(unit, snr=snr)
        told = branches(law.evolve, law.nothing, law.truth).informed
        assert told[0, 0, 0] > 0.1
        assert (law.potential(told) > 0) == better
    below = replace(unit, snr=0.99 * spinodal)
    assert branches(below.evolve, below.nothing, below.truth).informed[0, 0, 0] < 1e-6


def test_what_can_be_known_of_sparse_centres_scales_as_the_root_of_rho_log_rho():
    """Over a decade of sparsity the threshold's ratio to √(-ρ log ρ) changes by a few percent, itself by half."""
    ratios = []
    for sparsity in (0.01, 0.001):
        found = clusters(sparsity, 1.0).transitions
        ratios.append(found.information / found.algorithm / math.sqrt(-sparsity * math.log(sparsity)))
    assert ratios[1] / ratios[0] == pytest.approx(1, abs=0.08)
    assert all(1.3 < each < 1.8 for each in ratios)


def test_transitions_are_one_where_centres_are_dense():
    unit = clusters(0.5, 1.0)
    assert unit.transitions == (unit.threshold,) * 3


def test_message_passing_goes_where_state_evolution_says_step_by_step():
    law, found = Bipartite(GaussBernoulli(0.5), rademacher(), 3.0, 2.0), []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        data = law.observe(rng, 1000)
        # 0.3 u + √(0.3 · 0.7) ξ has the overlap 0.3 with u, and with itself, as a posterior mean has
        start = data.start(rng, planted=0.3, noise=math.sqrt(0.21))
        found.append(iterate(data.step, start, data.overlap, most=5).measured)
    means, errors = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / math.sqrt(6)
    q = np.array([0.3, 0.0]).reshape(2, 1, 1)
    for mean, error in zip(means[1:], errors[1:], strict=True):
        q = law.evolve(q)
        assert (np.abs(mean - q.ravel()) < np.maximum(4 * error, 0.03 * q.ravel())).all()


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: Bipartite(Gaussian(), Gaussian(), 0.0, 1.0), "snr and α = n/d are positive"),
        (lambda: Bipartite(Gaussian(2), Gaussian(), 1.0, 1.0), "as many unknowns on either side"),
        (lambda: clusters(0.5, 1.0).snr_of(1.5), "between 0 and 1"),
        (lambda: Bipartite(Gaussian(2), Gaussian(2), 1.0, 1.0).snr_of(0.5), "overlap of one unknown"),
    ],
)
def test_what_is_out_of_the_domain_is_said(ask, said):
    with pytest.raises(ConfigError, match=said):
        ask()
