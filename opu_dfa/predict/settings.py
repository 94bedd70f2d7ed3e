"""What `configs/predict.yaml` holds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hardware.presets import PRESETS
from opu_dfa.config import Count, Positive, Seed, settings
from opu_dfa.errors import ConfigError
from opu_dfa.opening import OPUSettings
from opu_dfa.tasks.data import DataSettings
from opu_dfa.tasks.images import Source


@settings
class PredictSettings:
    """The data, the device and the reader of `opu-dfa predict`; see the comments of `configs/predict.yaml`."""

    task: Literal["reader"]
    images: Source
    x: str | None
    y: str | None
    classes: list[int] | None
    data: DataSettings
    pool: Annotated[int, Field(ge=20)]

    opu: OPUSettings
    n_components: Count
    loss: Literal["square", "logistic"]
    ridge: Positive | None
    n: list[Count]

    media: Annotated[int, Field(ge=2)]
    draws: Count
    recommend: bool
    seed: Seed
    resume: None

    def __post_init__(self) -> None:
        if (self.x is None) != (self.y is None):
            raise ConfigError(f"x=FILE.npy and y=FILE.npy go together; got x={self.x}, y={self.y}")
        if self.classes is not None and len(set(self.classes)) != 2:
            raise ConfigError(f"classes are two, as in classes=[0,6], or null for even against odd; got {self.classes}")
        if self.ridge is None and not self.recommend:
            raise ConfigError("ridge=null takes the one that theory recommends; give a ridge, or leave recommend=true")
        if not self.n:
            raise ConfigError("n is a list of numbers of images to learn from, as in n=[50,100,200]; got none")
        simulated_only(self.opu)


def simulated_only(opu: OPUSettings) -> None:
    """Raises ConfigError unless the device is a simulated one, of a preset there is."""
    if opu.kind not in ("simulated", "auto"):
        raise ConfigError(
            f"theory is compared with the simulated device of a preset; got opu.kind={opu.kind}: take opu=simulated"
        )
    if opu.preset not in PRESETS:
        raise ConfigError(f"opu.preset={opu.preset} is unknown; the presets are {', '.join(PRESETS)}")
