"""Equations of motion: reference curves of DFA and backprop, limits of batches, and networks of finite size."""

import math
from dataclasses import replace

import numpy as np
import pytest

from opu_dfa.errors import ConfigError, NotConverged
from opu_dfa.theory.dynamics.flow import descend, iterate
from opu_dfa.theory.dynamics.rules import Clipped, Device, Overlaps, Rule, StochasticTernary, Teacher, ThresholdTernary
from opu_dfa.theory.dynamics.simulate import chain, network

START = Overlaps(
    np.array([[0.25, 0.02], [0.02, 0.30]]), np.array([[0.05, -0.02], [0.01, 0.03]]), np.array([[0.1, -0.05]])
)
B = np.array([[1.0], [-0.5]])
TIMES = [0, 1, 3, 10, 30, 60, 100, 200]
DFA = Rule(0.5, 0.5, B)


def committee(noise=0.0):
    return Teacher(np.ones((1, 2)), np.eye(2), noise)


def test_backprop_and_dfa_follow_their_reference_curves():
    bp, dfa = (descend(rule, committee(), START, TIMES) for rule in (Rule(0.5, 0.5), DFA))
    wanted = [0.333691, 0.331516, 0.325627, 0.194415, 0.017398, 0.015818, 0.015143, 0.014808]
    assert bp.risk == pytest.approx(wanted, abs=1.5e-6)
    wanted = [0.333691, 0.310675, 0.217897, 0.030467, 0.015974, 0.014843, 0.014128, 0.012029]
    assert dfa.risk == pytest.approx(wanted, abs=1.5e-6)
    assert dfa.alignment == pytest.approx([1, 0.99796, 0.99915, 0.9998, 0.99929, 0.99807, 0.99654, 0.99157], abs=1.5e-5)
    assert (dfa.r[3, 0, 0], dfa.q[3, 0, 0]) == pytest.approx((0.78827, 1.27813), abs=1.5e-5)
    assert dfa.v[-1, 0] == pytest.approx([1.0332, -0.6972], abs=1.5e-4)


def test_device_noise_and_ternary_errors_follow_their_reference_curves():
    teacher, times = committee(0.1), [0, 1, 3, 10, 30, 100, 200]
    noisy = descend(replace(DFA, device=Device(0.5)), teacher, START, times)
    wanted = [0.333691, 0.311278, 0.224405, 0.046256, 0.031169, 0.032603, 0.033160]
    assert noisy.risk == pytest.approx(wanted, abs=1.5e-6)
    ternary = ThresholdTernary(0.2, 0.5)
    # The reference is of 2^15 Sobol points, which err by 1e-5 and, at the end of the plateau (t = 200), by more.
    found = descend(replace(DFA, code=ternary), teacher, START, times[:-1], tolerance=1e-5)
    assert found.risk == pytest.approx([0.333691, 0.323134, 0.278996, 0.052487, 0.017848, 0.016755], abs=2e-5)
    both = descend(replace(DFA, code=ternary, device=Device(0.5)), teacher, START, times[:-1], tolerance=1e-5)
    assert both.risk == pytest.approx([0.333691, 0.323470, 0.283713, 0.081103, 0.031410, 0.032359], abs=6e-5)


@pytest.mark.parametrize(
    ("rate", "noise", "risks"),
    [
        (0.5, 0.1, (1.592e-2, 1.398e-2, 1.505e-3)),
        (0.5, 0.2, (1.821e-2, 1.767e-2, 5.322e-3)),
        (0.25, 0.1, (1.462e-2, 1.235e-2, 7.2e-4)),
        (0.25, 0.5, (2.301e-2, 2.363e-2, 1.310e-2)),
    ],
)
def test_the_floor_of_device_noise_falls_with_the_rate(rate, noise, risks):
    rule = Rule(rate, rate, B, device=Device(noise))
    found = descend(rule, committee(), START, [25 / rate, 100 / rate, 500 / rate])
    assert found.risk == pytest.approx(risks, rel=1e-3)


def test_readouts_align_before_they_learn():
    found = descend(DFA, committee(), replace(START, v=np.array([[0.05, 0.1]])), [0.1, 1.0, 3.0, 5.0])
    assert found.alignment == pytest.approx([0.00575, 0.35794, 0.93870, 0.98829], abs=1.5e-5)
    assert found.risk == pytest.approx([0.332061, 0.325185, 0.238869, 0.132936], abs=1.5e-6)


RULES = {
    "exact": (DFA, 1000),
    "backprop": (Rule(0.5, 0.5), 1000),
    "camera": (Rule(0.5, 0.5, B, StochasticTernary(3.0), Device(0.1, 0.3, 0.2, 0.3)), 1000),
    "ternary": (Rule(0.5, 0.5, B, ThresholdTernary(0.2, 0.5)), 1000),
    "drifting": (Rule(0.5, 0.5, lambda t: B * np.array([[math.cos(t / 4)], [1.0]])), 1000),
    "batches on the sphere": (Rule(4.0, 0.5, B, Clipped(0.8), batch=4, sphere=True), 300),
}


