"""The experiments of docs/dfa.md, the trainings that each takes, and what these have left in runs/dfa."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUNS = Path(__file__).resolve().parent.parent / "runs" / "dfa"
METHODS = ("dfa", "bp", "frozen")
FACTORS = (1 / 3, 1.0, 3.0)


@dataclass(frozen=True)
class Variant:
    """A change of an experiment's DFA, at the rate that is best without it, and for how many seeds it is trained."""

    title: str
    words: tuple[str, ...]
    n_seeds: int = 1


@dataclass(frozen=True)
class Row:
    """An experiment of configs/experiment: the score that its goal is about, and the goal in words."""

    experiment: str
    title: str
    score: str
    goal: str
    n_seeds: int = 3
    variants: tuple[Variant, ...] = ()
    pictures: bool = False


@dataclass(frozen=True, order=True)
class Job:
    """One training by one method."""

    experiment: str
    variant: tuple[str, ...]
    seed: int
    factor: float
    method: str

    @property
    def folder(self) -> Path:
        words = "-".join("".join(c if c.isalnum() else "." for c in word).strip(".") for word in self.variant)
        name = "-".join(filter(None, [words, f"seed-{self.seed}", f"x{self.factor:.2g}", self.method]))
        return RUNS / self.experiment / name

    @property
    def result(self) -> dict[str, Any] | None:
        """What it left: the method's part of the summary, or an infinite loss where it diverged; None if not run."""
        try:
            summary = json.loads((self.folder / "summary.json").read_text())
        except FileNotFoundError:
            diverged = (self.folder / "diverged.txt").exists()
            return {"val_loss": math.inf} if diverged else None
        return summary["methods"][self.method] | {"unit": summary["unit"]}


LEARNED = ("feedback=gaussian", "feedback.name=learned")
AS_DRAWN = ("feedback.align_head=0",)
PLAIN = ("model.through=null", "feedback.layout=independent", *AS_DRAWN)
CALIBRATED = ("feedback.calibrate_every=20",)

ROWS: list[Row] = [
    Row(
        "mnist",
        "Fully connected, MNIST",
        "accuracy",
        "97.8 % on the simulated device",
        variants=(
            Variant("digital, exact error", ("feedback=gaussian", "feedback.align_head=0.1")),
            Variant("thresholded ternary error", ("feedback.encoding=threshold",)),
        ),
    ),
    Row("fashion-mnist", "Fully connected, Fashion-MNIST", "accuracy", "88 % (backprop 89 to 90.5)", n_seeds=2),
    Row(
        "shakespeare",
        "Language, Tiny Shakespeare by characters",
        "loss",
        "recovery 0.75; 0.92 with learned feedback or calibration",
        n_seeds=2,
        variants=(
            Variant("learned feedback (Kolen-Pollack), digital", LEARNED),
            Variant("one exact gradient every 20 steps", CALIBRATED),
        ),
    ),
    Row("wikitext2", "Language, WikiText-2 by byte pairs", "loss", "recovery 0.75", n_seeds=2),
    *(
        Row(
            f"cora-{conv}",
            f"Graph network on Cora, {title}",
            "accuracy",
            "within 0.01 of backprop",
            n_seeds=10,
            variants=(Variant("without the propagation's derivative", ("model.through=null", *AS_DRAWN)),),
        )
        for conv, title in (
            ("gcn", "GCN"),
            ("cheb", "ChebConv"),
            ("spline", "SplineConv"),
            ("gat", "GATConv"),
            ("dna", "DNAConv"),
            ("sgc", "SGC"),
        )
    ),
    Row("cora-links", "Graph auto-encoder on Cora", "auc", "within 0.01 of backprop", n_seeds=10),
    *(
        Row(
            f"adult-{kind}",
            f"Recommender on Adult, {title}",
            "auc",
            "within 0.003 of backprop where the tower matters",
            n_seeds=2,
            variants=() if kind == "fm" else (Variant("no norm derivative, independent, head as drawn", PLAIN),),
        )
        for kind, title in (
            ("fm", "FM"),
            ("deepfm", "DeepFM"),
            ("dcn", "Deep & Cross"),
            ("autoint", "AutoInt"),
            ("afn", "AFN"),
        )
    ),
    Row(
        "vit-cifar10",
        "Vision transformer, CIFAR-10 (JPEG copy)",
        "accuracy",
        "recovery 0.80",
        n_seeds=2,
        variants=(Variant("the norm's derivative too", ("model.through=neck",)),),
    ),
    Row(
        "climate",
        "Vision transformer, image to image: climate",
        "r2",
        "recovery 0.80",
        n_seeds=2,
        variants=(Variant("without the norm's derivative", ("model.through=null",)),),
        pictures=True,
    ),
    Row("diffusion-mnist", "Diffusion, MNIST", "loss", "recovery 0.85", n_seeds=2, pictures=True),
    Row("diffusion-fashion", "Diffusion, Fashion-MNIST", "loss", "recovery 0.85", n_seeds=2, pictures=True),
    Row("lego", "View synthesis, Lego", "psnr", "within 3 dB of backprop", n_seeds=2, pictures=True),
    Row("lego-paper", "View synthesis, Lego, the plain perceptron", "psnr", "shown", n_seeds=1),
    Row(
        "vgg-cifar10",
        "Convolution, CIFAR-10 (JPEG copy)",
        "accuracy",
        "within 0.05 of backprop; plain DFA's failure shown",
        n_seeds=2,
        variants=(
            Variant(
                "plain DFA: every convolution tapped, fixed",
                ("model.taps=[stages.*.units.*]", "feedback.name=gaussian"),
            ),
            Variant("stages tapped, fixed feedback", ("feedback.name=gaussian",)),
            Variant("stages tapped, one exact gradient every 20 steps", ("feedback.name=gaussian", *CALIBRATED)),
        ),
    ),
]


def changes(row: Row) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """(method, words, seeds) of everything that is trained for a row."""
    for method in METHODS:
        yield method, (), row.n_seeds
    for variant in row.variants:
        yield "dfa", variant.words, variant.n_seeds


def sweep_jobs(row: Row) -> list[Job]:
    """Seed 0 at each rate."""
    return [Job(row.experiment, (), 0, factor, method) for method in METHODS for factor in FACTORS]


def best(row: Row, method: str) -> Job:
    """Of seed 0, the job whose rate has the least validation loss."""
    jobs = [Job(row.experiment, (), 0, factor, method) for factor in FACTORS]
    return min(jobs, key=lambda job: job.result["val_loss"] if job.result else math.inf)


def seed_jobs(row: Row) -> list[Job]:
    """All seeds of everything at the best rates."""
    return [job for method, words, n in changes(row) for job in over_seeds(row, method, words, n)]


def over_seeds(row: Row, method: str, words: tuple[str, ...], n_seeds: int) -> list[Job]:
    return [Job(row.experiment, words, seed, best(row, method).factor, method) for seed in range(n_seeds)]
