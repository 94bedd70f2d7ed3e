"""The simulated device against the physics it stands for, and against the contract."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hardware import (
    PRESETS,
    BitPlanes,
    Camera,
    DeviceFault,
    DeviceInputError,
    Faults,
    OffAxis,
    Preset,
    SimulatedOPU,
    Usage,
)
from hardware.optics import MEDIA


@pytest.mark.parametrize("medium", MEDIA)
def test_intensity_is_exponential_with_mean_two_norms_over_n(medium, noiseless, patterns):
    opu = SimulatedOPU(500, 20_000, preset=noiseless(exposure=64), medium=medium)
    x = patterns(1, 500)
    intensity = opu.transform(x)[0].double() * opu.intensity_per_count
    mean = 2 * x.sum().item() / 500
    assert intensity.mean().item() == pytest.approx(mean, abs=4 * mean / 20_000**0.5)
    assert stats.kstest(intensity.numpy(), "expon", args=(0, mean)).pvalue > 1e-3


@pytest.mark.parametrize("medium", MEDIA)
def test_intensity_kernel_is_that_of_a_complex_gaussian_medium(medium, noiseless, patterns):
    """E[I(x)I(y)] = (2/n)² (‖x‖²‖y‖² + (x·y)²); a structured block has N/(N + 1) of it, too little to see."""
    n, m = 1000 if medium == "structured" else 60, 200_000
    opu = SimulatedOPU(n, m, preset=noiseless(exposure=64), medium=medium)
    x, y = patterns(2, n, seed=3)
    product = (opu.transform(torch.stack((x, y))).double() * opu.intensity_per_count).prod(dim=0)
    expected = (2 / n) ** 2 * (x.sum() * y.sum() + (x @ y) ** 2).item()
    standard_error = product.std().item() / m**0.5
    assert product.mean().item() == pytest.approx(expected, abs=3 * standard_error)


@pytest.mark.parametrize("medium", MEDIA)
def test_linear_outputs_are_gaussian_uncorrelated_and_of_variance_norm_over_n(medium):
    opu = SimulatedOPU(400, 20_000, medium=medium)
    x = torch.randn(64, 400, generator=torch.Generator().manual_seed(1)).sign()
    y = opu.linear_transform(x)
    assert stats.kstest(y[0].numpy(), "norm", args=(0, 1)).pvalue > 1e-3
    assert y.var().item() == pytest.approx(1, abs=4 * (2 / 20_000) ** 0.5)
    rows = torch.corrcoef(opu.linear_transform(torch.eye(400))[:, :150].T) - torch.eye(150)
    assert rows.abs().max() < 5 / 400**0.5


def test_counts_are_the_rounded_intensity_and_saturate():
    opu = SimulatedOPU(200, 5_000, preset="ideal")
    x = torch.ones(1, 200)
    expected = (opu.speckle(x).square().sum(dim=0) / opu.preset.exposure * 255).round().clamp(0, 255)
    counts = opu.transform(x)
    assert counts.dtype == torch.uint8
    assert torch.equal(counts.float(), expected)
    # A full-on pattern is twice as bright as the half-on one exposed for: e^-4 of its speckle saturates.
    saturated = (counts == 255).float().mean().item()
    p = math.exp(-4 * 254.5 / 255)
    assert saturated == pytest.approx(p, abs=4 * (p / 5_000) ** 0.5)


@given(st.integers(0, 10_000), st.floats(-3, 3), st.floats(-3, 3))
@settings(deadline=None, max_examples=30)
def test_the_ideal_linear_transform_is_linear(seed, a, b):
    draw = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, 4, 33, generator=draw, dtype=torch.float64)
    opu = SimulatedOPU(33, 21, seed=seed)
    together = opu.linear_transform(a * x + b * y)
    apart = a * opu.linear_transform(x) + b * opu.linear_transform(y)
    # Each row is rounded to 2^-23 of its largest entry, below 5; outputs to 2^-24 of themselves.
    assert (together - apart).abs().max() < 33 * (abs(a) + abs(b) + 1) * 5 * 2**-22


@given(st.integers(1, 100), st.integers(1, 200), st.integers(1, 100), st.sampled_from(sorted(MEDIA)))
@settings(deadline=None, max_examples=25)
def test_the_first_components_do_not_change_when_more_are_asked_for(n, m, more, medium):
    x = torch.randint(0, 2, (3, n), generator=torch.Generator().manual_seed(n))
    few, many = (SimulatedOPU(n, k, seed=4, medium=medium, preset="noisy-8bit") for k in (m, m + more))
    assert torch.equal(few.transform(x), many.transform(x)[:, :m])
    assert torch.equal(few.linear_transform(x * 1.0), many.linear_transform(x * 1.0)[:, :m])


@given(st.permutations(range(9)))
@settings(deadline=None, max_examples=20)
def test_permuting_the_batch_permutes_the_output(order):
    opu = SimulatedOPU(50, 20)
    x = torch.randint(0, 2, (9, 50), generator=torch.Generator().manual_seed(0))
    assert torch.equal(opu.transform(x[order]), opu.transform(x)[order])
    real = x * 0.3 - 0.1
    assert torch.equal(opu.linear_transform(real[order]), opu.linear_transform(real)[order])


def test_an_encoding_can_be_chosen():
    opu = SimulatedOPU(40, 30, preset="noisy-8bit")
    x = torch.rand(5, 40, generator=torch.Generator().manual_seed(0)) - 0.4
    opu.linear_transform(x, BitPlanes(n_bits=3))
    assert opu.usage.frames == 5 * 6 * 2


def test_a_large_batch_is_measured_in_parts_with_the_same_numbers(monkeypatch, patterns):
    x = patterns(23, 30) * 0.7 - patterns(23, 30, seed=1)
    whole = SimulatedOPU(30, 40, preset="noisy-8bit").linear_transform(x)
    monkeypatch.setattr("hardware.opu._AT_ONCE", 16 * 40 * 5)
    monkeypatch.setattr("hardware.optics._AT_ONCE", 64 * 3)
    assert torch.equal(SimulatedOPU(30, 40, preset="noisy-8bit").linear_transform(x), whole)


def test_linear_transform_of_real_rows_is_unbiased_on_the_noisy_device():
    opu = SimulatedOPU(40, 30, preset="noisy-8bit")
    ideal = SimulatedOPU(40, 30)
    x = torch.randn(1, 40, generator=torch.Generator().manual_seed(2))
    exact = ideal.linear_transform(torch.eye(40)).T @ x[0]
    draws = opu.linear_transform(x.repeat(4_000, 1))
    standard_error = draws.std(dim=0) / 4_000**0.5
    # Saturation of the brightest speckle and the counts' rounding leave a bias below half a count.
    count = 2 * (2.5 + 2.5) ** 2 / (255 * 4 * 2.5) * draws.std()
    assert ((draws.mean(dim=0) - exact).abs() < 4 * standard_error + count / 2).all()


def test_noise_has_a_seed_of_its_own(patterns):
    x = patterns(5, 50)

    def measure(noise_seed):
        return SimulatedOPU(50, 20, seed=1, noise_seed=noise_seed, preset="noisy-8bit").linear_transform(x)

    assert torch.equal(measure(1), measure(1))
    assert not torch.equal(measure(1), measure(2))
    assert torch.allclose(measure(1), measure(2), atol=0.3)


def test_the_global_generator_is_not_touched(patterns):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    SimulatedOPU(50, 20, preset="noisy-8bit").linear_transform(patterns(5, 50) * 0.3 - 0.1)
    assert torch.equal(torch.get_rng_state(), before)


def test_numpy_in_numpy_out_with_the_same_numbers(patterns):
    x = patterns(5, 50)
    a, b = SimulatedOPU(50, 20), SimulatedOPU(50, 20)
    assert np.array_equal(a.transform(x.numpy()), b.transform(x).numpy())
    out = a.linear_transform(x.numpy().astype(np.float64) * 0.3)
    assert isinstance(out, np.ndarray)
    assert out.dtype == np.float32


def test_the_ledger_counts_what_the_instrument_would_spend(patterns):
    opu = SimulatedOPU(50, 20, preset="noisy-8bit")
    opu.transform(patterns(7, 50))  # 7 frames
    opu.linear_transform(patterns(7, 50))  # one pattern a row, two frames a pattern: 14
    opu.linear_transform(patterns(7, 50) * 2 - 1)  # two patterns: 28
    opu.linear_transform(patterns(7, 50) * 0.3 + torch.arange(50) / 50)  # sixteen patterns: 224
    frames = 7 + 14 + 28 + 224
    assert opu.usage == Usage(frames, frames * 500e-6, frames * 500e-6 * 30)


def test_state_continues_noise_and_ledger(patterns):
    x = patterns(5, 50)
    first = SimulatedOPU(50, 20, preset="noisy-8bit")
    first.linear_transform(x)
    second = SimulatedOPU(50, 20, preset="noisy-8bit")
    second.load_state(first.state())
    assert second.usage == first.usage
    assert torch.equal(second.linear_transform(x), first.linear_transform(x))


def test_state_of_another_matrix_is_refused():
    with pytest.raises(DeviceFault, match="seed 1"):
        SimulatedOPU(50, 20, seed=2).load_state(SimulatedOPU(50, 20, seed=1).state())


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.full((2, 8), 0.5), "0 or 1; got 0.5"),
        (torch.full((2, 8), 2, dtype=torch.int64), "got 2"),
        (torch.ones(2, 7), r"\(batch, 8\).*got \(2, 7\)"),
        (torch.ones(8), r"got \(8,\)"),
        (torch.ones(0, 8), r"batch >= 1"),
        (torch.tensor([[math.nan] * 8]), "got nan"),
        (torch.ones(2, 8, dtype=torch.complex64), "complex64"),
        (np.array([["a"] * 8]), "dtype <U1"),
        ([[1] * 8], "got list"),
        (np.full((2, 8), 255, np.uint8), "got 255"),
        (np.full((2, 8), -1, np.int8), "got -1"),
        (np.zeros((2, 8), object), "dtype object"),
        (np.zeros((2, 8), "datetime64[s]"), "dtype datetime64"),
        (torch.tensor([[math.inf] * 8]), "got inf"),
        (torch.ones(2, 8, 1), r"got \(2, 8, 1\)"),
    ],
)
def test_bad_input_is_refused_by_name(x, says):
    with pytest.raises(DeviceInputError, match=says):
        SimulatedOPU(8, 3).transform(x)


def test_infinite_input_to_the_linear_transform_is_refused():
    with pytest.raises(DeviceInputError, match="got inf"):
        SimulatedOPU(8, 3).linear_transform(torch.full((1, 8), math.inf))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"n_features": 0, "n_components": 3}, "n_features must be an integer from 1 to 2147483647, got 0"),
        ({"n_features": 3, "n_components": -1}, "n_components .* got -1"),
        ({"n_features": 3, "n_components": 2.5}, "got 2.5"),
        ({"n_features": 3, "n_components": 3, "preset": "perfect"}, "unknown preset 'perfect'"),
        ({"n_features": 3, "n_components": 3, "seed": -1}, "a seed is an integer from 0 .* got -1"),
        ({"n_features": 3, "n_components": 3, "noise_seed": -1}, "a seed is an integer from 0 .* got -1"),
        ({"n_features": 3, "n_components": 2**40}, "from 1 to 2147483647, got 1099511627776"),
        ({"n_features": 3, "n_components": 3, "medium": "foam"}, "unknown medium 'foam'; the media are dense"),
    ],
)
def test_absurd_devices_are_refused(arguments, says):
    with pytest.raises(DeviceInputError, match=says):
        SimulatedOPU(**arguments)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.astype(bool),
        lambda x: x.astype(np.int64),
        lambda x: x.astype(np.float16),
        lambda x: x.astype(np.uint16),
        lambda x: x.astype(np.uint64),
        lambda x: x.astype(">f4"),
        lambda x: np.asfortranarray(x),
        lambda x: x[::-1, ::-1][::-1, ::-1],
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: np.broadcast_to(x, (1, *x.shape))[0],
        lambda x: torch.from_numpy(x).to(torch.bfloat16),
        lambda x: torch.from_numpy(x).double().requires_grad_(),
    ],
)
def test_every_array_of_zeros_and_ones_is_the_same_input(make):
    x = np.random.default_rng(0).integers(0, 2, (4, 8)).astype(np.uint8)
    opu = SimulatedOPU(8, 5)
    assert np.array_equal(np.asarray(opu.transform(make(x))), opu.transform(x))
    assert np.array_equal(np.asarray(opu.linear_transform(make(x))), opu.linear_transform(x))


def test_threads_share_a_device_and_its_ledger(patterns):
    """Ten threads at once: every answer is right, and every frame counted."""
    opu = SimulatedOPU(60, 40)
    expected = {k: SimulatedOPU(60, 40).linear_transform(patterns(5, 60, seed=k)) for k in range(10)}
    with ThreadPoolExecutor(10) as pool:
        seen = list(pool.map(lambda k: opu.linear_transform(patterns(5, 60, seed=k)), range(10)))
    assert all(torch.equal(seen[k], expected[k]) for k in range(10))
    assert opu.usage.frames == 10 * 5 * 2


def test_the_speckle_of_many_rows_is_that_of_each(patterns):
    """Beyond the rows simulated at a time, with everything on that touches the field."""
    opu = SimulatedOPU(20, 30, preset="appliance")
    x = patterns(1_100, 20)
    assert torch.equal(opu.speckle(x)[:, 1_090:], opu.speckle(x[1_090:]))
    assert torch.allclose(opu.ideal(x), opu.speckle(x)[0], atol=1e-2)  # the anchor's phase has hardly turned


@pytest.mark.parametrize("preset", ["ideal", "noisy-8bit", "off-axis", "anchor", "appliance", "flaky"])
@pytest.mark.parametrize(("n", "m", "batch"), [(1, 1, 1), (1, 70, 3), (65, 1, 2), (1500, 3, 1)])
def test_every_preset_takes_every_size(preset, n, m, batch, patterns):
    opu = SimulatedOPU(n, m, preset=preset)
    opu.backoff = 0
    assert opu.transform(patterns(batch, n)).shape == (batch, m)
    y = opu.linear_transform(patterns(batch, n) * 0.3 - 0.1)
    assert y.shape == (batch, m)
    assert torch.isfinite(y).all()


def test_off_axis_holography_refuses_bad_pixels():
    with pytest.raises(DeviceInputError, match="off-axis holography spreads a bad pixel over its line"):
        Preset(camera=Camera(dead=0.01), holography=OffAxis())


def test_what_changes_the_matrix_changes_the_identity():
    names = ("ideal", "noisy-8bit", "off-axis", "anchor", "appliance")
    identities = {name: SimulatedOPU(30, 20, preset=name).identity for name in names}
    assert identities["ideal"] == identities["noisy-8bit"] == identities["off-axis"]
    assert len(set(identities.values())) == 3


@pytest.mark.parametrize("preset", ["ideal", "noisy-8bit"])
def test_a_zero_row_projects_to_nothing_beside_small_ones(preset):
    opu = SimulatedOPU(40, 500, preset=preset)
    rows = torch.randn(3, 40, generator=torch.Generator().manual_seed(0)) * 1e-6
    rows[1] = 0
    y = opu.linear_transform(rows)
    assert (y[1] == 0).all()
    assert 0.5e-6 < y[0].std() < 2e-6


@pytest.mark.parametrize("value", [1e31, 1e300])
def test_numbers_beyond_float32_are_refused(value):
    with pytest.raises(DeviceInputError, match=r"must be below 1e\+30, got 1e"):
        SimulatedOPU(4, 4).linear_transform(torch.full((1, 4), value, dtype=torch.float64))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: torch.ones(2, 8).to_sparse(), "dense tensors of ordinary numbers, got torch.sparse_coo"),
        (lambda: torch.ones(2, 8, device="meta"), "dense tensors of ordinary numbers"),
        (lambda: np.ma.masked_array(np.ones((2, 8)), np.zeros((2, 8))), "no use for a mask"),
    ],
)
def test_arrays_that_are_no_plain_numbers_are_refused(make, says):
    with pytest.raises(DeviceInputError, match=says):
        SimulatedOPU(8, 3).transform(make())


def test_the_ideal_preset_injects_faults_too():
    opu = SimulatedOPU(8, 4, preset=replace(PRESETS["ideal"], faults=Faults(lasting_after=0)))
    opu.backoff = 0
    with pytest.raises(DeviceFault):
        opu.linear_transform(torch.full((1, 8), 0.3))
    assert opu.usage.frames == 0


def test_a_fault_in_the_middle_of_a_batch_loses_nothing(monkeypatch, patterns):
    monkeypatch.setattr("hardware.opu._AT_ONCE", 16 * 40 * 2)
    x = patterns(10, 30) * 0.7 - 0.3
    faulty = replace(PRESETS["noisy-8bit"], faults=Faults(lasting_after=2))
    opu, sound = SimulatedOPU(30, 40, preset=faulty), SimulatedOPU(30, 40, preset="noisy-8bit")
    opu.backoff = 0
    with pytest.raises(DeviceFault):
        opu.linear_transform(x)
    assert opu.usage.frames == 0
    opu.preset = PRESETS["noisy-8bit"]
    assert torch.equal(opu.linear_transform(x), sound.linear_transform(x))


def test_the_state_of_a_device_elsewhere_is_kept_for_it():
    """A run begun on a GPU goes on without one; what belongs to the GPU's stream waits for it."""
    opu = SimulatedOPU(8, 4)
    opu._saved_streams["cuda:0"] = np.arange(16, dtype=np.uint8)
    opu.generator(torch.device("cpu"))
    other = SimulatedOPU(8, 4)
    other.load_state(opu.state())
    assert other._saved_streams.keys() == {"cuda:0", "cpu"}
    other.transform(torch.ones(1, 8))
    with pytest.raises(DeviceFault, match="not the state of a device, or it is damaged"):
        other.load_state(torch.arange(50, dtype=torch.uint8))
