"""One neuron that takes every sample twice: the flow of its overlaps with a target's directions, and a finite twin.

    w̃ = w + (ρ/d) G(w; x, y),   w ← w + (γ/d) G_⊥(w̃; x, y), normalised,   G = (y - κ s(w·x)) s'(w·x) x,   s = relu

for a target y = f(ν) of fields ν = W* x ∈ ℝᵏ, one new sample a step, and the correlation loss κ = 0 or the square loss
κ = 1. Since |x|² → d the first use moves the neuron's own field l = w·x by a finite, nonlinear function of the label,

    l̃ = l + ρ (y - κ l)   where l > 0,

and in time t = steps/d the overlaps m = W* w follow

    dm/dt = γ E[(y - κ l̃) s'(l̃) (ν - m l)] - (γ²/2) m E[(y - κ l̃)² s'(l̃)²],   (l, ν) ~ N(0, 1) of correlations m.

Given ν, l is normal and all its averages are closed: what is left is an integral over ν. Arnaboldi, Dandi, Krzakala,
Pesce, Stephan, Repetita iuvant: data repetition allows SGD to learn high-dimensional multi-index functions (arXiv
2405.15459).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy import integrate, special

from hardware.kernels import compiled
from opu_dfa.errors import ConfigError, NotConverged
from opu_dfa.theory.gaussian import Rule

Array = np.ndarray
Loss = Literal["correlation", "square"]


@dataclass(frozen=True)
class Repeated:
    """γ = `rate`, ρ = `repeat`: positive looks ahead (extragradient), negative back (sharpness-aware), 0 is plain SGD.

    Raises:
        ConfigError: rate <= 0, an unknown loss, or a square loss with ρ >= 1, of which the first use overshoots.
    """

    rate: float
    repeat: float = 0.0
    loss: Loss = "correlation"

    def __post_init__(self) -> None:
        if self.loss not in get_args(Loss):
            raise ConfigError(f"there is no loss {self.loss!r}; choose one of {', '.join(get_args(Loss))}")
        if not (self.rate > 0 and math.isfinite(self.repeat)):
            raise ConfigError(f"a rate > 0 and a finite repeat are wanted, got {self.rate} and {self.repeat}")
        if self.loss == "square" and self.repeat >= 1:
            raise ConfigError(
                f"of the square loss a repeat below 1 is wanted, got {self.repeat}: it moves past the label"
            )

    @property
    def own(self) -> float:
        """κ."""
        return 1.0 if self.loss == "square" else 0.0


def drift(law: Repeated, fields: Rule, labels: Array, overlaps: Array) -> Array:
    """dm/dt, `(k,)`.

    Args:
        fields: a rule of nodes ν, `(N, k)` or `(N,)`, that knows where f jumps or vanishes; labels: f(ν), `(N,)`;
            overlaps: m, `(k,)`, |m| <= 1.

    >>> from opu_dfa.theory.gaussian import panels
    >>> rule = panels([-(3**0.5), 0.0, 3**0.5])
    >>> float(drift(Repeated(1.0, 0.1), rule, rule.nodes**3 - 3 * rule.nodes, np.zeros(1))[0].round(6))
    -0.118646
    """
    nu, m, kappa = fields.nodes.reshape(len(labels), -1), np.asarray(overlaps, dtype=np.float64), law.own
    spread, gain = math.sqrt(max(1 - float(m @ m), 1e-12)), 1 - law.own * law.repeat
    mean, edge = nu @ m, np.maximum(0, -law.repeat * labels / gain)  # l̃ > 0 where l > edge
    u = (mean - edge) / spread
    density = spread * np.exp(-u * u / 2) / math.sqrt(2 * math.pi)
    none = special.ndtr(u)  # E of 1, l and l² where l > edge
    one = mean * none + density
    two = (mean**2 + spread**2) * none + (mean + edge) * density
    pulled, held = labels * none - kappa * one, labels * one - kappa * two  # of y - κ l, times 1 and times l
    squares = labels**2 * none - 2 * kappa * labels * one + kappa**2 * two
    w = fields.weights
    return np.asarray(
        law.rate * gain * ((w * pulled) @ nu - m * (w @ held)) - law.rate**2 / 2 * gain**2 * m * (w @ squares)
    )


def flow(law: Repeated, fields: Rule, labels: Array, start: Array, times: Sequence[float]) -> Array:
    """m at times, ascending from 0 on, `(times, k)`.

    Raises:
        ConfigError: |m| > 1 at the start, or times that do not ascend; NotConverged: the integrator gave up.
    """
    start, at = np.atleast_1d(np.asarray(start, dtype=np.float64)), np.asarray(times, dtype=np.float64)
    _checked(start, at)
    found = integrate.solve_ivp(
        lambda _, m: drift(law, fields, labels, m), (0.0, float(at[-1])), start, t_eval=at, rtol=1e-7, atol=1e-9
    )
    if not found.success:
        raise NotConverged(f"the overlaps' flow stopped at {found.t[-1]:.3g}: {found.message}", np.inf)
    return np.asarray(found.y.T)


def simulate(
    law: Repeated,
    target: Callable[[Array], Array],
    start: Array,
    times: Sequence[float],
    d: int,
    seed: int = 0,
) -> Array:
    """The same of one neuron in d dimensions from exactly the overlaps `start`; target: f of `(N, k)`, `(N,)`.

    Inputs are isotropic, so that the target's directions may be the first k axes.

    >>> found = simulate(Repeated(0.1), lambda nu: nu[:, 0], np.array([0.5]), (0.0, 1.0), d=100)
    >>> found.shape, found[0, 0].round(6).item()
    ((2, 1), 0.5)
    """
    rng, m, at = np.random.default_rng(seed), np.atleast_1d(np.asarray(start, dtype=np.float64)), np.asarray(times)
    _checked(m, at)
    if d <= len(m):
        raise ConfigError(f"{len(m)} directions and one more need d > {len(m)}, got {d}")
    rest = rng.standard_normal(d - len(m))
    w = np.concatenate([m, rest * math.sqrt(max(0.0, 1 - float(m @ m))) / np.linalg.norm(rest)]).astype(np.float32)
    found, done = np.empty((len(at), len(m))), 0
    for i, until in enumerate(np.round(at * d).astype(int)):
        while done < until:
            x = rng.standard_normal((min(until - done, max(1, 2_000_000 // d)), d), dtype=np.float32)
            labels = np.asarray(target(x[:, : len(m)].astype(np.float64)), dtype=np.float64)
            _learn(w, x, labels, law.rate, law.repeat, law.own)
            w /= np.linalg.norm(w)
            done += len(x)
        found[i] = w[: len(m)]
    return found


def _checked(start: Array, times: Array) -> None:
    if start @ start > 1 + 1e-9:
        raise ConfigError(f"overlaps of |m| <= 1 are wanted at the start, got {start}")
    if len(times) == 0 or times[0] < 0 or np.any(np.diff(times) <= 0):
        raise ConfigError(f"times ascend from 0 or later; got {times}")


@compiled
def _learn(w, x, labels, rate, repeat, own):  # type: ignore[no-untyped-def]
    """One step for each row of x, on `w` of norm 1 in place: all float32."""
    steps, d = x.shape
    for i in range(steps):
        field = float(np.dot(w, x[i]))
        if field <= 0:
            continue  # the first use leaves w, and the second finds no slope there either
        square = float(np.dot(x[i], x[i]))
        again = field + repeat / d * (labels[i] - own * field) * square
        if again <= 0:
            continue
        pull = rate / d * (labels[i] - own * again)
        norm = math.sqrt(1 + pull * pull * (square - field * field))  # of w + pull (x - field w)
        keep, add = np.float32((1 - pull * field) / norm), np.float32(pull / norm)
        for j in range(d):
            w[j] = keep * w[j] + add * x[i, j]
