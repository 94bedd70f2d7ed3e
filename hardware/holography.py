"""Linear projections out of intensity-only frames: three ways to recover Re(E) of a speckle field E.

Every method is a frozen dataclass. It is handed the field, which it may only send through `expose`, the camera: the
frames that come back are all it computes with.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hardware.errors import DeviceInputError

# |E|² of a speckle of mean 1 exceeds 6.25 in 0.2 % of pixels: the bright tail that the exposure lets saturate.
_BRIGHT_AMPLITUDE = 2.5


class Expose(Protocol):
    """Intensities `(batch, pixels)` -> what the camera reads, in the same unit; `full_scale` `(batch, 1)`."""

    def __call__(self, intensity: Tensor, full_scale: Tensor, step: int) -> Tensor: ...


class Holography(ABC):
    """A way to read Re(E), with its costs."""

    @property
    @abstractmethod
    def frames(self) -> int:
        """Camera frames one pattern costs."""

    @property
    def pixels_per_output(self) -> int:
        """Camera pixels one output costs."""
        return 1

    @property
    def line(self) -> int:
        """Outputs that are recovered together."""
        return 1

    @abstractmethod
    def in_phase(self, field: Tensor, rms: Tensor, anchor: Anchored | None, expose: Expose) -> Tensor:
        """Re(E) `(batch, outputs)` of the field `(2, batch, outputs)`.

        rms: amplitude the speckle is expected to have, `(batch, 1)`; anchor: of `Anchor` alone.
        """


@dataclass(frozen=True)
class Anchored:
    """The anchor's light: its field on the pixels `(2, batch or 1, outputs)` and its calibrated intensity
    `(outputs,)`."""

    field: Tensor
    intensity: Tensor


def _check_reference(value: float) -> None:
    if not 0 < value < math.inf:
        raise DeviceInputError(f"the reference amplitude must be positive, got {value}")


@dataclass(frozen=True)
class PhaseShifting(Holography):
    """`steps` frames with a reference beam of amplitude r and phases θ_k, equally spaced.

    I_k = |E + r e^{iθ_k}|² = |E|² + r² + 2r Re(E e^{-iθ_k}), so Re(E) = Σ_k I_k cos θ_k / (r steps), and half of that
    for two steps, 0 and π. Two phases are enough for one quadrature, which is all that `linear_transform` returns;
    three and four also determine the other. r is `reference` times the rms speckle amplitude. The quantisation error
    of Re(E), relative to rms |E|, is √2 (reference + 2.5)² / (2^bits √12 · 4 reference) for two steps; it is least,
    0.40 % at 8 bits, where the reference equals the bright amplitude 2.5.
    Source: Yamaguchi and Zhang, "Phase-shifting digital holography", Opt. Lett. 22, 1268 (1997).
    """

    steps: int = 2
    reference: float = 2.5

    def __post_init__(self) -> None:
        if self.steps not in (2, 3, 4):
            raise DeviceInputError(f"phase-shifting holography takes 2, 3 or 4 steps, got {self.steps}")
        _check_reference(self.reference)

    @property
    def frames(self) -> int:
        return self.steps

    def in_phase(self, field: Tensor, rms: Tensor, anchor: Anchored | None, expose: Expose) -> Tensor:
        r = self.reference * rms
        full_scale = (r + _BRIGHT_AMPLITUDE * rms) ** 2
        total = torch.zeros_like(field[0])
        for step in range(self.steps):
            phase = 2 * math.pi * step / self.steps
            cosine, sine = round(math.cos(phase), 15), round(math.sin(phase), 15)
            intensity = (field[0] + r * cosine).square_().add_((field[1] + r * sine).square_())
            total.add_(expose(intensity, full_scale, step), alpha=cosine)
        quadratures = 2 if self.steps == 2 else 1
        return total.div_(r * self.steps * quadratures)


@dataclass(frozen=True)
class OffAxis(Holography):
    """One frame with a tilted reference, whose fringes carry the field in a sideband; 4 camera pixels an output.

    A line of L outputs is a field of L Fourier modes, which 4L pixels sample: I(u) = |E(u) + r e^{2πi c u / 4L}|² has
    |E|² in the modes below L, and r·E* (and its mirror image) around the carrier c = (3L - 1)/2. Cropping the L
    modes around the carrier and moving them to zero gives r E, both quadratures. The price of a single frame is the
    pixels. Source: Cuche, Marquet, Depeursinge, Appl. Opt. 39, 4070 (2000).
    """

    reference: float = 2.5
    length: int = 63

    def __post_init__(self) -> None:
        _check_reference(self.reference)
        if self.length < 3 or self.length % 2 == 0:
            raise DeviceInputError(f"a line holds an odd number of outputs, at least 3; got {self.length}")

    @property
    def frames(self) -> int:
        return 1

    @property
    def pixels_per_output(self) -> int:
        return 4

    @property
    def line(self) -> int:
        return self.length

    def in_phase(self, field: Tensor, rms: Tensor, anchor: Anchored | None, expose: Expose) -> Tensor:
        length, half, carrier = self.length, self.length // 2, (3 * self.length - 1) // 2
        batch = field.shape[1]
        modes = torch.fft.fft(torch.complex(field[0], field[1]).view(batch, -1, length), dim=-1)
        wide = modes.new_zeros(*modes.shape[:2], 4 * length)
        wide[..., : half + 1], wide[..., -half:] = modes[..., : half + 1], modes[..., half + 1 :]
        r = (self.reference * rms)[..., None]
        light = torch.fft.ifft(wide, dim=-1) * 4
        turn = 2 * math.pi * carrier / (4 * length) * torch.arange(4 * length, device=field.device)
        # The sideband of E e^{-i carrier}: conjugating the reference puts E itself at +carrier.
        light = light + r * torch.exp(-1j * turn)
        full_scale = ((self.reference + _BRIGHT_AMPLITUDE) * rms) ** 2
        frame = expose(light.abs().square().flatten(1), full_scale, 0).view(batch, -1, 4 * length)
        spectrum = torch.fft.fft(frame, dim=-1)
        crop = torch.cat((spectrum[..., carrier : carrier + half + 1], spectrum[..., carrier - half : carrier]), dim=-1)
        return (torch.fft.ifft(crop, dim=-1).real / (4 * r)).flatten(1)


@dataclass(frozen=True)
class Anchor(Holography):
    """Two frames and no reference arm: the pattern alone, and with an anchor r on mirrors of its own.

    Re(e^{-i arg(Rr)_j} (Rx)_j) = (|R(x+r)|² - |Rx|² - |Rr|²) / (2 |Rr|): interference of the speckle with the
    anchor's. The phase of an output is counted from the anchor's, which only says which complex Gaussian matrix is
    meant. |Rr|² is measured once, by `calibrate`, which masks pixels where it is below `weakest` of its mean: dividing
    by a weak anchor blows noise up. `brightness` is the anchor's mean intensity in units of a half-on pattern's;
    `headroom` the full scale in units of the mean intensity with both on.
    Source: Ohana et al., "Linear optical random projections without holography", Opt. Express 31, 25881 (2023).
    """

    brightness: float = 1.0
    weakest: float = 0.1
    headroom: float = 8.0

    def __post_init__(self) -> None:
        if not 0 < self.brightness < math.inf or not 0 < self.headroom < math.inf or not 0 < self.weakest < 3:
            raise DeviceInputError(
                "an anchor needs brightness > 0, headroom > 0 and weakest in (0, 3), "
                f"got {self.brightness}, {self.headroom}, {self.weakest}"
            )

    @property
    def frames(self) -> int:
        return 2

    def in_phase(self, field: Tensor, rms: Tensor, anchor: Anchored | None, expose: Expose) -> Tensor:
        assert anchor is not None
        full_scale = self.headroom * (rms**2 + self.brightness)
        alone = expose(field.square().sum(dim=0), full_scale, 0)
        both = expose((field + anchor.field).square().sum(dim=0), full_scale, 1)
        return (both - alone - anchor.intensity) / (2 * anchor.intensity.sqrt())
