"""Checks of an evaluation: whether its attacks do what attacks do, so that what survives them means something.

The list of Carlini et al., "On evaluating adversarial robustness", 2019 (arXiv 1902.06705). Differences between two
runs on the same images are compared with twice their paired standard error, √(images that differ) / n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from opu_dfa.defense.attacks import FGSM, Noise
from opu_dfa.defense.outcome import Check, Report, attacked, fraction
from opu_dfa.defense.target import Attack, Target
from opu_dfa.defense.threats import Threat

CHANCE = "a budget of eps = 1 leaves no more than chance"
ONE_STEP = "many steps are no weaker than one"
STEPS = "twice the steps change nothing"
RESTARTS = "five restarts change nothing"
BATCH = "one image alone is classified as in a batch"
NOISE = "random noise in the ball is harmless"
FALLEN = "the undefended model falls to about 0"
MASKING = "attacks without a gradient are no stronger than those with one"


def run_checks(
    report: Report,
    model: nn.Module,
    images: Tensor,
    threats: Mapping[str, Threat],
    chunk: int,
    undefended: Report | None,
) -> tuple[Check, ...]:
    """All checks, on the first `len(images)` images of the report, with its strongest attack."""
    bench = _Bench(report, model, images, chunk)
    strongest = _strongest(report, threats)
    stepping = _strongest(
        report, {n: t for n, t in threats.items() if t.attack.needs_gradient and _has(t.attack, "steps")}
    )
    return (
        bench.chance(strongest),
        bench.weaker(ONE_STEP, stepping, FGSM()),
        bench.no_stronger(STEPS, stepping, "steps", 2),
        bench.no_stronger(RESTARTS, stepping, "restarts", 5),
        _batch(model, images, chunk),
        bench.noise(),
        _fallen(undefended, report),
        masking(report),
    )


def masking(report: Report) -> Check:
    """Gradient-free attacks that find more than all gradients together are the signature of masked gradients.

    Then the robustness seen by gradients is an artefact, and the worst case, too, may still be optimistic.
    """
    led = [o.name for o in report.outcomes if o.threat.follows_gradient]
    free = [o.name for o in report.outcomes if not o.threat.follows_gradient]
    if not led or not free:
        return Check(MASKING, None, "takes attacks of both kinds")
    with_gradient, without = report.worst_of(led), report.worst_of(free)
    loss = fraction(with_gradient) - fraction(without)
    holds = loss <= _error(with_gradient, without)
    verdict = "" if holds else ": GRADIENTS ARE MASKED"
    only = fraction(with_gradient & ~without)
    return Check(
        MASKING,
        holds,
        f"{_percent(fraction(with_gradient))} left with, {_percent(fraction(without))} without; {_percent(only)} fall "
        f"to the latter alone{verdict}",
    )


class _Bench:
    """Reruns of attacks on some of the images of a report."""

    def __init__(self, report: Report, model: nn.Module, images: Tensor, chunk: int) -> None:
        self.report, self.model, self.images, self.chunk = report, model, images, chunk
        self.labels, self.clean = report.labels[: len(images)], report.clean_right[: len(images)]

    def run(self, name: str, threat: Threat, eps: float) -> Tensor:
        """Which images stay right."""
        found = attacked(
            self.model,
            self.images,
            self.labels,
            eps,
            name,
            threat,
            self.report.seed + 1,
            self.report.repeats,
            self.chunk,
        )
        return found.right & self.clean

    def known(self, name: str) -> Tensor:
        """Which stayed right in the report."""
        return next(o.right for o in self.report.outcomes if o.name == name)[: len(self.images)]

    def chance(self, strongest: tuple[str, Threat] | None) -> Check:
        if strongest is None:
            return Check(CHANCE, None, "no attack but noise was run")
        right = self.run(f"{strongest[0]}, eps 1", strongest[1], 1.0)
        chance = 1 / self.report.n_classes
        limit = chance + 2 * math.sqrt(chance * (1 - chance) / len(right))
        return Check(CHANCE, fraction(right) <= limit, f"{_percent(fraction(right))} left by {strongest[0]}")

    def weaker(self, name: str, stepping: tuple[str, Threat] | None, attack: Attack) -> Check:
        """The report's strongest attack in steps against a single step along the same gradient."""
        if stepping is None:
            return Check(name, None, "no attack in steps was run")
        one, many = self.run(name, replace(stepping[1], attack=attack), self.report.eps), self.known(stepping[0])
        holds = fraction(many) - fraction(one) <= _error(one, many)
        return Check(name, holds, f"{_percent(fraction(many))} left by {stepping[0]}, {_percent(fraction(one))} by one")

    def no_stronger(self, name: str, stepping: tuple[str, Threat] | None, field: str, factor: int) -> Check:
        """The strongest attack in steps, with one of its parameters so many times as large."""
        if stepping is None or not _has(stepping[1].attack, field):
            return Check(name, None, "no attack in steps was run")
        attack: Any = stepping[1].attack
        more = replace(stepping[1], attack=replace(attack, **{field: factor * getattr(attack, field)}))
        now, then = self.known(stepping[0]), self.run(name, more, self.report.eps)
        holds = fraction(now) - fraction(then) <= _error(now, then)
        return Check(name, holds, f"{stepping[0]}: from {_percent(fraction(now))} to {_percent(fraction(then))}")

    def noise(self) -> Check:
        """It may cost at most a half of what the attacks cost, beyond the error."""
        right, worst = self.run(NOISE, Threat(Noise()), self.report.eps), self.report.worst_case[: len(self.images)]
        lost, all_lost = (fraction(self.clean) - fraction(left) for left in (right, worst))
        holds = lost <= all_lost / 2 + _error(self.clean, right)
        return Check(NOISE, holds, f"from {_percent(fraction(self.clean))} to {_percent(fraction(right))}")


