"""What calibration finds is what the preset put there; drift costs what it must, and calibrating again restores it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from hardware import (
    PRESETS,
    Anchor,
    Calibration,
    Camera,
    DeviceFault,
    DeviceInputError,
    PhaseShifting,
    Preset,
    SimulatedOPU,
)
from hardware.calibration import _ks_distance, good_pixels

CLEAN = Camera(bits=12, full_well=None, read_noise=0)


def test_the_mask_finds_the_bad_pixels_and_no_others(noiseless):
    opu = SimulatedOPU(100, 4_000, preset=noiseless(PhaseShifting(), dead=0.02, hot=0.02, spare=0.1))
    raw = SimulatedOPU(100, 4_400, preset=noiseless(PhaseShifting(), dead=0.02, hot=0.02))
    draw = torch.randint(0, 2, (40, 100), generator=torch.Generator().manual_seed(5))
    hot = raw.transform(torch.zeros(1, 100, dtype=torch.uint8))[0] > 0
    dead = raw.transform(draw).amax(dim=0) == 0
    good = torch.nonzero(~(hot | dead))[:4_000, 0].numpy()
    calibration = opu.calibrate()
    assert np.array_equal(calibration.pixels, good)
    assert calibration.masked == pytest.approx(1 - 4_000 / (good[-1] + 1))
    # The laser's measured power, 1 within √(1/4,000/32) by the speckle's own statistics, sets the exposure.
    exposure = 1 / calibration.gain
    assert exposure == pytest.approx(1, abs=4 / (4_000 * 32) ** 0.5)
    seen, expected = opu.transform(draw), raw.transform(draw)[:, good]
    assert (seen - expected * exposure)[expected < 65_535].abs().max() <= 1


@pytest.mark.parametrize("grain", [0, 0.7])
def test_weak_anchors_are_masked_as_often_as_the_exponential_says(grain):
    preset = PRESETS["anchor"]
    opu = SimulatedOPU(200, 20_000, preset=replace(preset, camera=replace(preset.camera, grain=grain)))
    expected = 1 - math.exp(-0.1)
    assert opu.calibrate().masked == pytest.approx(expected, abs=4 * (expected / 20_000) ** 0.5)


def test_too_few_good_pixels_is_a_fault_that_names_the_numbers(noiseless):
    opu = SimulatedOPU(20, 500, preset=noiseless(PhaseShifting(), dead=0.5, spare=0.1))
    with pytest.raises(DeviceFault, match=r"only \d+ of 550 camera pixels are fit to use, 500 are needed"):
        opu.calibrate()


def test_calibration_measures_the_lasers_power(patterns):
    """A laser whose power wanders by tens of per cent: counts and projections come back to scale."""
    camera = replace(CLEAN, laser_rms=0.2, laser_time=1e9)  # stands still while it is measured
    preset = Preset(camera=camera, holography=PhaseShifting(), exposure=32)
    opu, ideal = SimulatedOPU(300, 5_000, preset=preset, noise_seed=3), SimulatedOPU(300, 5_000)
    x = patterns(20, 300)
    before = (opu.linear_transform(x).norm() / ideal.linear_transform(x).norm()).item()
    laser = opu.calibrate().gain
    after = (opu.linear_transform(x).norm() / ideal.linear_transform(x).norm()).item()
    assert before == pytest.approx(laser, rel=0.01)
    assert abs(laser - 1) > 0.05
    assert after == pytest.approx(1, rel=0.01)
    mean = opu.transform(x).double().mean().item() * opu.intensity_per_count
    assert mean == pytest.approx(2 * x.mean().item(), rel=0.02)


def test_the_medium_decorrelates_exponentially_and_calibration_restores_fidelity(patterns):
    """The correlation with the calibrated projection falls as exp(-frames / medium_time), from whenever it was made."""
    time, m = 4_000, 20_000
    opu = SimulatedOPU(100, m, preset=Preset(camera=CLEAN, holography=PhaseShifting(2), medium_time=time))
    x = patterns(4, 100)

    def correlation():
        measured = opu.linear_transform(x)  # ideal() is the matrix as it was at the calibration
        return torch.corrcoef(torch.stack((measured.flatten(), opu.ideal(x).flatten())))[0, 1].item()

    for _ in range(2):
        calibrated = opu.usage.frames
        opu.calibrate()
        # cos of a Cauchy distributed turn: Var ≤ 1/2 a pixel, the four patterns share their pixels.
        for wait in (0, 1_000, 3_000):
            if wait:
                opu.transform(x[:1].repeat(wait, 1))
            elapsed = opu.usage.frames - calibrated
            expected = math.exp(-elapsed / time)
            assert correlation() == pytest.approx(expected, abs=4 * (0.5 / m) ** 0.5 + 0.005)


def test_a_stale_anchor_costs_fidelity_until_it_is_measured_again(patterns):
    opu = SimulatedOPU(100, 1_000, preset=Preset(camera=CLEAN, holography=Anchor(), medium_time=20_000, spare=0.4))
    opu.calibrate()
    fresh = opu.fidelity(16)
    opu.transform(patterns(1, 100).repeat(4_000, 1))
    stale = opu.fidelity(16)
    opu.calibrate()
    again = opu.fidelity(16)
    assert stale.relative_error > 3 * fresh.relative_error
    assert again.relative_error < 1.5 * fresh.relative_error
    assert again.correlation > 0.995


def test_calibration_survives_its_file(tmp_path, patterns):
    first = SimulatedOPU(100, 200, preset="appliance")
    first.calibrate().save(tmp_path / "opu.npz")
    loaded = Calibration.load(tmp_path / "opu.npz")
    second = SimulatedOPU(100, 200, preset="appliance", calibration=loaded)
    x = patterns(3, 100)
    assert torch.equal(second.ideal(x), first.ideal(x))
    assert np.array_equal(loaded.pixels, first.calibration.pixels)
    assert second.usage.frames == 0
    assert [p.name for p in tmp_path.iterdir()] == ["opu.npz"]


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: None, "there is no calibration at"),
        (lambda path: path.write_bytes(b""), "is not a calibration"),
        (lambda path: path.write_bytes(b"hello"), "is not a calibration"),
        (lambda path: np.savez(path, a=np.zeros(3)), "is not a calibration"),
        (lambda path: np.savez(path, a=np.array([{}], dtype=object)), "is not a calibration"),
    ],
)
def test_a_damaged_calibration_is_refused(write, says, tmp_path):
    path = tmp_path / "opu.npz"
    write(path)
    with pytest.raises(DeviceInputError, match=says):
        Calibration.load(path)


def test_the_calibration_of_another_device_is_refused():
    other = SimulatedOPU(50, 20, seed=1, preset="anchor").calibrate()
    with pytest.raises(DeviceInputError, match=r"of \[simulated dense medium, seed 1.*seed 2.*calibrate it"):
        SimulatedOPU(50, 20, seed=2, preset="anchor", calibration=other)


def test_a_device_with_an_anchor_calibrates_itself_once(patterns):
    opu = SimulatedOPU(50, 20, preset="anchor")
    opu.transform(patterns(3, 50))
    assert opu.usage.frames == 3 + 8 + 32 + 16
    opu.linear_transform(patterns(3, 50))
    assert opu.usage.frames == 3 + 8 + 32 + 16 + 6


def test_state_carries_the_calibration(patterns):
    x = patterns(5, 50)
    first = SimulatedOPU(50, 20, preset="appliance")
    first.linear_transform(x)
    second = SimulatedOPU(50, 20, preset="appliance")
    second.load_state(first.state())
    assert torch.equal(second.linear_transform(x), first.linear_transform(x))
    assert second.usage == first.usage


def test_fidelity_of_the_ideal_device_is_perfect():
    seen = SimulatedOPU(800, 5_000).fidelity()
    assert seen.correlation == pytest.approx(1)
    assert seen.relative_error == 0
    assert seen.snr == math.inf
    assert seen.reference == "ideal projection"
    assert seen.ks_exponential < 0.01
    assert seen.ks_gaussian < 0.02  # patterns share 5,000 rows: Kolmogorov's 1.95/√5,000 is not exceeded once in 1,000
    assert seen.masked == 0


def test_fidelity_reports_what_the_camera_does():
    """Against figures computed here: SNR from the error, saturation from the exponential."""
    opu = SimulatedOPU(500, 3_000, preset=replace(PRESETS["noisy-8bit"], exposure=2))
    seen = opu.fidelity(48)
    assert seen.saturated == pytest.approx(math.exp(-2 * 254.5 / 255), rel=0.05)
    assert seen.snr == pytest.approx(1 / seen.relative_error**2, rel=0.15)
    assert seen.correlation == pytest.approx(1 / (1 + 1 / seen.snr) ** 0.5, abs=3e-4)
    counts = torch.rand(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert _ks_distance(counts) == pytest.approx(stats.kstest(counts.numpy(), "uniform").statistic)


def test_fidelity_without_a_known_matrix_uses_additivity(monkeypatch):
    opu = SimulatedOPU(500, 1_000, preset="noisy-8bit")
    known = opu.fidelity(16)
    monkeypatch.setattr(SimulatedOPU, "ideal", lambda self, x: None)
    seen = SimulatedOPU(500, 1_000, preset="noisy-8bit").fidelity(16)
    assert seen.reference == "additivity"
    # Three measurements' noise in place of one's: the whole at full exposure, two halves at half the light each.
    assert seen.relative_error == pytest.approx(known.relative_error * 2**0.5, rel=0.2)


def test_fidelity_draws_its_figure(tmp_path):
    SimulatedOPU(50, 100, preset="noisy-8bit").fidelity(8).figure(tmp_path / "fidelity.png")
    assert (tmp_path / "fidelity.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("n_probes", [0, 1, -3])
def test_fidelity_of_no_probes_is_refused(n_probes):
    with pytest.raises(DeviceInputError, match=f"takes 2 probes at least, got {n_probes}"):
        SimulatedOPU(50, 100).fidelity(n_probes)


@pytest.mark.parametrize("name", ["anchor", "appliance"])
def test_the_matrix_is_the_seeds_whatever_the_noise_and_the_number_of_outputs(name, patterns):
    x = patterns(5, 100)
    whole = SimulatedOPU(100, 3_000, preset=name).ideal(x)
    assert torch.equal(SimulatedOPU(100, 3_000, noise_seed=7, preset=name).ideal(x), whole)
    assert torch.equal(SimulatedOPU(100, 1_000, preset=name).ideal(x), whole[:, :1_000])


@pytest.mark.parametrize("name", ["anchor", "appliance"])
def test_calibrating_again_keeps_every_output_on_its_pixel(name, patterns):
    opu = SimulatedOPU(100, 3_000, preset=name)
    x = patterns(5, 100)
    before = opu.ideal(x)
    pixels = opu.calibration.pixels
    opu.calibrate()
    assert np.array_equal(opu.calibration.pixels, pixels)
    same = torch.corrcoef(torch.stack((opu.ideal(x).flatten(), before.flatten())))[0, 1].item()
    assert same > 0.9999  # 56 frames of drift in 10 million


def test_a_pixel_that_is_lost_is_replaced_and_the_others_stay():
    fit = np.ones(12, bool)
    assert good_pixels(fit, 10).tolist() == list(range(10))
    fit[[3, 10]] = False
    assert good_pixels(fit, 10, np.arange(10)).tolist() == [0, 1, 2, 11, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("exposure", [1, 2, 4, 8])
def test_saturation_does_not_bias_the_measured_power(exposure, patterns):
    """At full scale of the mean intensity, a third of the pixels saturate."""
    camera = Camera(bits=12, full_well=None, read_noise=0)
    opu = SimulatedOPU(2_000, 4_000, preset=Preset(camera=camera, holography=PhaseShifting(), exposure=exposure))
    gain = opu.calibrate().gain
    # Of 4,000 x 32 exponentials, those below full scale count; a pattern's own norm varies by 1/√2,000.
    below = 4_000 * 32 * (1 - math.exp(-exposure))
    assert gain == pytest.approx(1, abs=4 / below**0.5 + 1e-3)


def test_a_calibration_goes_on_in_time(tmp_path, patterns):
    """A device opened with it continues where it was made: the medium has not drifted, no frame's noise comes twice."""
    preset = Preset(camera=CLEAN, holography=PhaseShifting(2), medium_time=2_000)
    first = SimulatedOPU(100, 5_000, preset=preset)
    first.transform(patterns(1, 100).repeat(6_000, 1))
    first.calibrate().save(tmp_path / "opu.npz")
    second = SimulatedOPU(100, 5_000, preset=preset, calibration=Calibration.load(tmp_path / "opu.npz"))
    x = patterns(4, 100)
    assert torch.equal(second.ideal(x), first.ideal(x))
    assert torch.equal(second.linear_transform(x), first.linear_transform(x))
    assert second.usage.frames == 4 * 2


def test_a_calibration_that_does_not_fit_is_refused(noiseless):
    def open_with(spare, calibration=None):
        preset = noiseless(PhaseShifting(), dead=0.3, spare=spare)
        return SimulatedOPU(20, 50, preset=preset, calibration=calibration)

    made = open_with(1.0).calibrate()
    with pytest.raises(DeviceInputError, match="looked at 100 pixels of another camera, or is damaged"):
        open_with(0.1, made)
    with pytest.raises(DeviceInputError, match="or is damaged"):
        open_with(1.0, replace(made, pixels=np.zeros(50, np.int64)))


def test_every_cut_of_a_calibration_file_is_refused(tmp_path):
    path = tmp_path / "opu.npz"
    SimulatedOPU(20, 50, preset="anchor").calibrate().save(path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        with pytest.raises(DeviceInputError, match="is not a calibration"):
            Calibration.load(path)
