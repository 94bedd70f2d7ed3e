"""`opu-dfa device`: look at a device, calibrate it, see how faithful it is, offer it to others, time it."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field

from hardware import OPU, DeviceServer
from hardware.lighton import why_unavailable
from opu_dfa.config import Count, NonNegativeInt, Seed, parse, settings
from opu_dfa.opening import OPUSettings, open_device
from opu_dfa.training.checkpoint import write_atomically

if TYPE_CHECKING:
    from rich.console import Console


@settings
class ServeSettings:
    """Where to listen; a host that is not loopback needs the environment variable OPU_DFA_TOKEN."""

    host: str
    port: Annotated[int, Field(ge=0, lt=65536)]


@settings
class DeviceSettings:
    """One device and what is done with it: `configs/device.yaml`."""

    opu: OPUSettings
    n_features: Count | None
    n_components: Count | None
    seed: Seed
    probes: NonNegativeInt
    batch: Count
    serve: ServeSettings


def info(opu: OPU, chosen: DeviceSettings, folder: Path, console: Console) -> dict[str, Any]:
    """What the device is, what it costs, and whether a LightOn device could be driven from here."""
    facts = opu.describe() | {
        "|Rx|² per count": opu.intensity_per_count,
        "random matrix-vector products a second": 1 / opu.frame_time,
        "LightOn device": why_unavailable() or "can be driven",
        "threads": torch.get_num_threads(),
    }
    _table(console, opu.identity, facts)
    return {name: value if isinstance(value, (int, float, str)) else str(value) for name, value in facts.items()}


def calibrate(opu: OPU, chosen: DeviceSettings, folder: Path, console: Console) -> dict[str, Any]:
    """Measure exposure, scale and bad pixels; writes calibration.npz, for opu.calibration=FILE."""
    calibration = opu.calibrate()
    path = folder / "calibration.npz"
    calibration.save(path)
    facts = {
        "gain": calibration.gain,
        "pixels used": len(calibration.pixels),
        "pixels masked": calibration.masked,
        "frames taken": opu.usage.frames,
    }
    _table(console, f"calibration of {opu.identity}", facts)
    console.print(f"use it with opu.calibration={path}", highlight=False, soft_wrap=True)
    return facts


def fidelity(opu: OPU, chosen: DeviceSettings, folder: Path, console: Console) -> dict[str, Any]:
    """How well the device does what it says; writes fidelity.png."""
    seen = opu.fidelity(chosen.probes)
    seen.figure(folder / "fidelity.png")
    _table(console, f"fidelity of {opu.identity}, against {seen.reference}", seen.numbers())
    return {"reference": seen.reference} | seen.numbers()


def serve(opu: OPU, chosen: DeviceSettings, folder: Path, console: Console) -> dict[str, Any]:
    """Offer the device on a socket until interrupted."""
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda number, frame: stop.set())
    token = os.environ.get("OPU_DFA_TOKEN", "")
    with DeviceServer(opu, chosen.serve.host, chosen.serve.port, token) as server:
        console.print(f"serving {opu.identity}", highlight=False, soft_wrap=True)
        console.print(f"use it with opu=remote opu.kind=remote://{server.address}", highlight=False, soft_wrap=True)
        stop.wait()
        console.print("closing: what has begun is answered")
    return {"address": server.address}


def bench(opu: OPU, chosen: DeviceSettings, folder: Path, console: Console) -> dict[str, Any]:
    """CPU time of the simulator, beside the frames the instrument would take."""
    draw = torch.Generator().manual_seed(chosen.seed)
    x = torch.randint(0, 2, (chosen.batch, opu.n_features), generator=draw, dtype=torch.uint8)
    facts: dict[str, Any] = {"threads": torch.get_num_threads(), "batch": chosen.batch}
    products = 2 * chosen.batch * opu.n_features * opu.n_components
    for name, ask, parts in (("transform", opu.transform, 2), ("linear_transform", opu.linear_transform, 1)):
        ask(x[:1])  # compiles, draws the matrix, calibrates
        frames, cpu, wall = opu.usage.frames, time.process_time(), time.perf_counter()
        ask(x)
        facts[f"{name}, CPU s"] = cpu_seconds = time.process_time() - cpu
        facts[f"{name}, wall s"] = time.perf_counter() - wall
        facts[f"{name}, instrument s"] = (opu.usage.frames - frames) * opu.frame_time
        facts[f"{name}, Gop per CPU s"] = parts * products / max(cpu_seconds, 1e-9) / 1e9
    _table(console, opu.identity, facts)
    return facts


ACTIONS: dict[str, Callable[[OPU, DeviceSettings, Path, Any], dict[str, Any]]] = {
    action.__name__: action for action in (info, calibrate, fidelity, serve, bench)
}


def run_device(action: str, config: Mapping[str, object], folder: Path, console: Console) -> None:
    """One of `ACTIONS` on the device of the configuration; writes config.json and summary.json.

    Raises:
        ConfigError: a setting that does not fit.
        DeviceError: the device does not open, or fails.
    """
    chosen = parse(DeviceSettings, config)
    write_atomically(folder / "config.json", json.dumps(config, indent=2).encode())
    with open_device(chosen.opu, chosen.n_features, chosen.n_components, chosen.seed) as opu:
        facts = ACTIONS[action](opu, chosen, folder, console)
        summary = {"action": action, "device": {"name": opu.identity, **asdict(opu.usage)}, **facts}
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in summary.items()}
    write_atomically(folder / "summary.json", json.dumps(finite, indent=2).encode())


def _table(console: Console, title: str, facts: Mapping[str, object]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(Text(name), Text(f"{value:.5g}" if isinstance(value, float) else str(value)))
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    console.print(table)
