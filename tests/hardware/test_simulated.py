"""The simulated device against the physics it stands for."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from hardware import DeviceFault, DeviceInputError, SimulatedOPU, Usage
from hardware.camera import Camera
from hardware.holography import PhaseShifting
from hardware.presets import Preset

FINE = Camera(bits=16, full_well=None)


def patterns(batch: int, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 2, (batch, n), generator=torch.Generator().manual_seed(seed)).float()


def test_intensity_is_exponential_with_mean_two_norms_over_n():
    opu = SimulatedOPU(500, 20_000, preset=Preset(camera=Camera(full_well=None), holography=None, exposure=64))
    x = patterns(1, 500)
    real, imaginary = opu._medium.field(x)
    intensity = (real**2 + imaginary**2)[0]
    mean = 2 * x.sum().item() / 500
    assert intensity.mean().item() == pytest.approx(mean, abs=4 * mean / 20_000**0.5)
    assert stats.kstest(intensity.numpy(), "expon", args=(0, mean)).pvalue > 1e-3


def test_counts_are_the_rounded_intensity_and_saturate():
    opu = SimulatedOPU(200, 5_000, preset="ideal")
    x = torch.ones(1, 200)
    real, imaginary = opu._medium.field(x)
    expected = ((real**2 + imaginary**2) / opu.preset.exposure * 255).round().clamp(0, 255)
    counts = opu.transform(x)
    assert counts.dtype == torch.uint8
    assert torch.equal(counts.float(), expected)
    # A full-on pattern is twice as bright as the half-on one exposed for: e^-4 of its speckle saturates.
    saturated = (counts == 255).float().mean().item()
    p = math.exp(-4 * 254.5 / 255)
    assert saturated == pytest.approx(p, abs=4 * (p / 5_000) ** 0.5)


def test_intensity_kernel_is_that_of_a_complex_gaussian_medium():
    """E[I(x)I(y)] = (2/n)² (‖x‖²‖y‖² + (x·y)²)."""
    n, m = 60, 200_000
    opu = SimulatedOPU(n, m)
    x, y = patterns(2, n, seed=3)
    fields = opu._medium.field(torch.stack((x, y)))
    product = (fields[0] ** 2 + fields[1] ** 2).prod(dim=0)
    expected = (2 / n) ** 2 * (x.sum() * y.sum() + (x @ y) ** 2)
    standard_error = product.std() / m**0.5
    assert abs(product.mean() - expected) < 3 * standard_error


def test_linear_outputs_are_gaussian_with_variance_norm_over_n():
    opu = SimulatedOPU(300, 20_000)
    x = torch.randn(1, 300, generator=torch.Generator().manual_seed(1)).sign()
    y = opu.linear_transform(x)[0]
    assert stats.kstest(y.numpy(), "norm", args=(0, 1)).pvalue > 1e-3


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


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_noiseless_phase_shifting_recovers_the_projection(steps):
    opu = SimulatedOPU(100, 500, preset=Preset(camera=FINE, holography=PhaseShifting(steps)))
    x = torch.ones(4, 100)
    measured, exact = opu.linear_transform(x), SimulatedOPU(100, 500).linear_transform(x)
    amplitude = torch.hypot(*opu._medium.field(x))
    exposed = amplitude < 2.5 * math.sqrt(2)  # rms of a full-on pattern is √2; beyond 2.5 times that a pixel saturates
    assert exposed.float().mean() > 0.99
    count = (5 * math.sqrt(2)) ** 2 / 65_535  # one of 16 bits, in intensity
    assert (measured - exact)[exposed].abs().max() <= count / (2 * 2.5 * math.sqrt(2)) + 1e-6


def test_quantisation_error_of_two_steps_is_that_of_the_docstring():
    holography = PhaseShifting(2, reference=2.5)
    preset = Preset(camera=Camera(bits=8, full_well=None), holography=holography)
    x = torch.ones(1, 400)
    error = SimulatedOPU(400, 20_000, preset=preset).linear_transform(x) - SimulatedOPU(400, 20_000).linear_transform(x)
    rms = math.sqrt(2)  # √(2‖x‖²/n) of a full-on pattern
    predicted = math.sqrt(2) * (2.5 + 2.5) ** 2 / (255 * math.sqrt(12) * 4 * 2.5)
    unsaturated = error[error.abs() < 4 * predicted * rms]
    assert len(unsaturated) > 0.99 * error.numel()
    assert unsaturated.std().item() / rms == pytest.approx(predicted, rel=0.05)


def test_shot_noise_of_the_camera_has_the_variance_of_its_electrons():
    camera = Camera(bits=16, full_well=10_000, read_noise=20)
    signal = torch.full((200_000,), 0.3)
    counts = camera.counts(signal, 1.0, torch.Generator().manual_seed(0)) / camera.levels
    expected = (3_000 + 20**2) ** 0.5 / 10_000
    assert counts.std().item() == pytest.approx(expected, rel=4 / (2 * 200_000) ** 0.5)
    assert counts.mean().item() == pytest.approx(0.3, abs=4 * expected / 200_000**0.5)


def test_first_components_do_not_change_when_more_are_asked_for():
    few, many = SimulatedOPU(50, 10, seed=4), SimulatedOPU(50, 33, seed=4)
    x = patterns(3, 50)
    assert torch.equal(few.transform(x), many.transform(x)[:, :10])
    assert torch.equal(few.linear_transform(x), many.linear_transform(x)[:, :10])


def test_noise_has_a_seed_of_its_own():
    x = patterns(5, 50)

    def measure(noise_seed):
        return SimulatedOPU(50, 20, seed=1, noise_seed=noise_seed, preset="noisy-8bit").linear_transform(x)

    assert torch.equal(measure(1), measure(1))
    assert not torch.equal(measure(1), measure(2))
    assert torch.allclose(measure(1), measure(2), atol=0.3)


def test_the_global_generator_is_not_touched():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    SimulatedOPU(50, 20, preset="noisy-8bit").linear_transform(patterns(5, 50) * 0.3 - 0.1)
    assert torch.equal(torch.get_rng_state(), before)


def test_numpy_in_numpy_out_with_the_same_numbers():
    x = patterns(5, 50)
    a, b = SimulatedOPU(50, 20), SimulatedOPU(50, 20)
    assert np.array_equal(a.transform(x.numpy()), b.transform(x).numpy())
    out = a.linear_transform(x.numpy().astype(np.float64) * 0.3)
    assert isinstance(out, np.ndarray)
    assert out.dtype == np.float32


def test_permuting_the_batch_permutes_the_output():
    opu = SimulatedOPU(50, 20)
    x = patterns(9, 50)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(opu.transform(x[order]), opu.transform(x)[order])


def test_the_ledger_counts_what_the_instrument_would_spend():
    opu = SimulatedOPU(50, 20, preset="noisy-8bit")
    opu.transform(patterns(7, 50))  # 7 frames
    opu.linear_transform(patterns(7, 50))  # one pattern a row, two frames a pattern: 14
    opu.linear_transform(patterns(7, 50) * 2 - 1)  # two patterns: 28
    opu.linear_transform(patterns(7, 50) * 0.3 + torch.arange(50) / 50)  # sixteen patterns: 224
    frames = 7 + 14 + 28 + 224
    assert opu.usage == Usage(frames, frames * 500e-6, frames * 500e-6 * 30)


def test_state_continues_noise_and_ledger():
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
        ({"n_features": 0, "n_components": 3}, "n_features must be an integer of at least 1, got 0"),
        ({"n_features": 3, "n_components": -1}, "n_components .* got -1"),
        ({"n_features": 3, "n_components": 2.5}, "got 2.5"),
        ({"n_features": 3, "n_components": 3, "preset": "perfect"}, "unknown preset 'perfect'"),
        ({"n_features": 3, "n_components": 3, "seed": -1}, "at least 0, got -1"),
    ],
)
def test_absurd_devices_are_refused(arguments, says):
    with pytest.raises(DeviceInputError, match=says):
        SimulatedOPU(**arguments)
