"""Recurrent kernels against wide reservoirs, closed forms, published-by-measurement errors, and themselves."""

import math

import numpy as np
import pytest

from opu_dfa.errors import ConfigError, DataError, DivergedError
from opu_dfa.features.nonlinearities import NONLINEARITIES, BinaryIntensity
from opu_dfa.reservoir.kernel import RecurrentKernel
from opu_dfa.reservoir.reservoir import Reservoir

EACH = pytest.mark.parametrize("f", list(NONLINEARITIES))
SCALES = {"spectral_radius": 0.5, "input_scale": 0.5, "bias_scale": 0.3}
SIZES = {32: 40, 128: 14, 512: 8}  # units → reservoirs drawn


def unit_series(n, steps, d, seed=0):
    u = np.random.default_rng(seed).standard_normal((n, steps, d))
    return u / np.linalg.norm(u, axis=2, keepdims=True)


def grams(f, u, n_units, seeds, projection="dense", density=0.25, **parameters):
    """Inner products of the last states of reservoirs, `(seeds, n, n)`."""
    found = []
    for seed in range(seeds):
        drawn = Reservoir(n_units, u.shape[2], projection, f, density=density, seed=1000 * n_units + seed, **parameters)
        states = drawn.run(u)[0][:, -1].astype(np.float64)
        found.append(states @ states.T)
    return np.array(found)


def check_convergence(f, projection="dense", redraw=False, density=0.25, **parameters):
    """The squared error falls by 4 when N grows fourfold, within four standard errors of the reservoirs' scatter; and
    the mean over the widest ones is the kernel, within five of the error that one of them has."""
    u = unit_series(5, 4, 4)
    parameters = SCALES | parameters
    kernel = RecurrentKernel(f, redraw=redraw, **parameters).gram(u)
    means, scatters = [], []
    for n_units, seeds in SIZES.items():
        found = grams(f, u, n_units, seeds, projection, density, redraw=redraw, **parameters)
        errors = ((found - kernel) ** 2).mean((1, 2))
        means.append(errors.mean())
        scatters.append(errors.std(ddof=1) / errors.mean() / math.sqrt(seeds))
    for (wider, narrow), scatter in zip(
        [(means[1], means[0]), (means[2], means[1])], np.hypot(scatters[1:], scatters[:-1]), strict=True
    ):
        assert math.log(narrow / wider) == pytest.approx(math.log(4), abs=4 * scatter)
    assert np.abs(found.mean(0) - kernel).max() < 5 * math.sqrt(means[-1] / len(found))


@EACH
@pytest.mark.parametrize("redraw", [False, True], ids=["fixed", "redrawn"])
def test_grams_of_states_converge_to_the_kernel_like_one_over_n(f, redraw):
    check_convergence(f, redraw=redraw)


@pytest.mark.parametrize(
    ("f", "parameters"),
    [
        ("erf", {"projection": "structured"}),
        ("intensity", {"projection": "structured"}),
        ("relu", {"projection": "sparse"}),
        ("erf", {"leak_rate": 0.4}),
        ("cos", {"leak_rate": 0.4}),
        ("intensity", {"leak_rate": 0.4}),
        ("heaviside", {"leak_rate": 0.4, "redraw": True}),
        ("tanh", {"n_layers": 2}),
        ("sign", {"n_layers": 2, "leak_rate": 0.4}),
        ("binary-intensity", {"n_layers": 2, "leak_rate": 0.4}),
    ],
    ids=str,
)
def test_so_do_those_of_other_projections_leaky_and_deep_reservoirs(f, parameters):
    check_convergence(f, **parameters)


# Mean squared errors of Gram matrices at N = 100, 400 and 1600, each of three reservoirs of an independent
# implementation (s_r = s_i = 0.5, no bias, ten steps).
MEASURED = {
    "linear": (1.1e-3, 3.4e-4, 8.9e-5),
    "erf": (6.0e-4, 1.7e-4, 4.3e-5),
    "sign": (1.0e-2, 2.6e-3, 6.6e-4),
    "heaviside": (1.5e-3, 4.0e-4, 1.6e-4),
    "relu": (2.4e-4, 5.8e-5, 2.1e-5),
    "cos": (8.3e-3, 1.7e-3, 3.3e-4),
    "intensity": (3.7e-4, 8.0e-5, 2.6e-5),
}


