"""Field to counts: exposure, shot noise, read noise, saturation and the analogue-to-digital converter.

A pixel's well holds `full_well` electrons at full scale. An intensity I, with full scale I_max, frees
N = full_well · I / I_max electrons; shot noise has variance N, read noise `read_noise`²; the converter clips to the
well and rounds to `bits` bits. Shot noise is drawn as a Gaussian, which differs from Poisson only below about ten
electrons: less than one count of an 8-bit converter on a 10,000-electron well.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Camera:
    """Resolution and noise of a camera; `full_well=None` counts photons without noise.

    bits: resolution of the converter; full_well: electrons at full scale; read_noise: electrons rms.
    """

    bits: int = 8
    full_well: float | None = 10_000.0
    read_noise: float = 10.0

    @property
    def levels(self) -> int:
        """The largest count, 2^bits - 1."""
        return 2**self.bits - 1

    def counts(self, intensity: Tensor, full_scale: float, generator: torch.Generator) -> Tensor:
        """Float counts 0 … 2^bits - 1 of an intensity in any unit; `full_scale` is the intensity that fills a well."""
        signal = intensity / full_scale
        if self.full_well is not None:
            variance = signal / self.full_well + (self.read_noise / self.full_well) ** 2
            noise = torch.randn(signal.shape, generator=generator, device=signal.device)
            signal = torch.addcmul(signal, noise, variance.sqrt_())
        return signal.mul_(self.levels).round_().clamp_(0, self.levels)
