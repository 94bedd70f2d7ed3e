"""Networks laid out as blocks, and where direct feedback alignment enters each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from opu_dfa.config import Count, parse, settings
from opu_dfa.dfa.engine import resolve_blocks
from opu_dfa.errors import ConfigError
from opu_dfa.models.gpt import GPT


@settings
class GPTSettings:
    """Sizes of a `GPT`. taps: the blocks that learn from feedback; through: the module whose local derivative the
    projected error passes; head: the linear layer that may start from the feedback's columns; trained_after: what
    follows the last block, and alone is trained where the blocks are frozen."""

    name: Literal["gpt"]
    n_blocks: Count
    width: Count
    n_heads: Count
    hidden: Count | None
    tie_weights: bool
    taps: list[str]
    through: str | None
    head: str
    trained_after: list[str]


def build_model(section: Mapping[str, Any], task: Any, seed: int) -> tuple[nn.Module, GPTSettings]:
    """The model a configuration names, sized for the task, and its settings.

    Raises:
        ConfigError: an unknown model, or sizes that do not fit each other.
    """
    if section.get("name") != "gpt":
        raise ConfigError(f"model.name={section.get('name')} is unknown; the models are: gpt")
    chosen = parse(GPTSettings, section, "model")
    try:
        model = GPT(
            task.n_outputs,
            task.context,
            chosen.n_blocks,
            chosen.width,
            chosen.n_heads,
            chosen.hidden,
            chosen.tie_weights,
            seed,
        )
        for setting in (chosen.taps, [chosen.head], chosen.trained_after, [chosen.through] if chosen.through else []):
            for name in setting:
                resolve_blocks(model, [name])
    except ValueError as error:
        raise ConfigError(f"the model's settings do not fit: {error}") from error
    return model, chosen
