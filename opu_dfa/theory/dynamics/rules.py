"""One update rule for backprop and direct feedback alignment (DFA), on a noiseless or a noisy device, and its averages.

For a sample, or the mean of `batch` of them, hidden unit j moves by

    w_j ← w_j - (η/√N) φ_j x,   φ_j = s_j g'(λ_j),   V_cj ← V_cj - (η_v/N) e_c g(λ_j),   e = f - y

where s = Vᵀ e in backprop and s = B code(e) + noise in DFA (`opu_dfa.theory.dynamics.codes`). All that the motion of
overlaps is made of are drift E[φ_j z_b], diffusion E[φ_j φ_k] and read-out E[e_c g(λ_j)]: in closed form for an erf
network whose feedback is linear in the error, on nodes for any other. Codes and noise without bias leave the drift as
it is, and add to the diffusion alone.

Noiseless DFA of one output: Refinetti, d'Ascoli, Ohana and Goldt, Align, then memorise (arXiv 2011.12428).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.theory.dynamics.codes import Clipped, Code, Device, Exact, StochasticTernary, ThresholdTernary
from opu_dfa.theory.dynamics.fields import Array, activation, i2, i3, i4, j2, points
from opu_dfa.theory.dynamics.overlaps import Overlaps, Teacher, covariance
from opu_dfa.theory.gaussian import root

Loss = Literal["square", "correlation"]


class Averages(NamedTuple):
    """E[φ_j z_b] `(K, K + M)`, E[φ_j φ_k] `(K, K)` and E[e_c g(λ_j)] `(O, K)`."""

    drift: Array
    diffusion: Array
    readout: Array


@dataclass(frozen=True)
class Rule:
    """How a student learns.

    Attributes:
        rate: η; readout_rate: η_v, 0 for a fixed read-out.
        feedback: B `(K, O)`, or a function of time t = steps/N for a medium that drifts; None is backprop, B = Vᵀ.
        code: of the error that is sent; device: its noise.
        loss: "correlation" sends -y in place of f - y to the hidden layer.
        batch: samples a step averages over, `math.inf` for the population's gradient.
        sphere: after every step rows of W are brought back to the norm √N.

    >>> rule = Rule(0.5, feedback=np.array([[1.0], [-0.5]]), device=Device(additive=0.1))
    >>> start = Overlaps(np.eye(2) / 2, np.zeros((2, 1)), np.zeros((1, 2)))
    >>> rule.averages(start, Teacher(np.ones((1, 1)), np.eye(1))).drift[:, 2].round(3)  # the sign of B decides
    array([-0.368,  0.184])
    """

    rate: float
    readout_rate: float = 0.0
    feedback: Array | Callable[[float], Array] | None = None
    code: Code = field(default_factory=Exact)
    device: Device = field(default_factory=Device)
    loss: Loss = "square"
    batch: float = 1
    sphere: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.rate < math.inf and 0 <= self.readout_rate < math.inf):
            raise ConfigError(f"rates are 0 or more, got {self.rate} and {self.readout_rate}")
        if self.loss not in ("square", "correlation"):
            raise ConfigError(f"there is no loss {self.loss!r}; choose square or correlation")
        if not (self.batch == math.inf or (self.batch >= 1 and self.batch % 1 == 0)):
            raise ConfigError(f"a batch is a whole number of samples, or inf for all there are; got {self.batch}")

    def backward(self, v: Array, t: float = 0.0) -> Array:
        """The matrix `(K, O)` that errors are multiplied by: B at time t, or Vᵀ.

        Raises:
            ConfigError: a B of another shape.
        """
        b = v.T if self.feedback is None else self.feedback(t) if callable(self.feedback) else self.feedback
        if b.shape != v.T.shape:
            raise ConfigError(
                f"the feedback of {v.shape[1]} units and {v.shape[0]} outputs is of shape {v.T.shape}, not {b.shape}"
            )
        return b

    def averages(self, state: Overlaps, teacher: Teacher, t: float = 0.0, nodes: int = 0) -> Averages:
        """Over a fresh sample, of a student that stands at `state` at time t.

        Args:
            nodes: Sobol points, a power of two, in place of closed forms and of the nodes `fields.points` takes.
        """
        k, o = len(state.q), len(teacher.head)
        c = covariance(state, teacher)
        b, u = self.backward(state.v, t), np.hstack([state.v, -teacher.head])
        sent = u if self.loss == "square" else np.hstack([np.zeros((o, k)), -teacher.head])
        if teacher.activation == "erf" and isinstance(self.code, Exact) and not nodes:
            return self._closed(c, u, sent, b, teacher.noise)
        return self._on_nodes(c, u, sent, b, teacher, nodes)

    def _closed(self, c: Array, u: Array, sent: Array, b: Array, noise: float) -> Averages:
        k, forces = len(b), b @ sent
        slopes, four = j2(c, k), i4(c, k)
        drift = np.einsum("ia,iba->ib", forces, i3(c, k))
        signal = np.einsum("ia,kb,ikab->ik", forces, forces, four, optimize=True) + noise**2 * (b @ b.T) * slopes
        shown = np.einsum("oa,ob,iiab->i", sent, sent, four) + noise**2 * len(u) * np.diag(slopes)
        return Averages(drift, self.device.diffusion(signal, slopes, shown), u @ i2(c)[:, :k])

    def _on_nodes(self, c: Array, u: Array, sent: Array, b: Array, teacher: Teacher, nodes: int) -> Averages:
        k, fields, g = len(b), len(c), activation(teacher.activation)
        # A code with no level of its own sees all outputs at once, and label noise as O more dimensions.
        together = isinstance(self.code, (ThresholdTernary, StochasticTernary)) and self.code.level is None
        degree = g.degree if isinstance(self.code, Exact) else None
        rule = points(fields + (len(u) if together else 0), degree, nodes)
        z, w = rule.nodes[:, :fields] @ root(c), rule.weights[:, None]
        value, slope = g.value(z), g.slope(z[:, :k])
        mean, square = self.code.moments(value @ sent.T, teacher.noise, rule.nodes[:, fields:])
        force, weighted = slope * (mean @ b.T), slope * w
        signal = (force * w).T @ force
        for column, own in zip(b.T, (square - mean**2).T, strict=True):  # what is not known of a component, its own
            signal += np.outer(column, column) * ((weighted * own[:, None]).T @ slope)
        shown = square.sum(axis=1) @ (weighted * slope)
        device = self.device.diffusion(signal, weighted.T @ slope, shown)
        return Averages((force * w).T @ z, device, u @ (value * w).T @ value[:, :k])


__all__ = [
    "Averages",
    "Clipped",
    "Code",
    "Device",
    "Exact",
    "Overlaps",
    "Rule",
    "StochasticTernary",
    "Teacher",
    "ThresholdTernary",
]
