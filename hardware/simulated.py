"""A device on the CPU or GPU: mirrors, medium and camera, measured the way the instrument measures."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from hardware.calibration import Calibration, measure
from hardware.checks import is_binary
from hardware.encoding import BitPlanes, n_levels
from hardware.errors import DeviceInputError, TransientFault
from hardware.holography import Anchor, Anchored
from hardware.optics import MEDIA, Optics
from hardware.opu import OPU
from hardware.presets import PRESETS, Preset
from hardware.randomness import Frames, Noise


class SimulatedOPU(OPU):
    """A simulated optical processing unit.

    Field E = Rx with R complex Gaussian, real and imaginary variance 1/n_features; `transform` is the camera's count of
    |E|², `linear_transform` is Re(E) recovered from camera frames by the preset's holography. The preset "ideal" has no
    holography: its `linear_transform` is the exact product Re(R)x, a shortcut through R that no device has.

    Args:
        n_features: inputs.
        n_components: outputs; the first m do not change when this grows.
        seed: determines the matrix, and the bad pixels of the camera, on any machine.
        noise_seed: determines the measurement noise; `seed` if None. Noise belongs to the frame and the pixel: the same
            rows in the same order see the same noise however they are batched.
        preset: a name in `hardware.presets.PRESETS`, or a `Preset`.
        medium: "dense" holds R, "streamed" draws the same R at every product, "structured" is O(n log n).
        calibration: of this device, from `calibrate` or `Calibration.load`. Without one, a device whose preset has
            spare pixels or an anchor calibrates itself before its first measurement.

    The exposure of a `linear_transform` frame follows the number of mirrors that are on, which the host knows;
    `transform` has one exposure, so that its counts compare. A camera behind a GPU draws its noise on the CPU.

    Raises:
        DeviceInputError: a size below 1 or beyond the preset's mirrors and pixels or the memory, an unknown preset or
            medium, a negative seed, another device's calibration.

    >>> opu = SimulatedOPU(n_features=100, n_components=3, seed=0)
    >>> opu.linear_transform(torch.eye(100)[:2]).shape
    torch.Size([2, 3])
    >>> opu.usage.frames
    4
    """

    def __init__(
        self,
        n_features: int,
        n_components: int,
        seed: int = 0,
        noise_seed: int | None = None,
        preset: str | Preset = "ideal",
        medium: str = "dense",
        calibration: Calibration | None = None,
    ) -> None:
        if not isinstance(preset, Preset) and (not isinstance(preset, str) or preset not in PRESETS):
            raise DeviceInputError(f"unknown preset {preset!r}; the presets are {', '.join(sorted(PRESETS))}")
        if not isinstance(medium, str) or medium not in MEDIA:
            raise DeviceInputError(f"unknown medium {medium!r}; the media are {', '.join(MEDIA)}")
        self.preset = PRESETS[preset] if isinstance(preset, str) else preset
        self.preset_name = preset if isinstance(preset, str) else "custom"
        super().__init__(
            n_features,
            n_components,
            frame_time=self.preset.frame_time,
            power=self.preset.power,
            noise_seed=seed if noise_seed is None else noise_seed,
        )
        holography = self.preset.holography
        lines = holography.line if holography else 1
        needed = math.ceil(self.n_components * (1 + self.preset.spare))
        self.n_pixels = math.ceil(needed / lines) * lines
        self._check_instrument(holography.pixels_per_output if holography else 1)
        self._optics = Optics(self.n_features, self.n_pixels, seed, self.preset, medium)
        self.seed = self._optics.medium.seed
        self._fixed = self._optics.fixed
        self._calibration = calibration
        self._clock = 0  # the number of the first frame: after a calibration made before, time goes on
        if calibration is not None:
            anchored = isinstance(holography, Anchor)
            calibration.check(self.identity, self.n_components, self.n_pixels, anchored)
            self._clock = calibration.frame + calibration.n_frames
        self._asked = 0  # measurements, for injected faults

    def _check_instrument(self, pixels_per_output: int) -> None:
        mirrors, pixels = self.preset.n_mirrors, self.preset.n_pixels
        anchor = self.preset.holography
        # An anchor as bright as a half-on pattern takes half as many mirrors, of its own, as there are features.
        share = 1 + anchor.brightness / 2 if isinstance(anchor, Anchor) else 1
        if mirrors is not None and self.n_features * share > mirrors:
            raise DeviceInputError(
                f"this device has {mirrors} mirrors, so n_features = {self.n_features} is too many"
                + (f": with those of the anchor it takes {math.ceil(self.n_features * share)}" if share > 1 else "")
            )
        if pixels is not None and self.n_pixels * pixels_per_output > pixels:
            raise DeviceInputError(
                f"this device's camera has {pixels} pixels; n_components = {self.n_components} needs "
                f"{self.n_pixels * pixels_per_output}, the spare ones and those of its holography included"
            )

    @property
    def identity(self) -> str:
        size = f"{self.n_features} x {self.n_components}"
        return f"simulated {self._optics.medium.kind} medium, seed {self.seed}, {size}{self._optics.identity}"

    @property
    def frames_per_projection(self) -> int:
        return self.preset.holography.frames if self.preset.holography else 2

    @property
    def intensity_per_count(self) -> float:
        return self.preset.exposure / self.preset.camera.levels

    @property
    def largest_count(self) -> int:  # type: ignore[override]
        return self.preset.camera.levels

    @property
    def _noise(self) -> Noise:
        return Noise(self._noise_seed)

    @property
    def _laser(self) -> float:
        """The laser's power when it was last measured, for the exposure to follow."""
        return self._calibration.gain if self._calibration else 1.0

    @property
    def calibration(self) -> Calibration | None:
        """The calibration in use."""
        return self._calibration

    def _shown(self, rows: Tensor) -> Tensor | None:
        if self.preset.holography is not None or is_binary(rows):
            return None
        first = self._ready(self._frames)
        exact = rows.double()
        levels = n_levels(exact)
        n_frames = self.frames_per_projection * (levels - 1 if levels else BitPlanes().n_patterns)
        self._frames += len(rows) * n_frames
        return self._exact(exact, Frames(first, len(rows), n_frames))

    def _counts(self, patterns: Tensor, first_frame: int) -> Tensor:
        first_frame = self._ready(first_frame)
        frames = Frames(first_frame, len(patterns))
        camera = self.preset.camera
        full_scale = self.preset.exposure * self._laser
        kind = torch.uint8 if camera.bits <= 8 else torch.int32
        out = torch.empty(len(patterns), self.n_components, dtype=kind, device=patterns.device)
        for rows, x, start, stop in self._optics.pieces(patterns):
            part = frames.part(rows.start, rows.stop)
            intensity = self._optics.field(x, part, start, stop).square_().sum(dim=0)
            counts = camera.expose(intensity, full_scale, self._noise, self._fixed, part, start)
            self._keep(out[rows], counts, start, stop)
        return out

    def _in_phase(self, patterns: Tensor, first_frame: int) -> Tensor:
        first_frame = self._ready(first_frame)
        holography, camera = self.preset.holography, self.preset.camera
        if holography is None:
            return self._exact(patterns, Frames(first_frame, len(patterns), 2))
        frames = Frames(first_frame, len(patterns), holography.frames)
        on = patterns.sum(dim=1, keepdim=True, dtype=torch.int32).clamp(min=1)
        rms = (2 * on.double() / self.n_features).sqrt().float()
        out = torch.empty(len(patterns), self.n_components, device=patterns.device)
        for rows, x, start, stop in self._optics.pieces(patterns):
            part = frames.part(rows.start, rows.stop)

            def expose(
                intensity: Tensor, full_scale: Tensor, step: int, part: Frames = part, start: int = start
            ) -> Tensor:
                first = start * holography.pixels_per_output
                exposure = full_scale * self._laser
                counts = camera.expose(intensity, exposure, self._noise, self._fixed, part.step(step), first)
                return counts.mul_(full_scale / camera.levels)

            field = self._optics.field(x, part, start, stop)
            anchored = self._anchored(part, start, stop, patterns.device)
            self._keep(out[rows], holography.in_phase(field, rms[rows], anchored, expose), start, stop)
        return out

    def _exact(self, x: Tensor, frames: Frames, phase: bool = False) -> Tensor:
        """Re(R)x without a measurement, R as it is at the frames; `phase` counts its phase from the anchor's."""
        out = torch.empty(len(x), self.n_components, device=x.device)
        for rows, prepared, start, stop in self._optics.pieces(x):
            part = frames.part(rows.start, rows.stop)
            if phase and isinstance(self.preset.holography, Anchor):
                field = self._optics.field(prepared, part, start, stop)
                anchor = self._optics.anchor_field(part, start, stop, x.device)
                result = (field * anchor).sum(dim=0) / anchor.norm(dim=0)
            else:
                result = self._optics.field(prepared, part, start, stop, parts=1)[0]
            self._keep(out[rows], result, start, stop)
        return out

    def ideal(self, x: Tensor) -> Tensor:
        """Re(R)x exactly, R as it was when the device was last calibrated: the truth that `fidelity` compares with."""
        self._settle()
        return self._exact(x, self._reference_frames(len(x)), phase=True)

    def _anchored(self, frames: Frames, start: int, stop: int, device: torch.device) -> Anchored | None:
        if not isinstance(self.preset.holography, Anchor):
            return None
        assert self._calibration is not None
        intensity = torch.from_numpy(self._calibration.anchor[start:stop]).to(device)
        return Anchored(self._optics.anchor_field(frames, start, stop, device), intensity)

    def speckle(self, x: Tensor) -> Tensor:
        """The ideal field Rx of the outputs, `(2, batch, n_components)`: what `ideal` is the real part of."""
        self._settle()
        out = torch.empty(2, len(x), self.n_components, device=x.device)
        frames = self._reference_frames(len(x))
        for rows, light, start, stop in self._optics.pieces(x):
            field = self._optics.field(light, frames.part(rows.start, rows.stop), start, stop)
            for part in range(2):
                self._keep(out[part, rows], field[part], start, stop)
        return out

    def speckle_adjoint(self, g: Tensor) -> Tensor:
        """The derivative of `speckle`: `(2, batch, n_components)` to `(batch, n_features)`."""
        self._settle()
        pixels = torch.arange(self.n_components)
        if self._calibration is not None:
            pixels = torch.from_numpy(self._calibration.pixels)
        spread = g.new_zeros(*g.shape[:2], self.n_pixels).index_copy_(2, pixels.to(g.device), g)
        return self._optics.adjoint(spread, self._reference_frames(g.shape[1]))

    def _reference_frames(self, n: int) -> Frames:
        """The frame at which the matrix counts as the true one, n times."""
        return Frames(self._calibration.frame if self._calibration else 0, n, 0)

    def _keep(self, out: Tensor, seen: Tensor, start: int, stop: int) -> None:
        """Write the outputs that pixels `start:stop` hold."""
        if self._calibration is None:
            out[:, start : min(stop, self.n_components)] = seen[:, : max(0, self.n_components - start)]
            return
        pixels = self._calibration.pixels
        outputs = np.flatnonzero((pixels >= start) & (pixels < stop))
        here = pixels[outputs] - start
        if len(outputs) == stop - start and (np.diff(outputs) == 1).all() and (np.diff(here) == 1).all():
            out[:, outputs[0] : outputs[-1] + 1] = seen
        elif len(outputs):
            out[:, torch.from_numpy(outputs).to(out.device)] = seen[:, torch.from_numpy(here).to(seen.device)].to(
                out.dtype
            )

    def _ready(self, first_frame: int) -> int:
        """Calibrate if that must be done first; inject the preset's faults. The frame to begin with."""
        faults = self.preset.faults
        self._asked += 1
        if faults.lasting_after is not None and self._asked > faults.lasting_after:
            raise TransientFault("injected: the camera does not answer")
        if faults.transient:
            chance = self._noise.uniform("faults", Frames(self._asked, 1), 0, 1, torch.device("cpu")).item()
            if chance < faults.transient:
                raise TransientFault("injected: the trigger was missed")
        self._settle()
        return self._clock + max(first_frame, self._frames)

    def _settle(self) -> None:
        """Calibrate if that must be done before anything else."""
        if self._calibration is None and (self.preset.spare or isinstance(self.preset.holography, Anchor)):
            self.calibrate()

    def calibrate(self) -> Calibration:
        """Measure exposure, scale, bad pixels and the anchor anew, and use them from now on.

        Frames: 8 dark, 32 of random half-on patterns, and 16 of the anchor alone where there is one. Outputs move to
        other pixels only if the mask changed. The matrix that the medium has drifted to becomes the one that
        `fidelity` compares with.

        Raises:
            DeviceFault: too few good pixels for n_components.
        """
        with self._one_at_a_time:
            now = self._clock + self._frames
            self._calibration = measure(
                self._optics, self.preset, self._noise, now, self.identity, self.n_components, self._calibration
            )
            self._frames += self._calibration.n_frames
            return self._calibration

    def describe(self) -> dict[str, object]:
        entries: dict[str, object] = {"preset": self.preset_name, "medium": self._optics.medium.kind, "seed": self.seed}
        entries["linear_transform"] = (
            repr(self.preset.holography)
            if self.preset.holography
            else "the exact product Re(R)x: no device has this, choose another preset to measure it"
        )
        entries |= {f"camera.{name}": value for name, value in asdict(self.preset.camera).items()}
        chosen = ("exposure", "beam_radius", "medium_time", "spare", "n_mirrors", "n_pixels")
        entries |= {name: getattr(self.preset, name) for name in chosen}
        return super().describe() | entries

    def _arguments(self) -> dict[str, object]:
        return {
            "n_features": self.n_features,
            "n_components": self.n_components,
            "seed": self.seed,
            "noise_seed": self._noise_seed,
            "preset": self.preset if self.preset_name == "custom" else self.preset_name,
            "medium": self._optics.medium.kind,
        }

    def _calibration_arrays(self) -> dict[str, np.ndarray]:
        now = {"clock": np.array([self._clock, self._asked])}
        return now | (self._calibration.arrays() if self._calibration else {})

    def _load_calibration_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        self._clock, self._asked = (int(value) for value in arrays.pop("clock"))
        self._calibration = Calibration.from_arrays(arrays) if arrays else None
