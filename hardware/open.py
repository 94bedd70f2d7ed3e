"""One switch between the real device and the simulator."""

from __future__ import annotations

import logging

from hardware.errors import DeviceInputError, DeviceUnavailable
from hardware.lighton import LightOnOPU, why_unavailable
from hardware.opu import OPU
from hardware.presets import Preset
from hardware.simulated import SimulatedOPU

_log = logging.getLogger(__name__)


def open_opu(
    kind: str = "auto",
    *,
    n_features: int,
    n_components: int,
    seed: int = 0,
    noise_seed: int | None = None,
    preset: str | Preset = "ideal",
) -> OPU:
    """Open a device.

    Args:
        kind: "lighton" for the appliance, "simulated" for the simulator, "auto" for the appliance if one answers and
            else the simulator, with one log line that says so.
        n_features, n_components: inputs and outputs.
        seed, noise_seed, preset: of the simulator (`SimulatedOPU`); the appliance's matrix is its own.

    Raises:
        DeviceUnavailable: "lighton" was asked for and does not answer.
        DeviceInputError: an unknown kind or preset, a size below 1.

    >>> import torch
    >>> with open_opu("simulated", n_features=16, n_components=4) as opu:
    ...     counts = opu.transform(torch.ones(1, 16))
    >>> counts.dtype, opu.usage
    (torch.uint8, Usage(frames=1, seconds=0.0005, joules=0.015))
    """
    if kind not in ("auto", "simulated", "lighton"):
        raise DeviceInputError(f'unknown device {kind!r}; the kinds are "auto", "simulated" and "lighton"')
    if kind != "simulated":
        try:
            return LightOnOPU(n_features, n_components, noise_seed=noise_seed or 0)
        except DeviceUnavailable as error:
            if kind == "lighton":
                raise
            _log.warning("%s", f"simulating the device: {why_unavailable() or error}")
    return SimulatedOPU(n_features, n_components, seed, noise_seed, preset)
