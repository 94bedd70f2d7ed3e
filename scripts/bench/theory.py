"""How fast theory is solved, beside a solver that integrates at every iteration: docs/bench-theory.md.

    python scripts/bench/theory.py           # a minute or two, one thread
    python scripts/bench/theory.py small     # the same without the slow baseline of more than one point; no page

CPU seconds of this process. Ours: the least of some repetitions, each from its default start, nothing cached. The
baseline is written here the way public codes of these papers are: overlaps are iterated with damping 1/2 until they
move by less than 1e-6, every hat is `scipy.integrate.quad` over the Gaussian field, and the logistic's proximal map a
root found inside of it. Both solve the same problem, and the digits they share are printed.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import integrate, optimize, special

from opu_dfa.features import Intensity
from opu_dfa.theory.dynamics.codes import Device, StochasticTernary
from opu_dfa.theory.dynamics.flow import descend
from opu_dfa.theory.dynamics.overlaps import Overlaps, Teacher
from opu_dfa.theory.dynamics.rules import Rule
from opu_dfa.theory.dynamics.simulate import chain, network
from opu_dfa.theory.erm.state_evolution import state_evolution
from opu_dfa.theory.erm.teachers import Probit
from opu_dfa.theory.inference.index_channels import SignProduct
from opu_dfa.theory.inference.iterate import iterate, settled
from opu_dfa.theory.inference.low_rank import SpikedWigner
from opu_dfa.theory.inference.priors import Gaussian, rademacher
from opu_dfa.theory.inference.regression import GeneralisedLinear
from opu_dfa.theory.spectra.optical import referenced
from opu_dfa.theory.spectra.power_law import power_law
from opu_dfa.theory.spectra.ridge import best_ridge, ridge_error
from opu_dfa.theory.spectra.spectrum import Spectrum, from_covariances

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bench-theory.md"
MODES, SAMPLES, RIDGE = 1000, 300.0, 0.05
GOALS = {"ridge": 0.010, "logistic": 0.100, "curve": 2.0}  # seconds
SECONDS = 10.0  # message passing, sweeps and dynamics take seconds


def main(small: bool) -> None:
    """Measure everything, print the page, and write it unless it is small."""
    spectrum = power_law(1.5, 0.6, MODES)
    features = covariances()
    optical = referenced(Intensity(), 2000, 1000, 1.0, "exponential")
    lines = [
        "# How fast theory is solved",
        "",
        "Written by `make bench-theory` (`scripts/bench/theory.py`); do not edit by hand. CPU time of one thread. The",
        "baseline iterates the same equations with `scipy.integrate.quad` for every average, as public codes do.",
        "",
        f"| one point, n = {SAMPLES:.0f}, λ = {RIDGE} | baseline, s | ours, ms | ratio | goal, ms | same error to |",
        "|---|---|---|---|---|---|",
    ]
    rows: list[tuple[str, Spectrum, str]] = [
        (f"ridge regression, spectrum of {MODES:,} modes", spectrum, "ridge"),
        (f"logistic regression, spectrum of {MODES:,} modes", spectrum, "logistic"),
        ("ridge regression, features with measured covariances, p = 300", features, "ridge"),
        ("logistic regression, features with measured covariances, p = 300", features, "logistic"),
        ("ridge regression, optical features, 40 kinds", optical, "ridge"),
        ("logistic regression, optical features, 40 kinds", optical, "logistic"),
    ]
    for name, each, what in rows:
        solve = ours(each, what)
        found, seconds = solve(), cpu(solve, 10)
        if small and each is not spectrum:
            theirs, agreed = "", ""
        else:
            start = time.process_time()
            other = baseline(each, what)
            slow = time.process_time() - start
            theirs, agreed = (
                f"{slow:.2f} | {1e3 * seconds:.2f} | {slow / seconds:,.0f}",
                f"{abs(other / found - 1):.0e}",
            )
        theirs = theirs or f"| {1e3 * seconds:.2f} |"
        lines.append(f"| {name} | {theirs} | {said(1e3 * seconds, 1e3 * GOALS[what])} | {agreed} |")
        print(lines[-1], flush=True)
    lines += ["", "| a learning curve of 50 points | ours, s | goal, s |", "|---|---|---|"]
    sizes = np.geomspace(20, 5000, 50)
    curves: dict[str, Callable[[], object]] = {
        "ridge regression": lambda: [ridge_error(spectrum, n, RIDGE, 0.1) for n in sizes],
        "ridge regression at its best ridge": lambda: [best_ridge(spectrum, n, 0.1) for n in sizes],
        "logistic regression": lambda: [state_evolution(Probit(), "logistic", spectrum, n, RIDGE) for n in sizes],
        "hinge": lambda: [state_evolution(Probit(), "hinge", spectrum, n, RIDGE) for n in sizes],
    }
    for name, curve in curves.items():
        seconds = cpu(curve, 1 if small else 3)
        lines.append(f"| {name}, {MODES:,} modes | {seconds:.2f} | {said(seconds, GOALS['curve'])} |")
        print(lines[-1], flush=True)
    lines += ["", "| algorithms and dynamics | CPU, s | goal, s |", "|---|---|---|"]
    for name, work in inference_and_dynamics().items():
        work()  # compiled and drawn once
        seconds = cpu(work, 1)
        lines.append(f"| {name} | {seconds:.2f} | {said(seconds, SECONDS)} |")
        print(lines[-1], flush=True)
    if not small:
        PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def inference_and_dynamics() -> dict[str, Callable[[], object]]:
    """Message passing on 2,000 unknowns, sweeps of its state evolution, and two-layer networks that learn."""
    rng = np.random.default_rng(0)
    spiked = SpikedWigner(rademacher(), noise=np.array([[0.5]]))
    signs = GeneralisedLinear(Gaussian(2), SignProduct(), 4.0)
    matrix, design = spiked.observe(rng, 2000), signs.observe(rng, 2000)
    noises, alphas = np.linspace(0.2, 0.9, 20), np.linspace(3, 6, 10)
    teacher = Teacher(np.ones((1, 2)), np.eye(2), 0.1)
    start = Overlaps(np.eye(2) / 4, np.array([[0.05, -0.02], [0.01, 0.03]]), np.zeros((1, 2)))
    learn = Rule(0.5, 0.5, np.array([[1.0], [-0.5]]), device=Device(additive=0.2))
    ternary = Rule(0.5, 0.5, np.array([[1.0], [-0.5]]), StochasticTernary(0.5))

    def evolved(law: SpikedWigner | GeneralisedLinear) -> object:
        return settled(law.evolve, law.nothing + 0.1 * np.eye(law.truth.shape[-1]), 1e-6)

    return {
        "message passing, a matrix of 2,000 signs, 50 steps": lambda: iterate(
            matrix.step, matrix.start(rng), most=50, tolerance=0
        ),
        "message passing, sign(z₁z₂) of 2,000 inputs, 8,000 samples, 20 steps": lambda: iterate(
            design.step, design.start(rng, planted=0.1), most=20, tolerance=0
        ),
        "state evolution, matrices of signs, 20 points": lambda: [
            evolved(SpikedWigner(rademacher(), noise=np.array([[x]]))) for x in noises
        ],
        "state evolution, sign(z₁z₂), 10 points": lambda: [
            evolved(GeneralisedLinear(Gaussian(2), SignProduct(), float(a))) for a in alphas
        ],
        "equations of motion of DFA to t = 200, noisy device": lambda: descend(learn, teacher, start, [0, 200]),
        "equations of motion of DFA to t = 50, ternary errors": lambda: descend(
            ternary, teacher, start, [0, 50], nodes=4096, tolerance=1e-5
        ),
        "training of N = 1,000 inputs to t = 100, weights": lambda: network(learn, teacher, start, 1000, [0, 100]),
        "training of N = 1,000 inputs to t = 100, overlaps alone": lambda: chain(learn, teacher, start, 1000, [0, 100]),
    }


def said(value: float, goal: float) -> str:
    """A goal, and whether it is met."""
    return f"{goal:g}, {'met' if value <= goal else 'missed'}"


def cpu(work: Callable[[], object], repetitions: int) -> float:
    """CPU seconds, the least of some repetitions."""
    found = []
    for _ in range(repetitions):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def covariances() -> Spectrum:
    """Of features max(Fx, 0), n = 20,000 samples of 200 inputs, and a linear target."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_000, 200))
    features = np.maximum(x @ rng.standard_normal((200, 300)) / math.sqrt(200), 0)
    features -= features.mean(axis=0)
    target = x @ rng.standard_normal(200) / math.sqrt(200)
    return from_covariances(
        features.T @ features / len(x), features.T @ target / len(x), float(target @ target) / len(x)
    )


