"""What `configs/forecast.yaml` holds, and the models that it asks for."""

from __future__ import annotations

from typing import Any, Literal

from opu_dfa.config import Count, NonNegative, NonNegativeInt, Positive, Seed, settings
from opu_dfa.errors import ConfigError
from opu_dfa.opening import OPUSettings

_SPACE = (
    "n_units",
    "spectral_radius",
    "input_scale",
    "bias_scale",
    "leak_rate",
    "n_layers",
    "density",
    "features",
    "ridge",
)


@settings
class ForecastSettings:
    """A series, the models and the starts of `opu-dfa forecast`; see the comments of `configs/forecast.yaml`."""

    system: dict[str, Any] | None
    lyapunov_exponent: Positive | None
    series: str | None
    columns: list[int | str] | None
    train_steps: Count | None
    washout: NonNegativeInt
    starts: Count
    steps: Count
    threshold: Positive
    free_run: NonNegativeInt

    projection: Literal["structured", "dense", "sparse", "opu"]
    opu: OPUSettings
    input_mirrors: Count | None
    n_units: Count
    nonlinearity: str
    spectral_radius: NonNegative
    input_scale: NonNegative
    bias_scale: NonNegative
    leak_rate: Positive
    n_layers: Count
    density: Positive
    bits: Count | None
    features: str
    ridge: NonNegative | list[NonNegative]
    n_groups: Count
    overlap: NonNegativeInt

    kernel: bool
    kernel_train_steps: Count | None
    kernel_every: Count

    search: NonNegativeInt
    search_starts: Count
    space: dict[str, list[Any]]
    seed: Seed
    resume: None

    def __post_init__(self) -> None:
        if self.system is None and self.series is None:
            raise ConfigError("name a system=..., or a series=...: a CSV file, sunspots, co2 or santa-fe")
        if self.kernel and isinstance(self.ridge, list):
            raise ConfigError(f"the recurrent kernel takes one ridge, got {self.ridge}; choose one, or kernel=false")
        unknown = [name for name in self.space if name not in _SPACE]
        if self.search and unknown:
            raise ConfigError(f"the space of a search is over {', '.join(_SPACE)}; got {', '.join(unknown)}")
