"""How many images a model still classifies rightly when every attack has had its turn at each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from opu_dfa.defense.attacks import PGD
from opu_dfa.defense.model import OpticalDefense
from opu_dfa.defense.outcome import Report, attacked, fraction, measured
from opu_dfa.defense.retrieval import recover_known
from opu_dfa.defense.rules import StraightThrough
from opu_dfa.defense.sanity import run_checks
from opu_dfa.defense.target import Attack, Target, check_images
from opu_dfa.defense.threats import QUERIES, RECOVERED, SLOPE, Attacks, Threat, named, varies
from opu_dfa.errors import ConfigError, DataError
from opu_dfa.seeds import stream


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float = 8 / 255,
    attacks: Attacks = "all",
    *,
    seed: int = 0,
    repeats: int = 20,
    chunk: int = 250,
    sanity: int = 100,
    undefended: Report | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Report:
    """Attack every image with every attack and report what is left, per attack and per image.

    Args:
        model: takes pixels in [0, 1], `(batch, channels, height, width)`, gives logits `(batch, n_classes)`.
        images, labels: `(n, channels, height, width)` and `(n,)`.
        eps: largest change of a pixel, in [0, 1].
        attacks: "all" (`threats.standard`), names in `ATTACKS`, or a dict of name to `Threat` or (attack, rule).
        seed: of all draws; each attack has its own stream, so that its result does not depend on the others.
        repeats: fresh measurements that decide over an image, if the model's answers vary at all.
        chunk: images of one call of the model.
        sanity: images that the checks of the evaluation itself use; 0 leaves the checks out.
        undefended: the report on the same model without its defence, by the same attacks.
        progress: called with the name of every attack that is done and the accuracy it leaves.

    Raises:
        DataError: images, labels or eps that are none; no images; an attack that left the ball.
        ConfigError: an unknown attack, one without its rule.

    >>> import torch
    >>> from opu_dfa.defense.rules import Autograd
    >>> from opu_dfa.defense.attacks import FGSM
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> images = torch.rand(20, 1, 2, 2)
    >>> report = evaluate(model, images, model(images).argmax(1), 0.1, {"fgsm": (FGSM(), Autograd(model))}, sanity=0)
    >>> report.clean_accuracy, report.accuracy["fgsm"] == report.robust_accuracy
    (1.0, True)
    """
    if repeats < 1 or len(images) == 0:
        raise DataError(f"an evaluation takes an image and a measurement at least, got {len(images)} and {repeats}")
    check_images(images, labels, max(1, int(labels.max()) + 1 if len(labels) else 1), eps)
    target = Target(model, chunk)
    logits = target(images)
    check_images(images, labels, logits.shape[1], eps)
    repeats = repeats if varies(model, images) else 1
    mean, clean_rate = measured(target, images, labels, repeats)
    clean_right = clean_rate > 0.5
    threats = named(attacks, model, images, seed)
    outcomes = []
    for name, threat in threats.items():
        outcome = attacked(model, images, labels, eps, name, threat, seed, repeats, chunk)
        outcomes.append(replace(outcome, right=outcome.right & clean_right))
        if progress:
            progress(name, fraction(outcomes[-1].right))
    report = Report(
        eps, seed, logits.shape[1], repeats, labels, mean.argmax(dim=1), clean_rate, clean_right, tuple(outcomes)
    )
    checks = run_checks(report, model, images[:sanity], threats, chunk, undefended) if sanity else ()
    return replace(report, checks=checks)


def sweep(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: Sequence[float] = (2 / 255, 4 / 255, 8 / 255),
    attacks: Attacks = "all",
    *,
    seed: int = 0,
    repeats: int = 20,
    chunk: int = 250,
    sanity: int = 100,
    undefended: Sequence[Report] = (),
    progress: Callable[[str, float], None] | None = None,
) -> tuple[Report, ...]:
    """`evaluate` at each eps, of the same threats; the checks at the largest, `undefended` at the same eps.

    Raises:
        DataError: no eps, or not in ascending order.
    """
    if not eps or list(eps) != sorted(set(eps)):
        raise DataError(f"eps are ascending numbers, for instance 2/255, 4/255, 8/255; got {list(eps)}")
    threats = named(attacks, model, images, seed)
    twins = {twin.eps: twin for twin in undefended}
    return tuple(
        evaluate(
            model,
            images,
            labels,
            each,
            threats,
            seed=seed,
            repeats=repeats,
            chunk=chunk,
            sanity=sanity if each == eps[-1] else 0,
            undefended=twins.get(each),
            progress=progress,
        )
        for each in eps
    )


def by_queries(
    model: OpticalDefense,
    images: Tensor,
    labels: Tensor,
    queries: Sequence[int],
    eps: float = 8 / 255,
    attack: Attack | None = None,
    *,
    seed: int = 0,
    repeats: int = 20,
    chunk: int = 250,
) -> dict[int, Report]:
    """Robust accuracy against phase retrieval, by the patterns spent on it: straight-through with the T recovered.

    Args:
        queries: numbers of random patterns, at least the mirrors; attack: PGD if None.

    Raises:
        ConfigError: a model without an optical head; DataError: too few patterns.
    """
    if model.opu is None or not model.binary:
        raise ConfigError(f"there is no medium to recover behind head={model.kind!r}: it takes head='optical'")
    found = {}
    for count in queries:
        known = recover_known(model.opu, count, stream(seed, f"retrieval {count}"))
        threat = Threat(attack or PGD(), StraightThrough(model, known.matrix, SLOPE), QUERIES, count)
        name = f"{threat.attack.name} / {RECOVERED}"
        found[count] = evaluate(
            model, images, labels, eps, {name: threat}, seed=seed, repeats=repeats, chunk=chunk, sanity=0
        )
    return found
