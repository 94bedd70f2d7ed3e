"""A two-layer network trained by optical DFA, by its equations of motion and on the simulated device itself.

The student f = V g(Wx/√N), g = erf(·/√2), learns one new input a step from a teacher of the same kind. Its hidden
units are told B φ(e) and noise; B is the device's matrix as the device itself shows it, φ its encoding of the error,
and the noise what `fidelity()` says: an SNR of 1/(O r²), where r is the noise of a unit in units of the norm of what
is shown on O mirrors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from scipy import optimize, special

from hardware import BitPlanes, Encoding, StochasticTernary, ThresholdTernary
from opu_dfa.dfa.optical import OpticalFeedback
from opu_dfa.opening import open_device
from opu_dfa.predict.dfa_settings import DFASettings
from opu_dfa.theory.dynamics import codes
from opu_dfa.theory.dynamics.flow import Trajectory, descend
from opu_dfa.theory.dynamics.overlaps import Overlaps, Teacher, generalisation
from opu_dfa.theory.dynamics.rules import Rule

Array = np.ndarray
ENCODINGS: dict[str, tuple[Encoding, codes.Code]] = {
    "stochastic": (StochasticTernary(), codes.StochasticTernary()),
    "threshold": (ThresholdTernary(), codes.ThresholdTernary()),
    "bit-planes": (BitPlanes(), codes.Exact()),
}
_PROBED = 256  # mirrors and outputs of the device whose fidelity is measured
_SHOWINGS = 2000  # of each one-hot error, to measure B
_NODES, _TOLERANCE = 4096, 1e-5
_WORSE = 1.1  # risk that a tolerable noise may cost, in units of the noiseless device's


def device_snr(chosen: DFASettings) -> float:
    """The SNR of linear projections, by `fidelity()` of a device of the preset with many mirrors and outputs."""
    if chosen.snr is not None:
        return chosen.snr
    with open_device(replace(chosen.opu, seed=None), _PROBED, _PROBED, chosen.seed) as opu:
        return float(opu.fidelity().snr)


def network(chosen: DFASettings) -> tuple[Teacher, Overlaps]:
    """The teacher, and where the student starts: small, nearly ignorant, with a second layer of zeros."""
    rng = np.random.default_rng([chosen.seed, 0])
    k, m, o = chosen.hidden, chosen.teacher, chosen.outputs
    head = rng.standard_normal((o, m))
    head /= np.linalg.norm(head, axis=1, keepdims=True)
    ignorant = 0.05 * rng.standard_normal((k, m))
    return Teacher(head, np.eye(m), chosen.label_noise), Overlaps(0.25 * np.eye(k), ignorant, np.zeros((o, k)))


def predicted(chosen: DFASettings, matrix: Array, snr: float) -> Trajectory:
    """What the equations of motion say of a device with matrix B `(K, O)` and an SNR."""
    teacher, start = network(chosen)
    noise = codes.Device(shown=0.0 if math.isinf(snr) else 1 / math.sqrt(chosen.outputs * snr))
    rule = Rule(chosen.rate, chosen.head_rate, matrix, ENCODINGS[chosen.encoding][1], noise)
    return descend(rule, teacher, start, chosen.times, nodes=_NODES, tolerance=_TOLERANCE)


def tolerated(chosen: DFASettings, matrix: Array, tell: Callable[[], None] = lambda: None) -> tuple[float, Array]:
    """The SNR at which the last risk is 10 % above a noiseless device's, and risks `(points, 2)` of SNRs in between."""

    def risk(log_snr: float) -> float:
        tell()
        return float(predicted(chosen, matrix, 10**log_snr).risk[-1])

    least = float(predicted(chosen, matrix, math.inf).risk[-1])
    grid = np.arange(-0.5, 5.0, 0.5)
    risks = np.array([risk(each) for each in grid])
    above = np.flatnonzero(risks > _WORSE * least)
    curve = np.stack([10**grid, risks], axis=1)
    if not len(above):
        return 0.0, curve
    if above[-1] == len(grid) - 1:
        return math.inf, curve
    edge = grid[above[-1]]
    found = optimize.brentq(lambda x: risk(x) - _WORSE * least, edge, edge + 0.5, xtol=0.01)
    return float(10**found), curve


class Medium:
    """A simulated device, and networks that learn by its light."""

    def __init__(self, chosen: DFASettings, medium: int) -> None:
        base = chosen.seed if chosen.opu.seed is None else chosen.opu.seed
        seed = int(np.random.SeedSequence([base, medium]).generate_state(1)[0])
        self.chosen, self.medium = chosen, medium
        opu = open_device(replace(chosen.opu, kind="simulated", seed=None), chosen.outputs, chosen.hidden, seed)
        self.feedback = OpticalFeedback(opu, encoding=ENCODINGS[chosen.encoding][0])
        self.matrix = self.feedback.columns(_SHOWINGS).numpy().astype(np.float64)

    def train(self, tell: Callable[[], None] = lambda: None) -> Array:
        """Risks of every training at every time, `(times, runs)`. Trainings share the device, a row of errors each."""
        chosen = self.chosen
        teacher, start = network(chosen)
        rng = np.random.default_rng([chosen.seed, 1, self.medium])
        n, runs = chosen.n_inputs, chosen.runs
        w, taught = _weights(rng, start, runs, n)
        v = np.repeat(start.v[None], runs, axis=0)
        found, done = [], 0
        for time in chosen.times:
            for _ in range(done, round(time * n)):
                x = rng.standard_normal((runs, n))
                field = (w @ x[:, :, None])[:, :, 0] / math.sqrt(n)
                g = special.erf(field / math.sqrt(2))
                label = special.erf((taught @ x[:, :, None])[:, :, 0] / math.sqrt(2 * n)) @ teacher.head.T
                label += chosen.label_noise * rng.standard_normal(label.shape)
                error = (v @ g[:, :, None])[:, :, 0] - label
                told = self.feedback.project(torch.from_numpy(error).float()).numpy()
                force = told * math.sqrt(2 / math.pi) * np.exp(-field * field / 2)
                w -= chosen.rate / math.sqrt(n) * force[:, :, None] * x[:, None]
                v -= chosen.head_rate / n * error[:, :, None] * g[:, None]
            done = round(time * n)
            found.append([_risk(w[i], taught[i], v[i], teacher) for i in range(runs)])
            tell()
        return np.array(found)


def _weights(rng: np.random.Generator, start: Overlaps, runs: int, n: int) -> tuple[Array, Array]:
    """Weights of students `(runs, K, N)` and teachers `(runs, M, N)` with exactly the overlaps of the start, T = I."""
    k, m = start.r.shape
    axes = np.linalg.qr(rng.standard_normal((runs, n, k + m)))[0].transpose(0, 2, 1) * math.sqrt(n)
    rest = np.linalg.cholesky(start.q - start.r @ start.r.T)
    return start.r @ axes[:, :m] + rest @ axes[:, m:], axes[:, :m].copy()


def _risk(w: Array, taught: Array, v: Array, teacher: Teacher) -> float:
    n = w.shape[1]
    known = Teacher(teacher.head, taught @ taught.T / n)
    return generalisation(Overlaps(w @ w.T / n, w @ taught.T / n, v), known)
