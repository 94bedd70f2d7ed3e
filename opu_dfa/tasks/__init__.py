"""Data, loss and metrics, one file a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opu_dfa.config import parse
from opu_dfa.errors import ConfigError
from opu_dfa.tasks.text import TextSettings, TextTask


def build_task(section: Mapping[str, Any]) -> TextTask:
    """The task a configuration names.

    Raises:
        ConfigError: an unknown task or setting.
        DataError: its data are missing or unfit.
    """
    if section.get("name") != "text":
        raise ConfigError(f"task.name={section.get('name')} is unknown; the tasks are: text")
    return TextTask(parse(TextSettings, section, "task"))
