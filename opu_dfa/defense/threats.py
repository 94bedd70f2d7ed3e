"""Who attacks: an attack, the way its attacker comes by a gradient, and what that takes of knowledge and queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from hardware import OPU, SimulatedOPU
from opu_dfa.defense.attacks import ATTACKS, Feature, Noise, Square, Transfer, find_attack
from opu_dfa.defense.combined import EOT, Annealed
from opu_dfa.defense.model import OpticalDefense
from opu_dfa.defense.retrieval import Noiseless, recover_known
from opu_dfa.defense.rules import (
    Autograd,
    RandomFeedback,
    StraightThrough,
    Surrogate,
    TrueFeedback,
    known_matrix,
    with_error,
)
from opu_dfa.defense.student import Student
from opu_dfa.defense.target import Attack, GradientRule, Target
from opu_dfa.errors import ConfigError
from opu_dfa.seeds import stream

NOTHING, QUERIES, FEEDBACK, PARTIAL, MEDIUM = KNOWLEDGE = (
    "T, B unknown",
    "queries allowed",
    "B known",
    "T known in part",
    "T known",
)
"""In the order in which an attacker who has the later is taken to have the earlier, too. The features' weights are
known to all who follow gradients: what is obfuscated is the optics."""
UNSTATED = "unstated"
SURROGATE, TANH, EXACT, AUTOGRAD = "surrogate", "straight-through, tanh", "exact", "autograd"
AVERAGED = (SURROGATE, TANH, EXACT, AUTOGRAD)  # gradients that are averaged over measurements, too
SLOPES = (0.5, 1.0, 2.0, 4.0)  # beta of an annealed tanh; the plain one's is SLOPE
SLOPE = 2.0
RECOVERED, NOISELESS = "T recovered", "no noise"


@dataclass(frozen=True)
class Threat:
    """One row of an evaluation.

    Args:
        attack: what searches; rule: its gradient, for those that need one.
        knowledge: one of `KNOWLEDGE`, or `UNSTATED`.
        queries: images or patterns the attacker measured beforehand, for the rule.
        measurements: over which each answer to the attack is averaged; every one counts.
    """

    attack: Attack
    rule: GradientRule | None = None
    knowledge: str = UNSTATED
    queries: int = 0
    measurements: int = 1

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
        if isinstance(self.attack, Transfer):
            shown = f"{_parameters(self.attack)} of {Threat(self.attack.attack, self.attack.rule).settings}"
        else:
            shown = _parameters(self.attack)
        averaged = f"; {self.measurements} measurements of every answer" if self.measurements > 1 else ""
        return shown + "".join(f"; {type(rule).__name__}" for rule in self.rules) + averaged

    @property
    def rules(self) -> tuple[GradientRule, ...]:
        """The rule and those it wraps, the outermost first."""
        found, rule = [], self.rule
        while rule is not None:
            found.append(rule)
            rule = getattr(rule, "rule", None)
        return tuple(found)


def _parameters(attack: Any) -> str:
    plain = {f.name: getattr(attack, f.name) for f in fields(attack)}
    shown = ", ".join(f"{k}={v!r}" for k, v in plain.items() if isinstance(v, int | float | str))
    return f"{type(attack).__name__}({shown})"


@dataclass(frozen=True)
class Efforts:
    """What an attacker tries beyond the plain attacks, a row each.

    Args:
        measurements: of a device whose answers vary, over which PGD averages a gradient (EOT).
        score_measurements: of such a device, over which Square averages a score; 1 for no such row.
        errors: relative errors to which PGD's attacker knows T.
    """

    measurements: tuple[int, ...] = (5, 20)
    score_measurements: int = 20
    errors: tuple[float, ...] = (0.3, 0.7, 0.9)


USUAL = Efforts()
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
    efforts: Efforts = USUAL,
) -> dict[str, Threat]:
    """Every attack, one that needs a gradient by the best of each level of knowledge; PGD by all others, too.

    Args:
        images: what the attacker fits a surrogate head and a student to, `(batch, channels, height, width)`.

    >>> list(standard(nn.Linear(4, 2), torch.rand(3, 1, 1, 4), attacks={"pgd": ATTACKS["pgd"], "nes": ATTACKS["nes"]}))
    ['pgd / autograd', 'nes']
    """
    threats: dict[str, Threat] = {}
    known = gradients(model, images, seed) if any(attack.needs_gradient for attack in attacks.values()) else {}
    varied = varies(model, images)
    for name, attack in attacks.items():
        if attack.needs_gradient:
            threats |= {f"{name} / {rule}": Threat(attack, *each) for rule, each in known.items()}
        elif isinstance(attack, Feature):
            threats |= {name: Threat(attack, knowledge=NOTHING)} if hasattr(model, "hidden") else {}
        else:
            threats[name] = Threat(attack, knowledge=NOTHING if isinstance(attack, Noise) else QUERIES)
        if name == "pgd":
            others = other_gradients(model, known, seed, efforts) | (averaged(known, efforts) if varied else {})
            threats |= {f"{name} / {rule}": Threat(attack, *each) for rule, each in others.items()}
            if isinstance(model, OpticalDefense) and model.binary:
                student = Student.fit(Target(model), images, stream(seed, "student"))
                replayed = Transfer(model=student, rule=Autograd(student), attack=attack)
                threats["transfer / distilled student"] = Threat(replayed, None, QUERIES, student.queries)
        if isinstance(attack, Square) and varied and efforts.score_measurements > 1:
            times = efforts.score_measurements
            threats[f"{name} x{times}"] = Threat(attack, None, QUERIES, measurements=times)
    return threats


def varies(model: nn.Module, images: Tensor) -> bool:
    """Whether the model answers the same images differently: a device with noise."""
    target = Target(model)
    return not torch.equal(target(images[:50]), target(images[:50]))


def gradients(model: nn.Module, images: Tensor, seed: int) -> Known:
    """A gradient of each level of knowledge, by name: the rule, the knowledge and the queries it takes."""
    if not isinstance(model, OpticalDefense):
        return {AUTOGRAD: (Autograd(model), MEDIUM, 0)}
    feedback: Known = {"true feedback": (TrueFeedback(model), FEEDBACK, 0)}
    simulated = model.opu is None or isinstance(model.opu, SimulatedOPU)  # else nobody knows its T
    if not model.binary:
        return ({EXACT: (StraightThrough(model), MEDIUM, 0)} if simulated else {}) | feedback
    surrogate = Surrogate.fit(Target(model), images, stream(seed, SURROGATE))
    return {
        "random feedback": (RandomFeedback(model, seed=_other_seed(seed)), NOTHING, 0),
        SURROGATE: (surrogate, QUERIES, surrogate.queries),
        **feedback,
        **({TANH: (StraightThrough(model, beta=SLOPE), MEDIUM, 0)} if simulated else {}),
    }


def other_gradients(model: nn.Module, known: Known, seed: int, efforts: Efforts) -> Known:
    """Other slopes of the step, and T known to an error."""
    found: Known = {}
    if not isinstance(model, OpticalDefense) or not model.binary:
        return found
    if TANH in known:
        found["straight-through, identity"] = (StraightThrough(model), MEDIUM, 0)
        steeper = [StraightThrough(model, beta=beta) for beta in SLOPES]
        found["straight-through, annealed"] = (Annealed(steeper), MEDIUM, 0)
    if isinstance(model.opu, SimulatedOPU):
        matrix = known_matrix(model.opu)
        for error in efforts.errors:
            wrong = with_error(matrix, error, stream(seed, f"T known to {error:g}"))
            found[f"T known to {error:g}"] = (StraightThrough(model, wrong, SLOPE), PARTIAL, 0)
    return found


def recovered(model: OpticalDefense, seed: int, patterns: Sequence[int]) -> Known:
    """T from phase retrieval on so many patterns, through the device's camera and, if it is simulated, without.

    Raises:
        DataError: fewer patterns than mirrors.
    """
    found: Known = {}
    if model.opu is None or not model.binary:
        return found
    for count in patterns:
        seen: dict[str, OPU | Noiseless] = {"": model.opu}
        if isinstance(model.opu, SimulatedOPU):
            seen[f", {NOISELESS}"] = Noiseless(model.opu)
        for name, device in seen.items():
            matrix = recover_known(device, count, stream(seed, f"retrieval {count}")).matrix
            found[f"{RECOVERED}, {count:,} patterns{name}"] = (StraightThrough(model, matrix, SLOPE), QUERIES, count)
    return found


def averaged(known: Known, efforts: Efforts) -> Known:
    """Gradients averaged over measurements; those of T recovered or known in part have the same noise."""
    return {
        f"{name} x{times}": (EOT(rule, times), knowledge, queries)
        for name, (rule, knowledge, queries) in known.items()
        for times in efforts.measurements
        if name in AVERAGED and times > 1
    }


def _other_seed(seed: int) -> int:
    """Of a B that is nobody's."""
    return int(torch.randint(2**31, (1,), generator=stream(seed, "another feedback")))