@pytest.mark.parametrize("f", list(MEASURED))
def test_errors_are_those_that_were_measured_elsewhere(f):
    """Of twelve series of random inputs of norm one, which is assumed: neither number nor width is recorded. Within
    three standard errors, of the three reservoirs there and of those here, with the scatter found at N = 100."""
    u = unit_series(12, 10, 20)
    scales = SCALES | {"bias_scale": 0.0}
    kernel = RecurrentKernel(f, **scales).gram(u)
    relative = None
    for (n_units, seeds), measured in zip({100: 24, 400: 8, 1600: 2}.items(), MEASURED[f], strict=True):
        errors = ((grams(f, u, n_units, seeds, **scales) - kernel) ** 2).mean((1, 2))
        relative = errors.std(ddof=1) / errors.mean() if relative is None else relative
        scatter = relative * errors.mean() * math.sqrt(1 / 3 + 1 / seeds)
        assert errors.mean() == pytest.approx(measured, abs=3 * scatter)


@pytest.mark.parametrize(
    ("f", "parameters"),
    [
        ("erf", {}),
        ("erf", {"leak_rate": 0.3}),
        ("sign", {"leak_rate": 0.3}),
        ("intensity", {"leak_rate": 0.3}),
        ("relu", {"leak_rate": 0.3, "n_layers": 2}),
        ("erf", {"redraw": True}),
        ("sign", {"leak_rate": 0.3, "redraw": True}),
    ],
    ids=str,
)
def test_a_table_is_the_mean_over_reservoirs_of_inner_products_at_all_times(f, parameters):
    u, v = unit_series(2, 6, 2, seed=3)
    parameters = SCALES | parameters
    found = []
    for seed in range(16):
        states, _ = Reservoir(400, 2, "dense", f, seed=seed, **parameters).run(np.stack([u, v]))
        found.append(states[0].astype(np.float64) @ states[1].T.astype(np.float64))
    table = RecurrentKernel(f, **parameters).table(u, v)
    deviations = np.array(found) - table
    error = math.sqrt((deviations**2).mean() / len(found))
    assert np.abs(deviations.mean(0)).max() < 5 * error
    assert error < 0.05 * table.max()


def test_the_linear_kernel_is_the_sum_over_past_inputs():
    """x_t = a Σ_k (1 - a + a s_r W)^k p_(t-k), p the projected inputs; as N → ∞, different powers of W give orthogonal
    vectors."""
    u, v = unit_series(2, 6, 3)
    a, s_r, s_i, s_b = 0.3, 0.8, 0.5, 0.2
    inputs = s_i**2 * u @ v.T + s_b**2
    expected = np.zeros((6, 6))
    for t in range(6):
        for s in range(6):
            for k in range(t + 1):
                for j in range(s + 1):
                    gains = [
                        math.comb(k, m) * math.comb(j, m) * (1 - a) ** (k + j - 2 * m) * (a * s_r) ** (2 * m)
                        for m in range(min(k, j) + 1)
                    ]
                    expected[t, s] += a * a * sum(gains) * inputs[t - k, s - j]
    kernel = RecurrentKernel("linear", s_r, s_i, s_b, leak_rate=a)
    assert kernel.table(u, v) == pytest.approx(expected, rel=1e-12)


@EACH
@pytest.mark.parametrize(
    "parameters",
    [{}, {"leak_rate": 0.3}, {"n_layers": 2}, {"leak_rate": 0.3, "n_layers": 2}, {"leak_rate": 0.3, "redraw": True}],
    ids=str,
)
def test_gram_and_table_are_one_kernel(f, parameters):
    u = unit_series(3, 5, 2)
    kernel = RecurrentKernel(f, **SCALES, **parameters)
    expected = [[kernel.table(a, b)[-1, -1] for b in u] for a in u]
    assert kernel.gram(u) == pytest.approx(np.array(expected), abs=1e-12)
    assert kernel.gram(u, u[:2].copy()) == pytest.approx(np.array(expected)[:, :2], abs=1e-12)
    assert kernel.table(u[0]) == pytest.approx(kernel.table(u[0], u[0]), abs=1e-12)
    assert kernel.table(u[0], u[1][:4]) == pytest.approx(kernel.table(u[1][:4], u[0]).T, abs=1e-12)


