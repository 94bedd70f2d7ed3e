"""From the configuration group `opu` to an open device."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hardware import OPU, Calibration, open_opu
from opu_dfa.config import Seed, settings


@settings
class OPUSettings:
    """Which device: see `hardware.open_opu`. seed None takes the run's seed; calibration is a file or None."""

    kind: Annotated[str, Field(pattern=r"^(auto|simulated|lighton|remote://.+:\d+)$")]
    preset: str
    medium: str
    seed: Seed | None
    calibration: str | None


def open_device(chosen: OPUSettings, n_features: int | None, n_components: int | None, seed: int) -> OPU:
    """Open the device of the settings; its matrix is of `seed` where the settings leave that to the run.

    Raises:
        DeviceUnavailable: it does not answer.
        DeviceInputError: sizes, a preset, a medium or a calibration that it does not have.
    """
    return open_opu(
        chosen.kind,
        n_features=n_features,
        n_components=n_components,
        seed=seed if chosen.seed is None else chosen.seed,
        preset=chosen.preset,
        medium=chosen.medium,
        calibration=Calibration.load(chosen.calibration) if chosen.calibration else None,
    )
