"""A device on the CPU or GPU: mirrors, medium and camera, measured the way the instrument measures."""

from __future__ import annotations

import torch
from torch import Tensor

from hardware.medium import DenseMedium
from hardware.opu import OPU, DeviceInputError
from hardware.presets import PRESETS, Preset


class SimulatedOPU(OPU):
    """A simulated optical processing unit.

    Field E = Rx with R complex Gaussian, real and imaginary variance 1/n_features; `transform` is the camera's count of
    |E|², `linear_transform` is Re(E) recovered from the camera frames of phase-shifting holography (of the exact
    product for the preset "ideal").

    Args:
        n_features: inputs.
        n_components: outputs; the first m do not change when this grows.
        seed: determines the matrix, on any machine.
        noise_seed: determines the measurement noise; `seed` if None.
        preset: a name in `hardware.presets.PRESETS`, or a `Preset`.

    Raises:
        DeviceInputError: a size below 1, an unknown preset, a negative seed.

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
    ) -> None:
        if isinstance(preset, str) and preset not in PRESETS:
            raise DeviceInputError(f"unknown preset {preset!r}; the presets are {', '.join(sorted(PRESETS))}")
        if seed < 0:
            raise DeviceInputError(f"a seed is an integer of at least 0, got {seed}")
        self.preset = PRESETS[preset] if isinstance(preset, str) else preset
        super().__init__(
            n_features,
            n_components,
            frame_time=self.preset.frame_time,
            power=self.preset.power,
            noise_seed=seed if noise_seed is None else noise_seed,
        )
        self.seed = seed
        self._medium = DenseMedium(self.n_features, self.n_components, seed)

    @property
    def identity(self) -> str:
        return f"simulated dense medium, seed {self.seed}, {self.n_features} x {self.n_components}"

    @property
    def frames_per_projection(self) -> int:
        return self.preset.holography.steps if self.preset.holography else 2

    def _counts(self, patterns: Tensor) -> Tensor:
        real, imaginary = self._medium.field(patterns)
        intensity = real.square_().add_(imaginary.square_())
        half_on = 1.0  # E|E|² = 2 ‖x‖²/n_features, so a pattern with half its mirrors on has mean intensity 1
        counts = self.preset.camera.counts(intensity, self.preset.exposure * half_on, self.generator(patterns.device))
        return counts.to(torch.uint8)

    def _in_phase(self, patterns: Tensor) -> Tensor:
        if self.preset.holography is None:
            return self._medium.in_phase(patterns)
        real, imaginary = self._medium.field(patterns)
        # The host knows how many mirrors it turns on, so it sets the exposure for the brightest pattern of the batch.
        brightest = int(patterns.sum(dim=1, dtype=torch.int32).max().clamp(min=1))
        rms = (2 * brightest / self.n_features) ** 0.5
        return self.preset.holography.in_phase(
            real, imaginary, rms, self.preset.camera, self.generator(patterns.device)
        )
