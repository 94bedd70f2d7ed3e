"""Each effect of the camera against its closed form."""

import math

import pytest
import torch
from scipy import stats

from hardware import Camera, DeviceInputError, SimulatedOPU
from hardware.camera import beam_profile, digitise, grain_weights, laser_power, read_noise, shot_noise, speckle_grain
from hardware.randomness import Frames, Noise

CPU = torch.device("cpu")
N = 200_000


def normal(effect="test", frames=1, width=N):
    return Noise(0).normal(effect, Frames(0, frames), 0, width, CPU)


def test_the_noise_is_gaussian():
    draw = normal()[0].double()
    assert stats.kstest(draw.numpy(), "norm").pvalue > 1e-3
    assert draw.var().item() == pytest.approx(1, abs=4 * (2 / N) ** 0.5)
    assert stats.kurtosis(draw.numpy()) == pytest.approx(0, abs=4 * (24 / N) ** 0.5)


def test_noise_belongs_to_its_frame_and_pixel():
    """Any window of any batch shows the same numbers; another effect, seed or frame shows others."""
    whole = Noise(3).normal("shot", Frames(0, 40), 0, 300, CPU)
    assert torch.equal(Noise(3).normal("shot", Frames(7, 5, 2), 33, 100, CPU), whole[7:17:2, 33:133])
    others = (Noise(4).normal("shot", Frames(0, 40), 0, 300, CPU), Noise(3).normal("read", Frames(0, 40), 0, 300, CPU))
    for other in others:
        assert abs(torch.corrcoef(torch.stack((whole.flatten(), other.flatten())))[0, 1]) < 4.5 / 12_000**0.5
    assert torch.corrcoef(whole).triu(1).abs().max() < 5.5 / 300**0.5


def test_shot_noise_has_the_variance_of_its_electrons():
    signal = torch.full((1, N), 0.3)
    noisy = shot_noise(signal, 10_000, normal())
    assert noisy.var().item() == pytest.approx(0.3 / 10_000, rel=4 * (2 / N) ** 0.5)
    assert noisy.mean().item() == pytest.approx(0.3, abs=4 * (0.3 / 10_000 / N) ** 0.5)


def test_read_noise_does_not_depend_on_the_signal():
    for level in (0.0, 0.7):
        noisy = read_noise(torch.full((1, N), level), 0.002, normal())
        assert noisy.std().item() == pytest.approx(0.002, rel=4 / (2 * N) ** 0.5)


