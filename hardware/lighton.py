"""LightOn's appliance, driven through the `lightonml` package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardware.errors import DeviceFault, DeviceInputError, DeviceUnavailable
from hardware.opu import OPU

_DEVICE_DESCRIPTIONS = ("/etc/lighton/host.json", "/etc/lighton/opu.json")
_REMEDY = 'Choose open_opu("simulated", ...) (on the command line: opu=simulated) to run without a device.'


def why_unavailable() -> str | None:
    """What keeps a LightOn device from being driven on this machine, or None if nothing is known to be missing."""
    if importlib.util.find_spec("lightonml") is None:
        return "the package lightonml is not installed (`make setup` installs it)"
    if importlib.util.find_spec("lightonopu") is None:
        return "LightOn's driver lightonopu is not installed (it comes with the appliance, not from a package index)"
    if not any(Path(path).exists() for path in _DEVICE_DESCRIPTIONS):
        return f"no device description at {' or '.join(_DEVICE_DESCRIPTIONS)}"
    return None


class LightOnOPU(OPU):
    """A LightOn appliance behind the `OPU` contract.

    Args:
        n_features, n_components: sizes; the appliance's matrix is its own and has no seed.
        device: a `lightonml.OPU` already made (for tests, or a configuration of your own); one is opened if None.

    Frames are counted as lightonml documents them: one a row for `transform`, five for `linear_transform`.

    Raises:
        DeviceUnavailable: lightonml, its driver or the device's description is missing.
        DeviceFault: the device fails while it is asked.
    """

    def __init__(self, n_features: int, n_components: int, device: Any = None, noise_seed: int = 0) -> None:
        super().__init__(n_features, n_components, frame_time=500e-6, power=30.0, noise_seed=noise_seed)
        opened = device is None
        if device is None:
            missing = why_unavailable()
            if missing:
                raise DeviceUnavailable(f"no LightOn device: {missing}. {_REMEDY}")
            device = self._open(n_features, n_components)
        self._device = device
        # lightonml divides by sqrt(n_features) to bring a camera's scale to variance 1/n; its simulated device is at
        # that scale already, and would be divided twice.
        simulated = type(device.device).__name__ == "SimulatedOpuDevice"
        try:
            device.n_components = n_components
            device.rescale = _rescaling("none" if simulated else "variance")
            device.fit1d(n_features=n_features)
            self.frame_time = device.device.frametime_us * 1e-6
        except Exception as error:
            if opened:
                device.close()
            raise DeviceInputError(f"the device does not take {n_features} x {n_components}: {error}") from error

    @staticmethod
    def _open(n_features: int, n_components: int) -> Any:
        try:
            from lightonml import OPU as Appliance

            return Appliance(n_components=n_components, max_n_features=n_features, disable_pbar=True)
        except Exception as error:
            raise DeviceUnavailable(f"the LightOn device did not open: {error}. {_REMEDY}") from error

    @property
    def identity(self) -> str:
        return f"LightOn {self._device.config.get('name', 'device') if self._device.config else 'device'}"

    @property
    def frames_per_projection(self) -> int:
        return 5

    @property
    def intensity_per_count(self) -> float:
        return 1.0

    def _ask(self, method: str, patterns: Tensor) -> Tensor:
        try:
            answer = getattr(self._device, method)(patterns.cpu().numpy())
        except (ValueError, AssertionError) as error:
            raise DeviceInputError(f"lightonml refused the input: {error}") from error
        except Exception as error:
            raise DeviceFault(f"the LightOn device failed during {method}: {error}") from error
        return torch.as_tensor(answer).to(patterns.device)

    def _counts(self, patterns: Tensor, first_frame: int) -> Tensor:
        # The appliance answers uint8; lightonml's simulated device answers float intensities, rounded here.
        answer = self._ask("transform", patterns)
        return answer if answer.dtype == torch.uint8 else answer.round().clamp(0, 255).to(torch.uint8)

    def _in_phase(self, patterns: Tensor, first_frame: int) -> Tensor:
        return self._ask("linear_transform", patterns).float()

    def close(self) -> None:
        self._device.close()


def _rescaling(name: str) -> Any:
    from lightonml.types import OutputRescaling

    return OutputRescaling[name]
