"""The simulated device against lightonml's simulator and against this machine's limits: docs/bench-device.md.

    python scripts/bench/device.py        # about five minutes; one thread, a process of its own for every measurement

CPU seconds, the least of a few repetitions; both simulators see the same uint8 {0, 1} rows. Compiling (once per
installation) is not counted, drawing the whole matrix is. Memory is the peak of the resident set above what the
process held before the device was made, the result included.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bench-device.md"
BATCH = 1000


def main() -> None:
    """Measure everything, print the page and write it."""
    lines = [
        "# The simulated device: time, memory and how far from the limit",
        "",
        "Written by `make bench-device` (`scripts/bench/device.py`); do not edit by hand. CPU seconds of one thread,",
        f"batch {BATCH}, {{0, 1}} input, against lightonml 1.4.3's simulator in the same run.",
        "",
        "| n = m | what | lightonml | opu-dfa | ratio | goal |",
        "|---|---|---|---|---|---|",
    ]
    theirs, ours = measure("lightonml", 5000), measure("dense", 5000)
    for what, goal in (("build", 6), ("transform", 6), ("linear", 10)):
        lines.append(row("5,000 dense", f"{what}, CPU s", theirs[what], ours[what], goal))
    for what in ("transform", "linear"):
        alone = measure("dense", 5000, what)
        peer = measure("lightonml", 5000, what)
        lines.append(row("5,000 dense", f"build and {what}, peak MiB", peer["peak"], alone["peak"], 6))
    larger, structured = measure("lightonml", 20_000), measure("structured", 20_000)
    for what, goal in (("transform", 20), ("linear", 30)):
        lines.append(row("20,000 structured", f"{what}, CPU s", larger[what], structured[what], goal))
    print(*lines, sep="\n", flush=True)
    wide, huge = measure("streamed", 100_000, "transform", batch=8), measure("structured", 1_000_000, batch=1)
    limits = measure("limits", 0)
    products = 2 * 2 * BATCH * 5000**2
    compiled = products / 2 / ours["linear"] / 1e9
    traffic = structured["bytes_moved"] / structured["transform"] / 1e9
    more = [
        "",
        f"Streamed, 100,000 x 100,000, batch 8: {wide['transform']:.0f} CPU s for `transform`, "
        f"{wide['peak']:.0f} MiB over base (goal: below 1,024).",
        "",
        f"Structured, 1,000,000 to 2,000,000, one vector: {huge['transform']:.2f} CPU s for `transform`, "
        f"{huge['linear']:.2f} for `linear_transform`, {huge['peak']:.0f} MiB over base (goal: below 1,024, seconds).",
        "",
        "## Distance to the limit",
        "",
        "| what | Gop/s |",
        "|---|---|",
        f"| dense `linear_transform`, n = m = 5,000 (multiply and add counted as two) | {compiled:.0f} |",
        f"| dense `transform` | {products / ours['transform'] / 1e9:.0f} |",
        f"| this machine's int8 matrix product, `torch._int_mm` | {limits['int8']:.1f} |",
        f"| its float32 matrix product, `torch.mm` | {limits['float32']:.0f} |",
        "",
        "A table look-up replaces four multiply-accumulates by one addition of int16 lanes: the dense product is bound",
        "not by a matrix unit but by loads from the first-level cache, one row of 16 lanes for 64",
        "multiply-accumulates. Where `torch._int_mm` has no hardware path it is slower than float32.",
        "",
        f"The structured `transform` reads and writes {traffic:.1f} GB/s in its butterflies, all within the caches;",
        f"this machine copies memory at {limits['copy']:.1f} GB/s.",
        "",
    ]
    print(*more, sep="\n")
    PAGE.write_text("\n".join(lines + more))


def row(size: str, what: str, theirs: float, ours: float, goal: float) -> str:
    """A line of the table."""
    ratio = theirs / ours
    met = "met" if ratio >= goal else "missed"
    return f"| {size} | {what} | {theirs:.3g} | {ours:.3g} | {ratio:.1f} | {goal}, {met} |"


def measure(what: str, n: int, only: str = "", batch: int = BATCH) -> dict[str, Any]:
    """One measurement in a process of its own, on one thread."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")} | one
    command = [sys.executable, __file__, what, str(n), str(batch), only]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    if ran.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{ran.stderr}")
    return json.loads(ran.stdout.strip().split("\n")[-1])


