"""Every number of docs/dfa.md: each experiment by DFA, backprop and frozen blocks, over seeds, after one sweep for all.

    python scripts/dfa.py                    # hours on two cores; run again to continue where it stopped
    python scripts/dfa.py cora-gcn lego      # these experiments; the page has all that is finished

Every method's learning rate is the best of the configured one, a third and three times it, by the validation loss of
seed 0; what is reported is the test set's. Each training is an `opu-dfa train` of its own in runs/dfa.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import statistics
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "dfa"
PAGE = ROOT / "docs" / "dfa.md"
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


def main(names: list[str]) -> None:
    """Train what is missing, sweeps first; the page is written anew after each experiment."""
    unknown = set(names) - {row.experiment for row in ROWS}
    if unknown:
        known = ", ".join(row.experiment for row in ROWS)
        raise SystemExit(f"no such experiment: {', '.join(sorted(unknown))}; there are {known}")
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for row in ROWS:
            if names and row.experiment not in names:
                continue
            _train(pool, sweep_jobs(row))
            _train(pool, seed_jobs(row))
            write_page()


def write_page() -> None:
    """The page from all that is finished."""
    done = [row for row in ROWS if all(job.result for job in sweep_jobs(row)) and all(j.result for j in seed_jobs(row))]
    PAGE.write_text("\n".join(page(done)) + "\n")
    print(f"wrote {PAGE.relative_to(ROOT)}", flush=True)


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


def _train(pool: ProcessPoolExecutor, jobs: list[Job]) -> None:
    waiting = {pool.submit(train, job): job for job in jobs if job.result is None}
    for done in as_completed(waiting):
        done.result()
        job = waiting[done]
        print(f"{job.folder.relative_to(RUNS)}: {(job.result or {}).get('val_loss')}", flush=True)


def train(job: Job) -> None:
    """One training, in a process of the pool: one thread, no output."""
    import torch
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf
    from rich.console import Console

    from opu_dfa.config import config_folder
    from opu_dfa.errors import DivergedError
    from opu_dfa.training.run import CHECKPOINT, run_training

    torch.set_num_threads(1)
    logging.getLogger("hardware").setLevel(logging.ERROR)
    words = [f"experiment={job.experiment}", *job.variant, f"seed={job.seed}", f"method={job.method}", "opu=simulated"]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", words), resolve=True)
    config["optimizer"]["lr"][job.method] *= job.factor
    config["alignment_every"] = config["steps"]  # once, at the start, costs no more than a step
    checkpoint = job.folder / CHECKPOINT
    with open("/dev/null", "w") as nothing:
        try:
            run_training(config, job.folder, Console(file=nothing), checkpoint if checkpoint.exists() else None)
        except DivergedError as error:
            (job.folder / "diverged.txt").write_text(str(error))


def test_score(job: Job, name: str) -> float:
    assert job.result is not None
    return job.result.get("test", {}).get(name, math.nan)


def page(rows: list[Row]) -> Iterator[str]:
    """The page: one table of all experiments, then a part for each."""
    yield "# Direct feedback alignment on every architecture"
    yield ""
    yield "Written by `make dfa` (`scripts/dfa.py`); do not edit by hand."
    yield ""
    yield (
        "Every line is `opu-dfa train experiment=NAME`: optical DFA on the simulated device (8-bit camera, shot and "
        "read noise, two binary patterns an error), exact backprop, and frozen blocks, which train only what follows "
        "the last block. All three share initial weights, data order and steps. The learning rate of each method is "
        "the best of three, a factor of three apart, by the validation loss of seed 0; a variant of DFA has the rate "
        "of DFA. Scores are of the test set, mean ± standard deviation over seeds. Recovery is "
        "(frozen - DFA) / (frozen - backprop), of the test loss and of the score: 0 is no better than training the "
        "last layers alone, 1 is as good as backprop; where backprop gains little over frozen blocks it says little, "
        "and is left out below a gain of two standard deviations."
    )
    yield ""
    yield "| experiment | score | DFA | backprop | frozen | recovery: loss | score | seeds | goal |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        cells = " | ".join(spread(row, method, ()) for method in METHODS)
        loss, score = recoveries(row, (), row.n_seeds)
        yield f"| `{row.experiment}` | {row.score} | {cells} | {loss} | {score} | {row.n_seeds} | {row.goal} |"
    yield ""
    yield (
        "What the recipes share: one random projection serves all blocks; it passes the exact derivative of what is "
        "between the blocks and the head (a final norm, a pooling, a graph propagation); the head starts at the "
        "feedback's columns, so that the projection stands in for its transpose from the first step; the error's "
        "encoding is unbiased. Backprop and frozen blocks start from the same head. With a single block, as in most of "
        "the graph networks, this makes DFA nearly backprop; the variants with the head as drawn show what is left "
        "without it."
    )
    yield ""
    for row in rows:
        yield from part(row)


def part(row: Row) -> Iterator[str]:
    """An experiment's rates, its variants and its pictures."""
    yield f"## {row.title}: `opu-dfa train experiment={row.experiment}`"
    yield ""
    yield f"| DFA variant | {row.score} | recovery: loss | score | learning rate | seeds |"
    yield "|---|---|---|---|---|---|"
    for title, words, n_seeds in [
        ("the default", (), row.n_seeds),
        *((v.title, v.words, v.n_seeds) for v in row.variants),
    ]:
        loss, score = recoveries(row, words, n_seeds)
        shown = title + (f": `{' '.join(words)}`" if words else "")
        rate = (best(row, "dfa").result or {}).get("learning_rate", math.nan)
        yield f"| {shown} | {spread(row, 'dfa', words, n_seeds)} | {loss} | {score} | {rate:.2g} | {n_seeds} |"
    yield ""
    yield "| validation loss of seed 0 | a third | configured | three times |"
    yield "|---|---|---|---|"
    for method in METHODS:
        jobs = [Job(row.experiment, (), 0, factor, method) for factor in FACTORS]
        chosen = best(row, method)
        losses = [
            (f"**{x:.4g}**" if job == chosen else f"{x:.4g}") for job in jobs if (x := (job.result or {})["val_loss"])
        ]
        yield f"| {method} | {' | '.join(losses)} |"
    yield ""
    if row.pictures:
        figures = PAGE.parent / "figures"
        figures.mkdir(exist_ok=True)
        for method in METHODS:
            picture = best(row, method).folder / f"{method}-sample.png"
            if picture.exists():
                name = f"{row.experiment}-{method}.png"
                shutil.copy(picture, figures / name)
                yield f"{method}: ![{row.title}, {method}](figures/{name})"
                yield ""


