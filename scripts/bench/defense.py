"""What the attacks cost, against torchattacks and gradient rule by gradient rule: docs/bench-defense.md.

    python scripts/bench/defense.py                          # about five minutes; one thread
    python scripts/bench/defense.py images=200 rounds=2      # other sizes (see `Sizes`); writes no page

CPU seconds of one thread on images of CIFAR-10's size and the small VGG, its weights as drawn: what a step costs does
not depend on them. The sides take turns batch by batch within one run, another one beginning each time, so that a
shared machine's load falls on all alike, and are compared batch by batch. What each asked of the model is counted.
Labels are what the model says, and Square gets an eps that breaks nothing: neither side may leave images out.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hardware import open_opu
from opu_dfa.defense.attacks import APGD, PGD, Square
from opu_dfa.defense.model import OpticalDefense, drawn_linear, vgg_features
from opu_dfa.defense.rules import Autograd, StraightThrough, Surrogate, TrueFeedback
from opu_dfa.defense.target import Attack, GradientRule, Target
from opu_dfa.seeds import stream

INTRODUCTION = """# What the attacks cost

Written by `make bench-defense` (`scripts/bench/defense.py`); do not edit by hand. CPU seconds of one thread on images
of 3 x 32 x 32 in batches of {batch}: the small VGG without a defence, against torchattacks 3.5.1 in the same run, the
same model and batches, in turns. The ratio is ours to theirs, the median over batches, and its range; asked is how
many times each image was classified, with a gradient or without.

| attack | images | torchattacks, s | opu-dfa, s | ratio | range | asked, theirs | ours | goal |
|---|---|---|---|---|---|---|---|---|"""
BY_RULE = """
## By gradient rule

PGD of {steps} steps on {count} images: CPU ms for a step of one image. The features are the same; the head is linear
for the exact gradient, and for the rules a simulated device of {mirrors} mirrors and {pixels:,} pixels, which is asked
for the logits at every step. Fitting the surrogate is not counted.

| gradient rule, device | ms | / exact | range |
|---|---|---|---|"""
PAGE = Path(__file__).resolve().parents[2] / "docs" / "bench-defense.md"
SHAPE, CLASSES = (3, 32, 32), 10
EPS, NOTHING = 8 / 255, 1e-6
MIRRORS, PIXELS, WIDTH = (
    256,
    2048,
    512,
)  # of the small defence of configs/defense/cifar10.yaml, and of a surrogate's layer
GOAL = 1.3
Side = Callable[[Tensor, Tensor], Any]  # what is timed, of a batch of images and their labels


@dataclass(frozen=True)
class Sizes:
    """What is attacked, and how long: images and steps of the goal, then of what stands beside it."""

    images: int = 1000
    steps: int = 50
    batch: int = 100
    rounds: int = 3  # batches of all but the goal
    apgd_steps: int = 20
    queries: int = 100
    rule_steps: int = 10


@dataclass(frozen=True)
class Seen:
    """CPU seconds of a side on each batch, and the images it asked the model for, per image attacked."""

    seconds: list[float]
    asked: float


class Counted(nn.Module):
    """A model that counts the images it is asked for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.asked = 0

    def forward(self, images: Tensor) -> Tensor:
        self.asked += len(images)
        return self.model(images)


