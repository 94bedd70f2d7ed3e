"""The settings of a training run, typed and checked. Their values are in configs/."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator

from opu_dfa.config import Count, NonNegativeInt, Seed, settings
from opu_dfa.errors import ConfigError
from opu_dfa.opening import OPUSettings
from opu_dfa.tasks.data import DataSettings
from opu_dfa.training.optimizer import OptimizerSettings

Method = Literal["dfa", "bp", "frozen"]
Methods = Annotated[list[Method], BeforeValidator(lambda given: [given] if isinstance(given, str) else given)]


@settings
class MemorySettings:
    """What a step may leave out of memory, for time.

    recompute: blocks keep their inputs alone, and run again for their gradients; step_in_backward: a block steps, and
    drops its gradient, as soon as it is there; offload: activations wait in the host's memory, or on disk where there
    is no GPU; weights: "bfloat16" halves them and their gradients, and steps round stochastically.
    """

    recompute: bool
    step_in_backward: bool
    offload: bool
    weights: Literal["float32", "bfloat16"]


@settings
class WandbSettings:
    """Weights & Biases: mode "offline" writes beside the run, "online" needs WANDB_API_KEY."""

    mode: Literal["offline", "online"]
    project: str


@settings
class TrainSettings:
    """A run: what is trained, how long, by which methods, and how often things are looked at and saved (in steps).

    alignment_every: 0 for never; validation_examples: of a held-out split, how many are looked at, null for all."""

    task: dict[str, Any]
    model: dict[str, Any]
    feedback: dict[str, Any]
    opu: OPUSettings
    data: DataSettings
    optimizer: OptimizerSettings
    memory: MemorySettings
    pipeline: dict[str, Any]
    tracker: Literal["none", "wandb"]
    wandb: WandbSettings
    method: Methods
    steps: Count
    batch_size: Count
    seed: Seed
    device: Literal["auto", "cpu", "cuda"]
    log_every: Count
    validate_every: Count
    validation_examples: Count | None
    alignment_every: NonNegativeInt
    checkpoint_every: Count
    sample_length: NonNegativeInt
    resume: str | None

    def __post_init__(self) -> None:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device=cuda needs a GPU that PyTorch can use, and there is none; choose device=cpu")
        if not self.method or len(set(self.method)) < len(self.method):
            raise ConfigError(f"method={self.method} must name at least one method, and each at most once")

    def precision(self) -> torch.autocast:
        """Within, weights in half precision meet inputs and losses in single precision as autocast has it."""
        half = self.memory.weights == "bfloat16"
        return torch.autocast(self.torch_device.type, torch.bfloat16, enabled=half, cache_enabled=False)

    @property
    def torch_device(self) -> torch.device:
        """Where the model trains; "auto" is the GPU if there is one."""
        gpu = self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())
        return torch.device("cuda" if gpu else "cpu")