@pytest.mark.parametrize("name", RULES)
def test_the_chain_of_overlaps_is_the_network_in_law_and_follows_the_equations(name):
    (rule, dims), teacher, times = RULES[name], committee(0.1), [0.0, 2.0, 6.0]
    start = Overlaps(np.eye(2), START.r, START.v) if rule.sphere else START
    theory = descend(rule, teacher, start, times, tolerance=1e-5)
    runs = [network(rule, teacher, start, dims, times, seed) for seed in range(8)]
    many = [chain(rule, teacher, start, dims, times, seed) for seed in range(100, 160)]
    large = [chain(rule, teacher, start, 20_000, times, seed) for seed in range(200, 204)]
    for what in ("risk", "q", "r", "v"):
        a, b, c = (np.array([getattr(x, what) for x in found]) for found in (runs, many, large))
        error = b.std(axis=0, ddof=1) * math.sqrt(1 / len(a) + 1 / len(b))  # one law: that of the many
        assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) <= 4.5 * error + 1e-9).all()
        error = c.std(axis=0, ddof=1) / 2
        assert (np.abs(c.mean(axis=0) - getattr(theory, what)) <= 6 * error + 0.004).all()
    spread, wanted = np.array([x.risk[-1] for x in many]).std(), np.array([x.risk[-1] for x in runs]).std()
    assert 0.4 < spread / wanted < 2.5


def test_networks_start_from_the_overlaps_asked_for():
    found = network(DFA, committee(), START, 50, [0.0])
    assert found.q[0] == pytest.approx(START.q, abs=1e-12)
    assert found.r[0] == pytest.approx(START.r, abs=1e-12)
    again = [network(DFA, committee(), START, 50, [1.0], seed).risk[0] for seed in (3, 3, 4)]
    assert again[0] == again[1] != again[2]


def test_the_map_of_single_samples_tends_to_the_equations():
    teacher, wanted = committee(0.1), descend(DFA, committee(0.1), START, [0.0, 5.0])
    errors = [abs(iterate(DFA, teacher, START, n, [0, 5 * n]).risk[1] - wanted.risk[1]) for n in (100, 400)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_the_map_of_all_samples_is_the_gradient_flow_at_small_rates():
    rule = Rule(0.5, 0.0, B, batch=math.inf)
    flow = descend(rule, committee(), START, [0.0, 5.0])
    assert flow.risk == pytest.approx(descend(Rule(0.5, 0.0, B), committee(), START, [0.0, 5.0], "drift").risk)
    errors = [abs(iterate(rule, committee(), START, n, [0, 5 * n]).risk[1] - flow.risk[1]) for n in (100, 400)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_the_map_of_large_batches_is_the_mean_of_one_step():
    rule, teacher, dims = Rule(30.0, feedback=B, batch=20), committee(0.1), 40
    mean = iterate(rule, teacher, START, dims, [0, 1])
    runs = [chain(rule, teacher, START, dims, [1 / dims], seed) for seed in range(3000)]
    for what in ("q", "r"):
        x = np.array([getattr(each, what)[0] for each in runs])
        wanted = getattr(mean, what)[1]
        # Inputs are not of one length: of |x|² = N + ..., S errs by a relative 1/N in the mean.
        slack = (K_PLUS_M / dims) * np.abs(wanted - getattr(START, what))
        assert (np.abs(x.mean(axis=0) - wanted) < 4 * x.std(axis=0) / math.sqrt(3000) + slack).all()


K_PLUS_M = 4


def test_what_cannot_be_integrated_is_said():
    with pytest.raises(NotConverged, match="smaller rate"):
        descend(Rule(20.0), replace(committee(), activation="square"), replace(START, v=np.ones((1, 2))), [0, 50])
    with pytest.raises(NotConverged, match="smaller rate"):
        iterate(Rule(2000.0), replace(committee(), activation="square"), START, 10, [0, 500])
    with pytest.raises(NotConverged, match="smaller rate"):
        network(Rule(200.0), replace(committee(), activation="square"), START, 10, [0, 50])
    with pytest.raises(ConfigError, match="times ascend"):
        descend(DFA, committee(), START, [1.0, 0.5])
    with pytest.raises(ConfigError, match="no weights have these overlaps"):
        descend(DFA, committee(), replace(START, r=20 * START.r), [0.0])
    with pytest.raises(ConfigError, match="finite number of samples"):
        network(replace(DFA, batch=math.inf), committee(), START, 50, [1.0])
    with pytest.raises(ConfigError, match="do not fit in N=3"):
        network(DFA, committee(), START, 3, [1.0])
    with pytest.raises(ConfigError, match="N is 6 or more, got 5"):
        chain(DFA, committee(), START, 5, [1.0])
    with pytest.raises(ConfigError, match="dimension is 1 or more"):
        iterate(DFA, committee(), START, 0, [1])
