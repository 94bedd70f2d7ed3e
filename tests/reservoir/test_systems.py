"""Chaotic systems against SciPy's integrators, closed forms, finer steps, and published Lyapunov exponents."""

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from opu_dfa.errors import ConfigError
from opu_dfa.reservoir.systems import SYSTEMS, KuramotoSivashinsky, Lorenz63, Lorenz96, MackeyGlass, Rossler

EACH = pytest.mark.parametrize("kind", SYSTEMS.values(), ids=SYSTEMS.keys())


@pytest.mark.parametrize("system", [Lorenz63(), Rossler(), Lorenz96(n=8)], ids=str)
def test_a_flow_is_what_scipy_integrates(system):
    state = system.attractor(1)
    solved = solve_ivp(lambda _, y: system._rate(y), (0, 20 * system.dt), state, "DOP853", rtol=1e-12, atol=1e-12)
    for _ in range(20):
        state = system.step(state)
    assert state == pytest.approx(solved.y[:, -1], abs=2e-5)


@EACH
def test_states_step_together_as_they_step_alone(kind):
    system = kind()
    states = np.stack([system.start(np.random.default_rng(seed)) for seed in range(3)])
    together = system.step(states)
    assert together == pytest.approx(np.stack([system.step(s) for s in states]), abs=1e-12)
    assert system.observe(together).shape[:1] == (3,)


@EACH
def test_a_series_is_drawn_from_its_seed_and_bounded(kind):
    series = kind().series(200, random_state=3)
    assert np.array_equal(series, kind().series(200, random_state=3))
    assert np.isfinite(series).all()
    assert series.std() > 0.01
    assert series.dtype == np.float64


def test_waves_of_a_small_kuramoto_sivashinsky_field_grow_at_the_linear_rate():
    """û_k grows by exp((k² - k⁴) t); what advection adds is of second order in the amplitude 1e-8."""
    system = KuramotoSivashinsky()
    x = 2 * math.pi * np.arange(system.n) / system.n
    for m in (1, 2, 3, 5):
        k = 2 * math.pi * m / system.length
        state = 1e-8 * np.cos(m * x)
        for _ in range(10):
            state = system.step(state)
        grown = 2 * np.abs(np.fft.rfft(state)[m]) / system.n / 1e-8
        assert grown == pytest.approx(math.exp((k**2 - k**4) * 10 * system.dt), rel=1e-6)


def test_kuramoto_sivashinsky_conserves_its_mean_and_converges_at_fourth_order():
    system = KuramotoSivashinsky(n=16)
    state = system.attractor()
    ends = {}
    for substeps in (2, 4, 8, 32):
        finer, u = KuramotoSivashinsky(n=16, substeps=substeps), state
        for _ in range(8):
            u = finer.step(u)
        ends[substeps] = u
    assert state.mean() == pytest.approx(0, abs=1e-10)
    errors = [np.abs(ends[s] - ends[32]).max() for s in (2, 4, 8)]
    ratios = errors[0] / errors[1], errors[1] / errors[2]  # 16 in the limit, which stiffness delays; 8 at third order
    assert 10 < ratios[0] < ratios[1]
    assert 12 < ratios[1] < 16


def test_mackey_glass_rests_at_its_fixed_point_and_converges():
    system = MackeyGlass()
    rest = np.ones(system._delay + 1)  # β/2 = γ
    assert system.step(rest) == pytest.approx(rest, abs=1e-9)
    ends = []
    for substeps in (1, 2, 4, 8):
        finer = MackeyGlass(substeps=substeps)
        state = np.full(finer._delay + 1, 0.5)
        for _ in range(60):
            state = finer.step(state)
        ends.append(float(state[-1]))
    errors = np.abs(np.array(ends[:-1]) - ends[-1])
    assert errors[0] / errors[1] > 4
    assert errors[-1] < 1e-5


@pytest.mark.parametrize(
    ("system", "published", "within", "n_steps"),
    [
        (Lorenz63(), 0.9056, 0.03, 20_000),  # Viswanath 1998
        (Rossler(), 0.0714, 0.015, 20_000),  # Wolf et al. 1985, Sprott 2003
        (MackeyGlass(), 0.0065, 0.002, 15_000),  # 0.005 to 0.007 are quoted
        (KuramotoSivashinsky(), 0.043, 0.008, 20_000),  # 0.043 to 0.048 (Edson et al. 2019)
        (Lorenz96(), 1.68, 0.1, 4_000),  # Lorenz 2005: a doubling time of 0.42 units
    ],
    ids=str,
)
def test_exponents_are_those_that_are_published(system, published, within, n_steps):
    assert system.lyapunov_exponent(n_steps) == pytest.approx(published, abs=within)


def test_wrong_sizes_are_told():
    with pytest.raises(ConfigError, match="at least one step, got n_steps=0"):
        Lorenz63().series(0)
    with pytest.raises(ConfigError, match="at least 4 sites, got n=3"):
        Lorenz96(n=3)
    with pytest.raises(ConfigError, match=r"tau=17.03 must be a multiple"):
        MackeyGlass(tau=17.03)