def scores(row: Row, method: str, words: tuple[str, ...], n_seeds: int, name: str) -> list[float]:
    return [test_score(job, name) for job in over_seeds(row, method, words, n_seeds)]


def spread(row: Row, method: str, words: tuple[str, ...], n_seeds: int | None = None) -> str:
    """Mean ± standard deviation of the score over the seeds."""
    found = scores(row, method, words, n_seeds or row.n_seeds, row.score)
    deviation = f" ± {statistics.stdev(found):.4f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.4f}{deviation}"


def recoveries(row: Row, words: tuple[str, ...], n_seeds: int) -> tuple[str, str]:
    """Recovery of the mean test loss and of the mean score, where backprop gains more than its scatter."""
    shown = []
    for name in ("loss", row.score):
        dfa = statistics.mean(scores(row, "dfa", words, n_seeds, name))
        bp, frozen = (scores(row, method, (), row.n_seeds, name) for method in ("bp", "frozen"))
        gain = statistics.mean(frozen) - statistics.mean(bp)
        scatter = math.hypot(*(statistics.stdev(s) if len(s) > 1 else 0.0 for s in (bp, frozen)))
        shown.append(f"{(statistics.mean(frozen) - dfa) / gain:.3f}" if abs(gain) > 2 * scatter else "-")
    return shown[0], shown[1]


if __name__ == "__main__":
    main(sys.argv[1:])
