"""Field to counts: one small pure function a physical effect, and the camera that applies those it has.

Signals are in units of full scale: a pixel's well holds `full_well` electrons at signal 1. Shot noise has variance
signal · full_well electrons², drawn as a Gaussian, which differs from Poisson only below about ten electrons: less
than one count of an 8-bit converter on a 10,000-electron well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hardware.errors import DeviceInputError
from hardware.randomness import Frames, Noise


def shot_noise(signal: Tensor, full_well: float, normal: Tensor) -> Tensor:
    """signal + √(signal / full_well) · normal: N electrons have variance N."""
    return torch.addcmul(signal, normal, (signal / full_well).clamp_(min=0).sqrt_())


def read_noise(signal: Tensor, deviation: float, normal: Tensor) -> Tensor:
    """signal + deviation · normal, the deviation in units of full scale."""
    return torch.add(signal, normal, alpha=deviation)


def digitise(signal: Tensor, bits: int) -> Tensor:
    """Counts round(signal · (2^bits - 1)) that saturate at 0 and 2^bits - 1."""
    levels = 2**bits - 1
    return (signal * levels).round_().clamp_(0, levels)


def laser_power(frames: Tensor, rms: float, time: float, noise: Noise) -> Tensor:
    """Power of the laser at each frame, mean 1: an Ornstein-Uhlenbeck process as a sum of 64 random oscillations.

    A process with correlation exp(-|t|/time) has a Lorentzian spectrum, so Σ_k cos(ω_k t + φ_k) with ω_k Cauchy
    distributed of width 1/time has it too, and is a function of the frame number alone. frames `(n,)` -> `(n,)`.
    """
    draw = noise.uniform("laser", Frames(0, 2), 0, 64, frames.device).double()
    rate = torch.tan(math.pi * (draw[0] - 0.5)) / time
    wave = torch.cos(frames[:, None] * rate + 2 * math.pi * draw[1])
    return (1 + rms * math.sqrt(2 / 64) * wave.sum(dim=1)).clamp_(min=0).float()


def grain_weights(grain: float) -> list[float]:
    """w_k of E_j ← Σ_k w_k E_{j+k}, Σ w² = 1: fields d pixels apart then correlate as exp(-d²/grain²).

    Their Fourier transform is the root of the correlation's, whatever the grain's size in pixels.
    """
    if grain == 0:
        return [1.0]
    reach = math.ceil(2.5 * grain) + 2
    distance = torch.fft.fftfreq(1024, 1 / 1024, dtype=torch.float64)
    spectrum = torch.fft.fft(torch.exp(-((distance / grain) ** 2))).real.clamp(min=0)
    kernel = torch.fft.ifft(spectrum.sqrt()).real[torch.arange(-reach, reach + 1)]
    return (kernel / kernel.norm()).tolist()


def speckle_grain(field: Tensor, weights: list[float]) -> Tensor:
    """Fields of neighbouring pixels mixed: `(..., width + len(weights) - 1)` -> `(..., width)`."""
    width = field.shape[-1] - len(weights) + 1
    total = weights[0] * field[..., :width]
    for k, weight in enumerate(weights[1:], start=1):  # in this order: a reduction's may depend on the batch
        total += weight * field[..., k : k + width]
    return total


def beam_profile(n_mirrors: int, radius: float) -> Tensor:
    """Amplitude on each mirror of a Gaussian beam of 1/e² `radius` (half-diagonals of the mirror array), rms 1.

    Mirrors fill a square line by line; a = exp(-r²/radius²) for the field. `(n_mirrors,)`.
    """
    side = math.ceil(math.sqrt(n_mirrors))
    index = torch.arange(n_mirrors)
    place = torch.stack((index // side, index % side)).double() - (side - 1) / 2
    r2 = place.square().sum(dim=0) / max(1, (side - 1) ** 2 / 2)
    amplitude = torch.exp(-r2 / radius**2)
    return (amplitude / amplitude.square().mean().sqrt()).float()


@dataclass(frozen=True)
class Camera:
    """Resolution, noise and faults of a camera; the value that turns an effect off is in brackets.

    bits: resolution of the converter, 2 to 16; full_well: electrons at full scale (None: no shot noise, and read noise
    is in units of 1/10,000 of full scale); read_noise: electrons rms (0); dead, hot: fraction of pixels that always
    read 0, or that add a constant of 0.2 to 1 of full scale (0); grain: correlation length of the speckle in pixels
    (0); laser_rms: relative rms of the laser's power (0); laser_time: its correlation time in frames.

    >>> Camera(bits=4, full_well=None, read_noise=0).levels
    15
    """

    bits: int = 8
    full_well: float | None = 10_000.0
    read_noise: float = 10.0
    dead: float = 0.0
    hot: float = 0.0
    grain: float = 0.0
    laser_rms: float = 0.0
    laser_time: float = 10_000.0

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 2 <= self.bits <= 16:
            raise DeviceInputError(f"a camera has from 2 to 16 bits, got bits={self.bits!r}")
        if self.full_well is not None and not 0 < self.full_well < math.inf:
            raise DeviceInputError(f"full_well is a positive number of electrons or None, got {self.full_well}")
        for name, most in (("read_noise", math.inf), ("grain", 100), ("laser_rms", math.inf)):
            if not 0 <= getattr(self, name) < most:
                raise DeviceInputError(f"{name} must be at least 0 and below {most}, got {getattr(self, name)}")
        if self.dead < 0 or self.hot < 0 or not self.dead + self.hot < 1:
            raise DeviceInputError(f"dead and hot are fractions of the pixels, got {self.dead} and {self.hot}")
        if not 0 < self.laser_time < math.inf:
            raise DeviceInputError(f"laser_time is a positive number of frames, got {self.laser_time}")

    @property
    def levels(self) -> int:
        """The largest count, 2^bits - 1."""
        return 2**self.bits - 1

    def expose(
        self,
        intensity: Tensor,
        full_scale: float | Tensor,
        noise: Noise,
        pixels: Noise,
        frames: Frames,
        first_pixel: int,
    ) -> Tensor:
        """Float counts of an intensity `(frames, width)` in any unit.

        full_scale: the intensity that fills a well, a number or one for each frame `(frames, 1)`; noise: draws what
        differs from frame to frame, pixels: what does not.
        """
        width, device = intensity.shape[1], intensity.device
        signal = intensity / full_scale
        if self.laser_rms:
            power = laser_power(frames.numbers(device), self.laser_rms, self.laser_time, noise)
            signal = signal * power[:, None]
        chance = pixels.uniform("pixels", Frames(0, 2), first_pixel, width, device) if self.dead + self.hot else None
        if chance is not None:
            hot = (chance[0] >= self.dead) & (chance[0] < self.dead + self.hot)
            signal = signal + hot * (0.2 + 0.8 * chance[1])
        if self.full_well is not None:
            signal = shot_noise(signal, self.full_well, noise.normal("shot", frames, first_pixel, width, device))
        if self.read_noise:
            deviation = self.read_noise / (self.full_well or 10_000.0)
            signal = read_noise(signal, deviation, noise.normal("read", frames, first_pixel, width, device))
        counts = digitise(signal, self.bits)
        return counts if chance is None else counts * (chance[0] >= self.dead)