def test_windows_give_the_table_s_entries_once_rest_is_forgotten():
    """erf's kernel contracts: from rest, an error falls by at least s_r² 4/π = 0.32 a step."""
    series = unit_series(1, 40, 2)[0]
    kernel = RecurrentKernel("erf", **SCALES)
    times = np.array([20, 25, 31, 39])
    windows = np.stack([series[t - 19 : t + 1] for t in times])
    assert kernel.gram(windows) == pytest.approx(kernel.table(series)[np.ix_(times, times)], abs=0.32**19)


@pytest.mark.parametrize("f", ["sign", "heaviside", "binary-intensity"])
@pytest.mark.parametrize("parameters", [{}, {"leak_rate": 0.3}, {"leak_rate": 0.3, "n_layers": 2}], ids=str)
def test_rounding_errors_do_not_tell_a_series_from_itself(f, parameters):
    """Where units are discontinuous a kernel falls by √(1 - c) from c = 1, at any step."""
    smooth = np.sin(np.arange(200)[:, None] / 7 + np.arange(2))
    chosen = BinaryIntensity(0.1) if f == "binary-intensity" else f
    kernel = RecurrentKernel(chosen, 0.9, 0.2, 0.0, **parameters)
    table = kernel.table(smooth)
    *_, past = kernel.itself(smooth[None], len(smooth))
    own = past.kernel[0, :, 0].sum()
    assert kernel.gram(smooth[None])[0, 0] == pytest.approx(own, rel=1e-12)
    assert table[-1, -1] == pytest.approx(own, rel=1e-12)
    assert np.linalg.eigvalsh(table).min() > -1e-9 * len(table)


@pytest.mark.parametrize("leak_rate", [1.0, 0.7, 0.3])
@pytest.mark.parametrize("f", ["erf", "linear", "sign"])
def test_a_series_variance_needs_only_its_last_steps(f, leak_rate):
    series = np.random.default_rng(0).standard_normal((1, 300, 1))
    kernel = RecurrentKernel(f, leak_rate=leak_rate)
    assert kernel.memory < 300
    found = [past.variances[0, 0, 0] for past in kernel.itself(series, kernel.memory)]
    assert found == pytest.approx(kernel.variances(series)[0, 0], rel=1e-9)


def test_a_nonlinearity_may_be_an_object_and_settings_of_it_count():
    u = unit_series(2, 4, 2)
    low, high = (RecurrentKernel(BinaryIntensity(t)).gram(u) for t in (0.2, 1.0))
    assert (low > high).all()
    assert np.array_equal(RecurrentKernel("binary-intensity").gram(u), high)


def test_what_is_wrong_is_said():
    kernel = RecurrentKernel()
    with pytest.raises(DataError, match=r"takes series \(n, T, d\).*got \(5, 2\)"):
        kernel.gram(np.ones((5, 2)))
    with pytest.raises(DataError, match=r"of one length and width, got \(1, 5, 2\) and \(1, 4, 2\)"):
        kernel.gram(np.ones((1, 5, 2)), np.ones((1, 4, 2)))
    with pytest.raises(DataError, match=r"of one width, got \(5, 2\) and \(5, 3\)"):
        kernel.table(np.ones((5, 2)), np.ones((5, 3)))
    with pytest.raises(ConfigError, match="leak_rate is in \\(0, 1\\], got 0"):
        RecurrentKernel(leak_rate=0)
    with pytest.raises(ConfigError, match="spectral_radius is a number of at least 0, got nan"):
        RecurrentKernel(spectral_radius=math.nan)
    with pytest.raises(ConfigError, match=r"n_layers is an integer of at least 1, got 1\.5"):
        RecurrentKernel(n_layers=1.5)
    with pytest.raises(ConfigError, match="no nonlinearity 'gelu'"):
        RecurrentKernel("gelu")


@pytest.mark.parametrize("leak_rate", [1.0, 0.5])
def test_a_kernel_that_grows_beyond_all_bounds_is_an_error_with_a_remedy(leak_rate):
    with pytest.raises(DivergedError, match=r"intensity units are unbounded. Choose a smaller spectral_radius"):
        RecurrentKernel("intensity", spectral_radius=2.0, leak_rate=leak_rate).gram(np.ones((2, 60, 1)))