def main(sizes: Sizes, write: bool) -> None:
    """Measure everything, print the page, and write it."""
    import torchattacks

    torch.set_num_threads(1)
    plain = Counted(defense("plain", None)).eval()
    images = torch.rand(sizes.images, *SHAPE, generator=stream(0, "images"))
    labels = torch.cat([plain(part).argmax(1) for part in images.split(sizes.batch)])
    lines = [INTRODUCTION.format(batch=sizes.batch)]
    print(*lines, sep="\n", flush=True)

    def add(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    def against(name: str, theirs: Side, attack: Attack, eps: float, count: int, goal: float | None = None) -> None:
        own = ours(plain, attack, Autograd(plain), eps)
        add(row(name, count, in_turns({"theirs": theirs, "ours": own}, images, labels, count, sizes, plain), goal))

    few = min(sizes.images, sizes.rounds * sizes.batch)
    own_pgd, their_pgd = PGD(steps=sizes.steps), torchattacks.PGD(plain, EPS, 2.5 * EPS / sizes.steps, sizes.steps)
    against(f"PGD-{sizes.steps}", their_pgd, own_pgd, EPS, sizes.images, GOAL)
    their_apgd = torchattacks.APGD(plain, eps=EPS, steps=sizes.apgd_steps, loss="ce")
    against(f"APGD-CE, {sizes.apgd_steps} steps", their_apgd, APGD(steps=sizes.apgd_steps), EPS, few)
    their_square = torchattacks.Square(plain, eps=NOTHING, n_queries=sizes.queries)
    against(f"Square, {sizes.queries} queries", their_square, Square(queries=sizes.queries, restarts=1), NOTHING, few)

    add(BY_RULE.format(steps=sizes.rule_steps, count=few, mirrors=MIRRORS, pixels=PIXELS))
    seen = in_turns(by_rule(plain, PGD(steps=sizes.rule_steps)), images, labels, few, sizes, plain)
    for name, each in seen.items():
        step = 1e3 * statistics.median(each.seconds) / (sizes.batch * sizes.rule_steps)
        add(f"| {name} | {step:.2f} | {ratio(each.seconds, seen['exact'].seconds)} |")
    if write:
        PAGE.write_text("\n".join([*lines, ""]))


def ours(model: nn.Module, attack: Attack, rule: GradientRule, eps: float = EPS) -> Side:
    """An attack of ours on a model, as an evaluation runs it."""
    return lambda images, labels: attack(Target(model), images, labels, eps, stream(0, "attack"), rule)


def by_rule(plain: nn.Module, attack: Attack) -> dict[str, Side]:
    """The attack by every rule, on a device without noise and on one with."""
    sides = {"exact": ours(plain, attack, Autograd(plain))}
    for preset in ("ideal", "noisy-8bit"):
        model = defense("optical", preset)
        first, last = drawn_linear(MIRRORS, WIDTH, stream(0, "first")), drawn_linear(WIDTH, CLASSES, stream(0, "last"))
        network = nn.Sequential(first, nn.ReLU(), last).requires_grad_(False)
        rules: dict[str, GradientRule] = {
            "true feedback": TrueFeedback(model),
            "straight-through, tanh": StraightThrough(model, beta=2.0),
            "surrogate": Surrogate(model, network, queries=0, residual=0.0),
        }
        sides |= {f"{name}, {preset}": ours(model, attack, rule) for name, rule in rules.items()}
    return sides


def defense(head: Any, preset: str | None) -> OpticalDefense:
    """The small VGG with a head, its weights as drawn; the features are the same for every head."""
    opu = None if preset is None else open_opu("simulated", n_features=MIRRORS, n_components=PIXELS, preset=preset)
    features = vgg_features("small", SHAPE).to(memory_format=torch.channels_last)  # as a run has them
    return OpticalDefense(features, CLASSES, opu, head, None if opu else MIRRORS).eval()


def in_turns(
    sides: Mapping[str, Side], images: Tensor, labels: Tensor, count: int, sizes: Sizes, plain: Counted
) -> dict[str, Seen]:
    """Every side on every batch of `count` images, after a warm-up that is not timed; who begins changes by batch."""
    parts = list(zip(images[:count].split(sizes.batch), labels[:count].split(sizes.batch), strict=True))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    asked = dict.fromkeys(sides, 0)
    with torch.random.fork_rng(devices=[]):  # torchattacks seeds the global stream
        for number in range(-1, len(parts)):
            batch, wanted = parts[max(number, 0)]
            batch, wanted = (batch[:2], wanted[:2]) if number < 0 else (batch, wanted)
            for name in list(sides)[:: 1 if number % 2 else -1]:
                before, began = plain.asked, time.process_time()
                sides[name](batch, wanted)
                if number >= 0:
                    seconds[name].append(time.process_time() - began)
                    asked[name] += plain.asked - before
    return {name: Seen(seconds[name], asked[name] / count) for name in sides}


def row(name: str, count: int, seen: Mapping[str, Seen], goal: float | None) -> str:
    """A line of the first table."""
    theirs, own = seen["theirs"], seen["ours"]
    middle = statistics.median(b / a for a, b in zip(theirs.seconds, own.seconds, strict=True))
    met = "" if goal is None else f"{goal:g}, {'met' if middle <= goal else 'missed'}"
    sums = f"{sum(theirs.seconds):.1f} | {sum(own.seconds):.1f}"
    asked = f"{theirs.asked:g} | {own.asked:g}"
    return f"| {name} | {count:,} | {sums} | {ratio(own.seconds, theirs.seconds)} | {asked} | {met} |"


def ratio(one: list[float], other: list[float]) -> str:
    """The median ratio over batches, and its range, as two cells."""
    each = [a / b for a, b in zip(one, other, strict=True)]
    return f"{statistics.median(each):.2f} | {min(each):.2f} to {max(each):.2f}"


if __name__ == "__main__":
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    if unknown := set(words) - {field.name for field in fields(Sizes)}:
        raise SystemExit(f"no size is named {', '.join(sorted(unknown))}; there are {Sizes()}")
    main(replace(Sizes(), **{name: int(value) for name, value in words.items()}), write=not words)
