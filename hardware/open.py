"""One switch between the real device and the simulator."""

from __future__ import annotations

import logging

from hardware.calibration import Calibration
from hardware.errors import DeviceInputError, DeviceUnavailable
from hardware.lighton import LightOnOPU, why_unavailable
from hardware.opu import OPU
from hardware.presets import Preset
from hardware.remote import RemoteOPU
from hardware.simulated import SimulatedOPU

_log = logging.getLogger(__name__)


def open_opu(
    kind: str = "auto",
    *,
    n_features: int | None = None,
    n_components: int | None = None,
    seed: int = 0,
    noise_seed: int | None = None,
    preset: str | Preset = "ideal",
    medium: str = "dense",
    calibration: Calibration | None = None,
    token: str | None = None,
) -> OPU:
    """Open a device.

    Args:
        kind: "lighton" for the appliance, "simulated" for the simulator, "auto" for the appliance if one answers and
            else the simulator, with one log line that says so; "remote://host:port" for a device that
            `opu-dfa device serve` offers there.
        n_features, n_components: inputs and outputs; a remote device's own if None.
        seed, noise_seed, preset, medium: of the simulator (`SimulatedOPU`); the appliance's matrix is its own.
        calibration: of the device that is opened, from an earlier `calibrate`.
        token: of a remote device that asks for one; the environment variable OPU_DFA_TOKEN if None.

    Raises:
        DeviceUnavailable: "lighton" or a remote device was asked for and does not answer.
        DeviceInputError: an unknown kind or preset, a size below 1.

    >>> import torch
    >>> with open_opu("simulated", n_features=16, n_components=4) as opu:
    ...     counts = opu.transform(torch.ones(1, 16))
    >>> counts.dtype, opu.usage
    (torch.uint8, Usage(frames=1, seconds=0.0005, joules=0.015, retries=0))
    """
    if kind.startswith("remote://"):
        if calibration is not None:
            raise DeviceInputError("a remote device is calibrated where it is served; leave calibration out")
        return RemoteOPU(kind, n_features, n_components, noise_seed or 0, token)
    if kind not in ("auto", "simulated", "lighton"):
        raise DeviceInputError(
            f'unknown device {kind!r}; the kinds are "auto", "simulated", "lighton" and "remote://host:port"'
        )
    if n_features is None or n_components is None:
        raise DeviceInputError(f"n_features and n_components must be given, got {n_features} and {n_components}")
    if kind != "simulated":
        try:
            return LightOnOPU(n_features, n_components, noise_seed=noise_seed or 0, calibration=calibration)
        except DeviceUnavailable as error:
            if kind == "lighton":
                raise
            _log.warning("%s", f"simulating the device: {why_unavailable() or error}")
    return SimulatedOPU(n_features, n_components, seed, noise_seed, preset, medium, calibration)
