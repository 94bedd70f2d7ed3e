"""The loop, thresholds, branches and spinodals against closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opu_dfa.errors import ConfigError, NotConverged
from opu_dfa.theory.inference.iterate import branches, growth, iterate, overlap_up_to, settled, spinodals
from opu_dfa.theory.inference.low_rank import SpikedWigner
from opu_dfa.theory.inference.priors import Gaussian, activity, rademacher, sparse_signs


def test_a_history_has_every_step_and_says_whether_it_ended():
    halved = iterate(lambda s: (s[0] / 2,), (np.ones(3),), measure=lambda s: float(s[0][0]), tolerance=1e-6)
    assert halved.converged
    steps = len(halved.residuals)
    assert halved.measured.tolist() == [0.5**i for i in range(steps + 1)]
    assert halved.residuals.tolist() == [0.25 ** (i + 1) for i in range(steps)]
    assert halved.residuals[-1] < 1e-6 <= halved.residuals[-2]
    turning = iterate(lambda s: (-s[0],), (np.ones(3),), most=7)
    assert not turning.converged
    assert len(turning.residuals) == 7


def test_what_diverges_is_said():
    with pytest.raises(NotConverged, match="diverges in step"):
        iterate(lambda s: (s[0] ** 3,), (np.full(2, 1e100),))


@pytest.mark.parametrize("prior", [Gaussian(), rademacher(), sparse_signs(0.3), activity(0.15)])
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_growth_of_a_centred_prior_is_the_signal_to_noise_ratio(prior, scale):
    law = SpikedWigner(prior, scale * np.array([[1.0, 3.0], [3.0, 2.0]]), np.array([0.3, 0.7]))
    assert growth(law.evolve, law.nothing) == pytest.approx(law.snr, rel=2e-4)


@given(entries=st.lists(st.floats(-2, 2), min_size=6, max_size=6))
@settings(max_examples=40, deadline=None)
def test_growth_is_the_largest_eigenvalue_of_a_symmetric_map(entries):
    matrix = np.zeros((3, 3))
    matrix[np.triu_indices(3)] = entries
    matrix = matrix + matrix.T
    values = np.sort(np.linalg.eigvalsh(matrix))[::-1]
    if values[0] < 0.05 or abs(values[-1] + 1) >= values[0] + 1 - 0.05 or values[0] - values[1] < 0.1:
        return  # maps of overlaps are positive; their leading direction is not degenerate
    found = growth(lambda q: matrix @ q, np.zeros(3), towards=np.array([1.0, 0.61, -0.37]), most=5000, tolerance=1e-13)
    assert found == pytest.approx(values[0], rel=1e-5)


def test_branches_are_equal_where_there_is_one_fixed_point_and_not_where_there_are_two():
    one = SpikedWigner(rademacher(), np.array([[0.5]]))
    ends = branches(one.evolve, one.nothing + 1e-6, one.truth)
    assert ends.uninformed == pytest.approx(ends.informed, abs=1e-7)
    hard = SpikedWigner(activity(0.05), np.array([[1.2]]))
    ends = branches(hard.evolve, hard.nothing + 1e-6, hard.truth)
    assert float(ends.uninformed[0, 0, 0]) < 1e-6
    assert float(ends.informed[0, 0, 0]) == pytest.approx(0.8467, abs=2e-4)


def test_a_gaussian_spike_has_overlap_one_minus_the_noise():
    for noise in (0.1, 0.5, 0.9):
        law = SpikedWigner(Gaussian(), np.array([[noise]]))
        assert float(settled(law.evolve, law.truth).x[0]) == pytest.approx(1 - noise, abs=1e-7)


def test_a_curve_turns_where_its_polynomial_does():
    """Spherical p = 3 at zero temperature: Δ = 2m(1 - m)², largest 8/27 at m = 1/3."""
    assert spinodals(lambda m: 2 * m * (1 - m) ** 2, 1e-3, 0.999) == [pytest.approx((1 / 3, 8 / 27), abs=1e-8)]


def test_the_informed_branch_ends_at_its_spinodal():
    """m ← r/(1 + r), r = m²/Δ: Δ = m(1 - m), which turns at 1/4."""
    ((m, noise),) = spinodals(lambda m: m * (1 - m), 1e-3, 0.999)

    def informed(noise):
        return float(settled(lambda q: q**2 / (noise + q**2), np.ones(1)).x[0])

    assert informed(noise - 1e-4) > m
    assert informed(noise + 1e-4) < 1e-6


def test_branches_meet_at_both_spinodals_of_a_curve_with_two_turns():
    turns = spinodals(lambda m: m**3 - 1.5 * m**2 + 0.66 * m, 0.01, 0.99)
    assert [m for m, _ in turns] == pytest.approx([0.5 - np.sqrt(0.03), 0.5 + np.sqrt(0.03)], abs=1e-6)


def test_overlaps_know_what_the_data_cannot_tell():
    rng = np.random.default_rng(0)
    truth = np.sign(rng.standard_normal((5000, 3)))
    turned = np.array([[1.0, 1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, np.sqrt(2)]]) / np.sqrt(2)
    assert overlap_up_to("sign", -truth, truth) == 1
    assert overlap_up_to("permutation", -truth[:, [2, 0, 1]], truth) == 1
    assert overlap_up_to("sign", truth[:, [2, 0, 1]], truth) < 0.05
    assert overlap_up_to("rotation", truth @ turned, truth) == pytest.approx(1, abs=2e-3)
    assert overlap_up_to("permutation", truth @ turned, truth) == pytest.approx((1 + np.sqrt(2)) / 3, abs=0.02)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: spinodals(lambda m: m, 1.0, 0.5), "low < high"),
        (lambda: overlap_up_to("sign", np.ones((2, 1)), np.ones((3, 1))), "equal shapes"),
        (lambda: overlap_up_to("scale", np.ones((2, 1)), np.ones((2, 1))), "rotation"),
    ],
)
def test_what_is_out_of_the_domain_is_refused(ask, said):
    with pytest.raises(ConfigError, match=said):
        ask()


def test_a_map_that_crawls_and_a_direction_that_turns_are_said():
    with pytest.raises(NotConverged):
        branches(lambda q: q / (1 + q), np.ones(1), np.ones(1), most=100, tolerance=1e-12)
    spin = np.array([[1.0, -1.0], [1.0, 1.0]])
    with pytest.raises(NotConverged, match="start in another direction"):
        growth(lambda q: spin @ np.abs(q) * np.array([1.0, -1.0]) * 3, np.zeros(2), most=4, tolerance=1e-16)
