"""The sceptic's checklist, ticked by what was really run: a row that was not run is shown as not run.

After Carlini et al., "On evaluating adversarial robustness", 2019 (arXiv 1902.06705); Tramèr et al., "On adaptive
attacks to adversarial example defenses", NeurIPS 2020 (arXiv 2002.08347).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from opu_dfa.defense import sanity
from opu_dfa.defense.outcome import Check, Outcome, Report
from opu_dfa.defense.threats import MEDIUM, QUERIES, UNSTATED
from opu_dfa.errors import DataError

HEADS = ("plain", "sign", "projection", "intensity", "optical")
RULES = ("straight-through", "dfa")


@dataclass(frozen=True)
class Evidence:
    """All that was run.

    Attributes:
        defended, undefended, adversarial: reports at ascending eps on the defended model, on its twin without the
            defence, and on one trained adversarially.
        seeds: reports at the largest eps on models of other seeds (medium, weights), the first included or not.
        ablations: reports by (head, training rule).
        retrieval: reports by queries spent on phase retrieval.
        matched: what the twins have in common: optimiser, epochs, weight decay, widths; "" if not so.
        files: per-image results that were written.
    """

    defended: Sequence[Report]
    undefended: Sequence[Report] = ()
    adversarial: Sequence[Report] = ()
    seeds: Sequence[Report] = ()
    ablations: Mapping[tuple[str, str], Report] = field(default_factory=dict)
    retrieval: Mapping[int, Report] = field(default_factory=dict)
    matched: str = ""
    files: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.defended:
            raise DataError("a checklist takes at least one report on the defended model")


def checklist(evidence: Evidence) -> tuple[Check, ...]:
    """Every row of it, in the order of the list; `holds` is None for what was not run, or not in full."""
    last = evidence.defended[-1]
    found = {name: [o for o in last.outcomes if test(o)] for name, test in _SEARCHES.items()}
    by_name = {check.name: check for check in last.checks}
    eps = [f"{255 * report.eps:g}" for report in evidence.defended]
    grid = [(head, rule) for head in HEADS for rule in RULES]
    missing = [f"{head} by {rule}" for head, rule in grid if (head, rule) not in evidence.ablations]
    unstated = [o.name for o in last.outcomes if o.threat.knowledge == UNSTATED]
    return (
        _done(
            "threat model stated, 8/255 included",
            not unstated and any(math.isclose(report.eps, 8 / 255) for report in evidence.defended),
            f"L∞, eps = {', '.join(eps)}/255" + (f"; unstated: {', '.join(unstated)}" if unstated else ""),
        ),
        _done("baseline trained alike", bool(evidence.undefended and evidence.matched), evidence.matched),
        _seeds(evidence),
        _given(by_name, sanity.FALLEN),
        _done("ablation grid", not missing, f"missing: {', '.join(missing)}" if missing else "all heads and rules"),
        *(_run(name, found[name]) for name in _SEARCHES if name != "expectation over measurements"),
        _done(
            "accuracy against queries of phase retrieval",
            len(evidence.retrieval) > 1,
            ", ".join(f"{n:,}: {100 * r.robust_accuracy:.1f} %" for n, r in sorted(evidence.retrieval.items())),
        ),
        _noise(last, found["expectation over measurements"]),
        _done(
            "worst case per image over all attacks",
            len(last.outcomes) > 1,
            f"{100 * last.robust_accuracy:.1f} % of {len(last.labels)} images, over {len(last.outcomes)} attacks",
        ),
        _monotone(evidence.defended),
        *(
            _given(by_name, name)
            for name in (sanity.CHANCE, sanity.ONE_STEP, sanity.STEPS, sanity.RESTARTS, sanity.NOISE, sanity.BATCH)
        ),
        _given(by_name, sanity.MASKING),
        _competitor(evidence),
        _done("per-image results written", bool(evidence.files), ", ".join(evidence.files)),
    )


def _attack(*names: str, queries: int = 0) -> Callable[[Outcome], bool]:
    """Whether the attack is one of these classes, with at least so many queries for an image."""
    return lambda o: type(o.threat.attack).__name__ in names and getattr(o.threat.attack, "queries", queries) >= queries


def _rule(*names: str) -> Callable[[Outcome], bool]:
    return lambda o: bool(set(names) & set(o.threat.rules))


def _matrix(knowledge: str) -> Callable[[Outcome], bool]:
    """Straight-through with a T that takes so much."""
    return lambda o: _rule("StraightThrough")(o) and o.threat.knowledge == knowledge


_SEARCHES: Mapping[str, Callable[[Outcome], bool]] = {
    "white box: the true feedback": _rule("TrueFeedback"),
    "white box: a random feedback": _rule("RandomFeedback"),
    "white box: straight-through with T known": _matrix(MEDIUM),
    "learned surrogate of the head (BPDA)": _rule("Surrogate"),
    "feature-space attack": _attack("Feature"),
    "straight-through with T recovered from queries": _matrix(QUERIES),
    "Square, 5,000 queries or more": _attack("Square", queries=5000),
    "NES or SPSA": _attack("NES", "SPSA"),
    "hard-label attack": _attack("HopSkipJump"),
    "APGD": _attack("APGD"),
    "transfer": _attack("Transfer"),
    "expectation over measurements": _rule("EOT"),
}


def _run(name: str, found: Sequence[Outcome]) -> Check:
    return _done(
        name, bool(found), ", ".join(f"{o.name} leaves {100 * o.right.double().mean().item():.1f} %" for o in found)
    )


def _done(name: str, done: bool, detail: str) -> Check:
    return Check(name, True if done else None, detail)


def _given(checks: Mapping[str, Check], name: str) -> Check:
    return checks.get(name, Check(name, None, ""))


def _seeds(evidence: Evidence) -> Check:
    """Mean and deviation over models; three at least."""
    left = [report.robust_accuracy for report in evidence.seeds]
    if len(left) < 3:
        return Check("three seeds or more", None, f"{len(left)} models")
    mean = sum(left) / len(left)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in left) / (len(left) - 1))
    return Check("three seeds or more", True, f"{100 * mean:.1f} ± {100 * deviation:.1f} % (s.d.), {len(left)} models")


def _noise(last: Report, averaged: Sequence[Outcome]) -> Check:
    """On a noisy device: averaged gradients, and fresh measurements of the result."""
    name = "expectation over measurements, fresh ones for the result"
    if last.repeats == 1:
        deterministic = not averaged
        return Check(name, True, "the model's answers do not vary" if deterministic else "one measurement is enough")
    detail = f"{last.repeats} fresh measurements; " + (", ".join(o.name for o in averaged) or "no averaged gradients")
    return _done(name, bool(averaged), detail)


def _monotone(reports: Sequence[Report]) -> Check:
    """Accuracy must not rise with eps, beyond two standard errors."""
    name = "accuracy falls with eps"
    left = [report.robust_accuracy for report in reports]
    if len(left) < 2:
        return Check(name, None, "one eps")
    holds = all(after <= before + 2 * reports[0].standard_error(before) for before, after in pairwise(left))
    return Check(name, holds, ", ".join(f"{100 * value:.1f} %" for value in left))


def _competitor(evidence: Evidence) -> Check:
    """The same evaluation of adversarial training, at the largest eps."""
    name, last = "compared with adversarial training", evidence.defended[-1]
    twins = [report for report in evidence.adversarial if report.eps == last.eps]
    if not twins:
        return Check(name, None, "")
    return Check(
        name,
        True,
        f"clean {100 * twins[0].clean_accuracy:.1f} %, worst case {100 * twins[0].robust_accuracy:.1f} %; the defence "
        f"{100 * last.clean_accuracy:.1f} % and {100 * last.robust_accuracy:.1f} %",
    )
