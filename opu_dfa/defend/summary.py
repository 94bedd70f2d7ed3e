"""What a run found, as `summary.json` holds it, and in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hardware import OPU
from opu_dfa.defend.models import ADVERSARIAL, DEFENDED, UNDEFENDED
from opu_dfa.defend.settings import DefendSettings
from opu_dfa.defense import sanity
from opu_dfa.defense.outcome import Check, Outcome, Report
from opu_dfa.defense.threats import NOTHING


def summarised(
    chosen: DefendSettings,
    description: str,
    clean: Mapping[str, float],
    reports: Mapping[str, Sequence[Report]],
    further: Mapping[str, Report],
    device: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The numbers of all models at all eps, and the verdict."""
    everyone = {**reports, **{name: [report] for name, report in further.items()}}
    return {
        "task": chosen.task.data,
        "description": description,
        "seed": chosen.seed,
        "head": chosen.head,
        "rule": chosen.rule,
        "device": device,
        "clean_accuracy": dict(clean),
        "images": len(reports[DEFENDED][-1].labels),
        "models": {name: [_numbers(report) for report in series] for name, series in everyone.items()},
        "verdict": verdict(reports),
        "scores": {name: series[-1].robust_accuracy for name, series in reports.items()},
        "score": f"accuracy, worst case per image, eps = {_eps(reports[DEFENDED][-1])}",
        "best": "highest",
        "ranked": DEFENDED,
    }


def device_of(device: OPU, training_frames: int, reports: Sequence[Report]) -> dict[str, Any]:
    """What the defended model's device spent in training and under the attacks on it.

    What its attackers learn first, what they replay on other models, clean accuracies and checks come on top.
    """
    frames = training_frames + sum(outcome.frames for report in reports for outcome in report.outcomes)
    seconds = frames * device.frame_time
    return {
        "name": device.identity,
        "frames": frames,
        "training_frames": training_frames,
        "seconds": seconds,
        "joules": seconds * device.power,
    }


def verdict(reports: Mapping[str, Sequence[Report]]) -> list[str]:
    """What holds at the largest eps, and what speaks against it; differences count beyond two paired errors."""
    defended, twin = reports[DEFENDED][-1], reports[UNDEFENDED][-1]
    strongest = min(defended.outcomes, key=lambda outcome: defended.accuracy[outcome.name])
    clean = _compared(defended.clean_right, twin.clean_right)
    lines = [
        f"{_gain(defended.worst_case, twin.worst_case)}: at eps = {_eps(defended)} all attacks together leave "
        f"{_shown(defended, defended.robust_accuracy)} of the defended model and {_shown(twin, twin.robust_accuracy)} "
        f"of its undefended twin; unattacked they are right on {_shown(defended, defended.clean_accuracy)} and "
        f"{_shown(twin, twin.clean_accuracy)} ({clean}). The strongest is {strongest.name} "
        f"({strongest.threat.knowledge}), which leaves {_shown(defended, defended.accuracy[strongest.name])}."
    ]
    known = defended.by_knowledge()
    if NOTHING in known and known[NOTHING] > defended.robust_accuracy:
        lines.append(
            "An attacker who knows neither T nor B and asks the medium nothing leaves "
            f"{_shown(defended, known[NOTHING])}: what is above the worst "
            "case rests on the secrecy of T and B, and on queries not being allowed."
        )
    if ADVERSARIAL in reports:
        other = reports[ADVERSARIAL][-1]
        lines.append(
            f"Adversarial training without optics leaves {_shown(other, other.robust_accuracy)} under the same "
            f"attacks, and is right on {_shown(other, other.clean_accuracy)} unattacked."
        )
    return [*lines, *_doubts(defended)]


def _doubts(report: Report) -> list[str]:
    """Whether gradients are masked, and which checks fail."""
    masking = sanity.masking(report)
    lines = []
    if masking.holds is False:
        lines.append(
            f"Gradients are masked: {_plain(masking)}. What gradients find says little here; the worst case, too, may "
            "still be too high."
        )
    elif masking.holds:
        lines.append(f"Gradients are not seen to be masked: {masking.detail}.")
    failing = [check for check in report.checks if check.holds is False and check.name != sanity.MASKING]
    if failing:
        lines.append("Checks that fail: " + "; ".join(f"{check.name} ({check.detail})" for check in failing) + ".")
    return lines


def counterpart(report: Report, outcome: Outcome) -> Outcome | None:
    """The same row in another model's report; where that model is differentiable, the attack by its exact gradient."""
    by_name = {each.name: each for each in report.outcomes}
    return by_name.get(outcome.name) or by_name.get(f"{outcome.name.partition(' / ')[0]} / exact")


def _gain(one: torch.Tensor, other: torch.Tensor) -> str:
    difference, error = _difference(one, other)
    points = f"{100 * difference:+.1f} ± {100 * error:.1f} points in the worst case"
    if difference > 2 * error:
        return f"The defence holds in part against these attacks ({points})"
    if difference < -2 * error:
        return f"The defence makes it worse ({points})"
    return f"The defence does not hold ({points}, within two standard errors of none)"


def _compared(one: torch.Tensor, other: torch.Tensor) -> str:
    difference, error = _difference(one, other)
    return f"{100 * difference:+.1f} ± {100 * error:.1f} points"


def _difference(one: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """The mean difference on the same images, and its standard error."""
    each = one.double() - other.double()
    n = len(each)
    return each.mean().item(), (each.std(correction=0).item() / math.sqrt(n))


def _numbers(report: Report) -> dict[str, Any]:
    return {
        "eps": report.eps,
        "clean_accuracy": report.clean_accuracy,
        "robust_accuracy": report.robust_accuracy,
        "standard_error": report.standard_error(report.robust_accuracy),
        "by_knowledge": report.by_knowledge(),
        "accuracy": report.accuracy,
        "frames": {outcome.name: outcome.frames for outcome in report.outcomes},
        "attackers": {outcome.name: outcome.threat.knowledge for outcome in report.outcomes},
        "checks": {check.name: check.holds for check in report.checks},
    }


def _shown(report: Report, accuracy: float) -> str:
    return f"{100 * accuracy:.1f} ± {100 * report.standard_error(accuracy):.1f} %"


def _eps(report: Report) -> str:
    return f"{255 * report.eps:.4g}/255"


def _plain(check: Check) -> str:
    return check.detail.partition(": GRADIENTS")[0]
