"""From the configuration group `task` to a task."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from opu_dfa.config import parse
from opu_dfa.errors import ConfigError
from opu_dfa.tasks.data import DataSettings
from opu_dfa.tasks.task import Task

# Each is a module of this package with `Settings` and `build(settings, data)`.
TASKS = ("text", "images", "clicks", "diffusion", "climate", "views", "nodes", "links")


def build_task(section: Mapping[str, Any], data: DataSettings | None = None) -> Task:
    """The task a configuration names.

    Args:
        section: the group's values; data: where data sets are, the default folder if None.

    Raises:
        ConfigError: an unknown task or setting.
        DataError: its data are missing or unfit.
    """
    name = section.get("name")
    if name not in TASKS:
        raise ConfigError(f"task.name={name} is unknown; the tasks are: {', '.join(TASKS)}")
    module = import_module(f"opu_dfa.tasks.{name}")
    return module.build(parse(module.Settings, section, "task"), data or DataSettings(root=None, download=False))
