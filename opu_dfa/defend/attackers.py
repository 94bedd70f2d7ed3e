"""The attacks of a run on one of its models, by every gradient that an attacker may have and from other models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from opu_dfa.defend.models import Data
from opu_dfa.defend.settings import DefendSettings
from opu_dfa.defense.attacks import ATTACKS, MIFGSM, PGD, Transfer, find_attack
from opu_dfa.defense.combined import Averaged, Ensemble
from opu_dfa.defense.model import OpticalDefense
from opu_dfa.defense.target import Attack
from opu_dfa.defense.threats import FEEDBACK, NOTHING, Efforts, Threat, recovered, standard
from opu_dfa.defense.training import RULES

TRANSFER = "transfer"
Others = Mapping[str, tuple[OpticalDefense, str]]  # models by name, and the rule that trained each


def threats(model: OpticalDefense, rule: str, others: Others, chosen: DefendSettings, data: Data) -> dict[str, Threat]:
    """Every row of a model's table, by name.

    Args:
        rule: that trained the model; its B means something only if that was "dfa".
        others: models whose images are replayed on this one.
    """
    names = [*ATTACKS, TRANSFER] if chosen.attacks == "all" else _list(chosen.attacks)
    attacks = {name: _within(find_attack(name), chosen) for name in names if name != TRANSFER}
    shown = data.images[: chosen.surrogate_queries].to(chosen.device)
    found = standard(model, shown, chosen.seed, attacks, efforts(chosen))
    if rule != "dfa":
        found = {name: threat for name, threat in found.items() if threat.knowledge != FEEDBACK}
    known = recovered(model, chosen.seed, chosen.retrieval)
    found |= {f"pgd / {name}": Threat(_within(PGD(), chosen), *each) for name, each in known.items()}
    return found | (transfers(others, chosen) if TRANSFER in names else {})


def efforts(chosen: DefendSettings) -> Efforts:
    """What the settings say of them."""
    return Efforts(tuple(chosen.measurements), chosen.score_measurements, tuple(chosen.errors))


def transfers(others: Others, chosen: DefendSettings) -> dict[str, Threat]:
    """PGD and MI-FGSM on each of the other models, by the rule that trained it; of two or more, MI-FGSM on all."""
    found = {}
    for attack in (_within(PGD(), chosen), _within(MIFGSM(), chosen)):
        for name, (other, rule) in others.items():
            replayed = Transfer(model=other, rule=RULES[rule](other), attack=attack)
            found[f"transfer, {attack.name}, from {name}"] = Threat(replayed, knowledge=NOTHING)
    if len(others) > 1:
        models, rules = [model for model, _ in others.values()], [RULES[rule](model) for model, rule in others.values()]
        replayed = Transfer(model=Averaged(models), rule=Ensemble(rules), attack=attack)
        found[f"transfer, {attack.name}, from all"] = Threat(replayed, knowledge=NOTHING)
    return found


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
