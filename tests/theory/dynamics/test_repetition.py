"""One neuron that uses samples twice: its flow against reference numbers, Monte Carlo and finite neurons."""

import math

import numpy as np
import pytest

from opu_dfa.errors import ConfigError
from opu_dfa.theory.dynamics.repetition import Repeated, drift, flow, simulate
from opu_dfa.theory.gaussian import Rule, panels

ROOT = math.sqrt(3)
CUBIC = panels([0.0, ROOT, -ROOT])
QUARTIC = panels([s * math.sqrt(3 + t * math.sqrt(6)) for s in (1, -1) for t in (1, -1)])


def he3(z):
    return z**3 - 3 * z


def he4(z):
    return z**4 - 6 * z**2 + 3


def octants():
    """A rule of three directions, whose labels jump at 0."""
    one = panels([0.0], order=3)
    grid = np.stack(np.meshgrid(*(one.nodes,) * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    weights = np.einsum("i,j,k->ijk", *(one.weights,) * 3).ravel()
    kept = weights > 1e-9
    return Rule(grid[kept], weights[kept] / weights[kept].sum())


@pytest.mark.parametrize(
    ("repeat", "cubic", "quartic"),
    [
        (0.0, 0.0, 0.0),
        (0.02, -0.042138, 0.003648),
        (0.05, -0.085427, 0.022446),
        (0.1, -0.118646, 0.084965),
        (0.3, -0.117460, 0.456946),
        (1.0, -0.023788, 0.666972),
        (3.0, -0.000704, 0.667779),
    ],
)
def test_drift_at_no_overlap_is_the_reference_s(repeat, cubic, quartic):
    law = Repeated(1e-9, repeat)
    assert drift(law, CUBIC, he3(CUBIC.nodes), np.zeros(1))[0] / 1e-9 == pytest.approx(cubic, abs=1.5e-6)
    up, down = (drift(law, QUARTIC, he4(QUARTIC.nodes), np.array([m]))[0] / 1e-9 for m in (1e-4, -1e-4))
    assert (up - down) / 2e-4 == pytest.approx(quartic, abs=1.5e-6)
    assert up + down == pytest.approx(0, abs=1e-7)


def test_overlaps_in_time_are_the_reference_s():
    cubic = flow(Repeated(0.05, 0.1), CUBIC, he3(CUBIC.nodes), np.zeros(1), [1, 2, 5, 10, 20, 40])[:, 0]
    assert cubic == pytest.approx([-0.00596, -0.01197, -0.03033, -0.06195, -0.12863, -0.26980], abs=1.5e-5)
    bounded, at = np.tanh(he3(CUBIC.nodes)), [0.5, 1, 2, 4, 8, 16]
    twice, once = (flow(Repeated(0.5, rho), CUBIC, bounded, np.zeros(1), at)[:, 0] for rho in (1.0, 0.0))
    assert twice == pytest.approx([-0.03226, -0.06405, -0.12583, -0.23991, -0.42035, -0.60964], abs=1.5e-5)
    assert once == pytest.approx([-0.04639, -0.09165, -0.17819, -0.33217, -0.55556, -0.74757], abs=1.5e-5)


@pytest.mark.parametrize("law", [Repeated(0.3, 0.2), Repeated(0.3, -0.4), Repeated(0.3, 0.4, "square")])
def test_drift_is_the_mean_step_over_samples(law):
    """Two directions, 2 · 10⁶ draws of (l, ν), and the formula of one step taken to first order in 1/d."""
    rng, m = np.random.default_rng(5), np.array([0.4, -0.3])
    nu = rng.standard_normal((2_000_000, 2))
    field = nu @ m + math.sqrt(1 - m @ m) * rng.standard_normal(len(nu))

    def target(nu):
        return np.tanh(nu[:, 0] + nu[:, 0] * nu[:, 1])

    y, kappa = target(nu), law.own
    again = field + law.repeat * (y - kappa * field) * (field > 0)
    pull = (y - kappa * again) * (again > 0)
    steps = law.rate * pull[:, None] * (nu - field[:, None] * m) - law.rate**2 / 2 * pull[:, None] ** 2 * m
    one = panels([0.0])
    grid = np.stack(np.meshgrid(one.nodes, one.nodes, indexing="ij"), axis=-1).reshape(-1, 2)
    rule = Rule(grid, np.outer(one.weights, one.weights).ravel())
    error = steps.std(axis=0) / math.sqrt(len(nu))
    assert (np.abs(steps.mean(axis=0) - drift(law, rule, target(grid), m)) < 3.5 * error).all()


def test_repetition_couples_directions_that_one_pass_keeps_apart():
    """Of sign(z1 z2 z3) + He4(z1), z2 and z3 pull at each other once z1 is known, if samples are used twice."""
    rule = octants()
    sign = np.sign(rule.nodes.prod(axis=1))

    def coupling(labels, repeat):
        law, step = Repeated(1e-6, repeat), np.array([0.0, 1e-4, 0.0])
        up, down = (drift(law, rule, labels, np.array([0.3, 0.0, 0.0]) + s * step)[2] for s in (1, -1))
        return (up - down) / 2e-4 / 1e-6

    both = sign + he4(rule.nodes[:, 0])
    assert abs(coupling(both, 0.0)) < 1e-3
    assert abs(coupling(sign, 0.0)) < 1e-3
    assert coupling(both, 0.1) > 0.02


@pytest.mark.parametrize("law", [Repeated(0.2, 0.3), Repeated(0.2, 0.2, "square")])
def test_finite_neurons_follow_the_flow_in_two_directions(law):
    one = panels([0.0], order=6)
    grid = np.stack(np.meshgrid(one.nodes, one.nodes, indexing="ij"), axis=-1).reshape(-1, 2)

    def target(nu):
        return np.tanh(he3(nu[:, 0])) + np.sign(nu[:, 0]) * nu[:, 1]

    rule = Rule(grid, np.outer(one.weights, one.weights).ravel())
    start, times = np.array([0.3, 0.2]), [1.0, 4.0]
    theory = flow(law, rule, target(grid), start, times)
    runs = np.array([simulate(law, target, start, times, 300, seed) for seed in range(16)])
    error = runs.std(axis=0, ddof=1) / 4
    assert (np.abs(runs.mean(axis=0) - theory) < np.maximum(3.5 * error, 0.03 * np.abs(theory))).all()


@pytest.mark.parametrize("repeat", [0.0, 0.3])
def test_one_neuron_alone_does_not_climb_the_staircase(repeat):
    def target(nu):
        return np.sign(nu.prod(axis=1)) + he4(nu[:, 0])

    law, start, rule, times = Repeated(0.05, repeat), np.full(3, 0.3), octants(), [2.0, 10.0]
    theory = flow(law, rule, target(rule.nodes), start, times)
    runs = np.array([simulate(law, target, start, times, 200, seed) for seed in range(16)])
    error = runs.std(axis=0, ddof=1) / 4
    assert (np.abs(runs.mean(axis=0) - theory) < np.maximum(3.5 * error, 0.03 * theory)).all()
    assert (theory[1, 1:] < theory[0, 1:]).all()
    assert (theory[1, 0] > 0.3) == (repeat > 0)  # the even part is learned, if samples are used twice


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: Repeated(0.0), "rate > 0"),
        (lambda: Repeated(0.1, math.inf), "finite repeat"),
        (lambda: Repeated(0.1, 0.1, "hinge"), "no loss 'hinge'"),
        (lambda: Repeated(0.1, 1.0, "square"), "repeat below 1"),
        (lambda: flow(Repeated(0.1), CUBIC, he3(CUBIC.nodes), np.array([1.2]), [1.0]), r"\|m\| <= 1"),
        (lambda: flow(Repeated(0.1), CUBIC, he3(CUBIC.nodes), np.zeros(1), [2.0, 1.0]), "times ascend"),
        (lambda: simulate(Repeated(0.1), lambda nu: nu[:, 0], np.zeros(3), [1.0], 3), "d > 3"),
    ],
)
def test_what_is_out_of_the_domain_is_said(ask, said):
    with pytest.raises(ConfigError, match=said):
        ask()