def ours(spectrum: Spectrum, what: str) -> Callable[[], float]:
    """Ridge regression on labels of noise 0.1, or logistic regression on their signs."""
    if what == "ridge":
        return lambda: ridge_error(spectrum, SAMPLES, RIDGE, 0.1).error
    return lambda: state_evolution(Probit(), "logistic", spectrum, SAMPLES, RIDGE).misclassified


def baseline(spectrum: Spectrum, what: str, tolerance: float = 1e-6) -> float:
    """The same by damped iteration and adaptive integrals."""
    m, q, v, rho = 0.01, 0.5 * spectrum.rho, 1.0, spectrum.rho
    for _ in range(5000):
        hats = [SAMPLES * each for each in integrals(m, q, v, rho, what)]
        df1, df2, s, t = spectrum.traces(RIDGE / hats[2])
        gain = hats[0] / hats[2]
        new = gain * s, gain * gain * t + hats[1] * df2 / hats[2] ** 2, df1 / hats[2]
        moved = max(abs(a - b) for a, b in zip(new, (m, q, v), strict=True))
        m, q, v = (0.5 * a + 0.5 * b for a, b in zip(new, (m, q, v), strict=True))
        if moved < tolerance:
            break
    if what == "ridge":
        return rho - 2 * m + q + 0.1
    return math.acos(m / math.sqrt(rho * q)) / math.pi


