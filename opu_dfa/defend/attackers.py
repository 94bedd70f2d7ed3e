"""The attacks of a run on one of its models, each by every gradient that an attacker may have."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch

from opu_dfa.defend.models import Data
from opu_dfa.defend.settings import DefendSettings
from opu_dfa.defense.attacks import ATTACKS, PGD, Transfer, find_attack
from opu_dfa.defense.model import OpticalDefense
from opu_dfa.defense.retrieval import recover_known
from opu_dfa.defense.rules import StraightThrough
from opu_dfa.defense.target import Attack
from opu_dfa.defense.threats import FEEDBACK, NOTHING, QUERIES, Threat, standard
from opu_dfa.defense.training import RULES
from opu_dfa.seeds import stream

TRANSFER, RECOVERED = "transfer", "T recovered"


def threats(
    model: OpticalDefense, rule: str, replayed: Transfer | None, chosen: DefendSettings, data: Data
) -> dict[str, Threat]:
    """Every row of a model's table, by name.

    Args:
        rule: that trained the model; its B means something only if that was "dfa".
        replayed: what replays images of another model; None for no such row.
    """
    names = [*ATTACKS, TRANSFER] if chosen.attacks == "all" else _list(chosen.attacks)
    attacks = {name: _within(find_attack(name), chosen) for name in names if name != TRANSFER}
    shown = data.images[: chosen.surrogate_queries].to(chosen.device)
    found = standard(model, shown, chosen.seed, attacks, chosen.measurements)
    if rule != "dfa":
        found = {name: threat for name, threat in found.items() if threat.knowledge != FEEDBACK}
    if TRANSFER in names and replayed is not None:
        found[TRANSFER] = Threat(replayed, knowledge=NOTHING)
    if model.opu is not None and model.binary:
        for count in chosen.retrieval:
            known = recover_known(model.opu, count, stream(chosen.seed, f"retrieval {count}"))
            recovered = StraightThrough(model, known.matrix)
            pgd = _within(PGD(), chosen)
            found[f"pgd / {RECOVERED}, {count:,} patterns"] = Threat(pgd, recovered, QUERIES, count)
    return found


def replay(other: OpticalDefense, rule: str, chosen: DefendSettings) -> Transfer:
    """PGD on the other model, by the rule that trained it."""
    return Transfer(model=other, rule=RULES[rule](other), attack=_within(PGD(), chosen))


def _within(attack: Attack, chosen: DefendSettings) -> Attack:
    """The attack with the steps and queries of the settings, if it has such."""
    some: Any = attack
    known = {field.name for field in fields(some)}
    wanted = {"steps": chosen.steps, "queries": chosen.queries}
    changed: Attack = replace(some, **{k: v for k, v in wanted.items() if k in known and v is not None})
    return changed


def _list(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def on(device: str, data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    """The attacked images and their labels, where the models are."""
    return data.test_images.to(device), data.test_labels.to(device)
