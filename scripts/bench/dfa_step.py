"""CPU time of a DFA step against a backprop step of the same network, and the two public peers: docs/bench-dfa.md.

    python scripts/bench/dfa_step.py [rounds]       # about three minutes with the default 40 rounds

A step is forward, backward and optimiser (fused AdamW for all), on one thread. The methods take turns within one run, a
few steps each as in a training, and are compared round by round, so that a shared machine's load falls on all alike:
the ratio to backprop is the median over rounds. Beside it the FLOPs of forward and backward that PyTorch's own counter
sees.

TinyDFA (Launay et al. 2020) does not run on current PyTorch, so its algorithm is restated here as its code does it:
what follows a layer reads its output detached but asking for a gradient, and a backward pass through the output starts
one backward pass a layer. biotorch 0.0.16 is the package itself, where it is installed; it knows only linear layers.
"""

from __future__ import annotations

import contextlib
import copy
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from opu_dfa import DirectFeedback, GaussianFeedback
from opu_dfa.dfa.blocks import resolve_blocks
from opu_dfa.models.gpt import GPT

INTRODUCTION = """# What a DFA step costs

Written by `make bench-dfa` (`scripts/bench/dfa_step.py`); do not edit by hand. One step is forward, backward and
fused AdamW, on one thread. The methods take turns of {turn} steps, of which the first only warms the caches; a ratio to
backprop is the median over {rounds} rounds of the ratio within a round, so a machine that slows for a while slows both
sides of it. Batch 128 for the perceptrons (tanh), 32 x 64 tokens for the GPT (the default model:
6 blocks, width 128). FLOPs are those of forward and backward by PyTorch's counter, which knows matrix products only:
neither the optimiser nor elementwise operations. The feedback is digital: one shared Gaussian matrix, and for the GPT
the final norm's derivative. "products" is the share of forward and backward that linear layers' matrix products take.

| network | method | CPU ms a step | of it optimiser | products | / backprop | GFLOP | / backprop | goal |
|---|---|---|---|---|---|---|---|---|"""
READING = """
Of the three products of a linear layer, output, weight gradient and input gradient, DFA does two: the limit for deep
square networks is 2/3. In a transformer block only the first product's input gradient falls away: what lies behind it
within the block is learned by the exact local gradient. TinyDFA's algorithm lets the next layer ask for its input's
gradient, and biotorch computes backpropagation's and throws it away: neither saves any. Time falls by less than FLOPs
where much of it is not in the products: in the optimiser, in attention's kernel, norms and nonlinearities.
"""
TURN = 4  # steps
PAGE = Path(__file__).resolve().parents[2] / "docs" / "bench-dfa.md"


@dataclass(frozen=True)
class Case:
    """A network, where DFA enters it, one batch, and the ratio to backprop that is aimed at."""

    name: str
    model: nn.Module
    blocks: list[str]
    through: str | None
    width: int
    x: Tensor
    y: Tensor
    goal: float

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(out.flatten(0, -2), y.flatten())


Gradients = Callable[[], None]


def backprop(case: Case, model: nn.Module) -> Gradients:
    return lambda: case.loss(model(case.x), case.y).backward()


def ours(case: Case, model: nn.Module) -> Gradients:
    feedback = GaussianFeedback(model(case.x).shape[-1], case.width)
    dfa = DirectFeedback(model, case.blocks, feedback, through=case.through)

    def run() -> None:
        out = model(case.x)
        dfa.backward(case.loss(out, case.y), out)

    return run


