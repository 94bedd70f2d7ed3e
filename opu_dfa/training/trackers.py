"""Where numbers go besides the run's own folder: nowhere, or to Weights & Biases."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

from opu_dfa.errors import ConfigError
from opu_dfa.training.settings import TrainSettings


class Tracker(Protocol):
    """Receives every record of a run, and its summary."""

    @property
    def identity(self) -> str | None:
        """What continues the same tracked run after a resume, if anything does."""

    def log(self, record: dict[str, Any]) -> None: ...

    def finish(self, summary: dict[str, Any] | None) -> None: ...


class NoTracker:
    """Keeps nothing."""

    identity: str | None = None

    def log(self, record: dict[str, Any]) -> None:
        pass

    def finish(self, summary: dict[str, Any] | None) -> None:
        pass


class WandbTracker:
    """One W&B run, with the curves of all methods over the training step; offline unless told otherwise.

    Raises:
        ConfigError: mode "online" without an API key (it never asks for one).
    """

    def __init__(self, settings: TrainSettings, folder: Path, config: dict[str, Any], identity: str | None) -> None:
        import wandb

        if settings.wandb.mode == "online" and not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
            raise ConfigError(
                "wandb.mode=online needs an account: set WANDB_API_KEY, or keep wandb.mode=offline and upload the run "
                "later with `wandb sync`."
            )
        try:
            self._run = wandb.init(
                project=settings.wandb.project,
                mode=settings.wandb.mode,
                dir=folder,
                name=folder.name,
                id=identity,
                resume="allow",
                config=config,
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.errors.Error as error:
            raise ConfigError(f"W&B did not start: {error}. wandb.mode=offline needs no connection.") from error
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self.identity: str | None = self._run.id

    def log(self, record: dict[str, Any]) -> None:
        method = record["method"]
        values: dict[str, Any] = {"step": record["step"]}
        for key, value in record.items():
            if isinstance(value, dict):
                values |= {f"{method}/{key}/{name}": number for name, number in value.items()}
            elif isinstance(value, (int, float)) and key != "step":
                values[f"{method}/{key}"] = value
        self._run.log(values)

    def finish(self, summary: dict[str, Any] | None) -> None:
        if summary is not None:
            self._run.summary.update(summary)
        self._run.finish(exit_code=0 if summary is not None else 1)


def open_tracker(settings: TrainSettings, folder: Path, config: dict[str, Any], identity: str | None) -> Tracker:
    """The tracker a run asks for."""
    if settings.tracker == "wandb":
        return WandbTracker(settings, folder, config, identity)
    return NoTracker()
