"""Shared by the tests of the device."""

from dataclasses import replace

import pytest
import torch

from hardware import PRESETS


@pytest.fixture
def patterns():
    """Random half-on rows: patterns(batch, n, seed=0), float."""

    def draw(batch, n, seed=0):
        return torch.randint(0, 2, (batch, n), generator=torch.Generator().manual_seed(seed)).float()

    return draw


@pytest.fixture
def noiseless():
    """A preset that differs from "ideal" by what is named, with a camera fine enough to see it."""

    def preset(holography=None, **changes):
        camera = {"bits": 16} | {k: changes.pop(k) for k in list(changes) if k in CAMERA}
        ideal = PRESETS["ideal"]
        return replace(ideal, camera=replace(ideal.camera, **camera), holography=holography, **changes)

    return preset


CAMERA = {"bits", "full_well", "read_noise", "dead", "hot", "grain", "laser_rms", "laser_time"}
