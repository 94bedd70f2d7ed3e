"""The appliance through the real lightonml, with a stand-in for the driver, and with lightonml's own simulation."""

import importlib
import json
import math
import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from hardware import (
    Calibration,
    DeviceFault,
    DeviceInputError,
    DeviceUnavailable,
    LightOnOPU,
    SimulatedOPU,
    lighton,
    open_opu,
)

N, M = 120, 600  # 120 divides the stand-in's 2880 lit mirrors: every feature gets as much light
PROBES = 32  # of a calibration
CALIBRATION = PROBES * 6  # frames
STANDIN = Path(__file__).parent / "standin"
DESCRIPTION = {
    "type": "type1",
    "name": "stand-in",
    "core_version": "7",
    "input": {"frametime_us": 500},
    "output": {"exposure_us": 400, "stdev": 3.7},  # a scale far off, which calibration has to replace
    "ones_range": [1_000, 1_000_000],
}


@pytest.fixture
def describe(tmp_path):
    """Writes a device description, with other values for some keys, and returns its path."""

    def write(**other):
        path = tmp_path / "opu.json"
        path.write_text(json.dumps(DESCRIPTION | other))
        return path

    return write


@pytest.fixture
def driver(monkeypatch):
    """Installs the stand-in driver and returns its class of devices."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pkg_resources warns of its own end
        import pkg_resources
    monkeypatch.syspath_prepend(str(STANDIN))
    monkeypatch.setattr(pkg_resources, "require", pkg_resources.WorkingSet([str(STANDIN)]).require)
    monkeypatch.setattr(LightOnOPU, "backoff", 0.0)
    yield importlib.import_module("lightonopu.internal.device").OpuDevice
    for name in [name for name in sys.modules if name.partition(".")[0] == "lightonopu"]:
        del sys.modules[name]


@pytest.fixture
def opu(driver, describe):
    with LightOnOPU(N, M, config_file=describe()) as opu:
        yield opu


def device_of(opu):
    """The stand-in behind an OPU."""
    return opu._device.device


def truth(opu):
    """The complex matrix `(n_features, n_pixels)` of the stand-in, its mirrors added up to features."""
    real, imaginary = device_of(opu).medium(opu.calibration.n_pixels)
    return (real + 1j * imaginary).reshape(opu.n_features, -1, real.shape[1]).sum(axis=1)


def patterns(rows, seed=0, n=N):
    return torch.randint(0, 2, (rows, n), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def ternary(rows, seed=0):
    return torch.randint(-1, 2, (rows, N), generator=torch.Generator().manual_seed(seed)).float()


def test_counts_are_what_the_camera_saw(opu):
    x = patterns(20)
    counts = opu.transform(x)
    intensity = np.abs(x.numpy() @ truth(opu)[:, :M]) ** 2
    assert counts.dtype == torch.uint8
    steps = np.abs(counts.numpy() - (20 * intensity).clip(0, 255))  # mean count 20 of a half-on pattern
    assert steps.max() <= 0.5 + 1e-3


def test_counts_are_exponential(opu):
    counts = opu.transform(patterns(1)).double()[0]
    spread = (counts + torch.rand(M, generator=torch.Generator().manual_seed(1)) - 0.5).abs()  # undo the steps
    assert stats.kstest((spread / spread.mean()).numpy(), "expon").pvalue > 1e-3


def test_intensities_have_the_unit_of_the_contract_at_any_exposure(driver, describe):
    x = patterns(40, seed=1)
    units = []
    for exposure in (400, 200):
        with LightOnOPU(N, M, config_file=describe(output={"exposure_us": exposure})) as opu:
            intensity = opu.transform(x).double() * opu.intensity_per_count
            units.append(opu.intensity_per_count)
            # Half-on patterns overlap by half: of k of them, the mean over M exponential pixels has the relative
            # variance (1/4 + 3/4k) / M. Calibration has it too.
            error = math.sqrt((1 / 2 + 3 / (4 * 40) + 3 / (4 * PROBES)) / M)
            expected = 2 * x.double().sum(dim=1).mean().item() / N
            assert intensity.mean().item() == pytest.approx(expected, rel=4 * error)
    assert units[1] == pytest.approx(2 * units[0], rel=1e-2)  # rounding to 1/20 and 1/10 of the mean


def test_linear_outputs_are_the_product_with_one_matrix(opu):
    from lightonopu.linear_reconstruction import anchor

    x = ternary(40)
    y = opu.linear_transform(x).numpy()
    medium = truth(opu)[:, :M]
    u = anchor(N) @ medium
    exact = (x.numpy() @ medium * np.conj(u / np.abs(u))).real
    # The stand-in measures |u|² in steps of a count, c ~ Exp(20). Two patterns of four counts, each of rounding
    # variance 1/12, give noise 8/12 E[1/4c] = 0.04 (c >= 1/4) beside the signal's 20 * 2/3; the error of √c where c is
    # small adds E(√(c / round c) - 1)² = 0.005; calibration 1 / (64 M).
    assert np.linalg.norm(y - exact) / np.linalg.norm(exact) < 1.2 * math.sqrt(0.003 + 0.005 + 1 / (64 * M))


def test_linear_outputs_have_the_variance_of_the_contract(opu):
    x = ternary(60, seed=5)
    ratio = opu.linear_transform(x).double().square().mean().item() / (x.square().sum(dim=1).mean().item() / N)
    # 2 / (k M) relative variance of a mean square over k independent patterns, and as much of the calibration's;
    # the anchor's direction, 1 / N of all, has twice the variance, and noise is 0.3 % (the test above).
    error = math.sqrt(2 / (60 * M) * (1 + 60 / N) + 2 / (PROBES * M) * (1 + PROBES / N))
    assert ratio == pytest.approx(1, abs=4 * error + 1 / N + 0.003)


def test_linear_outputs_of_ternary_rows_are_differences(opu):
    x = ternary(3)
    difference = opu.linear_transform((x > 0).float()) - opu.linear_transform((x < 0).float())
    assert torch.allclose(opu.linear_transform(x), difference, atol=1e-5)


def test_linear_outputs_of_real_rows_are_linear(opu):
    x = torch.randn(4, N, generator=torch.Generator().manual_seed(2))
    columns = opu.linear_transform(torch.eye(N))
    relative = (opu.linear_transform(x) - x @ columns).norm() / (x @ columns).norm()
    # A column's intensity is a 60th of a half-on pattern's, so its rounding noise, 0.02 / (20 / N), is 12 % of it.
    assert relative < 1.2 * math.sqrt(0.12 + 0.01)


def test_the_ledger_counts_the_frames_the_device_showed(opu):
    opu.transform(patterns(3))
    assert opu.usage.frames == device_of(opu).shown == CALIBRATION + 3
    opu.linear_transform(ternary(2))
    assert opu.usage.frames == device_of(opu).shown == CALIBRATION + 3 + 2 * 2 * 5


def test_the_frame_time_is_the_devices(driver, describe):
    with LightOnOPU(N, M, config_file=describe(input={"frametime_us": 100})) as opu:
        assert opu.frame_time == pytest.approx(450e-6)  # lightonml's: exposure and 50 µs
        assert opu.describe()["exposure [s]"] == pytest.approx(400e-6)


def test_a_large_batch_leaves_numpys_global_generator_alone(driver, describe):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    with LightOnOPU(N, 5, config_file=describe()) as opu:
        counts = opu.transform(patterns(1_100))
        assert torch.equal(counts[600:603], opu.transform(patterns(1_100)[600:603]))
        opu.linear_transform(patterns(220))
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


BATCHES_ONLY = {"no_single_transform": True, "input": {"frametime_us": 500, "minimum_batch_size": 8}}


@pytest.mark.parametrize("kind", [{}, BATCHES_ONLY], ids=["any", "batches only"])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 1), (N, 3)])
def test_one_row_is_a_row_of_a_batch(driver, describe, n, m, kind):
    x = patterns(3, n=n)
    with LightOnOPU(n, m, config_file=describe(**kind)) as opu:
        assert torch.equal(opu.transform(x[1:2]), opu.transform(x)[1:2])
        assert torch.equal(opu.linear_transform(x[1:2]), opu.linear_transform(x)[1:2])


def test_bad_pixels_are_replaced_by_spare_ones(opu):
    device_of(opu).stuck = {3: 0, 100: 255, 101: 30}
    counts = opu.transform(patterns(30))
    assert counts.shape == (30, M)
    assert (counts.amax(dim=0) > counts.amin(dim=0)).all()
    assert not {3, 100, 101} & set(opu.calibration.pixels.tolist())
    device_of(opu).stuck = dict.fromkeys(range(M), 0)
    with pytest.raises(DeviceFault, match="pixels are fit to use"):
        opu.calibrate()


def test_a_calibration_is_used_again(opu, describe, tmp_path):
    x = ternary(3)
    y = opu.linear_transform(x)
    opu.calibration.save(tmp_path / "calibration.npz")
    calibration = Calibration.load(tmp_path / "calibration.npz")
    with LightOnOPU(N, M, config_file=describe(), calibration=calibration) as again:
        assert torch.equal(again.linear_transform(x), y)
        assert again.usage.frames == 3 * 2 * 5
    with pickle.loads(pickle.dumps(opu)) as resumed:  # by way of state and load_state
        assert resumed.usage == opu.usage
        assert torch.equal(resumed.linear_transform(x), y)
    with pytest.raises(DeviceInputError, match="calibrate it"):
        LightOnOPU(N, M - 1, config_file=describe(), calibration=calibration)


def test_a_transient_fault_is_asked_again_and_counted(opu):
    expected = opu.transform(patterns(2))
    device_of(opu).failures = 1
    assert torch.equal(opu.transform(patterns(2)), expected)
    device_of(opu).failures = 2
    opu.linear_transform(patterns(2))
    assert opu.usage.retries == 3


def test_an_output_that_is_not_finite_is_asked_again(opu, monkeypatch):
    from lightonopu import linear_reconstruction

    x, decode = patterns(2), linear_reconstruction.decode_batch
    y = opu.linear_transform(x)
    factors = iter([math.nan, 1.0])
    monkeypatch.setattr(linear_reconstruction, "decode_batch", lambda counts: decode(counts) * next(factors))
    assert torch.equal(opu.linear_transform(x), y)
    assert opu.usage.retries == 1


def test_a_device_that_dropped_its_connection_is_opened_again(opu):
    expected = opu.transform(patterns(2))
    device_of(opu).close()
    assert torch.equal(opu.transform(patterns(2)), expected)


def test_a_lasting_fault_raises_and_the_device_can_be_asked_again(opu):
    expected, y = opu.transform(patterns(2)), opu.linear_transform(ternary(2))
    frames = opu.usage.frames
    device_of(opu).failures = math.inf
    with pytest.raises(DeviceFault, match="6 times in a row, last with: transform: RuntimeError: the camera missed"):
        opu.transform(patterns(2))
    with pytest.raises(DeviceFault, match="linear_transform"):
        opu.linear_transform(ternary(2))
    assert opu.usage.frames == frames
    device_of(opu).failures = 0
    assert torch.equal(opu.transform(patterns(2)), expected)
    assert torch.equal(opu.linear_transform(ternary(2)), y)


def test_a_fault_while_calibrating_leaves_no_half_calibration(opu):
    device_of(opu).failures = math.inf
    with pytest.raises(DeviceFault):
        opu.transform(patterns(2))
    assert opu.calibration is None
    assert opu.usage.frames == 0
    device_of(opu).failures = 0
    assert opu.intensity_per_count == pytest.approx(1 / 20, rel=0.2)


def test_wrong_input_never_reaches_the_driver(opu):
    wrong = [torch.full((2, N), math.nan), torch.ones(2, N - 1), torch.ones(N), torch.ones(0, N), [[1] * N]]
    for bad in wrong:
        for ask in (opu.transform, opu.linear_transform):
            with pytest.raises(DeviceInputError):
                ask(bad)
    with pytest.raises(DeviceInputError, match="binary"):
        opu.transform(torch.full((2, N), 0.5))
    assert device_of(opu).shown == 0


def test_sizes_beyond_the_device_are_refused_even_by_auto(driver, described):
    for n, m in ((1140 * 912 + 1, 10), (N, 2040 * 1088 + 1)):
        with pytest.raises(DeviceInputError, match="does not take"):
            open_opu("auto", n_features=n, n_components=m)


def test_lightonmls_assertions_do_not_escape(opu):
    opu.transform(patterns(2))
    opu._device.fit1d(n_features=N, online=True)
    with pytest.raises(DeviceFault, match="another user"):
        opu.transform(patterns(2))


def test_closing_twice_is_harmless_and_a_closed_device_says_so(opu):
    with opu as entered:
        assert entered is opu
        opu.transform(patterns(2))
    opu.close()
    assert not device_of(opu).active
    with pytest.raises(DeviceFault, match="closed"):
        opu.transform(patterns(2))


@pytest.fixture
def described(describe, monkeypatch, tmp_path):
    """Puts the description where LightOn installs it."""
    from lightonml.internal import config

    host = tmp_path / "host.json"
    host.write_text(json.dumps({"opu_config": str(describe())}))
    monkeypatch.setattr(config, "host_path", host)
    monkeypatch.setattr(lighton, "_DEVICE_DESCRIPTIONS", (str(host),))


@pytest.mark.parametrize("kind", ["lighton", "auto"])
def test_the_switch_takes_the_appliance_that_answers(driver, described, kind):
    with open_opu(kind, n_features=N, n_components=M) as opu:
        assert isinstance(opu, LightOnOPU)
        assert opu.identity == f"LightOn stand-in 7, {N} x {M}"
        assert opu.transform(patterns(2)).shape == (2, M)


def test_a_device_in_use_is_unavailable_and_auto_simulates(driver, described, monkeypatch):
    def busy(self):
        raise OSError("in use by another process")

    monkeypatch.setattr(driver, "open", busy)
    with pytest.raises(DeviceUnavailable, match=r"in use by another process.*open_opu\(\"simulated\""):
        open_opu("lighton", n_features=N, n_components=M)
    assert isinstance(open_opu("auto", n_features=N, n_components=M), SimulatedOPU)


def test_a_missing_or_broken_description_is_named(driver, tmp_path):
    with pytest.raises(DeviceUnavailable, match=r"no device description at .*nothing\.json.*simulated"):
        LightOnOPU(N, M, config_file=tmp_path / "nothing.json")
    (tmp_path / "empty.json").write_text("{}")
    with pytest.raises(DeviceUnavailable, match=r"KeyError: 'type'.*simulated"):
        LightOnOPU(N, M, config_file=tmp_path / "empty.json")


@pytest.mark.parametrize("missing", ["lightonml", "pkg_resources", "lightonopu"])
def test_a_missing_package_is_named(monkeypatch, describe, missing):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == missing else find("json"))
    with pytest.raises(DeviceUnavailable, match=rf"{missing}.*open_opu\(\"simulated\""):
        LightOnOPU(N, M, config_file=describe())


@pytest.fixture
def appliance():
    """LightOn's package with its own simulated device in place of the laser."""
    import lightonml  # `make setup` installs it

    device = lightonml.OPU(n_components=2_000, max_n_features=1_000, simulated=True, disable_pbar=True)
    with LightOnOPU(1_000, 2_000, device=device) as opu:
        yield opu


