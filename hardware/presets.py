"""Named devices. Each number has a source, or is marked as modelled."""

from __future__ import annotations

from dataclasses import dataclass

from hardware.camera import Camera
from hardware.holography import PhaseShifting


@dataclass(frozen=True)
class Preset:
    """A simulated instrument.

    camera: resolution and noise; holography: how linear projections are read, None for the exact product Re(R)x;
    exposure: intensity at full scale of `transform`, in units of the mean intensity of a half-on pattern;
    frame_time: seconds; power: watts.
    """

    camera: Camera
    holography: PhaseShifting | None
    exposure: float = 8.0  # exponential speckle of the mean intensity then saturates in e^-8 = 0.03 % of pixels
    frame_time: float = 500e-6  # default frame time of lightonml 1.4.3
    power: float = 30.0  # arXiv 2107.11814, 2409.12965


PRESETS: dict[str, Preset] = {
    # No noise; the camera still counts in 8 bits, but linear_transform is the exact product, not a measurement.
    "ideal": Preset(camera=Camera(full_well=None), holography=None),
    # Modelled, not measured: an ordinary 8-bit industrial sensor, 10,000-electron well, 10 electrons read noise.
    "noisy-8bit": Preset(camera=Camera(), holography=PhaseShifting()),
}
