"""Two real processes, one thread each: DFA's pipeline beside GPipe and 1F1B, in bytes, idle time and seconds a step.

    python scripts/bench/pipeline.py [steps]        # about a minute with the default 30 steps

The schedules take turns step by step within the same processes, so that a shared machine's load falls on all alike; all
start from a barrier, and medians over steps are reported. A step is forward and backward over all micro-batches,
without the optimiser. `measure` gives the table as numbers, and beside it what a simulation of pipelines needs: seconds
of each stage's work on a micro-batch, and the link's latency and bandwidth.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from opu_dfa import GaussianFeedback
from opu_dfa.dfa.broadcast import WIRES
from opu_dfa.dfa.pipeline import Pipeline, PipelinedFeedback
from opu_dfa.dfa.ranks import Ranks
from opu_dfa.dfa.schedules import PipelinedBackprop
from opu_dfa.dfa.stages import Shapes, Stage, chain, split
from opu_dfa.dfa.timeline import Kind
from opu_dfa.models.gpt import GPT

SECONDS = 60  # that a rank waits for another
LARGE = 2**20  # bytes of the message that the bandwidth is measured with


@dataclass(frozen=True)
class Setting:
    """A GPT (the default model's sizes), a batch, and how often each schedule's step is measured."""

    stages: int = 2
    micro_batches: int = 8
    batch: int = 32
    context: int = 64
    n_symbols: int = 103
    n_blocks: int = 6
    width: int = 128
    n_heads: int = 4
    hidden: int = 256
    steps: int = 30
    warm_up: int = 3


@dataclass(frozen=True)
class Row:
    """A schedule: DFA with an error of some kind on the wire, its signal passing a module or not, or backprop's."""

    title: str
    wire: str = ""
    through: str | None = None
    schedule: str = ""


ROWS = {
    "dfa-float32": Row("DFA, float32 error", "float32"),
    "dfa-bfloat16": Row("DFA, bfloat16 error", "bfloat16"),
    "dfa-ternary": Row("DFA, ternary error", "ternary"),
    "dfa-through-ternary": Row("DFA, ternary signal through the final norm", "ternary", "final_norm"),
    "gpipe": Row("backprop, GPipe", schedule="gpipe"),
    "1f1b": Row("backprop, 1F1B", schedule="1f1b"),
}


def measure(setting: Setting | None = None) -> dict[str, Any]:
    """Run every schedule in `setting.stages` processes of this machine.

    Returns:
        setting; `schedules`, by key of `ROWS`: bytes_per_step, step_seconds, bubble and backward_bubble (fractions of
        all ranks' time), and `work`: seconds a micro-batch by kind ("forward", "error", "project", "backward"), a list
        over stages; `link`: latency_seconds, bytes_per_second; `message_bytes`: of a micro-batch's activations, and of
        its error by schedule.
    """
    setting = Setting() if setting is None else setting
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, __file__, "rank", folder, json.dumps(asdict(setting))]
        ranks = [subprocess.Popen([*words, str(rank)], env=environment) for rank in range(setting.stages)]
        codes = [rank.wait() for rank in ranks]
        if any(codes):
            raise RuntimeError("a rank of the benchmark failed; its output is above")
        seen = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(setting.stages)]
    schedules = {key: _together([each["schedules"][key] for each in seen], setting) for key in ROWS}
    rows = setting.batch // setting.micro_batches * setting.context
    return {
        "setting": asdict(setting),
        "schedules": schedules,
        "link": seen[0]["link"],
        "message_bytes": {
            "activations": rows * setting.width * 4,
            "error": {
                key: WIRES[row.wire].size(rows, setting.width if row.through else setting.n_symbols)
                for key, row in ROWS.items()
                if row.wire
            },
        },
    }


def _together(ranks: list[dict[str, Any]], setting: Setting) -> dict[str, Any]:
    """The ranks' steps as one schedule's."""
    lengths = [max(seconds) for seconds in zip(*(each["seconds"] for each in ranks), strict=True)]

    def share(kind: str) -> float:
        sums = [sum(values) for values in zip(*(each[kind] for each in ranks), strict=True)]
        return statistics.median(s / length / len(ranks) for s, length in zip(sums, lengths, strict=True))

    return {
        "bytes_per_step": sum(each["bytes"] for each in ranks),
        "step_seconds": statistics.median(lengths),
        "bubble": 1 - share("busy"),
        "backward_bubble": share("waited_backward"),
        "work": {kind: [each["work"][kind] for each in ranks] for kind in get_args(Kind)},
    }


