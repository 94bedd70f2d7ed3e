"""The light path of the simulator: mirrors under a beam, the medium as it drifts, speckle on the camera's pixels."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator

import torch
from torch import Tensor

from hardware.camera import beam_profile, grain_weights, speckle_grain
from hardware.holography import Anchor
from hardware.medium import DenseMedium, Medium, Packed, StreamedMedium
from hardware.presets import Preset
from hardware.randomness import Frames, Noise
from hardware.structured import StructuredMedium

MEDIA: dict[str, type[Medium]] = {m.kind: m for m in (DenseMedium, StreamedMedium, StructuredMedium)}
_AT_ONCE = 2**17  # field entries simulated at a time by each thread
_ROWS_AT_ONCE = 1024


class Optics:
    """Speckle fields of a preset's instrument on `n_pixels` pixels, at any camera frame."""

    def __init__(self, n_features: int, n_pixels: int, seed: int, preset: Preset, medium: str) -> None:
        self._preset, self.n_pixels = preset, n_pixels
        self._weights = grain_weights(preset.camera.grain)
        rows = n_pixels + len(self._weights) - 1
        self.medium = MEDIA[medium](n_features, rows, seed)
        self.fixed = Noise(self.medium.seed)
        self._later: Medium | None = None
        if math.isfinite(preset.medium_time):
            self._later = MEDIA[medium](n_features, rows, self.fixed.key("later") >> 1)
        self._mirrors: Tensor | None = None
        if math.isfinite(preset.beam_radius):
            profile = beam_profile(n_features, preset.beam_radius)
            self._mirrors = (profile / profile.max() * 127).round().to(torch.int8)
            self._mirrors_rms = self._mirrors.double().square().mean().sqrt().item()
        line = preset.holography.line if preset.holography else 1
        self._unit = math.ceil(self.medium.tile / line) * line

    @property
    def identity(self) -> str:
        """What an instrument does to the matrix beyond its medium, as a suffix: nothing for the plain ones."""
        preset, camera = self._preset, self._preset.camera
        anchor = preset.holography if isinstance(preset.holography, Anchor) else None
        changes = (camera.grain, camera.dead, camera.hot, preset.beam_radius, preset.medium_time, anchor)
        if changes == (0, 0, 0, math.inf, math.inf, None):
            return ""
        return f", optics {zlib.crc32(repr(changes).encode()):08x}"

    def pieces(self, x: Tensor) -> Iterator[tuple[slice, Tensor | Packed, int, int]]:
        """Rows and pixels, as many at a time as memory is worth: rows, their light, first and last pixel."""
        at_once = _AT_ONCE * torch.get_num_threads()
        n_rows = max(1, min(len(x), _ROWS_AT_ONCE, at_once // self._unit))
        width = max(1, at_once // n_rows // self._unit) * self._unit
        for first in range(0, len(x), n_rows):
            rows = slice(first, min(first + n_rows, len(x)))
            light = self.medium.prepare(self._lit(x[rows]))
            for start in range(0, self.n_pixels, width):
                yield rows, light, start, min(start + width, self.n_pixels)

    def field(self, light: Tensor | Packed, frames: Frames, start: int, stop: int, parts: int = 2) -> Tensor:
        """The speckle on pixels `start:stop` at each frame, `(parts, batch, stop - start)`; parts as in `Medium`."""
        beyond = stop + len(self._weights) - 1
        field = self.medium.field(light, start, beyond, parts)
        if self._later is not None:
            cosine, sine = self._turn(frames, start, beyond, field.device)
            field = field * cosine + self._later.field(light, start, beyond, parts) * sine
        if self._mirrors is not None:
            field /= self._mirrors_rms
        return field if len(self._weights) == 1 else speckle_grain(field, self._weights)

    def adjoint(self, g: Tensor, frames: Frames) -> Tensor:
        """The derivative of `field` on all pixels: `(parts, batch, n_pixels)` to `(batch, n_features)`."""
        width = g.shape[2] + len(self._weights) - 1
        spread = g.new_zeros(*g.shape[:2], width)
        for k, weight in enumerate(self._weights):
            spread[..., k : k + g.shape[2]] += weight * g
        if self._later is None:
            x = self.medium.adjoint(spread, 0, width)
        else:
            cosine, sine = self._turn(frames, 0, width, g.device)
            x = self.medium.adjoint(spread * cosine, 0, width) + self._later.adjoint(spread * sine, 0, width)
        return x if self._mirrors is None else x * self._mirrors.to(x.device) / self._mirrors_rms

    def anchor_field(self, frames: Frames, start: int, stop: int, device: torch.device) -> Tensor:
        """The anchor's speckle, `(2, batch, pixels)`; the phases of R are counted from its own, so it begins real."""
        anchor = self._preset.holography
        assert isinstance(anchor, Anchor)
        beyond = stop + len(self._weights) - 1
        draw = self.fixed.normal("anchor", Frames(0, 4), start, beyond - start, device) * (anchor.brightness / 2) ** 0.5
        begun = speckle_grain(torch.complex(draw[0], draw[1]), self._weights)
        now = begun[None]
        if self._later is not None:
            cosine, sine = self._turn(frames, start, beyond, device)
            turned = torch.complex(draw[0], draw[1]) * cosine + torch.complex(draw[2], draw[3]) * sine
            now = speckle_grain(turned, self._weights)
        counted = now * (begun.conj() / begun.abs())
        return torch.stack((counted.real, counted.imag))

    def _lit(self, x: Tensor) -> Tensor:
        """The amplitude on the mirrors, in units of 1/127 of the brightest where a beam's profile is simulated."""
        if self._mirrors is None:
            return x
        self._mirrors = self._mirrors.to(x.device)
        return x * self._mirrors if x.is_floating_point() else x.to(torch.int8) * self._mirrors

    def _turn(self, frames: Frames, start: int, stop: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosine and sine of how far each pixel's row of R has turned into the later medium's, `(batch, pixels)`.

        Row j of R at frame t is cos(ω_j t) R_j + sin(ω_j t) R'_j, with ω_j Cauchy distributed of width 1/medium_time:
        averaged over pixels, R(s) and R(t) correlate as exp(-|t - s| / medium_time), whenever they are compared.
        """
        draw = self.fixed.uniform("drift", Frames(0, 1), start, stop - start, device).double()
        rate = torch.tan(math.pi * (draw - 0.5)) / self._preset.medium_time
        angle = frames.numbers(device)[:, None] * rate  # float64: rounded, cosines do not depend on the batch
        return angle.cos().float(), angle.sin().float()
