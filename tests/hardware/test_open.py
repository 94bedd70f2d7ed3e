"""One switch between the appliance and the simulator, where there is no appliance."""

import logging

import pytest

from hardware import DeviceInputError, DeviceUnavailable, SimulatedOPU, open_opu

SIZES = {"n_features": 100, "n_components": 50}


def test_auto_without_a_device_says_so_in_one_line_and_simulates(caplog):
    with caplog.at_level(logging.INFO, logger="hardware"):
        opu = open_opu("auto", **SIZES)
    assert isinstance(opu, SimulatedOPU)
    assert len(caplog.records) == 1
    assert "\n" not in caplog.records[0].getMessage()
    assert "simulating" in caplog.records[0].getMessage()


def test_lighton_without_a_device_says_what_is_missing_and_how_to_simulate():
    with pytest.raises(DeviceUnavailable, match=r"(?s)lighton.*open_opu\(\"simulated\""):
        open_opu("lighton", **SIZES)


def test_an_unknown_kind_is_refused():
    with pytest.raises(DeviceInputError, match="unknown device 'quantum'"):
        open_opu("quantum", **SIZES)