class TinyDFA(torch.autograd.Function):
    """The output as it is; its gradient e starts a backward pass from every tap, with eB, B uniform in [-1, 1)."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, taps: list[Tensor], matrix: Tensor) -> Tensor:
        ctx.taps, ctx.matrix = taps, matrix
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor, None, None]:
        projected = error @ ctx.matrix / math.sqrt(ctx.matrix.shape[1])
        for tap in ctx.taps:
            tap.backward(projected[..., : tap.shape[-1]])
        return error, None, None


def tinydfa(case: Case, model: nn.Module) -> Gradients:
    taps: list[Tensor] = []

    def cut(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        taps.append(output)
        return output.detach().requires_grad_()

    draw = torch.Generator().manual_seed(0)
    matrix = torch.rand(model(case.x).shape[-1], case.width, generator=draw) * 2 - 1
    for block in resolve_blocks(model, case.blocks).values():
        block.register_forward_hook(cut)

    def run() -> None:
        taps.clear()
        out = TinyDFA.apply(model(case.x), taps, matrix)
        case.loss(out, case.y).backward()

    return run


def biotorch(case: Case, model: nn.Module) -> Gradients | None:
    try:
        from biotorch.module.biomodule import BioModule
    except ImportError:
        print("biotorch is left out: it is not installed (pip install biotorch==0.0.16)")
        return None
    if isinstance(model, GPT):
        return None
    with contextlib.redirect_stdout(None):
        converted = BioModule(model, mode="dfa", output_dim=model(case.x).shape[-1])
    return lambda: case.loss(converted(case.x, case.y, case.loss), case.y).backward()


METHODS: dict[str, Callable[[Case, nn.Module], Gradients | None]] = {
    "backprop": backprop,
    "TinyDFA's algorithm": tinydfa,
    "biotorch 0.0.16": biotorch,
    "opu-dfa": ours,
}


class Step:
    """One method's forward, backward and optimiser step on its own copy of the network; CPU seconds of each."""

    def __init__(self, model: nn.Module, gradients: Gradients) -> None:
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        self.gradients = gradients
        self.seconds: list[float] = []
        self.optimizing: list[float] = []

    def turn(self) -> None:
        """A few steps in a row, as in a training; the mean of all but the first."""
        found = [self._step() for _ in range(TURN)][1:]
        self.seconds.append(statistics.mean(whole for whole, _ in found))
        self.optimizing.append(statistics.mean(optimizing for _, optimizing in found))

    def _step(self) -> tuple[float, float]:
        started = time.process_time()
        self.optimizer.zero_grad(set_to_none=True)
        self.gradients()
        filled = time.process_time()
        self.optimizer.step()
        ended = time.process_time()
        return ended - started, ended - filled


def share_of_products(gradients: Gradients) -> float:
    """The part of forward and backward's time that linear layers' matrix products take, by PyTorch's profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(5):
            gradients()
    time_of = {each.key: each.self_cpu_time_total for each in seen.key_averages()}
    return (time_of["aten::mm"] + time_of["aten::addmm"]) / sum(time_of.values())


def measure(case: Case, rounds: int) -> list[str]:
    """Lines of the table."""
    steps, flops, products = {}, {}, {}
    for name, prepare in METHODS.items():
        model = copy.deepcopy(case.model)
        gradients = prepare(case, model)
        if gradients is None:
            continue
        steps[name] = Step(model, gradients)
        with FlopCounterMode(display=False) as counter:
            gradients()
        flops[name] = counter.get_total_flops()
        products[name] = share_of_products(gradients)
    names = list(steps)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            steps[name].turn()
    lines = []
    backprops = steps["backprop"].seconds
    for name, step in steps.items():
        ratio = statistics.median(mine / other for mine, other in zip(step.seconds, backprops, strict=True))
        goal = f"{case.goal}, {'met' if ratio <= case.goal else 'missed'}" if name == "opu-dfa" else ""
        work = flops[name] / flops["backprop"]
        lines.append(
            f"| {case.name} | {name} | {1e3 * statistics.median(step.seconds):.1f} "
            f"| {1e3 * statistics.median(step.optimizing):.1f} "
            f"| {products[name]:.0%} | {ratio:.2f} | {flops[name] / 1e9:.3f} | {work:.2f} | {goal} |"
        )
    return lines


def perceptron(depth: int) -> nn.Module:
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(784 if i == 0 else 1024, 1024), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(1024, 10))


def cases() -> list[Case]:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(128, 784, generator=draw), torch.randint(10, (128,), generator=draw)
    tokens = torch.randint(103, (32, 64), generator=draw)
    return [
        Case("MLP 784-1024-1024-10", perceptron(2), ["1", "3"], None, 1024, x, y, 0.85),
        Case("MLP 6 x 1024", perceptron(6), [str(2 * i + 1) for i in range(6)], None, 1024, x, y, 0.76),
        Case("GPT, a tap a block", GPT(103, 64, 6, 128, 4, 256), ["blocks.*"], "final_norm", 128, tokens, tokens, 0.92),
    ]


def main(rounds: int = 40) -> None:
    """Measure everything, print the page and write it."""
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lines = [line for case in cases() for line in measure(case, rounds)]
    page = [INTRODUCTION.format(rounds=rounds, turn=TURN), *lines, READING]
    print(*page, sep="\n")
    PAGE.write_text("\n".join(page))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
