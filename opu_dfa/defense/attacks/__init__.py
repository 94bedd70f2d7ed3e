"""Attacks, all in pixel units: gradients, scores, decisions, and other ways; `ATTACKS` by name, with their defaults."""

from collections.abc import Mapping
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any

from opu_dfa.defense.attacks.autopgd import APGD
from opu_dfa.defense.attacks.decision import HopSkipJump
from opu_dfa.defense.attacks.gradient import FGSM, MIFGSM, PGD
from opu_dfa.defense.attacks.losses import LOSSES, cross_entropy, dlr, margin
from opu_dfa.defense.attacks.other import Feature, Noise, Transfer
from opu_dfa.defense.attacks.score import NES, SPSA
from opu_dfa.defense.attacks.search import Restarted, Search
from opu_dfa.defense.attacks.square import Square
from opu_dfa.defense.target import Attack
from opu_dfa.errors import ConfigError

_DEFAULTS: tuple[Restarted, ...] = (
    Noise(),
    FGSM(),
    PGD(),
    MIFGSM(),
    APGD(),
    APGD(loss="dlr"),
    Square(),
    NES(),
    SPSA(),
    HopSkipJump(),
    Feature(),
)
ATTACKS: Mapping[str, Attack] = MappingProxyType({attack.name: attack for attack in _DEFAULTS})
"""All but `Transfer`, which needs another model."""


def find_attack(name: str, **changes: Any) -> Attack:
    """The attack of that name, with some of its parameters changed.

    Raises:
        ConfigError: no such attack, or parameter.

    >>> find_attack("pgd", steps=10, restarts=2)
    PGD(restarts=2, steps=10, step_size=None, loss='cross-entropy', start='random')
    """
    if name not in ATTACKS:
        raise ConfigError(
            f"no attack is named {name!r}; there are {', '.join(ATTACKS)}, and Transfer for images of another model"
        )
    attack: Any = ATTACKS[name]
    known = [field.name for field in fields(attack)]
    if unknown := sorted(set(changes) - set(known)):
        raise ConfigError(f"{name} has no {', '.join(unknown)}; it has {', '.join(known)}")
    changed: Attack = replace(attack, **changes)
    return changed


__all__ = [
    "APGD",
    "ATTACKS",
    "FGSM",
    "LOSSES",
    "MIFGSM",
    "NES",
    "PGD",
    "SPSA",
    "Attack",
    "Feature",
    "HopSkipJump",
    "Noise",
    "Restarted",
    "Search",
    "Square",
    "Transfer",
    "cross_entropy",
    "dlr",
    "find_attack",
    "margin",
]
