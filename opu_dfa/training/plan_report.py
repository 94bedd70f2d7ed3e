"""`opu-dfa train --plan`: the plan of every method as a table, and whether it fits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table

from opu_dfa.opening import open_device
from opu_dfa.tasks import Task
from opu_dfa.training.plan import Plan, available_memory, lack, plan
from opu_dfa.training.settings import TrainSettings


def print_plans(run: TrainSettings, task: Task, console: Console) -> bool:
    """The table of `opu-dfa train --plan`, and whether everything fits."""
    free = available_memory(run.torch_device)
    plans = [plan(run, task, method) for method in run.method]
    table = Table(title=f"{task.title}: plan of {run.steps} steps")
    table.add_column()
    for planned in plans:
        table.add_column(planned.method, justify="right")
    rate = matrix_product_rate(run.torch_device)
    for heading, show in _rows(run, rate).items():
        table.add_row(heading, *(show(planned) for planned in plans))
    console.print(table)
    if free is None:
        return True
    console.print(f"{free / 1e9:.1f} GB of memory are free.", highlight=False)
    lacking = [planned for planned in plans if planned.peak > free]
    for planned in lacking:
        console.print(f"{planned.method} {lack(planned, free)}.", highlight=False, soft_wrap=True)
    return not lacking


def _rows(run: TrainSettings, rate: float) -> dict[str, Callable[[Plan], str]]:
    """What is shown of a plan, line by line."""

    def gigabytes(value: int) -> str:
        return f"{value / 1e9:.3g}"

    def otherwise(**switches: bool) -> Callable[[Plan], str]:
        return lambda p: gigabytes(p.sparing(**switches).peak)

    frame_time, power, frames_each = _device(run)
    return {
        "parameters": lambda p: f"{p.parameters:,}",
        "peak of a step [GB]": lambda p: gigabytes(p.peak),
        "  weights": lambda p: gigabytes(p.weights),
        "  optimiser state": lambda p: gigabytes(p.state),
        "  saved for gradients": lambda p: gigabytes(sum(part.saved for part in p.parts)),
        "  peak, nothing spared": otherwise(step_in_backward=False, recompute=False, offload=False),
        "  peak, step_in_backward": otherwise(step_in_backward=True, recompute=False, offload=False),
        "  peak, and recompute": otherwise(step_in_backward=True, recompute=True, offload=False),
        "matrix products, FLOPs a step": lambda p: f"{p.flops_per_step:.3g}",
        "  all steps at this machine's rate [s]": lambda p: f"{run.steps * p.flops_per_step / rate:,.0f}",
        "device frames": lambda p: f"{run.steps * p.patterns * frames_each:,}",
        "device seconds": lambda p: f"{run.steps * p.patterns * frames_each * frame_time:,.0f}",
        "device energy [kJ]": lambda p: f"{run.steps * p.patterns * frames_each * frame_time * power / 1e3:,.1f}",
    }


def _device(run: TrainSettings) -> tuple[float, float, int]:
    """Seconds a frame, watts, and frames a pattern; the simulated device answers for the real one."""
    chosen = replace(run.opu, kind="simulated", calibration=None)
    with open_device(chosen, 8, 8, run.seed) as opu:
        return opu.frame_time, opu.power, opu.frames_per_projection


def matrix_product_rate(device: torch.device, size: int = 2048) -> float:
    """FLOPs a second of float32 matrix products, the better of two."""
    a = torch.ones(size, size, device=device)
    best = 0.0
    for _ in range(2):
        started = time.perf_counter()
        (a @ a).sum().item()
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best