def cpu(run: Callable[[], Any], repetitions: int) -> float:
    """The least CPU seconds."""
    best = float("inf")
    for _ in range(repetitions):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best


def peak() -> float:
    """Peak of the resident set since the process began, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def held() -> float:
    """The resident set now, MiB; where the system does not say, its peak."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    except OSError:
        return peak()


def one_device(what: str, n: int, batch: int, only: str) -> dict[str, float]:
    """Build a device, transform, transform linearly (or one of the two), the peak of memory over all."""
    x = np.random.default_rng(0).integers(0, 2, (batch, n), dtype=np.uint8)
    kinds = ["transform", "linear"] if not only else [only]
    seen: dict[str, float] = {}
    if what == "lightonml":
        build, asks = lightonml(n)
    else:
        build, asks = simulated(what, n, 2 * n if n == 1_000_000 else n)
    base = held()
    start = time.process_time()
    device = build()
    if n == 5000:  # the dense medium draws its imaginary part when first asked for it
        for kind in kinds:
            asks[kind](device, x[:1])
    seen["build"] = time.process_time() - start
    for kind in kinds:
        seen[kind] = cpu(lambda kind=kind: asks[kind](device, x), 3 if n == 5000 else 1)
    seen["peak"] = peak() - base
    padded = 1 << (n - 1).bit_length()
    # transform: five transforms of float32, log2(padded) butterflies each but two at a pass, read and written.
    seen["bytes_moved"] = batch * 5 * padded * 4 * 2 * np.log2(padded) / 2
    return seen


def lightonml(n: int) -> tuple[Callable[[], Any], dict[str, Callable[[Any, Any], Any]]]:
    """LightOn's simulated device, at the scale where its linear output has variance ‖x‖²/n."""
    import warnings

    warnings.simplefilter("ignore")
    from lightonml import OPU

    def build() -> Any:
        opu = OPU(n_components=n, max_n_features=n, simulated=True, rescale="none", disable_pbar=True)
        opu.fit1d(n_features=n)
        return opu

    return build, {"transform": lambda opu, x: opu.transform(x), "linear": lambda opu, x: opu.linear_transform(x)}


def simulated(medium: str, n: int, m: int) -> tuple[Callable[[], Any], dict[str, Callable[[Any, Any], Any]]]:
    """Ours, its kernels compiled by a small one."""
    import torch

    from hardware import SimulatedOPU

    torch.set_num_threads(1)
    small, x = SimulatedOPU(100, 100, medium=medium), np.ones((2, 100), np.uint8)
    small.transform(x), small.linear_transform(x)
    asks = {"transform": lambda opu, x: opu.transform(x), "linear": lambda opu, x: opu.linear_transform(x)}
    return lambda: SimulatedOPU(n, m, medium=medium), asks


def limits() -> dict[str, float]:
    """What this machine's matrix products and memory do on one thread."""
    import torch

    torch.set_num_threads(1)
    a, b = torch.ones(512, 1024), torch.ones(1024, 1024)
    a8, b8 = a.to(torch.int8), b.to(torch.int8)
    long = torch.ones(2**26)
    into = torch.empty_like(long)
    products = 2 * 512 * 1024 * 1024 / 1e9
    return {
        "float32": products / cpu(lambda: a @ b, 20),
        "int8": products / cpu(lambda: torch._int_mm(a8, b8), 2),
        "copy": 2 * long.nbytes / cpu(lambda: into.copy_(long), 5) / 1e9,
    }


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        what, n, batch, only = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
        print(json.dumps(limits() if what == "limits" else one_device(what, n, batch, only)))
