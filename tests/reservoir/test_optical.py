"""Optical reservoirs: the equation with the device's own matrix, the pattern of an intensity, frames, and forecasts."""

import math
import pickle

import numpy as np
import pytest
import torch
from scipy import special
from sklearn.base import clone

from hardware import DeviceInputError, SimulatedOPU
from opu_dfa.errors import ConfigError
from opu_dfa.features.nonlinearities import BinaryIntensity, nonlinearity
from opu_dfa.reservoir import SYSTEMS, ReservoirForecaster
from opu_dfa.reservoir.evaluation import HeldOut
from opu_dfa.reservoir.reservoir import Reservoir

N, D, STEPS = 40, 3, 15
INPUTS = np.random.default_rng(0).standard_normal((2, STEPS, D))


def device(n_features=50, n_components=45, **settings):
    return SimulatedOPU(n_features, n_components, **settings)


@pytest.mark.parametrize("leak", [1.0, 0.4])
@pytest.mark.parametrize("name", ["erf", "relu", "cos"])
def test_states_follow_the_equation_with_the_matrix_of_the_device(name, leak):
    """R as the device itself says it is; √n Re(R) has entries of variance 1. 10 mirrors make 3 for every channel."""
    opu = device()
    matrix = opu.ideal(torch.eye(50)).numpy().T.astype(np.float64)
    assert np.array_equal(matrix, opu.linear_transform(np.eye(50, dtype=np.float32)).T)
    reservoir = Reservoir(N, D, opu, name, spectral_radius=0.8, input_scale=0.3, leak_rate=leak, seed=2)
    bias = reservoir._layers[0][1].bias.astype(np.float64)
    states, last = reservoir.run(INPUTS)
    w, v = matrix[:N, :N], matrix[:N, N : N + 3 * D].reshape(N, D, 3).sum(2) / math.sqrt(3)
    before = np.zeros((2, N))
    for t in range(STEPS):
        z = math.sqrt(50) * (0.8 * before @ w.T + 0.3 * INPUTS[:, t] @ v.T) + bias
        expected = (1 - leak) * before + leak / math.sqrt(N) * nonlinearity(name)(z)
        assert states[:, t] == pytest.approx(expected, abs=2e-6)
        before = states[:, t].astype(np.float64)
    assert np.array_equal(last[0], states[:, -1])


def test_bit_planes_come_to_the_same_to_their_resolution():
    """One step of 8 bits is off by a dither of one part in 255 of the largest entry, spread over the N + d shown."""
    exact, _ = Reservoir(N, D, device(), "linear", bias_scale=0).run(INPUTS[:, :1])
    for bits in (4, 8, 16):
        shown, _ = Reservoir(N, D, device(), "linear", bias_scale=0, bits=bits).run(INPUTS[:, :1])
        largest = 0.4 * np.abs(INPUTS[:, 0]).max() / math.sqrt(3)
        # The dither's variance is at most 1/4 of a level's square an entry; here only the 3 D inputs are not zero.
        error = largest / (2**bits - 1) / 2 * math.sqrt(3 * D) / math.sqrt(N)
        assert np.abs(shown - exact).max() < 5 * error + 1e-6
        assert bits == 16 or np.abs(shown - exact).max() > 0.1 * error


def shown_pattern(state, u, n_mirrors):
    """Mirrors as the docstring says: units above an intensity's median, ln 2, then a thermometer a channel."""
    b = np.zeros(n_mirrors, np.uint8)
    b[:N] = state * math.sqrt(N) > math.log(2)
    each = (n_mirrors - N) // D
    for d in range(D):
        for j in range(each):  # inputs have variance 1/D
            b[N + d * each + j] = u[d] * math.sqrt(D) > special.ndtri((j + 0.5) / each)
    return b


@pytest.mark.parametrize("leak", [1.0, 0.5])
@pytest.mark.parametrize("f", [nonlinearity("intensity"), BinaryIntensity(0.8)], ids=lambda f: f.name)
def test_an_intensity_is_that_of_the_pattern_state_and_input_make(f, leak):
    inputs = (INPUTS / math.sqrt(D)).astype(np.float32)
    opu, twin = device(n_features=82), device(n_features=82)
    states, _ = Reservoir(N, D, opu, f, leak_rate=leak, spectral_radius=0.1, bias_scale=3.0).run(inputs)
    before = np.zeros((2, N), np.float32)
    for t in range(STEPS):
        patterns = np.stack([shown_pattern(before[i], inputs[i, t], 82) for i in range(2)])
        if t == 3:
            assert 0.2 < patterns[:, :N].mean() < 0.8  # about half of the units' mirrors
        counted = twin.transform(patterns)[:, :N] * twin.intensity_per_count
        speckle = twin.speckle(torch.from_numpy(patterns))[:, :, :N].square().sum(0).numpy()
        # A count is the nearest, up to a saturated camera; the compiled field is exact to int8 entries of R.
        seen = np.minimum(speckle, twin.largest_count * twin.intensity_per_count)
        assert counted == pytest.approx(seen, abs=0.51 * twin.intensity_per_count)
        values = counted if f.name == "intensity" else counted > 0.8
        assert states[:, t] == pytest.approx((1 - leak) * before + leak * values / math.sqrt(N), abs=1e-6)
        before = states[:, t]


