"""Linear projections out of intensity-only frames, by phase-shifting holography.

A reference beam of amplitude r and phase θ_k falls on the camera together with the speckle E. Frame k reads
I_k = |E + r e^{iθ_k}|² = |E|² + r² + 2r Re(E e^{-iθ_k}). With K equally spaced phases, Σ_k I_k cos θ_k removes both
constant terms: Re(E) = Σ_k I_k cos θ_k / (2rK) for K = 2 (phases 0 and π), / (rK) for K = 3, 4. Two phases are enough
for one quadrature, which is all that `linear_transform` returns; three or four also determine the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hardware.camera import Camera

# |E|² of a speckle of mean 1 exceeds 6.25 in 0.2 % of pixels: the bright tail that the exposure lets saturate.
_BRIGHT_AMPLITUDE = 2.5


@dataclass(frozen=True)
class PhaseShifting:
    """`steps` frames with a reference beam `reference` times as strong as the rms speckle amplitude.

    The quantisation error of Re(E), relative to rms |E|, is √2 (reference + 2.5)² / (2^bits √12 · 4 reference) for
    two steps; it is least, 0.40 % at 8 bits, where the reference equals the bright amplitude 2.5.
    """

    steps: int = 2
    reference: float = 2.5

    def __post_init__(self) -> None:
        if self.steps not in (2, 3, 4):
            raise ValueError(f"phase-shifting holography takes 2, 3 or 4 steps, got {self.steps}")
        if not self.reference > 0:
            raise ValueError(f"the reference amplitude must be positive, got {self.reference}")

    def in_phase(
        self, real: Tensor, imaginary: Tensor, rms: float, camera: Camera, generator: torch.Generator
    ) -> Tensor:
        """Re(E) recovered from the frames, `(batch, n_components)`; `rms` is the speckle amplitude exposed for."""
        r = self.reference * rms
        full_scale = (r + _BRIGHT_AMPLITUDE * rms) ** 2
        total = torch.zeros_like(real)
        for step in range(self.steps):
            phase = 2 * math.pi * step / self.steps
            cosine, sine = round(math.cos(phase), 15), round(math.sin(phase), 15)
            intensity = (real + r * cosine).square_().add_((imaginary + r * sine).square_())
            total.add_(camera.counts(intensity, full_scale, generator), alpha=cosine)
        quadratures = 2 if self.steps == 2 else 1
        return total.mul_(full_scale / (camera.levels * r * self.steps * quadratures))
