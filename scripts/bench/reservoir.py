"""Reservoirs against reservoirpy, and how far they forecast: docs/bench-reservoir.md.

    python scripts/bench/reservoir.py           # about ten minutes; one thread, a process of its own for every row
    python scripts/bench/reservoir.py small     # the same with small sizes, in a minute; writes no page

CPU seconds of the process, the least of a few repetitions. Compiling (once per installation) and the drawing of
matrices are not counted, but for our own matrices in a fit. Both run tanh units, theirs in float64, their default.
How far forecasts reach is counted in Lyapunov times by an exponent computed here, over many starts behind what was
learned from; our settings are those of configs/system.
"""

from __future__ import annotations

import dataclasses
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

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bench-reservoir.md"
CHANNELS, DENSITY = 3, 0.02
RADIUS = 0.9


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Units and steps of the rows."""

    large: int = 10_000
    middle: int = 5_000
    fitted: int = 4_000
    fitted_steps: int = 20_000
    huge: int = 262_000
    systems: tuple[str, ...] = ()  # overrides of the systems' settings

    @staticmethod
    def small() -> Sizes:
        return Sizes(600, 500, 200, 2_000, 16_000, ("n_units=200", "train_steps=1500", "starts=4", "steps=400"))


def main(small: bool) -> None:
    """Measure everything, print the page, and write it unless the sizes are small."""
    sizes = Sizes.small() if small else Sizes()
    lines = [
        "# Reservoirs: time, memory, and how far they forecast",
        "",
        "Written by `make bench-reservoir` (`scripts/bench/reservoir.py`); do not edit by hand. CPU seconds of one",
        "thread, against reservoirpy 0.4.2 in the same run: tanh units, its own float64.",
        "",
        "| what | reservoirpy | opu-dfa | ratio | goal |",
        "|---|---|---|---|---|",
    ]
    print(*lines, sep="\n", flush=True)

    def add(*more: str) -> None:
        lines.extend(more)
        print(*more, sep="\n", flush=True)

    n = f"N = {sizes.large:,}"
    dense = measure("peer-step", sizes.large, "dense")["ms"]
    add(row(f"a step, {n}: theirs dense, ours structured, ms", dense, ours(sizes.large, "structured"), 200))
    add(row(f"a step, {n}: dense both, ms", dense, ours(sizes.large, "dense")))
    n = f"N = {sizes.middle:,}"
    sparse = measure("peer-step", sizes.middle, "sparse")["ms"]
    add(
        row(
            f"a step, {n}: theirs {DENSITY:.0%} sparse, ours structured, ms",
            sparse,
            ours(sizes.middle, "structured"),
            6,
        )
    )
    add(row(f"a step, {n}: {DENSITY:.0%} sparse both, ms", sparse, ours(sizes.middle, "sparse")))
    theirs = measure("peer-fit", sizes.fitted, sizes.fitted_steps)["seconds"]
    own = measure("fit", sizes.fitted, sizes.fitted_steps)["seconds"]
    what = f"N = {sizes.fitted:,}, T = {sizes.fitted_steps:,}: states and ridge, s"
    add(row(f"{what} (theirs of its default 10 % density, ours structured)", theirs, own, 3))
    peak, matrix = measure("memory", sizes.huge)["peak"], 8 * sizes.huge**2 / 1e6
    add(
        "",
        f"A structured reservoir of N = {sizes.huge:,}, drawn and run for 64 steps, takes {peak:.0f} MB beyond what",
        f"the process held before (goal: below 50, {'met' if peak < 50 else 'missed'}); the float64 matrix of a dense",
        f"one has {matrix:,.0f} MB.",
        "",
        "## How far they forecast",
        "",
        "Lyapunov times until the error exceeds 0.4 standard deviations, with 95 % intervals over the starts. Our",
        "settings are those of `configs/system`; theirs, of a small grid: leak rate 0.7, spectral radius 1.2, input",
        "scaling 0.3, a uniform bias in ±0.5, ridge 1e-8, 10 % density, the series standardised.",
        "",
        "| what | mean | median | starts | goal |",
        "|---|---|---|---|---|",
    )
    glass, lorenz, waves = (
        (name, *units, *sizes.systems)  # of a setting, the last word counts
        for name, *units in (("mackey-glass", "n_units=500"), ("lorenz63", "n_units=2000"), ("kuramoto-sivashinsky",))
    )
    add(reach("Mackey-Glass, τ = 17, reservoirpy", measure("peer-reach", *glass)))
    add(reach("Mackey-Glass, τ = 17", measure("reach", *glass), median=9.0))
    add(reach("Lorenz 1963", measure("reach", *lorenz), median=9.0))
    add(reach("Kuramoto-Sivashinsky, L = 22", measure("reach", *waves), mean=5.0))
    if not small:
        PAGE.write_text("\n".join([*lines, ""]))


def row(what: str, theirs: float, own: float, goal: float | None = None) -> str:
    """A line of the first table."""
    ratio = theirs / own
    said = "" if goal is None else f"{goal:g}, {'met' if ratio >= goal else 'missed'}"
    return f"| {what} | {theirs:.3g} | {own:.3g} | {ratio:.1f} | {said} |"


def reach(what: str, seen: dict[str, Any], **goal: float) -> str:
    """A line of the second table."""
    cells = [
        f"{seen[name]:.2f} [{seen[name + '_interval'][0]:.2f}, {seen[name + '_interval'][1]:.2f}]"
        for name in ("mean", "median")
    ]
    said = "".join(f"{name} {least:g}, {'met' if seen[name] >= least else 'missed'}" for name, least in goal.items())
    capped = f", {seen['capped']} valid to the end" if seen["capped"] else ""
    sizes = f"N = {seen['n_units']:,}, {seen['train_steps']:,} steps"
    return f"| {what}: {sizes} | {' | '.join(cells)} | {seen['n_starts']}{capped} | {said} |"


def ours(n: int, kind: str) -> float:
    return float(measure("step", n, kind)["ms"])


def measure(*what: Any) -> dict[str, Any]:
    """One measurement in a process of its own, on one thread."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")} | one
    command = [sys.executable, __file__, *map(str, what)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    if ran.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{ran.stderr}")
    return json.loads(ran.stdout.strip().split("\n")[-1])


def cpu(run: Callable[[], Any], repetitions: int = 3) -> float:
    """The least CPU seconds."""
    best = float("inf")
    for _ in range(repetitions):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best


def driving(steps: int) -> np.ndarray:
    """What both reservoirs are driven by, `(steps, channels)`."""
    return np.random.default_rng(0).standard_normal((steps, CHANNELS)) / CHANNELS**0.5


def step(n: str, kind: str) -> dict[str, float]:
    """Milliseconds of a step of ours."""
    from opu_dfa.reservoir.reservoir import Reservoir

    reservoir = Reservoir(int(n), CHANNELS, kind, "tanh", spectral_radius=RADIUS, density=DENSITY)  # type: ignore[arg-type]
    steps = 50 if kind == "dense" else 1000
    inputs = driving(steps)[None]
    reservoir.run(inputs[:, :1])
    return {"ms": 1e3 * cpu(lambda: reservoir.run(inputs)) / steps}


def peer_step(n: str, kind: str) -> dict[str, float]:
    """Milliseconds of a step of theirs; a dense matrix is given, as its own drawing takes the eigenvalues of it."""
    from reservoirpy.nodes import Reservoir

    size = int(n)
    if kind == "dense":
        matrix = np.random.default_rng(0).standard_normal((size, size))
        matrix *= RADIUS / size**0.5
        reservoir = Reservoir(W=matrix, seed=0)
    else:
        reservoir = Reservoir(size, sr=RADIUS, rc_connectivity=DENSITY, seed=0)
    steps = 50 if kind == "dense" else 500
    inputs = driving(steps)
    reservoir.run(inputs[:1])
    return {"ms": 1e3 * cpu(lambda: reservoir.run(inputs)) / steps}


def fit(n: str, steps: str) -> dict[str, float]:
    """Seconds of a forecaster's fit."""
    from opu_dfa.reservoir import ReservoirForecaster

    series = driving(int(steps) + 1)
    settings: dict[str, Any] = {"nonlinearity": "tanh", "spectral_radius": RADIUS, "features": "state", "ridge": 1e-6}
    ReservoirForecaster(50, **settings).fit(series[:200])
    return {"seconds": cpu(lambda: ReservoirForecaster(int(n), **settings).fit(series, washout=100), 2)}


def peer_fit(n: str, steps: str) -> dict[str, float]:
    """Seconds of theirs, once: it takes minutes."""
    from reservoirpy.nodes import Reservoir, Ridge

    series = driving(int(steps) + 1)
    model = Reservoir(int(n), sr=RADIUS, seed=0) >> Ridge(ridge=1e-6)
    model.initialize(series[:-1], series[1:])
    return {"seconds": cpu(lambda: model.fit(series[:-1], series[1:], warmup=100), 1)}


def memory(n: str) -> dict[str, float]:
    """The peak of a process beyond what it held before a large reservoir was drawn, megabytes."""
    from opu_dfa.reservoir.reservoir import Reservoir

    def run(n_units: int) -> None:
        reservoir = Reservoir(n_units, CHANNELS)
        for _ in reservoir.blocks(driving(64)[None], reservoir.rest()):
            pass

    run(100)
    before = _peak()
    run(int(n))
    return {"peak": _peak() - before}


def _peak() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


class Peer:
    """reservoirpy's echo state network, with the methods that an evaluation asks a model for."""

    def __init__(self, n_units: int, **settings: Any) -> None:
        from reservoirpy.nodes import Reservoir, Ridge

        bias = np.random.default_rng(1).uniform(-0.5, 0.5, n_units)
        self.model = Reservoir(n_units, bias=bias, seed=0, **settings) >> Ridge(ridge=1e-8)

    def fit(self, series: np.ndarray, washout: int) -> None:
        self.mean, self.spread = series.mean(0), series.std(0)
        u = (series - self.mean) / self.spread
        self.model.fit(u[:-1], u[1:], warmup=washout)

    def forecast(self, steps: int, warmup: np.ndarray) -> np.ndarray:
        found = np.empty((len(warmup), steps, warmup.shape[2]))
        for i, seen in enumerate((warmup - self.mean) / self.spread):
            self.model.reset()
            found[i, 0] = self.model.run(seen)[-1]
            for t in range(1, steps):
                found[i, t] = self.model(found[i, t - 1])
        return found * self.spread + self.mean


def reaches(system: str, overrides: tuple[str, ...], peer: bool) -> dict[str, Any]:
    """Prediction times of a model with the settings of a system."""
    from opu_dfa.config import composed, parse
    from opu_dfa.forecast.models import reservoir
    from opu_dfa.forecast.settings import ForecastSettings
    from opu_dfa.forecast.subject import find_subject

    chosen = parse(ForecastSettings, composed("forecast", [f"system={system}", *overrides]))
    subject = find_subject(chosen)
    end = subject.end(chosen)
    model: Any = Peer(chosen.n_units, lr=0.7, sr=1.2, input_scaling=0.3) if peer else reservoir(chosen, None)
    model.fit(subject.series[: subject.n_train], washout=chosen.washout)
    skill = end.skill(list(end.outcomes(model, range(end.n_starts))))
    return dataclasses.asdict(skill.time) | {"n_units": chosen.n_units, "train_steps": subject.n_train}


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "step": step,
    "peer-step": peer_step,
    "fit": fit,
    "peer-fit": peer_fit,
    "memory": memory,
    "reach": lambda system, *overrides: reaches(system, overrides, peer=False),
    "peer-reach": lambda system, *overrides: reaches(system, overrides, peer=True),
}

if __name__ == "__main__":
    if sys.argv[1:] in ([], ["small"]):
        main(small=sys.argv[1:] == ["small"])
    else:
        print(json.dumps(MEASURES[sys.argv[1]](*sys.argv[2:])))