def test_the_ledger_counts_every_frame():
    opu = device()
    Reservoir(N, D, opu, "erf", bits=4).run(INPUTS)
    assert opu.usage.frames == 2 * STEPS * 2 * 4 * opu.frames_per_projection
    opu = device()
    Reservoir(N, D, opu, "erf").run(INPUTS)
    assert opu.usage.frames == 2 * STEPS * 16 * opu.frames_per_projection
    opu = device()
    Reservoir(N, D, opu, "intensity").run(INPUTS)
    assert opu.usage.frames == 2 * STEPS


@pytest.mark.parametrize("name", ["erf", "intensity"])
@pytest.mark.parametrize("sizes", [(42, 45), (50, 39)], ids=str)
def test_too_small_a_device_is_told(name, sizes):
    with pytest.raises(ConfigError, match=r"n_features=43 and n_components=40.*Open a larger one"):
        Reservoir(N, D, device(*sizes), name)
    with pytest.raises(ConfigError, match=f"has {sizes[0]} and {sizes[1]}"):
        ReservoirForecaster(N, device(*sizes), name).fit(INPUTS[0])


@pytest.mark.parametrize("bits", [0, 17, 2.5])
def test_bits_out_of_range_are_told(bits):
    with pytest.raises(DeviceInputError, match=f"1 to 16, got {bits}"):
        Reservoir(N, D, device(), bits=bits)


def test_every_layer_of_a_deep_optical_reservoir_is_on_the_device():
    opu = device(n_features=80, n_components=40)
    states, _ = Reservoir(N, D, opu, n_layers=2).run(INPUTS)
    assert states.shape == (2, STEPS, 2 * N)
    assert np.isfinite(states).all()
    assert opu.usage.frames == 2 * 2 * STEPS * 16 * opu.frames_per_projection
    with pytest.raises(ConfigError, match="n_features=80"):
        Reservoir(N, D, device(n_features=79), n_layers=2)


SINE = np.sin(np.arange(300)[:, None] / 5)


@pytest.mark.parametrize("name", ["erf", "intensity"])
def test_a_clone_shares_the_device_and_a_pickle_opens_it_again(name):
    opu = device()
    model = ReservoirForecaster(N, opu, name, ridge=1e-3)
    again = clone(model)
    assert again.projection is opu
    assert again.get_params() == model.get_params()
    model.fit(SINE)
    read = pickle.loads(pickle.dumps(model))
    assert read.projection is not opu
    assert read.projection.identity == opu.identity
    assert np.array_equal(read.forecast(10), model.forecast(10))
    assert clone(read).projection is read.projection


def test_a_device_serves_a_sine():
    for name, bits in (("erf", None), ("erf", 8), ("intensity", None)):
        model = ReservoirForecaster(N, device(), name, bits=bits, ridge=1e-3).fit(SINE[:250], washout=50)
        assert np.abs(model.predict(SINE)[250:-1] - SINE[251:]).max() < 0.1


@pytest.mark.slow
def test_mackey_glass_is_forecast_nearly_as_long_as_by_a_digital_reservoir():
    """Within a fifth of the time of valid prediction, over three reservoirs and 36 starts, in planes of 16 bits.

    Times are in steps, of which a Lyapunov time has about 195. Mirrors beyond the state's share the input among them.
    """
    n, train = 300, 4000
    series = SYSTEMS["mackey-glass"]().series(train + 300 + 12 * 1500)
    end = HeldOut(series, first=train, n_starts=12, steps=1500, warmup=300)

    def mean_time(projection_of):
        times = []
        for seed in range(3):
            model = ReservoirForecaster(
                n,
                projection_of(seed),
                "tanh",
                spectral_radius=1.2,
                input_scale=0.3,
                leak_rate=0.7,
                bits=16,
                features="state+input+squares",
                ridge=1e-10,
                random_state=seed,
            )
            model.fit(series[:train], washout=100)
            times.append(end.skill(list(end.outcomes(model, range(12), at_once=12))).time.mean)
        return np.mean(times)

    optical = mean_time(lambda seed: device(n + 50, n, seed=seed))
    for kind in ("dense", "structured"):
        assert optical > 0.8 * mean_time(lambda seed, kind=kind: kind)
