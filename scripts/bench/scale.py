"""DFA at scale, as goals: memory of a step, bytes and bubbles of a real pipeline, the simulation beside it.

    python scripts/bench/scale.py        # about ten minutes on two cores; writes docs/bench-scale.md

Memory is the peak resident size of real processes (`opu-dfa train`, two steps of each method), next to the plan's
figure. The pipeline is two processes (scripts/bench/pipeline.py). The billion parameters are those of `make scale`,
where that has run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pipeline as pipelines

from opu_dfa.config import composed, parse
from opu_dfa.scaling import replay
from opu_dfa.scaling.law import goals
from opu_dfa.tasks import build_task
from opu_dfa.training.metrics import read_metrics
from opu_dfa.training.plan import plan
from opu_dfa.training.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "bench-scale.md"
BILLION = ROOT / "runs" / "scale" / "gpt-1b" / "metrics.jsonl"
HUNDRED_MILLION = [  # parameters, and 4,096 characters a step
    "model=gpt-1b",
    "model.n_blocks=14",
    "model.width=768",
    "model.n_heads=12",
    "task.context=128",
    "batch_size=32",
    "feedback.align_head=0.4",
    "optimizer.lr={dfa: 1.0e-4, bp: 1.0e-4, frozen: 1.0e-4}",
    "steps=2",
    "validation_examples=1",
    "alignment_every=0",
    "sample_length=0",
]
SPARING = ["memory.step_in_backward=true", "memory.recompute=true"]
VARIANTS = {
    "backprop, AdamW": ["method=bp"],
    "backprop, recomputed (activation checkpointing)": ["method=bp", "memory.recompute=true"],
    "backprop, recomputed, stepping in the backward pass": ["method=bp", *SPARING],
    "DFA, recomputed, stepping in the backward pass": ["method=dfa", *SPARING],
    "the same, with Adafactor in place of AdamW": ["method=dfa", *SPARING, "optimizer.name=adafactor"],
}
PLAIN, CHECKPOINTED, *_ = VARIANTS
HAND_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}  # freed blocks of a megabyte and more, at once


def peak_memory(words: list[str]) -> int:
    """Bytes that a process training with these words holds at most."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "opu_dfa.cli", "train", *HUNDRED_MILLION, *words, f"hydra.run.dir={folder}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | HAND_BACK)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise RuntimeError(f"the run failed: {' '.join(words)}; its output is above")
        return usage.ru_maxrss * 1024


def planned_peak(words: list[str]) -> int:
    """The same by the plan, of tensors alone."""
    run = parse(TrainSettings, composed("train", [*HUNDRED_MILLION, *words]))
    return plan(run, build_task(run.task, run.data), run.method[0]).peak


def verdict(value: float, goal: float) -> str:
    return f"{goal:g}, {'met' if value <= goal else 'missed'}"


def memory() -> Iterator[str]:
    """Peaks of a hundred million parameters."""
    measured = {name: peak_memory(words) for name, words in VARIANTS.items()}
    yield "## Memory: a GPT of 99 million parameters, 4,096 tokens a step"
    yield ""
    yield "| method | peak of the process [GB] | / backprop | / recomputed backprop | planned, tensors [GB] | goal |"
    yield "|---|---|---|---|---|---|"
    for name, words in VARIANTS.items():
        whole, checkpointed = (measured[name] / measured[other] for other in (PLAIN, CHECKPOINTED))
        goals = f"{verdict(whole, 0.55)} and {verdict(checkpointed, 0.85)}" if "method=dfa" in words else ""
        yield (
            f"| {name} | {measured[name] / 1e9:.2f} | {whole:.2f} | {checkpointed:.2f} "
            f"| {planned_peak(words) / 1e9:.2f} | {goals} |"
        )
    yield ""
    yield (
        "The process holds Python and PyTorch beside the tensors. glibc is told to hand freed memory back at once, for "
        "all alike. Stepping in the backward pass is as open to backprop, and all but closes the gap."
    )


def pipeline(found: dict[str, Any]) -> Iterator[str]:
    """Two stages, measured and simulated."""
    setting, schedules = found["setting"], found["schedules"]
    sent = schedules["1f1b"]["bytes_per_step"]
    yield f"## A pipeline of two processes, {setting['micro_batches']} micro-batches, the default GPT"
    yield ""
    yield (
        "| schedule | KB sent a step | / backprop | bubble | backward bubble: measured | simulated | ms a step "
        "| simulated | / measured | goals |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for key, row in pipelines.ROWS.items():
        each, simulated = schedules[key], replay(found, key)
        ratio = simulated.step_seconds / each["step_seconds"]
        less = each["bytes_per_step"] / sent
        goals = ["within 15 %, " + ("met" if abs(ratio - 1) <= 0.15 else "missed")]
        if key == "dfa-ternary":
            goals.append(f"bytes {verdict(less, 0.55)}")
        yield (
            f"| {row.title} | {each['bytes_per_step'] / 1e3:.0f} | {less:.3f} | {each['bubble']:.1%} "
            f"| {each['backward_bubble']:.1%} | {simulated.backward_bubble:.1%} | {1e3 * each['step_seconds']:.0f} "
            f"| {1e3 * simulated.step_seconds:.0f} | {ratio:.2f} | {'; '.join(goals)} |"
        )
    yield ""
    yield (
        "Measured backward bubble: all idle time before backward work, gaps of Python between two tasks included; no "
        "stage of DFA waits for another's gradient, so the simulation, which has no such gaps, has none."
    )


def simulated() -> Iterator[str]:
    """Sixty-four stages."""
    yield "## Simulated: 64 stages, a backward pass of twice the forward, free messages"
    yield ""
    yield "| schedule | 64 micro-batches | / 1F1B | goal | 32 micro-batches | / 1F1B | goal |"
    yield "|---|---|---|---|---|---|---|"
    many, few = (list(goals(64, n, hop=0.0)) for n in (64, 32))
    for one, other in zip(many, few, strict=True):
        cells = []
        for found, goal in ((one, 0.70), (other, 0.58)):
            cells += [
                f"{found.result.step_seconds:.0f}",
                f"{found.ratio:.3f}",
                verdict(found.ratio, goal) if found.label.startswith("DFA") else "",
            ]
        yield f"| {one.label} | {' | '.join(cells)} |"
    yield ""
    yield "In units of a stage's forward pass. With messages, and what zero-bubble backprop takes back: scaling.md."


def billion() -> Iterator[str]:
    """What `make scale` left."""
    yield "## A billion parameters in one process"
    yield ""
    if not BILLION.exists():
        yield "Not run here: `make scale`, an hour or two."
        return
    records = read_metrics(BILLION)
    most = max(record["memory_bytes"] for record in records) / 1e9
    yield (
        f"{len(records)} steps of 512 characters: {most:.1f} GB at most (goal {verdict(most, 20)}); the training loss "
        f"from {records[0]['loss']:.2f} to {records[-1]['loss']:.2f} (docs/scale.md)."
    )


def main() -> None:
    """Measure everything, print the page and write it."""
    lines = ["# DFA at scale", "", "Written by `make bench-scale` (`scripts/bench/scale.py`); do not edit by hand.", ""]
    for part in (memory(), pipeline(pipelines.measure()), simulated(), billion()):
        for line in part:
            print(line, flush=True)
            lines.append(line)
        print(flush=True)
        lines.append("")
    PAGE.write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
