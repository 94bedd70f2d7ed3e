"""A billion parameters on one small machine: trains experiment=gpt-1b and writes docs/scale.md and its figure.

    python scripts/scale.py        # an hour or two on two cores; run again to continue where it stopped
    python scripts/scale.py page   # the page alone, of the steps that are done

The run is `opu-dfa train experiment=gpt-1b` in runs/scale/gpt-1b. glibc is told to keep the memory of freed tensors:
handing it back after each of a step's hundreds of large gradients, and asking for it again, takes longer than the step
of the optimiser.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from opu_dfa.config import composed, parse
from opu_dfa.tasks import build_task
from opu_dfa.training.metrics import read_metrics
from opu_dfa.training.plan import Plan, plan
from opu_dfa.training.settings import Method, TrainSettings

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / "runs" / "scale" / "gpt-1b"
PAGE = ROOT / "docs" / "scale.md"
FIGURE = ROOT / "docs" / "figures" / "scale.png"
KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "THP_MEM_ALLOC_ENABLE": "1",
}


def main(words: list[str]) -> None:
    """Train what is left of the run, then write the page."""
    if words != ["page"] and not (RUN / "summary.json").exists():
        begun = (RUN / "checkpoint.safetensors").exists()
        words = [f"resume={RUN}"] if begun else ["experiment=gpt-1b", f"hydra.run.dir={RUN}"]
        command = [sys.executable, "-m", "opu_dfa.cli", "train", *words]
        subprocess.run(command, check=True, env=os.environ | KEEP_FREED_MEMORY)
    config = json.loads((RUN / "config.json").read_text())
    records = read_metrics(RUN / "metrics.jsonl")
    PAGE.write_text("\n".join(page(config, records, plans())) + "\n")
    figure(records).savefig(FIGURE, dpi=150)
    print(f"wrote {PAGE.relative_to(ROOT)}")


def plans() -> dict[str, Plan]:
    """What one step takes as configured, and otherwise."""
    run = parse(TrainSettings, composed("train", ["experiment=gpt-1b"]))
    task = build_task(run.task, run.data)
    adamw = replace(run, optimizer=replace(run.optimizer, name="adamw"))

    def of(settings: TrainSettings, method: Method, **switches: bool) -> Plan:
        plain = {"step_in_backward": False, "recompute": False, "offload": False}
        return plan(settings, task, method).sparing(**plain | switches)

    return {
        "DFA, Adafactor, stepping in the backward pass: this run": of(run, "dfa", step_in_backward=True),
        "the same, blocks recomputed": of(run, "dfa", step_in_backward=True, recompute=True),
        "DFA, AdamW, stepping in the backward pass": of(adamw, "dfa", step_in_backward=True),
        "backprop, AdamW, stepping in the backward pass": of(adamw, "bp", step_in_backward=True),
        "backprop, AdamW": of(adamw, "bp"),
        "backprop, AdamW, 2,048 tokens a step": of(replace(adamw, batch_size=4 * run.batch_size), "bp"),
    }


def page(config: dict[str, Any], records: list[dict[str, Any]], planned: dict[str, Plan]) -> Iterator[str]:
    """The page, line by line."""
    losses = [record["loss"] for record in records]
    largest = max(record["memory_bytes"] for record in records)
    tokens = config["batch_size"] * config["task"]["context"]
    validation = [record["val_loss"] for record in records if "val_loss" in record]
    first = next(iter(planned.values()))
    yield "# A billion parameters on two cores"
    yield ""
    yield (
        "Written by `make scale` (`scripts/scale.py`); do not edit by hand. The run is `opu-dfa train "
        "experiment=gpt-1b`, with glibc told to keep freed memory, as the script does."
    )
    yield ""
    yield (
        f"{first.parameters:,} parameters, {tokens:,} characters a step, {len(records)} of {config['steps']} steps of "
        "optical DFA on the simulated device. The training loss falls from "
        f"{statistics.mean(losses[:5]):.2f} (mean of the first five steps) to {statistics.mean(losses[-5:]):.2f} nats "
        f"(of the last five), the validation loss of a few windows is last {validation[-1]:.2f}; the process holds "
        f"{largest / 1e9:.1f} GB at most (a jump is where the run was resumed: the checkpoint it read counts), and a "
        f"step takes {tokens / records[-1]['items_per_second']:.0f} s on average, other work on the machine included. "
        "So few steps are a proof that it runs, not a trained model."
    )
    yield ""
    yield "![loss and memory](figures/scale.png)"
    yield ""
    yield "| step | training loss, mean of ten | validation loss | characters/s so far | memory of the process [GB] |"
    yield "|---|---|---|---|---|"
    for at in range(9, len(records), 10):
        some = records[at - 9 : at + 1]
        record = some[-1]
        seen = f"{record['val_loss']:.3f}" if "val_loss" in record else ""
        mean = statistics.mean(r["loss"] for r in some)
        yield (
            f"| {record['step']} | {mean:.3f} | {seen} | {record['items_per_second']:.1f} "
            f"| {record['memory_bytes'] / 1e9:.2f} |"
        )
    yield ""
    yield "## What one step needs, by the plan"
    yield ""
    yield (
        "`opu-dfa train --plan experiment=gpt-1b` reckons this before anything is made: tensors only. The process "
        "holds more: Python and PyTorch, the optimiser's temporaries, and freed memory that glibc was told to keep."
    )
    yield ""
    yield "| method | weights | optimiser state | peak of a step [GB] | FLOPs a step |"
    yield "|---|---|---|---|---|"
    for name, each in planned.items():
        sizes = " | ".join(f"{value / 1e9:.2f}" for value in (each.weights, each.state, each.peak))
        yield f"| {name} | {sizes} | {each.flops_per_step:.3g} |"
    yield ""
    yield (
        "Stepping within the backward pass is as open to backprop as to DFA. What DFA leaves out of the products is "
        "the first input gradient of each block; what it adds is that blocks may take their backward passes in any "
        "order, or at once on several machines (docs/bench-scale.md)."
    )


def figure(records: list[dict[str, Any]]) -> Figure:
    """Loss and memory over the steps."""
    drawn = Figure(figsize=(8, 3), layout="constrained")
    left, right = drawn.subplots(1, 2)
    steps = [record["step"] for record in records]
    left.plot(steps, [record["loss"] for record in records], lw=1, label="training")
    validated = [record for record in records if "val_loss" in record]
    left.plot([r["step"] for r in validated], [r["val_loss"] for r in validated], "o-", label="validation")
    left.set(xlabel="step", ylabel="nats per character")
    left.legend(frameon=False)
    right.plot(steps, [record["memory_bytes"] / 1e9 for record in records])
    right.axhline(20, color="0.6", ls=":")
    right.set(xlabel="step", ylabel="memory of the process [GB]", ylim=(0, 22))
    return drawn


if __name__ == "__main__":
    main(sys.argv[1:])
