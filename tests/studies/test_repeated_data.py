"""Studies of samples that are used more than once: reference numbers, fresh experiments, claims that fail."""

from dataclasses import replace

import numpy as np
import pytest

from opu_dfa.errors import ConfigError
from opu_dfa.studies import load
from opu_dfa.studies.batch_reuse import Point as Reused
from opu_dfa.studies.data_repetition import Point as Twice
from opu_dfa.studies.dynamical_mean_field import Point as Descended

AT = [1, 5, 10, 20, 29]


def test_a_tanh_student_s_overlaps_are_those_of_the_reference():
    """Its field was drawn at random, with errors of 0.4 %, and its networks have errors of 0.003 and 0.004."""
    whole, half = (load("dynamical-mean-field").theory(Descended("tanh", batch)) for batch in (1.0, 0.5))
    assert whole["overlap"][AT] == pytest.approx([0.3503, 0.7222, 0.8321, 0.8975, 0.9156], rel=0.005)
    assert whole["overlap"][AT] == pytest.approx([0.3479, 0.7152, 0.8241, 0.8908, 0.9098], abs=0.009)
    assert half["overlap"][AT] == pytest.approx([0.3469, 0.7300, 0.8401, 0.9000, 0.9179], abs=0.012)
    assert whole["loss"][[0, *AT]] == pytest.approx([0.4705, 0.2618, 0.0471, 0.0219, 0.0151, 0.0139], rel=0.04)


def test_half_batches_learn_at_first_as_whole_ones_and_hold_more_norm():
    whole, half = (load("dynamical-mean-field").theory(Descended("tanh", batch)) for batch in (1.0, 0.5))
    assert half["overlap"][1] == pytest.approx(whole["overlap"][1], abs=1e-6)
    assert (half["overlap"][3:] > whole["overlap"][3:]).all()
    assert (half["norm"][1:] > whole["norm"][1:]).all()


def test_descent_experiments_meet_theory(meets):
    meets("dynamical-mean-field", Descended("tanh", 0.5, steps=10, d=600), 16, errors=4, absolute=0.002)
    meets("dynamical-mean-field", Descended("linear", alpha=1.5, ridge=0.0, d=400), 24, errors=4, absolute=0.002)


def test_reuse_experiments_meet_theory(meets):
    meets("batch-reuse", Reused("two-index", alpha=2.0, d=400), 16, errors=4, absolute=0.002)
    meets("batch-reuse", Reused("cubic", d=300), 24, errors=4, absolute=0.002)


def test_a_first_gradient_sees_the_linear_part_of_the_two_index_target():
    """(.767832, -.640651), and rate·alpha/(2√2) E y h* is the overlap after a step."""
    assert Reused().seen() == pytest.approx([0.767832, -0.640651], abs=1.5e-6)
    found = load("batch-reuse").theory(Reused())
    z = np.random.default_rng(0).standard_normal((2, 4_000_000))
    linear = np.hypot(*(z @ Reused().labels(z) / z.shape[1]))
    assert found["seen"][1] == pytest.approx(0.6 * linear / np.sqrt(8), rel=0.005)


def test_fresh_samples_leave_hidden_directions_hidden_and_reused_ones_do_not():
    study = load("batch-reuse")
    for target in ("two-index", "cubic"):
        fresh, reused = (study.theory(Reused(target, data))["hidden"] for data in ("fresh", "reused"))
        assert np.abs(fresh).max() < 0.0015  # what is left of 2^17 points
        assert abs(reused[1]) < 0.0015
        assert abs(reused[6]) > 0.003
    assert abs(reused[6]) > 0.1


def test_repetition_experiments_meet_theory(meets):
    meets("data-repetition", Twice("cubic", 0.1, rate=0.1, time=10.0, d=300), 16, errors=4)
    meets("data-repetition", Twice("bounded", 1.0, rate=0.5, time=8.0, d=300), 16, errors=4)
    meets("data-repetition", Twice("quartic", 0.3, rate=0.05, start=0.3, time=4.0, d=300), 16, errors=4)


def test_a_claim_of_repetition_fails_if_once_is_as_good():
    study = load("data-repetition")
    points = [replace(p, d=60) for p in study.sweep("small")]
    results = [study.run(point, seeds=range(4)) for point in points]
    theory = [replace(r, experiments=(r.theory,) * 4) for r in results]
    assert study.claim(theory).holds
    learned = theory[1].theory
    once = [replace(r, theory=learned, experiments=(learned,) * 4) if r.point.repeat == 0 else r for r in theory]
    assert not study.claim(once).holds


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: Descended("erf"), "no student 'erf'"),
        (lambda: Descended(batch=1.5), "batch"),
        (lambda: Descended(start=2.0), "C - M Mᵀ"),
        (lambda: Descended(d=1), "d >= 2"),
        (lambda: Reused("linear"), "no 'linear'"),
        (lambda: Reused(data="stale"), "no 'stale'"),
        (lambda: Reused(steps=1), "2 to 200 steps"),
        (lambda: Reused(rate=0.0), "rate > 0"),
        (lambda: Twice("quintic"), "no target 'quintic'"),
        (lambda: Twice(start=1.0), r"\|start\| < 1"),
        (lambda: Twice(loss="square", repeat=1.0), "repeat below 1"),
    ],
)
def test_what_is_out_of_the_domain_is_said(ask, said):
    with pytest.raises(ConfigError, match=said):
        ask()
