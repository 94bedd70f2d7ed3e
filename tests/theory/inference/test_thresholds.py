"""Thresholds and spectra of multi-index models: closed forms, reference numbers, and literature's."""

import math

import numpy as np
import pytest

from opu_dfa.errors import ConfigError
from opu_dfa.theory.inference.index_channels import MonteCarlo, Product, SignProduct, SquaredNorm, Staircase
from opu_dfa.theory.inference.iterate import growth, spinodals
from opu_dfa.theory.inference.priors import Gaussian
from opu_dfa.theory.inference.regression import GeneralisedLinear
from opu_dfa.theory.inference.sequence_channels import AttentionOneLayer, AttentionTwoLayers, PhaseRetrieval
from opu_dfa.theory.inference.spectral_regression import (
    asymmetric_spectrum,
    asymmetric_theory,
    blocks,
    symmetric_spectrum,
    symmetric_theory,
    truths,
)
from opu_dfa.theory.inference.thresholds import control, fixed_overlap, staircase, weak_recovery


@pytest.mark.parametrize(
    ("channel", "alpha"),
    [
        (PhaseRetrieval(), 0.5),
        (SquaredNorm(2), 1.0),
        (SquaredNorm(4), 2.0),
        (Product(), 0.593751),
        (SignProduct(), math.pi**2 / 4),
        (Staircase(), 1 / 1.738627),
        (AttentionOneLayer(2), 1 / 6),
        (AttentionOneLayer(3), 1 / 12),
    ],
)
def test_thresholds_are_those_known(channel, alpha):
    assert weak_recovery(channel).alpha == pytest.approx(alpha, rel=3e-6)


@pytest.mark.parametrize(("skip", "alpha"), [(0.5, 0.20271), (1.0, 0.18548), (2.0, 0.17427), (4.0, 0.16914)])
def test_of_two_layers_of_attention_the_last_has_a_threshold_above_that_of_one(skip, alpha):
    step = weak_recovery(AttentionTwoLayers(skip), nodes=1600)
    assert step.alpha == pytest.approx(alpha, abs=2e-5)
    assert np.abs(step.directions.ravel()) == pytest.approx([0, 1], abs=1e-9)


def test_the_threshold_of_two_layers_is_that_of_large_samples():
    """E‖E[z₂ z₂ᵀ | y] - 1‖² by the regression of the squared fields on labels: E‖G‖² >= (its share explained)."""
    channel, rng = AttentionTwoLayers(1.0, 25), np.random.default_rng(0)
    z = rng.standard_normal((4000, 2, 2))
    g = channel.curvature(channel.labels(z, None), np.zeros_like(z), np.eye(2))
    own = g[:, [1, 3]][:, :, [1, 3]]
    norms = (own**2).sum(axis=(1, 2))
    # The same through what the fields themselves are: E tr G(y) (z₂ z₂ᵀ - 1) = E‖G‖².
    true = np.einsum("nij,nij->n", own, np.einsum("ni,nj->nij", z[:, :, 1], z[:, :, 1]) - np.eye(2))
    for sample in (norms, true):
        assert abs(sample.mean() - 1 / 0.185478) < 4 * sample.std() / math.sqrt(len(sample))


def test_the_threshold_is_where_state_evolution_starts_to_grow():
    law = GeneralisedLinear(Gaussian(2), SignProduct(), alpha=2.0)
    # Of overlaps that are not diagonal the information is of Sobol points, to three digits.
    assert growth(law.evolve, law.nothing) == pytest.approx(2.0 * 4 / math.pi**2, rel=1e-3)


def test_a_staircase_leads_from_an_easy_direction_to_two_more():
    first, second = staircase(Staircase())
    assert np.abs(first.directions.ravel()) == pytest.approx([1, 0, 0], abs=1e-9)
    assert (second.kind, second.alpha) == ("easy", pytest.approx(math.pi**2 / 4, rel=1e-5))


def test_trivial_directions_come_at_once_and_teach_others():
    """y = z₁ + z₁z₂: z₁ by the mean, then z₂."""
    link = MonteCarlo(
        2,
        lambda z, noise: z[:, 0] * (1 + z[:, 1]) + 0.3 * noise[:, 0],
        lambda y, z: np.exp(-((y - z[:, :, 0] * (1 + z[:, :, 1])) ** 2) / 0.18),
        noises=1,
    )
    assert {step.kind for step in staircase(link, 2048)} == {"trivial"}


def test_the_parity_of_three_signs_is_hard():
    parity = MonteCarlo(3, lambda z, _: np.sign(z.prod(1)), lambda y, z: y == np.sign(z.prod(2)))
    (step,) = staircase(parity, 512)
    assert (step.kind, step.alpha) == ("hard", math.inf)


@pytest.mark.parametrize(
    ("alpha", "m"),
    [(2.5, 0.01337), (2.6, 0.05605), (2.8, 0.14729), (3.0, 0.24271), (3.5, 0.47076), (4.0, 0.64384), (5.0, 0.82354)],
)
def test_overlaps_of_the_sign_product_are_those_of_reference(alpha, m):
    assert fixed_overlap(SignProduct(), alpha, np.eye(2)) == pytest.approx(m, abs=2e-5)


