"""Matrices and tensors with a vector in common: state evolution against reference numbers and closed-form thresholds,
message passing and plain ascent against it, contractions against einsum."""

import numpy as np
import pytest

from opu_dfa.errors import ConfigError
from opu_dfa.theory.inference.iterate import iterate, settled
from opu_dfa.theory.inference.matrix_tensor import (
    Edge,
    Hyperedges,
    contracted,
    curriculum_cosines,
    likelihood_growth,
    matrix_tensor,
)


def cosines(law, told=False):
    return law.cosines(settled(law.evolve, law.truth if told else law.start_at).x)


@pytest.mark.parametrize(
    ("matrix", "tensor", "expected"),
    [
        (0.5, 0.8, (0.5, 0.5, 0, 0)),
        (0.5, 0.4, (0.55497, 0.52605, 0.27924, 0.27924)),
        (0.5, 0.25, (0.74827, 0.59945, 0.66590, 0.66590)),
        (0.3, 0.5, (0.71697, 0.70501, 0.30262, 0.30262)),
        (0.3, 0.25, (0.81321, 0.73051, 0.69258, 0.69258)),
        (1.5, 0.3, (0, 0, 0, 0)),
    ],
)
def test_overlaps_of_posterior_means_are_those_of_reference(matrix, tensor, expected):
    assert cosines(matrix_tensor(matrix, tensor)) == pytest.approx(expected, abs=1.5e-5)


def test_a_matrix_alone_is_known_in_closed_form_whatever_its_shape():
    a2, noise = 1.7, 0.4
    law = Hyperedges((Edge((0, 1), noise),), (1.0, a2))
    a, b = a2 / noise, 1 / noise
    assert cosines(law) == pytest.approx(((a * b - 1) / (b * (1 + a)), (a * b - 1) / (a * (1 + b))), abs=1e-7)
    above = Hyperedges((Edge((0, 1), np.sqrt(a2) * 1.01),), (1.0, a2))
    assert cosines(above).max() < 1e-6


@pytest.mark.parametrize(("a3", "a4"), [(1.0, 1.0), (0.5, 1.5)])
def test_the_tensor_is_learned_from_where_the_matrix_knows_more_than_its_noise(a3, a4):
    """q_u > Δ_t/√(a3 a4), with q_u = 1 - Δ_m of the matrix alone."""
    edge = 0.6 * np.sqrt(a3 * a4)
    for factor, learned in ((0.97, True), (1.03, False)):
        law = matrix_tensor(0.4, factor * edge, (1, 1, a3, a4))
        assert (cosines(law)[2] > 1e-3) == learned
        assert (curriculum_cosines(0.4, factor * 0.6)[2] > 0) == learned


def test_likelihood_learns_where_one_over_noise_squared_exceeds_one_plus_the_noise_ratio():
    for tensor in (0.1, 0.5, 3.0):
        for matrix in (0.2, 0.5, 0.7, 0.9):
            learned = matrix**-2 > 1 + matrix / tensor
            assert (likelihood_growth(matrix, tensor) > 1) == learned
            assert (cosines(matrix_tensor(matrix, tensor, estimate="likelihood"))[0] > 1e-3) == learned


def test_of_a_matrix_alone_likelihood_finds_the_singular_vectors():
    law = Hyperedges((Edge((0, 1), 0.5),), (1.0, 1.0), "likelihood")
    assert cosines(law) == pytest.approx((0.5, 0.5), abs=1e-7)
    data = law.observe(np.random.default_rng(0), 100)
    history = iterate(data.ascend, data.start(np.random.default_rng(1)), data.cosines, most=2000, tolerance=1e-16)
    u, _, v = np.linalg.svd(data.arrays[0])
    found = [(u[:, 0] @ data.truth[0]) ** 2 / 100, (v[0] @ data.truth[1]) ** 2 / 100]
    assert history.measured[-1] == pytest.approx(found, abs=1e-3)


def test_posterior_means_beat_likelihood_and_the_curriculum():
    for matrix, tensor in ((0.5, 0.25), (0.3, 0.25), (0.6, 0.15)):
        best = cosines(matrix_tensor(matrix, tensor))
        for other in (
            cosines(matrix_tensor(matrix, tensor, estimate="likelihood")),
            curriculum_cosines(matrix, tensor),
        ):
            assert (best > other - 1e-7).all()


@pytest.mark.parametrize("estimate", ["mean", "likelihood"])
def test_message_passing_goes_where_state_evolution_says(estimate):
    law = matrix_tensor(0.3, 0.25, estimate=estimate)
    found = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        data = law.observe(rng, 150)
        found.append(iterate(data.step, data.start(rng, noise=1.0), data.cosines, most=50, tolerance=1e-6).measured[-1])
    means, errors = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / np.sqrt(5)
    # of n = 150 overlaps fluctuate by 1/√n about their mean, and the mean is off by some 1/n
    assert (np.abs(means - cosines(law)) < np.maximum(3.5 * errors, 3 / 150)).all()


def test_joint_ascent_of_the_likelihood_ends_in_the_tensor_s_noise_below_the_maximum_at_the_truth():
    """Where posterior means and the curriculum learn: the maximum is informative, and is not found."""
    law = matrix_tensor(0.6, 0.15, estimate="likelihood")
    assert cosines(law).max() < 1e-6 < 0.7 < cosines(law, told=True).min() + 0.2
    lost = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        data = law.observe(rng, 200)
        blind = iterate(data.ascend, data.start(rng), data.cosines, most=80, tolerance=1e-6)
        told = iterate(data.ascend, data.start(rng, planted=1.0, noise=0.0), data.cosines, most=80, tolerance=1e-6)
        assert told.measured[-1, 2] > 0.7
        lost.append(blind.measured[-1, 2] < 0.2 and data.likelihood(blind.state) < 0.95 * data.likelihood(told.state))
    assert sum(lost) >= 3


def test_ascent_never_lowers_the_likelihood():
    rng = np.random.default_rng(2)
    data = matrix_tensor(0.5, 0.5, (1, 0.8, 1.2, 0.6), "likelihood").observe(rng, 40)
    state = data.start(rng)
    values = []
    for _ in range(10):
        values.append(data.likelihood(state))
        state = data.ascend(state)
    assert (np.diff(values) > -1e-6).all()


def test_contractions_are_those_of_einsum():
    rng = np.random.default_rng(3)
    array = rng.standard_normal((4, 5, 6))
    vectors = [rng.standard_normal(k) for k in array.shape]
    for kept, formula in enumerate(("ijk,j,k", "ijk,i,k", "ijk,i,j")):
        others = [v for i, v in enumerate(vectors) if i != kept]
        assert contracted(array, vectors, kept) == pytest.approx(np.einsum(formula, array, *others), abs=1e-5)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: matrix_tensor(0.0, 1.0), "noise variances and lengths are positive"),
        (lambda: matrix_tensor(0.5, 1.0, estimate="median"), "choose one of mean, likelihood"),
        (lambda: Hyperedges((Edge((0, 1), 1.0),), (1.0, 1.0, 1.0)), "every vector is in an array"),
        (lambda: Hyperedges((Edge((0, 0), 1.0),), (1.0,)), "once in each"),
    ],
)
def test_what_is_out_of_the_domain_is_said(ask, said):
    with pytest.raises(ConfigError, match=said):
        ask()
