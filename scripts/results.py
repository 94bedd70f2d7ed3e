"""Every number of docs/results.md, and the figures of the docs: seeds, feedback variants and learning-rate sweeps.

    python scripts/results.py          # about 35 minutes on two cores; run again to continue where it stopped

Each run is an `opu-dfa train` of its own in runs/results/NAME; what is finished there is not trained again.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "results"
SEEDS = (0, 1, 2)
METHODS = ("dfa", "bp", "frozen")
RATES = {"dfa": (3e-3, 6e-3, 1.2e-2), "bp": (3e-3, 6e-3, 1.2e-2), "frozen": (1e-2, 3e-2, 6e-2)}

# What is changed, the settings that change it, and what one learns from it.
VARIANTS: list[tuple[str, list[str]]] = [
    ("the embedding tapped too", ["model.taps=[embedding,blocks.*]"]),
    ("attention and perceptron tapped apart", ["model.taps=[blocks.*.*]"]),
    ("thresholded ternary error", ["feedback.encoding=threshold"]),
    (
        "error at the hidden state, independent projections",
        ["feedback.error_at=hidden", "feedback.layout=independent", "feedback.align_head=0"],
    ),
]


def main() -> None:
    """Train what is missing, in order of importance; the page is written anew after each part."""
    docs = ROOT / "docs"
    (docs / "figures").mkdir(parents=True, exist_ok=True)
    defaults = [train(f"seed-{seed}", [f"seed={seed}"]) for seed in SEEDS]
    for name in ("loss", "alignment"):
        shutil.copy(RUNS / "seed-0" / f"{name}.png", docs / "figures" / f"{name}.png")
    lines = [*default_part(defaults)]
    (docs / "results.md").write_text("\n".join(lines))
    drawn = train("head-as-drawn", ["feedback.align_head=0"])
    variants = [(title, words, train(slug(words), [*words, "method=[dfa]"])) for title, words in VARIANTS]
    lines += variant_part(defaults[0], drawn, variants)
    (docs / "results.md").write_text("\n".join(lines))
    sweep = {
        (method, rate): defaults[0]  # the default rate has been run
        if rate == defaults[0]["methods"][method]["learning_rate"]
        else train(f"{method}-{rate:g}", [f"optimizer.lr.{method}={rate:g}", f"method=[{method}]"])
        for method in METHODS
        for rate in RATES[method]
    }
    lines += sweep_part(defaults[0], sweep)
    (docs / "results.md").write_text("\n".join(lines))
    print(f"wrote {docs / 'results.md'}")


def train(name: str, words: list[str]) -> dict[str, Any]:
    """The summary of a run: read if it is there, else trained, or continued."""
    folder = RUNS / name
    if not (folder / "summary.json").exists():
        begun = (folder / "checkpoint.safetensors").exists()
        command = [f"resume={folder}"] if begun else [*words, f"hydra.run.dir={folder}"]
        print(f"--- {name}: opu-dfa train {' '.join(words)}", flush=True)
        subprocess.run([sys.executable, "-m", "opu_dfa.cli", "train", *command], cwd=ROOT, check=True)
    return json.loads((folder / "summary.json").read_text())


def slug(words: list[str]) -> str:
    return "-".join("".join(c if c.isalnum() else "." for c in word).strip(".") for word in words)


def loss(summary: dict[str, Any], method: str) -> float:
    return summary["methods"][method]["val_loss"]


def default_part(defaults: list[dict[str, Any]]) -> Iterator[str]:
    """The default run over the seeds, and its figures."""
    first = defaults[0]
    recoveries = [s["recovery"] for s in defaults]
    yield "# Results"
    yield ""
    yield "Written by `make results` (`scripts/results.py`); do not edit by hand."
    yield ""
    yield (
        f"Task: {first['task']}, {first['unit']}; {first['steps']} steps of {first['items_per_step']:,} tokens. All "
        "methods share the initial weights, the order of the data and the budget; the learning rate of each is taken "
        "from the same sweep. Recovery is (frozen - DFA) / (frozen - backprop): 0 is no better than training the head "
        "alone, 1 is as good as backprop."
    )
    yield ""
    yield "## The default run, `opu-dfa train seed=SEED`"
    yield ""
    yield f"| seed | {' | '.join(first['titles'][m] for m in METHODS)} | recovery | device frames | kJ |"
    yield "|---|---|---|---|---|---|---|"
    for s in defaults:
        losses = " | ".join(f"{loss(s, m):.3f}" for m in METHODS)
        device = s["device"]
        yield f"| {s['seed']} | {losses} | {s['recovery']:.3f} | {device['frames']:,} | {device['joules'] / 1e3:.1f} |"
    mean, spread = statistics.mean(recoveries), statistics.stdev(recoveries)
    means = " | ".join(f"{statistics.mean(loss(s, m) for s in defaults):.3f}" for m in METHODS)
    yield f"| mean | {means} | {mean:.3f} | | |"
    yield ""
    yield f"Recovery: mean {mean:.3f}, standard deviation {spread:.3f} over {len(defaults)} seeds."
    yield ""
    yield "![losses](figures/loss.png)"
    yield ""
    yield "![alignment](figures/alignment.png)"
    yield ""


def variant_part(
    first: dict[str, Any], drawn: dict[str, Any], variants: list[tuple[str, list[str], dict[str, Any]]]
) -> Iterator[str]:
    """One change of the recipe at a time."""
    frozen, bp = loss(first, "frozen"), loss(first, "bp")
    yield "## What each part of the recipe is worth (seed 0)"
    yield ""
    yield (
        "Against the controls of the default run, which start from the same head, aligned with the device's columns. "
        "Every variant has the default's learning rate, which need not be its own best:"
    )
    yield ""
    yield "| change | command | loss | recovery |"
    yield "|---|---|---|---|"
    yield f"| none | `opu-dfa train` | {loss(first, 'dfa'):.3f} | {first['recovery']:.3f} |"
    for title, words, s in variants:
        recovery = (frozen - loss(s, "dfa")) / (frozen - bp)
        yield f"| {title} | `opu-dfa train {' '.join(words)}` | {loss(s, 'dfa'):.3f} | {recovery:.3f} |"
    yield ""
    yield "With the head as drawn, N(0, 0.02²), for all three methods (`opu-dfa train feedback.align_head=0`):"
    yield ""
    yield f"| {' | '.join(first['titles'][m] for m in METHODS)} | recovery | against the default run's controls |"
    yield "|---|---|---|---|---|"
    across = (frozen - loss(drawn, "dfa")) / (frozen - bp)
    yield f"| {' | '.join(f'{loss(drawn, m):.3f}' for m in METHODS)} | {drawn['recovery']:.3f} | {across:.3f} |"
    yield ""


def sweep_part(first: dict[str, Any], sweep: dict[tuple[str, float], dict[str, Any]]) -> Iterator[str]:
    """The loss of each method at each rate; the default is marked."""
    yield "## Learning rates (seed 0): validation loss at three peak rates; the default in bold"
    yield ""
    for method in METHODS:
        default = first["methods"][method]["learning_rate"]
        rates = RATES[method]
        yield f"| {first['titles'][method]} | {' | '.join(f'{r:g}' for r in rates)} |"
        yield "|" + "---|" * (len(rates) + 1)
        cells = [f"{loss(sweep[method, r], method):.3f}" for r in rates]
        marked = [f"**{c}**" if r == default else c for c, r in zip(cells, rates, strict=True)]
        yield f"| loss | {' | '.join(marked)} |"
        yield ""


if __name__ == "__main__":
    main()
