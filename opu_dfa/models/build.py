"""From the configuration group `model` to a network, sized for its task."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn

from opu_dfa.config import parse
from opu_dfa.dfa.engine import resolve_blocks
from opu_dfa.errors import ConfigError
from opu_dfa.models.layout import Layout

# Each is a module of this package with `Settings` (a Layout) and `build(settings, task, seed)`.
MODELS = ("gpt", "mlp", "recommender", "denoiser", "vit", "vgg", "nerf", "graph")


def build_model(section: Mapping[str, Any], task: Any, seed: int) -> tuple[nn.Module, Layout]:
    """The model a configuration names, sized for the task, and its settings.

    Raises:
        ConfigError: an unknown model, sizes that do not fit each other, or a task of another kind.
    """
    name = section.get("name")
    if name not in MODELS:
        raise ConfigError(f"model.name={name} is unknown; the models are: {', '.join(MODELS)}")
    module = import_module(f"opu_dfa.models.{name}")
    chosen: Layout = parse(module.Settings, section, "model")
    try:
        model: nn.Module = module.build(chosen, task, seed)
        named = [*chosen.taps, *chosen.trained_after, *(n for n in (chosen.head, chosen.through) if n)]
        for block in named:
            resolve_blocks(model, [block])
    except AttributeError as error:
        if getattr(error, "obj", None) is not task:
            raise
        raise ConfigError(
            f"model={name} needs the {error.name} of its task, which {type(task).__name__} has not: they do not fit. "
            "Choose an experiment that pairs them (opu-dfa train experiment=NAME), or another model."
        ) from error
    except ValueError as error:
        raise ConfigError(f"the model's settings do not fit: {error}") from error
    return model, chosen
