"""Transient faults are nobody's business but the ledger's; lasting ones lose nothing."""

import logging
from dataclasses import replace

import pytest
import torch

from hardware import PRESETS, DeviceFault, Faults, SimulatedOPU


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr("hardware.opu.time.sleep", lambda seconds: waits.append(seconds))
    waits.clear()


waits: list[float] = []


def test_a_flaky_device_gives_the_same_numbers_as_a_sound_one(caplog, patterns):
    sound, flaky = SimulatedOPU(60, 40, preset="noisy-8bit"), SimulatedOPU(60, 40, preset="flaky")
    with caplog.at_level(logging.WARNING, logger="hardware"):
        for seed in range(40):
            x = patterns(3, 60, seed)
            assert torch.equal(flaky.transform(x), sound.transform(x))
            assert torch.equal(flaky.linear_transform(x * 0.3 - 0.1), sound.linear_transform(x * 0.3 - 0.1))
    retries = flaky.usage.retries
    # 80 measurements, each failing with probability 1/5 at every attempt: 20 retries, standard deviation 5.
    assert 20 - 4 * 5 < retries < 20 + 4 * 5
    assert retries >= 1
    assert sound.usage == replace(flaky.usage, retries=0)
    assert len(caplog.records) == retries == len(waits)
    assert "transient device fault, asking again" in caplog.text


def test_waits_double():
    opu = SimulatedOPU(8, 4, preset=replace(PRESETS["noisy-8bit"], faults=Faults(lasting_after=0)))
    with pytest.raises(DeviceFault):
        opu.transform(torch.ones(1, 8))
    assert waits == [opu.backoff * 2**k for k in range(opu.retries)]


def test_a_lasting_fault_loses_nothing(patterns):
    """After it, the ledger and every random stream are as before: asked again, the device answers as if nothing was."""
    x = patterns(4, 60) * 0.4 - 0.1
    faulty = replace(PRESETS["noisy-8bit"], faults=Faults(lasting_after=2))
    opu, sound = SimulatedOPU(60, 40, preset=faulty), SimulatedOPU(60, 40, preset="noisy-8bit")
    for device in (opu, sound):
        device.transform(patterns(4, 60))
        device.linear_transform(x)
    used = opu.usage
    with pytest.raises(DeviceFault, match=r"failed 6 times in a row, last with: injected.*Nothing was changed"):
        opu.linear_transform(x)
    assert opu.usage == replace(used, retries=5)
    opu.preset = PRESETS["noisy-8bit"]  # mended
    assert torch.equal(opu.linear_transform(x), sound.linear_transform(x))


def test_a_probability_beyond_one_is_refused():
    with pytest.raises(ValueError, match="is a probability, got 2"):
        Faults(transient=2)
