"""One switch between the appliance and the simulator; the appliance through the real lightonml."""

import logging

import numpy as np
import pytest
import torch

from hardware import DeviceInputError, DeviceUnavailable, LightOnOPU, SimulatedOPU, open_opu

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


@pytest.fixture
def appliance():
    """LightOn's package with its own simulated device in place of the laser."""
    import lightonml  # `make setup` installs it

    device = lightonml.OPU(n_components=2_000, max_n_features=1_000, simulated=True, disable_pbar=True)
    with LightOnOPU(1_000, 2_000, device=device) as opu:
        yield opu


def test_lightonml_projects_at_the_scale_of_the_contract(appliance):
    x = (np.random.default_rng(0).random((50, 1_000)) < 0.5).astype(np.uint8)
    y = appliance.linear_transform(x)
    ratio = (y**2).sum(1) / 2_000 / (x.sum(1) / 1_000)  # variance over ‖x‖²/n
    assert ratio.mean() == pytest.approx(1, abs=4 * (2 / 2_000) ** 0.5)
    assert appliance.usage.frames == 50 * 5


def test_lightonml_transforms_linearly_in_signed_input(appliance):
    x = torch.randn(3, 1_000, generator=torch.Generator().manual_seed(0)).sign()
    p, q = (x > 0).float(), (x < 0).float()
    difference = appliance.linear_transform(p) - appliance.linear_transform(q)
    assert torch.allclose(appliance.linear_transform(x), difference, atol=1e-5)


def test_lightonml_counts_are_bytes(appliance):
    counts = appliance.transform(torch.ones(2, 1_000))
    assert counts.dtype == torch.uint8
    assert counts.shape == (2, 2_000)