def test_lightonmls_simulation_projects_at_the_scale_of_the_contract(appliance):
    x = (np.random.default_rng(0).random((50, 1_000)) < 0.5).astype(np.uint8)
    y = appliance.linear_transform(x)
    ratio = (y**2).sum(1) / 2_000 / (x.sum(1) / 1_000)  # variance over ‖x‖²/n
    assert ratio.mean() == pytest.approx(1, abs=4 * (2 / 2_000) ** 0.5)
    assert appliance.usage.frames == CALIBRATION + 50 * 5


def test_lightonmls_simulation_counts_intensities(appliance):
    x = patterns(50, n=1_000)
    counts = appliance.transform(x)
    assert counts.dtype == torch.uint8
    intensity = np.abs(x.numpy() @ device_of(appliance).random_matrix) ** 2
    # Counts in steps of 1/32: half a step, and the unit to the calibration's error (two tests of the stand-in above).
    unsaturated = counts.numpy() < 255
    seen = counts.numpy() * appliance.intensity_per_count
    error = 4 * math.sqrt((1 / 4 + 3 / (4 * PROBES)) / 2_000)
    assert (np.abs(seen - intensity) <= 0.51 / 32 + error * intensity)[unsaturated].all()


def test_a_device_passed_in_cannot_be_pickled(appliance):
    with pytest.raises(DeviceUnavailable, match="keep it open"):
        pickle.dumps(appliance)
