"""Data, loss and metrics, one file a task."""

from opu_dfa.tasks.build import build_task
from opu_dfa.tasks.task import Task

__all__ = ["Task", "build_task"]
