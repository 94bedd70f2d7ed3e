"""The sceptic's checklist, ticked by what was really run: a row that was not run is shown as not run.

After Carlini et al., "On evaluating adversarial robustness", 2019 (arXiv 1902.06705); Tramèr et al., "On adaptive
attacks to adversarial example defenses", NeurIPS 2020 (arXiv 2002.08347).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from torch import nn

from opu_dfa.defense import sanity
from opu_dfa.defense.attacks import Transfer
from opu_dfa.defense.combined import EOT, Annealed, Averaged
from opu_dfa.defense.model import HEADS, OpticalDefense
from opu_dfa.defense.outcome import Check, Outcome, Report
from opu_dfa.defense.rules import RandomFeedback, StraightThrough, Surrogate, TrueFeedback
from opu_dfa.defense.student import Student
from opu_dfa.defense.target import GradientRule
from opu_dfa.defense.threats import MEDIUM, PARTIAL, UNSTATED
from opu_dfa.defense.training import RULES, Recipe
from opu_dfa.errors import DataError


@dataclass(frozen=True)
class Evidence:
    """All that was run.

    Attributes:
        defended, undefended, adversarial: reports at ascending eps on the defended model, on its twin without the
            defence, and on one trained adversarially.
        seeds: reports at the largest eps on models of other seeds (medium, weights), the first included or not.
        ablations: reports by (head, training rule).
        retrieval: reports by patterns spent on phase retrieval, of each device, by a description of it.
        n_mirrors: of the defended model: the unit of patterns.
        matched: what the twins have in common (`matched`); "" if not all.
        files: per-image results that were written.
    """

    defended: Sequence[Report]
    undefended: Sequence[Report] = ()
    adversarial: Sequence[Report] = ()
    seeds: Sequence[Report] = ()
    ablations: Mapping[tuple[str, str], Report] = field(default_factory=dict)
    retrieval: Mapping[str, Mapping[int, Report]] = field(default_factory=dict)
    n_mirrors: int = 0
    matched: str = ""
    files: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.defended:
            raise DataError("a checklist takes at least one report on the defended model")


def checklist(evidence: Evidence) -> tuple[Check, ...]:
    """Every row of it, in the order of the list; `holds` is None for what was not run, or not in full."""
    last = evidence.defended[-1]
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
        *(_run(name, wanted, last) for name, wanted in SEARCHES.items()),
        _scores(last),
        _queries(last),
        _retrieval(evidence),
        _noise(last),
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


def matched(recipes: tuple[Recipe, Recipe], models: tuple[OpticalDefense, OpticalDefense]) -> str:
    """What twins have in common, or "" if they differ in more than the head and the rule that it needs.

    Compared are their recipes but for the rule, and every parameter of the features and of the layer behind them, by
    its name and shape.

    >>> from opu_dfa.defense.model import vgg_features
    >>> heads = ("plain", "sign")
    >>> twins = [OpticalDefense(vgg_features([[4]], (1, 8, 8)), 2, None, h, 16, image_shape=(1, 8, 8)) for h in heads]
    >>> matched((Recipe(epochs=2), Recipe(epochs=2, rule="straight-through")), tuple(twins))[:14]
    'adam, 2 epochs'
    >>> matched((Recipe(epochs=2), Recipe(epochs=3)), tuple(twins))
    ''
    """
    one, other = (replace(recipe, rule=recipes[0].rule) for recipe in recipes)
    mine, others = (_shapes(model) for model in models)
    if one != other or mine != others:
        return ""
    return (
        f"{one.optimiser}, {one.epochs} epochs, batches of {one.batch}, learning rate {one.learning_rate:g}, weight "
        f"decay {one.weight_decay:g}, {models[0].n_mirrors} mirrors, "
        f"{sum(math.prod(shape) for shape in mine.values()):,} parameters before the head"
    )


def _shapes(model: OpticalDefense) -> dict[str, tuple[int, ...]]:
    """Of the parameters before the head."""
    named = model.named_parameters()
    return {name: tuple(each.shape) for name, each in named if name.startswith(("features.", "linear."))}


Test = Callable[[Outcome], bool]
Wanted = Mapping[str, Test]  # what a row of the list asks for, all of it, by name


def _attack(*names: str, **at_least: int) -> Test:
    """Whether the attack is one of these classes, its parameters at least so large."""
    return lambda o: (
        type(o.threat.attack).__name__ in names
        and all(getattr(o.threat.attack, name) >= value for name, value in at_least.items())
    )


def _rule(kind: type[GradientRule]) -> Test:
    return lambda o: any(type(rule) is kind for rule in o.threat.rules)  # a random feedback is a TrueFeedback, too


def _slope(test: Callable[[StraightThrough], bool], annealed: bool = False) -> Test:
    """Straight-through with T known, of such a slope."""

    def found(o: Outcome) -> bool:
        slopes = [rule for rule in o.threat.rules if isinstance(rule, StraightThrough)]
        return o.threat.knowledge == MEDIUM and _rule(Annealed)(o) == annealed and any(map(test, slopes))

    return found


def _source(test: Callable[[nn.Module], bool], attack: str) -> Test:
    """A transfer by that attack of a model of that kind."""

    def found(o: Outcome) -> bool:
        replayed = o.threat.attack
        return isinstance(replayed, Transfer) and type(replayed.attack).__name__ == attack and test(replayed.model)

    return found


def _from(test: Callable[[nn.Module], bool]) -> Wanted:
    return {"PGD": _source(test, "PGD"), "MI-FGSM": _source(test, "MIFGSM")}


def _defended(model: nn.Module) -> bool:
    return isinstance(model, OpticalDefense) and model.binary


SEARCHES: Mapping[str, Wanted] = {
    "white box: the true feedback": {"": _rule(TrueFeedback)},
    "white box: a random feedback": {"": _rule(RandomFeedback)},
    "white box: straight-through with T known": {
        "identity": _slope(lambda rule: rule.beta is None),
        "tanh": _slope(lambda rule: rule.beta is not None),
        "annealed": _slope(lambda rule: rule.beta is not None, annealed=True),
    },
    "T known to relative errors": {"": lambda o: o.threat.knowledge == PARTIAL},
    "learned surrogate of the head (BPDA)": {"": _rule(Surrogate)},
    "full network distilled from queries": {"": _source(lambda model: isinstance(model, Student), "PGD")},
    "feature-space attack": {"": _attack("Feature")},
    "Square, 5,000 queries or more, restarted": {"": _attack("Square", queries=5000, restarts=2)},
    "NES or SPSA": {"": _attack("NES", "SPSA")},
    "hard-label attack": {"": _attack("HopSkipJump")},
    "APGD": {
        "cross-entropy": lambda o: _attack("APGD")(o) and getattr(o.threat.attack, "loss", "") == "cross-entropy",
        "DLR": lambda o: _attack("APGD")(o) and getattr(o.threat.attack, "loss", "") == "dlr",
    },
    "transfer from the undefended twin": _from(lambda model: isinstance(model, OpticalDefense) and not model.binary),
    "transfer from a defended twin with another T": _from(_defended),
    "transfer from an ensemble": {"": _source(lambda model: isinstance(model, Averaged), "MIFGSM")},
}


def _run(name: str, wanted: Wanted, last: Report) -> Check:
    """Done if each part of what is wanted was run."""
    found = [o for o in last.outcomes if any(test(o) for test in wanted.values())]
    missing = [part for part, test in wanted.items() if part and not any(map(test, found))]
    shown = [f"{o.name} leaves {100 * o.right.double().mean().item():.1f} %" for o in found]
    return _done(name, bool(found) and not missing, _listed(shown, missing))


def _listed(shown: Sequence[str], missing: Sequence[str]) -> str:
    """What there is; and what there is not, if there is anything at all."""
    return ", ".join(shown) + (f"; missing: {', '.join(missing)}" if shown and missing else "")


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


def _scores(last: Report) -> Check:
    """Square, of a model whose answers vary, on their means."""
    name = "Square on scores averaged over 20 measurements"
    if last.repeats == 1:
        return Check(name, True, "the model's answers do not vary")
    return _run(name, {"": lambda o: _attack("Square")(o) and o.threat.measurements >= 20}, last)


def _queries(last: Report) -> Check:
    """After how many queries attacks without a gradient break half of what they break."""
    shown = []
    for o in last.outcomes:
        if o.broken_at is not None:
            broken = o.broken_at[last.clean_right & ~o.right & (o.broken_at >= 0)]
            half = f"half of {len(broken)} after {broken.median().item():,}" if len(broken) else "none broken"
            shown.append(f"{o.name}: {half}")
    return _done("accuracy against queries", bool(shown), ", ".join(shown))


def _retrieval(evidence: Evidence) -> Check:
    """By two numbers of patterns or more, of a device with noise and 8 bits and of one without."""
    shown = []
    for device, reports in evidence.retrieval.items():
        parts = [
            f"{n:,} patterns"
            + (f" ({n / evidence.n_mirrors:.3g} a mirror)" if evidence.n_mirrors else "")
            + f": {100 * r.robust_accuracy:.1f} %"
            for n, r in sorted(reports.items())
        ]
        shown.append(f"{device}: {', '.join(parts)}")
    enough = [device for device, reports in evidence.retrieval.items() if len(reports) > 1]
    return _done(
        "accuracy against patterns of phase retrieval, with noise and without",
        len(enough) > 1 and evidence.n_mirrors > 0,
        "; ".join(shown),
    )


def _noise(last: Report) -> Check:
    """On a noisy device: gradients averaged over 1, 5 and 20 measurements, and fresh ones of the result."""
    name = "expectation over 1, 5 and 20 measurements, fresh ones for the result"
    if last.repeats == 1:
        return Check(name, True, "the model's answers do not vary")
    times = {
        max((rule.n for rule in outcome.threat.rules if isinstance(rule, EOT)), default=1)
        for outcome in last.outcomes
        if outcome.threat.rules
    }
    missing = [f"x{n}" for n in (1, 5, 20) if n not in times]
    shown = [f"{last.repeats} fresh measurements", *(f"gradients x{n}" for n in sorted(times))]
    return _done(name, not missing, _listed(shown, missing))


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