def test_the_sign_product_has_one_fixed_point_and_state_evolution_comes_to_it():
    law = GeneralisedLinear(Gaussian(2), SignProduct(), alpha=4.0)
    m = 0.05 * np.eye(2)
    for _ in range(120):
        m = law.evolve(m)
    assert m == pytest.approx(0.64384 * np.eye(2), abs=2e-5)
    informed = fixed_overlap(SignProduct(), 4.0, np.eye(2), informed=True)
    assert informed == pytest.approx(0.64384, abs=2e-5)


@pytest.mark.parametrize(
    ("m", "alpha"),
    [(0.06, 0.7057), (0.18, 0.8839), (0.3, 1.0219), (0.42, 1.1377), (0.6, 1.2803), (0.84, 1.3994), (0.96, 1.243)],
)
def test_the_staircase_s_branch_is_that_of_reference(m, alpha):
    assert control(Staircase(), m) == pytest.approx(alpha, abs=5e-4)


def test_the_staircase_has_a_hard_phase_up_to_its_spinodal():
    found = spinodals(lambda m: control(Staircase(), m), 0.05, 0.99, points=25)
    m, alpha = max(found, key=lambda each: each[1])
    assert (m, alpha) == (pytest.approx(0.845, abs=0.02), pytest.approx(1.3995, abs=2e-3))
    assert fixed_overlap(Staircase(), 1.2) == pytest.approx(0.493, abs=2e-3)
    assert fixed_overlap(Staircase(), 1.2, informed=True) == fixed_overlap(Staircase(), 1.5) == 1.0
    # z₂ and z₃ are not learned before the jump.
    step = weak_recovery(Staircase(), np.diag([0.84, 0, 0]), nodes=4096)
    assert 1.4 / step.alpha < 0.41


def test_noiseless_phase_retrieval_is_exact_from_literature_s_threshold_on():
    """α = 1.128 (Barbier et al. 2019)."""
    found = spinodals(lambda m: control(PhaseRetrieval(), m), 0.01, 0.999, points=60)
    assert max(alpha for _, alpha in found) == pytest.approx(1.1285, abs=5e-4)


@pytest.mark.parametrize("known", [np.eye(2), 2 * np.eye(2), np.eye(3), -np.eye(2)])
def test_overlaps_that_leave_nothing_or_are_none_are_refused(known):
    with pytest.raises(ConfigError, match="overlap"):
        weak_recovery(SignProduct(), known)


# spectra


@pytest.mark.parametrize(
    ("alpha", "eigenvalue", "edge", "overlap"),
    [
        (2, 0.49523, 0.49523, 0.0),
        (3, 1 / 3, 0.32968, 0.18950),
        (4, 1 / 4, 0.22935, 0.42920),
        (5, 1 / 5, 0.15843, 0.57194),
        (7, 1 / 7, 0.06011, 0.72198),
    ],
)
def test_symmetric_spectra_of_the_sign_product_are_those_of_reference(alpha, eigenvalue, edge, overlap):
    found = symmetric_theory(blocks(SignProduct())[0], alpha)
    assert found == pytest.approx((alpha * eigenvalue, alpha * edge, overlap), abs=alpha * 1.5e-5)


@pytest.mark.parametrize(("alpha", "overlap"), [(0.8, 0.06137), (1, 0.11410), (2, 0.30835), (3, 0.43273), (5, 0.58279)])
def test_asymmetric_overlaps_of_the_product_are_those_of_reference(alpha, overlap):
    for block in blocks(Product()):
        assert asymmetric_theory(block, alpha).overlap == pytest.approx(overlap, abs=1.5e-5)


def test_asymmetric_overlaps_have_closed_forms():
    block = blocks(SquaredNorm(4))[0]
    assert asymmetric_theory(block, 5.0).overlap == pytest.approx((5 - 2) / (5 + 2), rel=1e-9)
    critical = math.pi**2 / 4
    assert asymmetric_theory(blocks(SignProduct())[0], 6.0) == pytest.approx(
        (6 / critical, math.sqrt(6 / critical), 1 - critical / 6), rel=1e-9
    )


def test_spectra_are_dense_matrices_spectra():
    rng = np.random.default_rng(2)
    data = GeneralisedLinear(Gaussian(2), SignProduct(), 7.0).observe(rng, 60)
    x, y = data.design, data.labels
    g = 2 / math.pi * y[:, None, None] * np.array([[0.0, 1.0], [1.0, 0.0]])
    t = np.eye(2) - np.linalg.inv(np.eye(2) + g)
    dense = np.einsum("nd,ne,nij->diej", x, x, t, optimize=True).reshape(120, 120)
    found = symmetric_spectrum(data, 3, rng)
    assert found.values == pytest.approx(np.linalg.eigvalsh(dense)[::-1][:3], abs=1e-6)
    gram = x @ x.T
    np.fill_diagonal(gram, 0)
    whole = np.linalg.eigvals(np.einsum("mn,nij->minj", gram, g).reshape(2 * len(x), -1))
    wanted = np.sort(whole.real)[::-1][:2]
    assert asymmetric_spectrum(data, 2, rng).values.real == pytest.approx(wanted, abs=1e-4)
    planted = truths(data, [block.direction for block in blocks(SignProduct())])
    assert 0.3 < found.overlap(planted) <= 1


def test_spectra_of_labels_with_a_mean_are_refused():
    noisy = MonteCarlo(1, lambda z, _: np.sign(z[:, 0]), lambda y, z: y == np.sign(z[:, :, 0]))
    with pytest.raises(ConfigError, match="one step of message passing learns"):
        blocks(noisy)
    with pytest.raises(ConfigError, match="one token"):
        blocks(AttentionOneLayer(2))
