"""Chaotic systems against SciPy's integrators, closed forms, finer steps, and published Lyapunov exponents."""

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from opu_dfa.errors import ConfigError
from opu_dfa.reservoir.systems import SYSTEMS, KuramotoSivashinsky, Lorenz63, Lorenz96, MackeyGlass, Rossler

EACH = pytest.mark.parametrize("kind", SYSTEMS.values(), ids=SYSTEMS.keys())


def lorenz63(t, s):
    x, y, z = s
    return 10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z


def rossler(t, s):
    x, y, z = s
    return -y - z, x + 0.2 * y, 0.2 + z * (x - 5.7)


def lorenz96(t, x):
    return (np.roll(x, -1) - np.roll(x, 2)) * np.roll(x, 1) - x + 8


@pytest.mark.parametrize(
    ("system", "rate"),
    [(Lorenz63(), lorenz63), (Rossler(), rossler), (Lorenz96(n=8), lorenz96)],
    ids=["lorenz63", "rossler", "lorenz96"],
)
def test_a_flow_is_what_scipy_integrates(system, rate):
    state = system.attractor(1)
    solved = solve_ivp(rate, (0, 20 * system.dt), state, "DOP853", rtol=1e-12, atol=1e-12)
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
def test_a_step_leaves_its_argument_alone(kind):
    system = kind()
    state = system.start(np.random.default_rng(0))
    before = state.copy()
    system.step(state)
    assert np.array_equal(state, before)


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


@pytest.mark.parametrize("n", [32, 33])
def test_kuramoto_sivashinsky_steps_as_it_does_in_fourier_space(n):
    """One step of ETDRK4 on the waves, its weights in closed form on each wave that is not nearly neutral."""
    system = KuramotoSivashinsky(n=n, dt=0.5)
    u = 2 * np.sin(2 * math.pi * np.arange(n) / n) + np.cos(6 * math.pi * np.arange(n) / n + 1)
    h, k = system.dt, 2 * math.pi / system.length * np.arange(n // 2 + 1)
    z = h * (k**2 - k**4)
    z[0] = 1.0  # advection has no mean, so its weight there is of no effect
    derivative = np.where((np.arange(k.size) == n / 2), 0, -0.5j * k)

    def advection(v):
        return derivative * np.fft.rfft(np.fft.irfft(v, n) ** 2)

    v, e = np.fft.rfft(u), np.exp(z)
    first = np.exp(z / 2) * v
    q = h * (np.exp(z / 2) - 1) / z
    a = first + q * advection(v)
    b = first + q * advection(a)
    c = np.exp(z / 2) * a + q * (2 * advection(b) - advection(v))
    f1, f2, f3 = (-4 - z + e * (4 - 3 * z + z**2), 2 + z + e * (z - 2), -4 - 3 * z - z**2 + e * (4 - z))
    nonlinear = f1 * advection(v) + 2 * f2 * (advection(a) + advection(b)) + f3 * advection(c)
    expected = e * v + h / z**3 * nonlinear
    expected[0] = v[0]
    # 1/z³ magnifies rounding in the closed form where z is small, by the largest 1 / |z|³ here.
    assert system.step(u) == pytest.approx(np.fft.irfft(expected, n), abs=1e-15 / np.abs(z).min() ** 3)


def test_mackey_glass_is_its_closed_form_while_its_past_is_constant():
    """Until τ the source is β x₀ / (1 + x₀^n) = s, so x = s/γ + (x₀ - s/γ) e^(-γt)."""
    system = MackeyGlass()
    state = np.full(system._delay + 1, 0.5)
    rest = system.beta * 0.5 / (1 + 0.5**system.n) / system.gamma
    for t in range(1, 18):
        state = system.step(state)
        assert state[-1] == pytest.approx(rest + (0.5 - rest) * math.exp(-system.gamma * t), abs=1e-7)


def test_a_long_sample_of_mackey_glass_is_its_short_ones_even_beyond_the_delay():
    long, short = MackeyGlass(dt=1.0, tau=0.2, substeps=5), MackeyGlass(dt=0.2, tau=0.2, substeps=1)
    state = np.array([0.5, 0.6, 0.8])
    expected = state
    for _ in range(5):
        expected = short.step(expected)
    assert np.array_equal(long.step(state), expected)


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
        (Lorenz63(), 0.9056, 0.03, 40_000),  # Viswanath 1998
        (Rossler(), 0.0714, 0.01, 40_000),  # Wolf et al. 1985, Sprott 2003
        (MackeyGlass(), 0.006, 0.0015, 40_000),  # 0.005 to 0.007 are quoted
        (KuramotoSivashinsky(), 0.048, 0.006, 30_000),  # 0.043 to 0.048 are quoted (Edson et al. 2019)
        (KuramotoSivashinsky(length=100.0, n=128), 0.085, 0.01, 15_000),  # 0.08 to 0.09 are quoted
        (Lorenz96(), 1.68, 0.1, 10_000),  # Lorenz 2005: a doubling time of 0.42 units
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