def _batch(model: nn.Module, images: Tensor, chunk: int) -> Check:
    """To rounding, or, of a model that answers differently each time, within its own scatter."""
    if len(images) < 2:
        return Check(BATCH, None, "takes two images")
    target = Target(model, chunk)
    together, again = target(images), target(images)
    alone = torch.cat([target(image[None]) for image in images])
    scale = together.std().clamp(min=1e-12)
    scatter = (together - again).square().mean().sqrt() / scale
    apart = (together - alone).square().mean().sqrt() / scale
    holds = bool(apart <= 1.5 * scatter + 1e-3)
    agree = fraction(together.argmax(dim=1) == alone.argmax(dim=1))
    return Check(
        BATCH,
        holds,
        f"logits differ by {apart.item():.1e} of their spread, {scatter.item():.1e} between two evaluations; "
        f"{_percent(agree)} of predictions are the same",
    )


def _fallen(undefended: Report | None, report: Report) -> Check:
    """At most 5 % left of it, within the error, by the same attacks at the same eps."""
    if undefended is None:
        return Check(FALLEN, None, "no report of the undefended model was given")
    if undefended.eps != report.eps:
        return Check(FALLEN, None, f"it was attacked at another eps, {255 * undefended.eps:g}/255")
    left = undefended.robust_accuracy
    return Check(FALLEN, left <= 0.05 + 2 * undefended.standard_error(left), f"{_percent(left)} left")


def _strongest(report: Report, threats: Mapping[str, Threat]) -> tuple[str, Threat] | None:
    """Of these, the one that leaves least; the control is none."""
    named = {n: t for n, t in threats.items() if not isinstance(t.attack, Noise)}
    name = min(named, key=report.accuracy.__getitem__, default=None)
    return None if name is None else (name, named[name])


def _has(attack: Any, field: str) -> bool:
    return field in {f.name for f in fields(attack)}


def _error(one: Tensor, other: Tensor) -> float:
    return 2 * math.sqrt((one != other).sum().item()) / len(one)


def _percent(part: float) -> str:
    return f"{100 * part:.1f} %"
