"""Message passing on spiked matrices: state evolution against reference numbers, and against its own runs."""

import numpy as np
import pytest

from opu_dfa.errors import ConfigError
from opu_dfa.theory.inference.iterate import branches, iterate
from opu_dfa.theory.inference.low_rank import SpikedWigner
from opu_dfa.theory.inference.priors import Gaussian, independent, rademacher, sparse_signs

FRACTIONS = np.array([0.3, 0.7])
NOISE = np.array([[1.0, 3.0], [3.0, 2.0]])


def blocks(prior, snr):
    return SpikedWigner(prior, NOISE * 0.4797847968417226 / snr, FRACTIONS)


def fixed(law):
    return branches(law.evolve, law.nothing + 1e-6, law.truth).uninformed


@pytest.mark.parametrize(
    ("prior", "snr", "expected"),
    [
        (rademacher(), 1.2, (0.20566, 0.16803, 0.17932)),
        (rademacher(), 1.6, (0.48782, 0.42349, 0.44279)),
        (rademacher(), 2.4, (0.76420, 0.70348, 0.72170)),
        (rademacher(), 4.0, (0.93514, 0.90309, 0.91270)),
        (Gaussian(), 1.2, (0.18631, 0.15280, 0.16285)),
        (Gaussian(), 1.6, (0.40508, 0.35423, 0.36949)),
        (Gaussian(), 2.4, (0.61188, 0.56398, 0.57835)),
        (Gaussian(), 4.0, (0.77062, 0.73619, 0.74652)),
    ],
)
def test_overlaps_of_two_blocks_are_those_of_reference(prior, snr, expected):
    law = blocks(prior, snr)
    found = fixed(law)
    assert law.snr == pytest.approx(snr, rel=1e-7)
    assert (*found[:, 0, 0], law.total(found)[0, 0]) == pytest.approx(expected, abs=1.5e-5)


@pytest.mark.parametrize("prior", [rademacher(), Gaussian(), sparse_signs(0.4)])
def test_nothing_is_learned_below_the_threshold_of_a_centred_prior(prior):
    law = SpikedWigner(prior, NOISE, FRACTIONS)
    below = SpikedWigner(prior, NOISE * law.snr / 0.9, FRACTIONS)
    assert np.abs(fixed(below)).max() < 1e-6
    above = SpikedWigner(prior, NOISE * law.snr / 1.1, FRACTIONS)
    assert fixed(above).min() > 0.01


def test_blocks_of_equal_noise_are_none():
    one = fixed(SpikedWigner(rademacher(), np.array([[0.5]])))
    two = fixed(SpikedWigner(rademacher(), np.full((2, 2), 0.5), FRACTIONS))
    assert np.allclose(two, one, atol=1e-8)


def test_independent_unknowns_are_learned_as_if_alone():
    both = fixed(SpikedWigner(rademacher(2), np.array([[0.5]])))[0]
    alone = fixed(SpikedWigner(rademacher(), np.array([[0.5]])))[0, 0, 0]
    law = SpikedWigner(rademacher(2), np.array([[0.5]]))
    start = law.nothing + 1e-6 * np.eye(2)
    both = branches(law.evolve, start, law.truth).uninformed[0]
    assert np.allclose(both, alone * np.eye(2), atol=1e-7)


def test_data_are_of_the_law_and_their_diagonal_is_left_out():
    law = blocks(Gaussian(), 2.0)
    data = law.observe(np.random.default_rng(0), 1000)
    assert (np.bincount(data.groups) == [300, 700]).all()
    assert (data.score == data.score.T).all()
    assert (np.diag(data.score) == 0).all()
    noise = law.noise[np.ix_(data.groups, data.groups)]
    residual = (data.score * noise - data.truth @ data.truth.T / 1000) * np.sqrt(1000)
    for a in range(2):
        for b in range(2):
            block = residual[np.ix_(data.groups == a, data.groups == b)]
            count = block.size / (2 if a == b else 1)
            assert block.var() == pytest.approx(law.noise[a, b], rel=4 * np.sqrt(2 / count) + 0.004)


@pytest.mark.parametrize(("prior", "seed"), [(rademacher(), 1), (Gaussian(), 2)])
def test_each_step_of_message_passing_follows_state_evolution(prior, seed):
    """From a start that knows a tenth of the truth, where the overlap is not yet at rest: step by step."""
    law = blocks(prior, 2.4)
    paths = []
    for k in range(8):
        rng = np.random.default_rng([seed, k])
        data = law.observe(rng, 700)
        scale = float((data.truth**2).mean())
        history = iterate(
            data.step, data.start(rng, planted=0.3, noise=np.sqrt(0.21)), data.overlap, most=6, tolerance=0
        )
        paths.append(history.measured / scale)
    q, expected = 0.3 * np.ones((2, 1, 1)), [0.3]  # E m x = 0.3 and E m² = 0.09 + 0.21: as of a posterior mean
    for _ in range(6):
        q = law.evolve(q)
        expected.append(float(law.total(q)[0, 0]))
    error = np.std(paths, axis=0, ddof=1) / np.sqrt(8)
    assert (np.abs(np.mean(paths, axis=0) - expected) < np.maximum(4 * error, 0.02)).all()


def test_an_estimate_s_norm_is_its_overlap_at_rest():
    law = blocks(rademacher(), 3.0)
    data = law.observe(np.random.default_rng(4), 1500)
    mean = iterate(data.step, data.start(np.random.default_rng(5)), data.overlap).state.mean
    assert abs((mean * data.truth).mean()) == pytest.approx((mean**2).mean(), abs=4 / np.sqrt(1500))


def test_two_unknowns_a_row_are_found_up_to_order_and_sign():
    law = SpikedWigner(independent(rademacher(), 2), np.array([[0.25]]))
    data = law.observe(np.random.default_rng(6), 600)
    mean = iterate(data.step, data.start(np.random.default_rng(7)), most=100).state.mean
    found = np.abs(mean.T @ data.truth / 600)
    assert np.sort(found.ravel())[2:] == pytest.approx([0.9165, 0.9165], abs=0.06)
    assert np.sort(found.ravel())[:2].max() < 0.2


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: SpikedWigner(rademacher(), np.array([[1.0, 2.0], [3.0, 1.0]]), FRACTIONS), "symmetric and positive"),
        (lambda: SpikedWigner(rademacher(), np.array([[-1.0]])), "positive, got"),
        (lambda: SpikedWigner(rademacher(), np.ones((2, 2)), np.array([0.3, 0.3])), "of sum 1"),
        (lambda: SpikedWigner(rademacher(), np.ones((2, 2))), "noise of 1 blocks"),
    ],
)
def test_laws_that_are_none_are_refused(ask, said):
    with pytest.raises(ConfigError, match=said):
        ask()
