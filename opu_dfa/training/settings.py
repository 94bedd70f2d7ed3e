"""The settings of a training run, typed and checked. Their values are in configs/."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator

from opu_dfa.config import BelowOne, Count, NonNegative, NonNegativeInt, Positive, Seed, settings
from opu_dfa.errors import ConfigError
from opu_dfa.opening import OPUSettings
from opu_dfa.tasks.data import DataSettings

Method = Literal["dfa", "bp", "frozen"]
Methods = Annotated[list[Method], BeforeValidator(lambda given: [given] if isinstance(given, str) else given)]


@settings
class LearningRates:
    """The peak learning rate of each method, chosen for each by the same sweep (scripts/results.py)."""

    dfa: Positive
    bp: Positive
    frozen: Positive


@settings
class OptimizerSettings:
    """AdamW with linear warm-up, and then a schedule.

    schedule: "cosine" decays to `final` of the peak rate; "noam" with the inverse root of the step (Vaswani et al.
    2017); "plateau" to a fifth whenever the validation loss did not fall; "constant" does not. warmup: fraction of the
    steps; clip_norm: largest gradient norm, 0 for none.
    """

    lr: LearningRates
    schedule: Literal["cosine", "noam", "plateau", "constant"]
    beta1: BelowOne
    beta2: BelowOne
    weight_decay: NonNegative
    warmup: BelowOne
    final: BelowOne
    clip_norm: NonNegative


@settings
class WandbSettings:
    """Weights & Biases: mode "offline" writes beside the run, "online" needs WANDB_API_KEY."""

    mode: Literal["offline", "online"]
    project: str


@settings
class TrainSettings:
    """A run: what is trained, how long, by which methods, and how often things are looked at and saved (in steps)."""

    task: dict[str, Any]
    model: dict[str, Any]
    feedback: dict[str, Any]
    opu: OPUSettings
    data: DataSettings
    optimizer: OptimizerSettings
    tracker: Literal["none", "wandb"]
    wandb: WandbSettings
    method: Methods
    steps: Count
    batch_size: Count
    seed: Seed
    device: Literal["auto", "cpu", "cuda"]
    log_every: Count
    validate_every: Count
    alignment_every: Count
    checkpoint_every: Count
    sample_length: NonNegativeInt
    resume: str | None

    def __post_init__(self) -> None:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device=cuda needs a GPU that PyTorch can use, and there is none; choose device=cpu")
        if not self.method or len(set(self.method)) < len(self.method):
            raise ConfigError(f"method={self.method} must name at least one method, and each at most once")

    @property
    def torch_device(self) -> torch.device:
        """Where the model trains; "auto" is the GPU if there is one."""
        gpu = self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())
        return torch.device("cuda" if gpu else "cpu")