def integrals(m: float, q: float, v: float, rho: float, what: str) -> tuple[float, float, float]:
    """E of the hats of one sample: m̂, q̂ and V̂ by quad over ξ, and for real labels over their noise at once."""
    if what == "ridge":
        spread = rho - 2 * m + q + 0.1
        force = _quad(lambda z: (math.sqrt(spread) * z / (1 + v)) ** 2)
        stiff = _quad(lambda z: 1 / (1 + v))
        return stiff, force, stiff
    width = math.sqrt(rho - m * m / q)

    def prox(omega: float) -> float:
        return float(optimize.brentq(lambda x: x - omega - v * special.expit(-x), omega - 1e-9, omega + v + 1e-9))

    def force(xi: float) -> float:
        omega = math.sqrt(q) * xi
        return (prox(omega) - omega) / v

    def slope(xi: float) -> float:
        s = special.expit(prox(math.sqrt(q) * xi))
        return float(s * (1 - s) / (1 + v * s * (1 - s)))

    def right(xi: float) -> float:  # P(y = 1); y = -1 is its mirror image
        return 0.5 * math.erfc(-m / math.sqrt(q) * xi / (width * math.sqrt(2)))

    def density(xi: float) -> float:
        u = m / math.sqrt(q) * xi / width
        return math.exp(-u * u / 2) / (width * math.sqrt(2 * math.pi))

    return (
        2 * _quad(lambda xi: density(xi) * force(xi)),
        2 * _quad(lambda xi: right(xi) * force(xi) ** 2),
        2 * _quad(lambda xi: right(xi) * slope(xi)),
    )


def _quad(f: Callable[[float], float]) -> float:
    """E f(ξ) over a normal variable."""
    return float(
        integrate.quad(
            lambda x: f(x) * math.exp(-x * x / 2) / math.sqrt(2 * math.pi), -10, 10, epsabs=1e-10, limit=200
        )[0]
    )


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["small"]):
        sys.exit("usage: python scripts/bench/theory.py [small]")
    main(small=sys.argv[1:] == ["small"])