@pytest.mark.parametrize("bits", [2, 8, 12, 16])
def test_quantisation_error_is_uniform_in_a_step(bits):
    signal = torch.rand(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = 1 / (2**bits - 1)
    error = digitise(signal, bits) * step - signal
    assert error.abs().max() <= step / 2 + 1e-12
    assert error.std().item() == pytest.approx(step / 12**0.5, rel=0.02)


@pytest.mark.parametrize("exposure", [2, 4, 8])
def test_the_saturated_fraction_of_a_speckle_is_exponential_in_full_scale(exposure, noiseless, patterns):
    """P(I > full scale) = exp(-full scale / mean); the reference's 1.8 % at 4 times the mean, 0.03 % at 8."""
    opu = SimulatedOPU(200, 100_000, preset=noiseless(exposure=exposure))
    x = patterns(1, 200)
    expected = math.exp(-exposure * 65_534.5 / 65_535 / (2 * x.mean().item()))
    saturated = (opu.transform(x) == 65_535).float().mean().item()
    assert saturated == pytest.approx(expected, abs=4 * (expected / 100_000) ** 0.5)


def test_dead_pixels_read_nothing_and_hot_ones_too_much(noiseless, patterns):
    opu = SimulatedOPU(50, N, preset=noiseless(dead=0.02, hot=0.01))
    dark, bright = opu.transform(torch.zeros(1, 50))[0], opu.transform(patterns(30, 50)).amax(dim=0)
    assert (bright == 0).float().mean().item() == pytest.approx(0.02, abs=4 * (0.02 / N) ** 0.5)
    hot = dark > 0
    assert hot.float().mean().item() == pytest.approx(0.01, abs=4 * (0.01 / N) ** 0.5)
    assert dark[hot].min() >= 0.2 * 65_535 - 1


def test_bad_pixels_stay_where_they_are_whatever_the_noise_seed(noiseless):
    def dark(noise_seed, n):
        return SimulatedOPU(5, n, noise_seed=noise_seed, preset=noiseless(hot=0.1)).transform(torch.zeros(1, 5))[0]

    assert torch.equal(dark(1, 500), dark(2, 800)[:500])


@pytest.mark.parametrize("grain", [0.3, 0.7, 1.5, 3.0])
def test_neighbouring_fields_correlate_as_a_gaussian_of_their_distance(grain):
    weights = grain_weights(grain)
    field = speckle_grain(normal(width=N + len(weights) - 1), weights)[0].double()
    assert field.var().item() == pytest.approx(1, rel=6 * max(1, grain) ** 0.5 * (2 / N) ** 0.5)
    for distance in (1, 2, 4):
        seen = (field[:-distance] * field[distance:]).mean().item()
        assert seen == pytest.approx(math.exp(-((distance / grain) ** 2)), abs=2e-3 + 4 * max(1, grain) ** 0.5 / N**0.5)


def test_grain_of_zero_changes_nothing():
    assert grain_weights(0) == [1.0]


def test_grain_keeps_outputs_prefix_stable(noiseless, patterns):
    few, many = (SimulatedOPU(50, m, preset=noiseless(grain=1.5)) for m in (10, 333))
    assert torch.equal(few.transform(patterns(3, 50)), many.transform(patterns(3, 50))[:, :10])


def test_laser_power_decorrelates_exponentially():
    """Averaged over seeds: variance rms² and correlation exp(-t/time)."""
    frames = torch.tensor([0.0, 50, 100, 300], dtype=torch.float64)
    power = torch.stack([laser_power(frames, 0.01, 100, Noise(seed)) for seed in range(4_000)]).double() / 0.01
    power -= 100
    covariance = power.T @ power / len(power)
    expected = torch.exp(-(frames[:, None] - frames).abs() / 100)
    assert (covariance - expected).abs().max() < 4.5 * (2 / len(power)) ** 0.5


def test_laser_drift_scales_whole_frames(noiseless, patterns):
    x = patterns(1, 80).repeat(200, 1)
    steady = SimulatedOPU(80, 3_000, preset=noiseless(exposure=32)).transform(x)
    drifting = SimulatedOPU(80, 3_000, preset=noiseless(exposure=32, laser_rms=0.05, laser_time=20)).transform(x)
    gain = drifting.double().sum(dim=1) / steady.double().sum(dim=1)
    expected = laser_power(torch.arange(200, dtype=torch.float64), 0.05, 20, Noise(0))
    assert torch.allclose(gain, expected.double(), rtol=1e-3)


def test_the_beam_lights_the_centre_more_and_the_mean_as_before(noiseless):
    profile = beam_profile(900, 1.0)
    assert profile.square().mean().item() == pytest.approx(1)
    amplitude = profile.view(30, 30)
    ratio = (amplitude[0, 0] / amplitude[14, 14]).item()
    assert ratio == pytest.approx(math.exp(-1), rel=0.01)  # a corner is one half-diagonal from the centre
    corner, centre = torch.zeros(2, 900)
    corner[0], centre[14 * 30 + 14] = 1, 1
    opu = SimulatedOPU(900, 20_000, preset=noiseless(beam_radius=1.0, exposure=0.05))
    dim, bright = opu.transform(torch.stack((corner, centre))).double().mean(dim=1)
    # Intensities go as the square; exponential speckle has a relative standard error of 1/√m.
    assert (dim / bright).item() == pytest.approx(ratio**2, rel=4 * (2 / 20_000) ** 0.5 + 0.02)
    full = SimulatedOPU(900, 20_000, preset=noiseless(beam_radius=1.0, exposure=64))
    mean = full.transform(torch.ones(1, 900)).double().mean().item() * full.intensity_per_count
    assert mean == pytest.approx(2, rel=4 / 20_000**0.5)


def test_counts_of_more_than_eight_bits_are_int32(noiseless, patterns):
    counts = SimulatedOPU(20, 30, preset=noiseless(bits=12)).transform(patterns(2, 20))
    assert counts.dtype == torch.int32
    assert counts.max() <= 4095


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"bits": 1}, "from 2 to 16 bits, got bits=1"),
        ({"bits": 8.0}, "got bits=8.0"),
        ({"full_well": 0}, "full_well is a positive number of electrons or None, got 0"),
        ({"read_noise": -1}, "read_noise must be at least 0 .* got -1"),
        ({"grain": math.nan}, "grain must be at least 0 and below 100, got nan"),
        ({"dead": 0.6, "hot": 0.5}, "fractions of the pixels, got 0.6 and 0.5"),
        ({"laser_time": 0}, "laser_time is a positive number"),
    ],
)
def test_impossible_cameras_are_refused(arguments, says):
    with pytest.raises(DeviceInputError, match=says):
        Camera(**arguments)
