"""LightOn's appliance, driven through the `lightonml` package."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardware.calibration import Calibration, good_pixels
from hardware.errors import DeviceError, DeviceFault, DeviceInputError, DeviceUnavailable, TransientFault
from hardware.opu import OPU

_log = logging.getLogger(__name__)
_DEVICE_DESCRIPTIONS = ("/etc/lighton/host.json", "/etc/lighton/opu.json")
_REMEDY = 'Choose open_opu("simulated", ...) (on the command line: opu=simulated) to run without a device.'
_N_PROBES, _PROBES = 32, 0x0CA1
# A frame is 130 kB of mirrors. Of more than 1000 frames lightonml checks a sample, drawn from NumPy's global generator.
_FRAMES_AT_ONCE, _COUNTS_AT_ONCE = 500, 2**28
_SIMULATED_GAIN = 32  # full scale at 8 times the intensity of a half-on pattern, as in the simulator's presets


def why_unavailable(config_file: str | Path | None = None) -> str | None:
    """What keeps a LightOn device from being driven on this machine, or None if nothing is known to be missing."""
    if importlib.util.find_spec("lightonml") is None:
        return "the package lightonml is not installed (`make setup` installs it)"
    if importlib.util.find_spec("pkg_resources") is None:
        return "lightonml needs pkg_resources, which setuptools below 82 has (`make setup` installs it)"
    if importlib.util.find_spec("lightonopu") is None:
        return "LightOn's driver lightonopu is not installed (it comes with the appliance, not from a package index)"
    places = (str(config_file),) if config_file else _DEVICE_DESCRIPTIONS
    if not any(place.startswith("http") or Path(place).exists() for place in places):
        return f"no device description at {' or '.join(places)}"
    return None


class LightOnOPU(OPU):
    """A LightOn appliance behind the `OPU` contract.

    Neither the appliance's camera nor its linear mode has a known unit, so the device measures both scales on random
    patterns (`calibrate`) before its first measurement, unless it is given a calibration.

    Args:
        n_features, n_components: sizes; the appliance's matrix is its own and has no seed.
        device: a `lightonml.OPU` already made, with a configuration of your own; one is opened if None. It is closed
            with this object, which from now on is alone in using it.
        noise_seed: seeds the dither of real inputs.
        config_file: the device's description, a path or an http address; None is where LightOn installs it.
        calibration: of this device and these sizes, from `calibrate` or `Calibration.load`.

    Frames are counted as lightonml documents them: one a row for `transform`, five for `linear_transform`. A device
    opened here is asked once by lightonml, and again by `OPU`, which waits in between and counts; one that was passed
    in may be asked several times by lightonml first.

    Raises:
        DeviceUnavailable: lightonml, its driver or the device's description is missing, or the device does not open.
        DeviceInputError: more features than mirrors or more components than pixels, another device's calibration.
    """

    def __init__(
        self,
        n_features: int,
        n_components: int,
        device: Any = None,
        noise_seed: int = 0,
        *,
        config_file: str | Path | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        super().__init__(n_features, n_components, frame_time=500e-6, power=30.0, noise_seed=noise_seed)
        self._device = _open(config_file) if device is None else device
        self._config_file, self._passed_in = config_file, device is not None
        self._closed = False
        self._calibration = calibration
        try:
            self._prepare()
            if calibration is not None:
                calibration.check(self.identity, self.n_components)
        except Exception as error:
            if device is None:
                self.close()
            if isinstance(error, DeviceError):
                raise
            if isinstance(error, (ValueError, IndexError, AssertionError)):  # how lightonml refuses a size
                raise DeviceInputError(f"the device does not take {n_features} x {n_components}: {error}") from error
            raise DeviceUnavailable(f"the LightOn device did not open: {_told(error)}. {_REMEDY}") from error

    def _prepare(self) -> None:
        """Set the sizes, and what lightonml's linear mode requires."""
        device, m = self._device, self.n_components
        self._simulated = type(device.device).__name__ == "SimulatedOpuDevice"
        config = {"name": "lightonml's simulated device"} if self._simulated else device.config
        facts = [str(config[key]) for key in ("name", "version", "core_type", "core_version") if key in config]
        self._identity = f"LightOn {' '.join(facts)}, {self.n_features} x {m}"
        device.open()
        device.rescale = "none"  # calibration finds the scale; lightonml's takes it from the description
        device.input_roi_strategy = type(device.input_roi_strategy).full
        most = m if self._simulated else device.max_n_components
        self._n_pixels = max(m, min(m + m // 100 + 8, most))  # some to spare, should pixels be bad
        device.n_components = self._n_pixels
        device.fit1d(n_features=self.n_features)
        self.frame_time = device.device.frametime_us * 1e-6  # fit1d made it long enough for exposure and readout

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def frames_per_projection(self) -> int:
        return 5

    @property
    def intensity_per_count(self) -> float:
        return 1 / self._calibrated().gain

    @property
    def calibration(self) -> Calibration | None:
        """The calibration in use."""
        return self._calibration

    def calibrate(self) -> Calibration:
        """Measure the scales of both transforms and the bad pixels anew, and use them from now on.

        The appliance shows 32 random half-on patterns x in both modes: 192 frames. With E|Rx|² = 2‖x‖²/n_features,

            counts per intensity = mean count / (2 mean ‖x‖² / n_features),
            linear scale = √(Σᵢ var xᵢ / n_features / mean var y),

        variances over the patterns, means over pixels. A variance leaves out what all half-on patterns have in common:
        a constant background, and the bias of a linear mode that measures phases from an anchor pattern's. The relative
        standard error of the linear scale is 1/√(64 n_components). A pixel is bad when its count never changes.

        Raises:
            DeviceFault: the device fails, too few good pixels, or linear outputs that do not depend on the input.
        """
        with self._one_at_a_time:
            return self._scales_measured()

    def _scales_measured(self) -> Calibration:
        frame = self._frames
        generator = torch.Generator().manual_seed(_PROBES)
        probes = torch.randint(0, 2, (_N_PROBES, self.n_features), generator=generator, dtype=torch.uint8)
        counts, linear = self._camera(probes), self._ask("linear_transform", probes)
        bad = (counts.amax(dim=0) == counts.amin(dim=0)) | ~linear.isfinite().all(dim=0)
        before = self._calibration.pixels if self._calibration else None
        pixels = good_pixels(~bad.numpy() & (counts.amax(dim=0) > 0).numpy(), self.n_components, before)
        counts, linear = counts[:, torch.from_numpy(pixels)], linear[:, torch.from_numpy(pixels)]
        expected = 2 * probes.sum(dim=1).double().mean().item() / self.n_features
        # The mean of an exponential cut off at full scale: the sum over the number that is not cut off.
        level = counts.sum(dtype=torch.float64).item() / max(1, int((counts < self.largest_count).sum()))
        wanted = probes.float().var(dim=0, correction=0).sum().item() / self.n_features
        spread = linear.var(dim=0, correction=0).mean(dtype=torch.float64).item()
        if not spread > 0:
            raise DeviceFault("the device's linear outputs do not depend on its input; nothing can be computed with it")
        self._frames += _N_PROBES * (1 + self.frames_per_projection)
        self._calibration = Calibration(
            identity=self.identity,
            frame=frame,
            gain=level / expected,
            pixels=pixels,
            n_pixels=self._n_pixels,
            anchor=np.zeros(0, np.float32),
            linear_scale=(wanted / spread) ** 0.5,
        )
        return self._calibration

    def _calibrated(self) -> Calibration:
        with self._one_at_a_time:
            return self._calibration or self.calibrate()

    def _counts(self, patterns: Tensor, first_frame: int) -> Tensor:
        pixels = torch.from_numpy(self._calibrated().pixels)
        return self._camera(patterns)[:, pixels].to(patterns.device)

    def _in_phase(self, patterns: Tensor, first_frame: int) -> Tensor:
        calibration = self._calibrated()
        answer = self._ask("linear_transform", patterns)[:, torch.from_numpy(calibration.pixels)]
        if not answer.isfinite().all():
            raise TransientFault("a linear output is not finite")
        return answer.mul_(calibration.linear_scale).to(patterns.device)

    def _camera(self, patterns: Tensor) -> Tensor:
        """Counts `(batch, n_pixels)`; lightonml's simulated device has no camera and answers intensities."""
        answer = self._ask("transform", patterns)
        return answer.mul_(_SIMULATED_GAIN).round_().clamp_(0, 255).to(torch.uint8) if self._simulated else answer

    def _ask(self, method: str, patterns: Tensor) -> Tensor:
        """Answers of every pixel `(batch, n_pixels)`, some rows at a time, each asked again alone if it fails."""
        frames = self.frames_per_projection if method == "linear_transform" else 1
        at_once = max(1, min(_FRAMES_AT_ONCE, _COUNTS_AT_ONCE // self._n_pixels) // frames)
        some = torch.split(patterns.cpu(), at_once)
        parts = [self._measure(lambda rows=rows: self._once(method, rows.numpy())) for rows in some]  # type: ignore[misc]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _once(self, method: str, rows: np.ndarray) -> Tensor:
        if self._closed:
            raise DeviceFault("this device was closed; open it again")
        try:
            self._device.open()  # opens a connection that broke, else does nothing
            answer = np.asarray(getattr(self._device, method)(rows))
        except AssertionError as error:  # before fit1d, online, another strategy: never the fault of checked rows
            raise DeviceFault(f"another user of this lightonml.OPU changed it ({error}); open one for each") from error
        except ValueError as error:
            raise DeviceInputError(f"lightonml refused the input: {error}") from error
        except Exception as error:
            raise TransientFault(f"{method}: {_told(error)}") from error
        if answer.size != len(rows) * self._n_pixels:
            raise TransientFault(f"{method}: {answer.shape} numbers for {len(rows)} rows of {self._n_pixels} pixels")
        kind = np.uint8 if answer.dtype == np.uint8 else np.float32
        # lightonml drops the batch of one row and one component.
        return torch.from_numpy(np.array(answer, dtype=kind).reshape(len(rows), self._n_pixels))

    def describe(self) -> dict[str, object]:
        return super().describe() | {"exposure [s]": self._device.device.exposure_us * 1e-6}

    def _arguments(self) -> dict[str, object]:
        if self._passed_in:
            return super()._arguments()
        return {
            "n_features": self.n_features,
            "n_components": self.n_components,
            "noise_seed": self._noise_seed,
            "config_file": self._config_file,
        }

    def _calibration_arrays(self) -> dict[str, np.ndarray]:
        return self._calibration.arrays() if self._calibration else {}

    def _load_calibration_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        self._calibration = Calibration.from_arrays(arrays) if arrays else None

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._device.close()
        except Exception as error:
            _log.warning("the LightOn device did not close: %s", _told(error))


def _open(config_file: str | Path | None) -> Any:
    """A `lightonml.OPU` that has not yet taken hold of its device."""
    missing = why_unavailable(config_file)
    if missing:
        raise DeviceUnavailable(f"no LightOn device: {missing}. {_REMEDY}")
    place = str(config_file or "")
    if place and not place.startswith("http"):
        place = str(Path(place).resolve())  # lightonml takes absolute paths only
    try:
        from lightonml import OPU as Appliance

        # One attempt at a time: lightonml's own retries would be neither spaced out nor counted.
        once = {"n_transform_tries": 1}
        return Appliance(1, config_file=place, config_override=once, open_at_init=False, disable_pbar=True)
    except Exception as error:
        raise DeviceUnavailable(f"the LightOn device did not open: {_told(error)}. {_REMEDY}") from error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