def one_rank(folder: Path, setting: Setting, rank: int) -> None:
    """A process of `measure`: leaves what it saw as a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=setting.stages,
        timeout=timedelta(seconds=SECONDS),
    )
    ranks = Ranks(timeout=SECONDS)
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(setting.n_symbols, (setting.batch, setting.context), generator=draw)
    pipelines = {
        key: pipeline(row, setting, ranks, x[: setting.batch // setting.micro_batches]) for key, row in ROWS.items()
    }
    seen: dict[str, Any] = {key: Seen() for key in ROWS}
    for step in range(setting.warm_up + setting.steps):
        for key, each in pipelines.items():
            each.stage.zero_grad()
            sent = ranks.bytes_sent
            dist.barrier()
            each.step(x, x, loss)
            if step >= setting.warm_up:
                seen[key].add(each, ranks.bytes_sent - sent)
    found = {"schedules": {key: each.summary(setting.micro_batches) for key, each in seen.items()}, "link": link(rank)}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def pipeline(row: Row, setting: Setting, ranks: Ranks, x: Tensor) -> Pipeline:
    """A schedule over the stages of a model of its own; x is a micro-batch."""
    model = GPT(setting.n_symbols, setting.context, setting.n_blocks, setting.width, setting.n_heads, setting.hidden)
    units = chain(model, ["blocks.*"], x)
    blocks = [name for name in units if name.startswith("blocks.")]
    stage = Stage(split(units, blocks, ranks.n_stages)[ranks.stage], ranks.stage, ranks.n_stages)
    shapes = Shapes(units)
    if row.schedule:
        return PipelinedBackprop(stage, shapes, ranks, setting.micro_batches, row.schedule)
    feedback = GaussianFeedback(setting.n_symbols, setting.width)
    draw = torch.Generator().manual_seed(1)
    return PipelinedFeedback(
        stage, shapes, ranks, setting.micro_batches, blocks, feedback, WIRES[row.wire], draw, through=row.through
    )


def loss(out: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(out.flatten(0, 1), y.flatten())


class Seen:
    """What one rank saw of a schedule, step by step."""

    def __init__(self) -> None:
        self.steps: dict[str, list[float]] = {"seconds": [], "busy": [], "waited_backward": []}
        self.work: dict[str, list[float]] = {kind: [] for kind in get_args(Kind)}
        self.bytes = 0

    def add(self, pipeline: Pipeline, sent: int) -> None:
        line = pipeline.timeline
        self.steps["seconds"].append(line.seconds)
        self.steps["busy"].append(line.busy())
        self.steps["waited_backward"].append(line.waited("project", "backward"))
        for kind, work in self.work.items():
            work.append(sum(end - start for each, start, end in line.spans if each == kind))
        self.bytes = sent

    def summary(self, micro_batches: int) -> dict[str, Any]:
        work = {kind: statistics.median(each) / micro_batches for kind, each in self.work.items()}
        return self.steps | {"work": work, "bytes": self.bytes}


def link(rank: int) -> dict[str, float]:
    """Latency and bandwidth between the first two ranks: half of the least that a message takes there and back."""
    seconds = {}
    for size in (1, LARGE):
        message, taken = torch.zeros(size, dtype=torch.uint8), []
        for _ in range(30 if rank < 2 else 0):
            started = time.perf_counter()
            if rank == 0:
                dist.send(message, 1)
                dist.recv(message, 1)
            else:
                dist.recv(message, 0)
                dist.send(message, 0)
            taken.append((time.perf_counter() - started) / 2)
        seconds[size] = min(taken, default=float("nan"))
    return {"latency_seconds": seconds[1], "bytes_per_second": LARGE / max(seconds[LARGE] - seconds[1], 1e-9)}


def main(steps: int = 30) -> None:
    """Measure and print the table."""
    found = measure(Setting(steps=steps))
    schedules, link_ = found["schedules"], found["link"]
    against = schedules["1f1b"]["bytes_per_step"]
    print(
        "| schedule | KB sent a step | / backprop | ms a step | bubble | backward bubble |\n|---|---|---|---|---|---|"
    )
    for key, row in ROWS.items():
        each = schedules[key]
        print(
            f"| {row.title} | {each['bytes_per_step'] / 1e3:.1f} | {each['bytes_per_step'] / against:.3f} "
            f"| {1e3 * each['step_seconds']:.1f} | {each['bubble']:.1%} | {each['backward_bubble']:.1%} |"
        )
    print(f"\nlink: {1e6 * link_['latency_seconds']:.0f} us, {link_['bytes_per_second'] / 1e6:.0f} MB/s")
    print("ms a micro-batch, by stage:")
    for key in ("dfa-ternary", "1f1b"):
        work = {kind: [round(1e3 * s, 2) for s in each] for kind, each in schedules[key]["work"].items() if any(each)}
        print(f"  {key}: {work}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        one_rank(Path(sys.argv[2]), Setting(**json.loads(sys.argv[3])), int(sys.argv[4]))
    else:
        main(*map(int, sys.argv[1:2]))
