"""Who attacks: an attack, the way its attacker comes by a gradient, and what that takes of knowledge and queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from hardware import SimulatedOPU
from opu_dfa.defense.attacks import ATTACKS, Feature, Noise, find_attack
from opu_dfa.defense.model import OpticalDefense
from opu_dfa.defense.retrieval import recover_known
from opu_dfa.defense.rules import EOT, Autograd, RandomFeedback, StraightThrough, Surrogate, TrueFeedback
from opu_dfa.defense.target import Attack, GradientRule, Target
from opu_dfa.errors import ConfigError
from opu_dfa.seeds import stream

NOTHING, QUERIES, FEEDBACK, MEDIUM = KNOWLEDGE = ("T, B unknown", "queries allowed", "B known", "T known")
"""In the order in which an attacker who has the later is taken to have the earlier, too. The features' weights are
known to all who follow gradients: what is obfuscated is the optics."""
UNSTATED = "unstated"


@dataclass(frozen=True)
class Threat:
    """One row of an evaluation.

    Args:
        attack: what searches; rule: its gradient, for those that need one.
        knowledge: one of `KNOWLEDGE`, or `UNSTATED`.
        queries: images or patterns the attacker measured beforehand, for the rule.
    """

    attack: Attack
    rule: GradientRule | None = None
    knowledge: str = UNSTATED
    queries: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.attack, Attack):
            raise ConfigError(f"a threat has an Attack (opu_dfa.defense.attacks), got {self.attack!r}")
        if self.attack.needs_gradient and self.rule is None:
            raise ConfigError(f"{self.attack.name} follows a gradient: give it a rule, for instance Autograd(model)")
        if self.knowledge not in (*KNOWLEDGE, UNSTATED):
            raise ConfigError(f"knowledge is one of {', '.join(KNOWLEDGE)}; got {self.knowledge!r}")

    @property
    def follows_gradient(self) -> bool:
        """Of the target itself; a transfer follows another model's."""
        return self.attack.needs_gradient or isinstance(self.attack, Feature)

    @property
    def settings(self) -> str:
        """The attack's parameters, and its rule with those it wraps: `PGD(restarts=1, steps=50); TrueFeedback`."""
        attack: Any = self.attack
        plain = {f.name: getattr(attack, f.name) for f in fields(attack)}
        shown = ", ".join(f"{k}={v!r}" for k, v in plain.items() if isinstance(v, int | float | str))
        return f"{type(attack).__name__}({shown})" + "".join(f"; {name}" for name in self.rules)

    @property
    def rules(self) -> tuple[str, ...]:
        """Class names of the rule and of those it wraps, the outermost first."""
        names, rule = [], self.rule
        while rule is not None:
            names.append(type(rule).__name__)
            rule = getattr(rule, "rule", None)
        return tuple(names)


Known = dict[str, tuple[GradientRule, str, int]]  # a rule, its attacker's knowledge and queries
Attacks = str | list[str] | tuple[str, ...] | Mapping[str, Threat | tuple[Attack, GradientRule | None]]


def named(attacks: Attacks, model: nn.Module, images: Tensor, seed: int) -> dict[str, Threat]:
    """Threats by name: of "all", of one or more names of `ATTACKS` (each by `standard`), or as given.

    Raises:
        ConfigError: an unknown attack, or none.
    """
    if isinstance(attacks, Mapping):
        chosen = {name: t if isinstance(t, Threat) else Threat(*t) for name, t in attacks.items()}
    else:
        names = list(ATTACKS) if attacks == "all" else [attacks] if isinstance(attacks, str) else list(attacks)
        found = {name: find_attack(name) for name in names}
        chosen = standard(model, images, seed, found)
    if not chosen:
        raise ConfigError('an evaluation needs attacks: "all", names, or a dict of (attack, rule)')
    return chosen


def standard(
    model: nn.Module,
    images: Tensor,
    seed: int = 0,
    attacks: Mapping[str, Attack] = ATTACKS,
    measurements: int = 10,
    retrieval_queries: int = 0,
) -> dict[str, Threat]:
    """Every attack, those that need a gradient with each there is: a defence falls to the one that fits it.

    Args:
        images: what the attacker fits a surrogate head with, `(batch, channels, height, width)`.
        measurements: over which PGD's gradients are averaged in rows of their own (EOT), if the model's answers vary.
        retrieval_queries: patterns for phase retrieval; 0 leaves that attacker out.

    >>> list(standard(nn.Linear(4, 2), torch.rand(3, 1, 1, 4), attacks={"pgd": ATTACKS["pgd"], "nes": ATTACKS["nes"]}))
    ['pgd / autograd', 'nes']
    """
    threats: dict[str, Threat] = {}
    needed = any(attack.needs_gradient for attack in attacks.values())
    rules = gradients(model, images, seed, retrieval_queries) if needed else {}
    varied = measurements > 1 and varies(model, images)
    for name, attack in attacks.items():
        if attack.needs_gradient:
            threats |= {f"{name} / {rule}": Threat(attack, *known) for rule, known in rules.items()}
            if name == "pgd" and varied:
                for each, (rule, knowledge, queries) in rules.items():
                    averaged = Threat(attack, EOT(rule, measurements), knowledge, queries)
                    threats[f"{name} / {each} x{measurements}"] = averaged
        elif not isinstance(attack, Feature):
            threats[name] = Threat(attack, knowledge=NOTHING if isinstance(attack, Noise) else QUERIES)
        elif hasattr(model, "hidden"):
            threats[name] = Threat(attack, knowledge=NOTHING)
    return threats


def varies(model: nn.Module, images: Tensor) -> bool:
    """Whether the model answers the same images differently: a device with noise."""
    target = Target(model)
    return not torch.equal(target(images[:50]), target(images[:50]))


def gradients(model: nn.Module, images: Tensor, seed: int, retrieval_queries: int = 0) -> Known:
    """What is known of the head's gradient, by name: the rule, the knowledge and the queries it takes."""
    if not isinstance(model, OpticalDefense):
        return {"autograd": (Autograd(model), MEDIUM, 0)}
    feedback: Known = {"true feedback": (TrueFeedback(model), FEEDBACK, 0)}
    matrix: Known = {}
    if model.opu is None or isinstance(model.opu, SimulatedOPU):  # else nobody knows its T
        matrix["straight-through" if model.binary else "exact"] = (StraightThrough(model), MEDIUM, 0)
    if not model.binary:
        return matrix | feedback
    surrogate = Surrogate.fit(Target(model), images, stream(seed, "surrogate"))
    queried: Known = {"surrogate": (surrogate, QUERIES, surrogate.queries)}
    if matrix:
        matrix["straight-through, tanh"] = (StraightThrough(model, beta=2.0), MEDIUM, 0)
    if retrieval_queries and model.opu is not None:
        found = recover_known(model.opu, retrieval_queries, stream(seed, "retrieval"))
        queried["recovered T"] = (StraightThrough(model, found.matrix), QUERIES, found.queries)
    other: Known = {"random feedback": (RandomFeedback(model, seed=_other_seed(seed)), NOTHING, 0)}
    return feedback | matrix | queried | other


def _other_seed(seed: int) -> int:
    """Of a B that is nobody's."""
    return int(torch.randint(2**31, (1,), generator=stream(seed, "another feedback")))
