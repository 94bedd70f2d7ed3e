"""Named devices. Each number has a source, or is marked as modelled."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hardware.camera import Camera
from hardware.errors import DeviceInputError
from hardware.holography import Anchor, Holography, OffAxis, PhaseShifting


@dataclass(frozen=True)
class Faults:
    """How often a device fails. transient: probability that a measurement fails once; lasting_after: measurements
    after which every one fails, None for never."""

    transient: float = 0.0
    lasting_after: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.transient <= 1:
            raise DeviceInputError(f"faults.transient is a probability, got {self.transient}")


@dataclass(frozen=True)
class Preset:
    """A simulated instrument; the value that turns an effect off is in brackets.

    camera: resolution, noise and faults of the camera; holography: how linear projections are read (None: the exact
    product Re(R)x, no measurement at all); exposure: intensity at full scale of `transform`, in units of the mean
    intensity of a half-on pattern; beam_radius: of the light on the mirrors (infinite); medium_time: frames after
    which the medium's matrix has decorrelated to 1/e (infinite); spare: camera pixels beyond those needed, as a
    fraction, from which `calibrate` replaces bad ones (0); n_mirrors, n_pixels: what the instrument has (None: as many
    as asked); frame_time: seconds; power: watts; faults: injected failures.
    """

    camera: Camera
    holography: Holography | None
    exposure: float = 8.0  # exponential speckle of the mean intensity then saturates in e^-8 = 0.03 % of pixels
    beam_radius: float = math.inf
    medium_time: float = math.inf
    spare: float = 0.0
    n_mirrors: int | None = None
    n_pixels: int | None = None
    frame_time: float = 500e-6  # default frame time of lightonml 1.4.3
    power: float = 30.0  # arXiv 2107.11814, 2409.12965
    faults: Faults = Faults()

    def __post_init__(self) -> None:
        for name in ("exposure", "beam_radius", "medium_time", "frame_time", "power"):
            if not getattr(self, name) > 0:
                raise DeviceInputError(f"{name} must be positive, got {getattr(self, name)}")
        if isinstance(self.holography, OffAxis) and self.camera.dead + self.camera.hot > 0:
            raise DeviceInputError(
                "off-axis holography spreads a bad pixel over its line, which no mask mends: set dead and hot to 0"
            )
        if not 0 <= self.spare < math.inf:
            raise DeviceInputError(f"spare is a fraction of at least 0, got {self.spare}")


# Modelled, not measured: an ordinary 8-bit industrial sensor, 10,000-electron well, 10 electrons read noise.
_NOISY = Preset(camera=Camera(), holography=PhaseShifting())

PRESETS: dict[str, Preset] = {
    # No noise; the camera still counts in 8 bits, but linear_transform is the exact product, not a measurement.
    "ideal": Preset(camera=Camera(full_well=None, read_noise=0), holography=None),
    "noisy-8bit": _NOISY,
    # One frame a pattern, four pixels an output: how the co-processor of arXiv 2012.06373 worked; noise as above.
    "off-axis": replace(_NOISY, holography=OffAxis()),
    # No reference arm: arXiv 2305.12988; noise as above. A tenth of the pixels sees too weak an anchor.
    "anchor": replace(_NOISY, holography=Anchor(), spare=0.25),
    # Mirrors, pixels and frame time as in lightonml 1.4.3; everything else modelled, with every effect on.
    "appliance": Preset(
        camera=Camera(dead=0.002, hot=0.001, grain=0.7, laser_rms=0.01, laser_time=20_000),
        holography=Anchor(),
        beam_radius=1.5,
        medium_time=1e7,
        spare=0.25,
        n_mirrors=1140 * 912,
        n_pixels=2040 * 1088,
    ),
    # noisy-8bit of which every fifth attempt at a measurement fails, at random.
    "flaky": replace(_NOISY, faults=Faults(transient=0.2)),
}
