"""Optical DFA by its equations of motion: what noise and ternary errors change, and what they leave alone."""

import numpy as np
import pytest

from opu_dfa.errors import ConfigError
from opu_dfa.studies.feedback_alignment import Point
from opu_dfa.theory.dynamics.codes import Device, StochasticTernary, ThresholdTernary
from opu_dfa.theory.dynamics.flow import descend
from opu_dfa.theory.dynamics.rules import Overlaps, Rule, Teacher

B = np.array([[1.0], [-0.5]])
TEACHER = Teacher(np.ones((1, 2)), np.eye(2))
START = Overlaps(
    np.array([[0.25, 0.02], [0.02, 0.3]]), np.array([[0.05, -0.02], [0.01, 0.03]]), np.array([[0.1, -0.05]])
)


@pytest.mark.parametrize("level", [None, 5.0])
def test_unbiased_ternary_errors_leave_the_drift_and_add_to_the_diffusion(level):
    exact = Rule(0.5, feedback=B).averages(START, TEACHER, nodes=4096)
    ternary = Rule(0.5, feedback=B, code=StochasticTernary(level)).averages(START, TEACHER, nodes=4096)
    if level is None:  # one output: its own scale carries the error whole
        drawn = np.linalg.norm(ternary.diffusion - exact.diffusion)
        assert drawn < 0.1 * np.linalg.norm(exact.diffusion)
        assert np.allclose(ternary.drift, exact.drift, rtol=0.05, atol=1e-3)  # on points of one dimension more
    else:
        assert np.allclose(ternary.drift, exact.drift, atol=1e-12)
        assert np.linalg.eigvalsh(ternary.diffusion - exact.diffusion)[0] > -1e-12
        assert np.trace(ternary.diffusion) > 2 * np.trace(exact.diffusion)


def test_a_threshold_biases_the_drift():
    exact = Rule(0.5, feedback=B).averages(START, TEACHER, nodes=4096)
    cut = Rule(0.5, feedback=B, code=ThresholdTernary(0.2, 0.5)).averages(START, TEACHER, nodes=4096)
    assert np.linalg.norm(cut.drift - exact.drift) > 0.1 * np.linalg.norm(exact.drift)


@pytest.mark.parametrize("source", ["additive", "relative", "shown", "common"])
def test_noise_of_the_device_leaves_drift_and_read_out_and_all_but_common_noise_the_overlaps_of_different_units(source):
    quiet = Rule(0.5, feedback=B).averages(START, TEACHER)
    noisy = Rule(0.5, feedback=B, device=Device(**{source: 0.7})).averages(START, TEACHER)
    assert np.array_equal(noisy.drift, quiet.drift)
    assert np.array_equal(noisy.readout, quiet.readout)
    added = noisy.diffusion - quiet.diffusion
    assert (np.diag(added) > 0).all()
    assert (abs(added[0, 1]) > 0.01) == (source == "common")
    if source == "additive":  # E g'² of a field of variance Q: (2/π)/√(1 + 2Q)
        assert np.allclose(np.diag(added), 0.49 * 2 / np.pi / np.sqrt(1 + 2 * np.diag(START.q)))


def test_a_medium_that_turns_is_followed_and_learning_forgets():
    """cos(Vᵀ, B) falls behind a medium that turns faster than the output weights follow."""
    slow, fast = (
        descend(p.rule, *p.problem, p.times, tolerance=1e-6) for p in (Point(decay=4000.0), Point(decay=20.0))
    )
    assert slow.alignment[-2] > 0.9 > 0.5 > fast.alignment[-2]


def test_alignment_comes_before_learning():
    point = Point()
    found = descend(point.rule, *point.problem, [0.0, 0.5, 1.5], tolerance=1e-6)
    assert found.alignment[2] > 0.95
    assert found.risk[2] > 0.9 * found.risk[0]


@pytest.mark.parametrize(
    "changed", [{}, {"source": "shown", "noise": 1.0}, {"encoding": "stochastic", "outputs": 2, "until": 5.0}]
)
def test_finite_networks_follow_the_equations(meets, changed):
    point = Point(**({"until": 12.0, "dims": 800} | changed))
    meets("feedback-alignment", point, 6, "risk", relative=0.06)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"encoding": "binary"}, "binary"),
        ({"source": "thermal"}, "thermal"),
        ({"outputs": 0}, "1 or more"),
        ({"dims": 3}, "dims"),
        ({"until": 0.0}, "until"),
        ({"rate": -1.0}, "-1"),
        ({"source": "shown", "noise": -1.0}, "-1"),
    ],
)
def test_points_out_of_the_domain_are_refused(changed, said):
    with pytest.raises(ConfigError, match=said):
        Point(**changed)
