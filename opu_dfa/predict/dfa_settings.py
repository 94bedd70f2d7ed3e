"""What `configs/predict-dfa.yaml` holds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from opu_dfa.config import Count, Positive, Seed, settings
from opu_dfa.errors import ConfigError
from opu_dfa.opening import OPUSettings
from opu_dfa.predict.settings import simulated_only


@settings
class DFASettings:
    """The network and the device of `opu-dfa predict task=dfa`; see the comments of `configs/predict-dfa.yaml`."""

    task: Literal["dfa"]
    opu: OPUSettings
    n_inputs: Annotated[int, Field(ge=20)]
    hidden: Count
    teacher: Count
    outputs: Count
    rate: Positive
    head_rate: Annotated[float, Field(ge=0)]
    label_noise: Annotated[float, Field(ge=0)]
    encoding: Literal["stochastic", "threshold", "bit-planes"]
    snr: Positive | None
    times: list[Annotated[float, Field(ge=0)]]
    media: Count
    runs: Annotated[int, Field(ge=2)]
    seed: Seed
    resume: None

    def __post_init__(self) -> None:
        if len(self.times) < 2 or any(b <= a for a, b in zip(self.times, self.times[1:], strict=False)):
            raise ConfigError(f"times ascend, two or more of them, as in times=[0,5,20]; got {self.times}")
        if self.hidden + self.teacher > self.n_inputs:
            raise ConfigError(
                f"{self.hidden} hidden and {self.teacher} teacher units take as many inputs; n_inputs={self.n_inputs}"
            )
        simulated_only(self.opu)
