"""A flow that generates a mixture of two Gaussians, learned from few samples: its denoiser and its motion in d → ∞.

    x¹ ~ ½ N(μ, s²) + ½ N(-μ, s²), |μ|² = d;   y = t x¹ + (1 - t) x⁰,   x⁰ ~ N(0, I);   f(y) = c y + w sign(w·y)

f is trained at each t on n pairs (x¹, x⁰), by Σ |x¹ - f(y)|² / 2 + λ|w|² / 2, and the flow runs from X ~ N(0, I) along

    dX/dt = ζ f(X) - X / (1 - t),   ζ = 1 / (1 - t).

Everything happens in the span of μ, of η and ξ (means of the noise in the x¹ and of the x⁰, each turned by its
cluster's sign), and of where X started.

Cui, Krzakala, Vanden-Eijnden, Zdeborová, Analysis of learning a flow-based generative model from limited sample
complexity (arXiv 2310.03575).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from opu_dfa.errors import ConfigError

Array = np.ndarray


@dataclass(frozen=True)
class Mixture:
    """`n` samples of clusters of deviation s, and the ridge λ on w.

    Raises:
        ConfigError: no sample, a deviation that is not positive, or a negative ridge.
    """

    n: int
    s: float = 1.0
    ridge: float = 0.1

    def __post_init__(self) -> None:
        if not (self.n >= 1 and self.s > 0 and self.ridge >= 0):
            raise ConfigError(f"a sample or more, a deviation s > 0 and a ridge >= 0 are wanted, got {self}")


@dataclass(frozen=True)
class Denoiser:
    """f(y) = skip · y + w sign(w·y); w = pull (μ + s η) - push ξ."""

    skip: float
    pull: float
    push: float


@dataclass(frozen=True)
class Motion:
    """Where the flow is at times t, `(steps,)` each: overlaps, with signs as for the cluster μ.

    Attributes:
        mean: X·μ / d; eta: X·η / (s d); xi: X·ξ / d; own: what X still has of its start; norm: |X|² / d; error:
            |mean of X - μ|² / d at the end.
    """

    t: Array
    mean: Array
    eta: Array
    xi: Array
    own: Array
    norm: Array
    error: float

    @property
    def cosine(self) -> Array:
        """Between X and μ."""
        return self.mean / np.sqrt(self.norm)


def denoiser(mixture: Mixture, t: float) -> Denoiser:
    """What n samples teach at time t, in closed form.

    >>> round(denoiser(Mixture(8, 1.5), 0.51).skip, 5)
    1.39288
    """
    if not 0 <= t <= 1:
        raise ConfigError(f"the flow's time t is from 0 to 1, got {t}")
    n, s, ridge = mixture.n, mixture.s, mixture.ridge
    signal = ridge * (1 + s**2) + (n - 1) * s**2
    noise = ridge + n - 1
    scale = (1 - t) ** 2 * noise + t**2 * signal
    if scale == 0:
        raise ConfigError("one sample without a ridge leaves the denoiser undetermined; take n > 1 or a ridge > 0")
    skip = t * signal / scale
    return Denoiser(skip, n / (n + ridge) * (1 - t) ** 2 * noise / scale, n * (1 - t) * skip / (n + ridge))


def motion(mixture: Mixture, steps: int = 100, d: float = math.inf) -> Motion:
    """The flow's overlaps by Euler steps of 1 / steps, the first of which is left out.

    In finite d a trajectory starts with what decides its cluster: |w·X| / |w| is √(2/π) on average, so that the
    overlaps start from √(2/(πd)) w/|w| instead of 0. The equations are linear: this much is added times `own`.

    >>> flow = motion(Mixture(8, 1.5))
    >>> float(flow.mean[-1].round(5)), float(flow.cosine[-1].round(5))
    (0.97284, 0.50374)
    """
    if steps < 1 or d < 1:
        raise ConfigError(f"a step and a dimension or more are wanted, got steps={steps} and d={d}")
    n, s = mixture.n, mixture.s
    times = np.arange(1, steps + 1) / steps
    path = np.empty((steps, 4))
    first = denoiser(mixture, times[0])
    aim = np.array([first.pull, first.pull / n, -first.push / n])
    length = math.sqrt(first.pull**2 * (1 + s**2 / n) + first.push**2 / n)
    path[0] = *(math.sqrt(2 / (math.pi * d)) * aim / length), 1.0
    for k, t in enumerate(times[:-1]):
        f = denoiser(mixture, t)
        force = np.array([f.pull, f.pull / n, -f.push / n, 0.0])
        path[k + 1] = path[k] + (times[k + 1] - t) * ((f.skip - 1) * path[k] + force) / (1 - t)
    mean, eta, xi, own = path.T
    learned = n * (xi**2 + (s * eta) ** 2)
    return Motion(times, mean, eta, xi, own, mean**2 + learned + own**2, float((mean[-1] - 1) ** 2 + learned[-1]))


def generate(mixture: Mixture, d: int, trajectories: int, steps: int, rng: np.random.Generator) -> Motion:
    """The same in dimension d: the loss minimised over c and w on n drawn samples, and trajectories that follow it.

    The minimum is that in which every sign(w·y) is the sample's cluster, which is so with high probability once
    t√d is large. Means are over the trajectories, each turned to the cluster it goes to; the error is without that of
    their number.

    Raises:
        ConfigError: fewer than 2 trajectories, or no step or dimension.
    """
    if trajectories < 2 or steps < 1 or d < 1:
        raise ConfigError(f"2 trajectories, a step and a dimension are wanted, got {trajectories}, {steps} and {d}")
    n, s, ridge = mixture.n, mixture.s, mixture.ridge
    mu = np.ones(d)  # isotropic noise makes all directions alike
    z, x0 = rng.standard_normal((2, n, d))  # already turned by the samples' signs
    x1 = mu + s * z
    to, away = mu + s * z.mean(axis=0), x0.mean(axis=0)
    basis = np.stack([to, away, mu, z.mean(axis=0)])
    moments = [(x1**2).sum(), (x1 * x0).sum(), (x0**2).sum()]
    # the loss minimised over w, a quadratic in c
    moments -= np.array([to @ to, to @ away, away @ away]) * n**2 / (n + ridge)
    start = rng.standard_normal((trajectories, d))
    seen, gram = start @ basis.T, basis[:2] @ basis.T
    times, own, path = np.arange(1, steps + 1) / steps, [1.0], np.zeros((steps, trajectories, 2))
    for k, t in enumerate(times[:-1]):  # X = own · start + path · (μ + sη, ξ)
        skip = moments @ [t, 1 - t, 0] / (moments @ [t**2, 2 * t * (1 - t), (1 - t) ** 2])
        w = n / (n + ridge) * np.array([1 - skip * t, -skip * (1 - t)])
        signs = np.sign((own[k] * seen + path[k] @ gram)[:, :2] @ w)
        step = (times[k + 1] - t) / (1 - t)
        own.append(own[k] * (1 + step * (skip - 1)))
        path[k + 1] = path[k] * (1 + step * (skip - 1)) + step * np.outer(signs, w)
    kept = np.array(own)
    overlaps = signs @ (kept[:, None, None] * seen + path @ gram) / (trajectories * d)
    across = 2 * kept[:, None] * (path * seen[:, :2]).sum(axis=2) + ((path @ gram[:, :2]) * path).sum(axis=2)
    norm = kept**2 * (start**2).sum() / (trajectories * d) + across.mean(axis=1) / d
    ends = kept[-1] * signs[:, None] * start + (signs[:, None] * path[-1]) @ basis[:2] - mu
    one, other = ends[::2].mean(axis=0), ends[1::2].mean(axis=0)  # of separate halves: their noise has no product
    error = float(one @ other / d)
    return Motion(times, overlaps[:, 2], overlaps[:, 3] / s, overlaps[:, 1], kept, norm, error)
