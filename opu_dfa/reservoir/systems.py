"""Chaotic systems to forecast, in float64: maps from a state to the state one sample later, and Lyapunov exponents.

A system's state is a flat array `(..., n_state)`; `observe` gives what is recorded of it, `(..., n_outputs)`. Every
function takes many states at once. Exponents are computed by following two neighbours (Benettin et al. 1980), never
quoted. The steps themselves are compiled, in `flows`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.reservoir import flows

Array = np.ndarray


class System(ABC):
    """A flow, sampled every `dt`. Subclasses are frozen dataclasses of their parameters."""

    dt: float

    @abstractmethod
    def start(self, draw: np.random.Generator) -> Array:
        """A state drawn at random, not yet on the attractor."""

    @abstractmethod
    def step(self, state: Array) -> Array:
        """The states `(..., n_state)` a time dt later."""

    def observe(self, state: Array) -> Array:
        """What is recorded of states: all of them, unless a system says otherwise."""
        return state

    @property
    def transient(self) -> int:
        """Steps until a state drawn at random has come to the attractor."""
        return round(100 / self.dt)

    def series(self, n_steps: int, random_state: int | np.random.Generator = 0) -> Array:
        """A series of samples on the attractor, `(n_steps, n_outputs)`.

        Raises:
            ConfigError: fewer than one step.
        """
        if n_steps < 1:
            raise ConfigError(f"a series has at least one step, got n_steps={n_steps}")
        state = self.attractor(random_state)
        first = self.observe(state)
        found = np.empty((n_steps, *first.shape))
        for t in range(n_steps):
            found[t] = self.observe(state)
            state = self.step(state)
        return found

    def attractor(self, random_state: int | np.random.Generator = 0) -> Array:
        """A state on the attractor."""
        state = self.start(np.random.default_rng(random_state))
        for _ in range(self.transient):
            state = self.step(state)
        return state

    def lyapunov_exponent(self, n_steps: int = 20_000, random_state: int = 0, every: int = 10) -> float:
        """The largest exponent, per unit of time: the mean growth rate of the distance of two neighbours.

        Args:
            n_steps: that they are followed; the result scatters like 1/√n_steps.
            every: steps after which the neighbour is brought back to its first distance.
        """
        draw = np.random.default_rng(random_state)
        state = self.attractor(draw)
        distance = 1e-8 * max(float(np.linalg.norm(state)), 1.0)
        apart = draw.standard_normal(state.shape)
        grown, rounds = 0.0, max(n_steps // every, 2)
        for i in range(rounds):
            apart *= distance / np.linalg.norm(apart)
            both = np.stack([state, state + apart])
            for _ in range(every):
                both = self.step(both)
            state, apart = both[0], both[1] - both[0]
            if i >= rounds // 10:  # until then the neighbour turns into the fastest direction
                grown += math.log(float(np.linalg.norm(apart)) / distance)
        return grown / ((rounds - rounds // 10) * every * self.dt)


def _moved(kernel: Callable[..., None], state: Array, *settings: Any) -> Array:
    """What a kernel of `flows` makes of states of any shape `(..., n_state)`."""
    states = np.array(state, np.float64).reshape(-1, state.shape[-1])
    kernel(states, *settings)
    return states.reshape(state.shape)


@dataclass(frozen=True)
class Lorenz63(System):
    """Lorenz 1963: x' = σ(y - x), y' = x(ρ - z) - y, z' = xy - βz.

    >>> Lorenz63().series(5).shape
    (5, 3)
    """

    dt: float = 0.02
    sigma: float = 10.0
    rho: float = 28.0
    beta: float = 8 / 3

    def start(self, draw: np.random.Generator) -> Array:
        return draw.standard_normal(3) + np.array([0.0, 0.0, self.rho])

    def step(self, state: Array) -> Array:
        return _moved(flows.lorenz63, state, np.array([self.sigma, self.rho, self.beta], float), self.dt, 0.005)


@dataclass(frozen=True)
class Rossler(System):
    """Rössler 1976: x' = -y - z, y' = x + ay, z' = b + z(x - c)."""

    dt: float = 0.1
    a: float = 0.2
    b: float = 0.2
    c: float = 5.7

    def start(self, draw: np.random.Generator) -> Array:
        return draw.standard_normal(3)

    def step(self, state: Array) -> Array:
        return _moved(flows.rossler, state, np.array([self.a, self.b, self.c], float), self.dt, 0.02)

    @property
    def transient(self) -> int:
        return round(500 / self.dt)


@dataclass(frozen=True)
class Lorenz96(System):
    """Lorenz 1996, n sites on a ring: x_i' = (x_(i+1) - x_(i-2)) x_(i-1) - x_i + F."""

    n: int = 40
    dt: float = 0.05
    forcing: float = 8.0

    def __post_init__(self) -> None:
        if self.n < 4:
            raise ConfigError(f"Lorenz 96 has at least 4 sites, got n={self.n}")

    def start(self, draw: np.random.Generator) -> Array:
        return self.forcing + draw.standard_normal(self.n)

    def step(self, state: Array) -> Array:
        return _moved(flows.lorenz96, state, np.array([self.forcing], float), self.dt, 0.01)


@dataclass(frozen=True)
class MackeyGlass(System):
    """Mackey and Glass 1977: x'(t) = β x(t - τ) / (1 + x(t - τ)^n) - γ x(t); the state is the last τ of time.

    The decay is integrated exactly and the delayed source by Simpson's rule, at points that the history holds.

    Args:
        dt: a sample; tau: the delay; substeps: pairs of points a sample has in the history, which tau must be made of.

    >>> MackeyGlass().series(100).shape
    (100, 1)
    """

    dt: float = 1.0
    tau: float = 17.0
    beta: float = 0.2
    gamma: float = 0.1
    n: float = 10.0
    substeps: int = 5

    def __post_init__(self) -> None:
        if self.substeps < 1 or abs(self.tau / self._h - self._delay) > 1e-9 or self._delay < 2:
            raise ConfigError(
                f"the delay tau={self.tau} must be a multiple, at least twofold, of dt / (2 substeps) = {self._h:g}; "
                "choose other substeps"
            )

    @property
    def _h(self) -> float:
        return self.dt / (2 * self.substeps)

    @property
    def _delay(self) -> int:
        return round(self.tau / self._h)

    def start(self, draw: np.random.Generator) -> Array:
        return np.full(self._delay + 1, 0.9 + 0.2 * draw.random())

    def step(self, state: Array) -> Array:
        return _moved(flows.mackey_glass, state, self.beta, self.gamma, self.n, self._h, self.substeps)

    def observe(self, state: Array) -> Array:
        return state[..., -1:]

    @property
    def transient(self) -> int:
        return round(2000 / self.dt)


@dataclass(frozen=True)
class KuramotoSivashinsky(System):
    """u_t = -u u_x - u_xx - u_xxxx on a ring of length L, `(..., n)`: ETDRK4, float64.

    The method's functions of the linear part are made in Fourier space and applied as convolutions on the ring, which
    up to a few hundred points cost less than the transforms they save.

    Source: Kassam and Trefethen, "Fourth-order time-stepping for stiff PDEs", SIAM J. Sci. Comput. 2005.

    Args:
        length: L; n: grid points; dt: a sample; substeps: time steps a sample is made of.

    >>> KuramotoSivashinsky().series(3).shape
    (3, 64)
    """

    length: float = 22.0
    n: int = 64
    dt: float = 0.25
    substeps: int = 1

    def start(self, draw: np.random.Generator) -> Array:
        x = 2 * math.pi * np.arange(self.n) / self.n
        waves = range(1, 5)
        return sum(0.1 * draw.standard_normal() * np.cos(k * x + draw.uniform(0, 2 * math.pi)) for k in waves)  # type: ignore[return-value]

    def step(self, state: Array) -> Array:
        return _moved(flows.etdrk4, state, self._kernels, self.substeps)

    @cached_property
    def _kernels(self) -> Array:
        """e^(hL), e^(hL/2), and the method's weights times those of -½ (u²)_x; the weights are means over a circle
        around hL, where they are smooth."""
        h, k = self.dt / self.substeps, 2 * math.pi / self.length * np.arange(self.n // 2 + 1)
        advection = -0.5j * k
        if self.n % 2 == 0:
            advection[-1] = 0.0  # the grid does not show the highest wave's derivative
        linear = h * (k**2 - k**4)
        z = linear[:, None] + np.exp(1j * math.pi * (np.arange(32) + 0.5) / 32)
        e = np.exp(z)
        q = h * ((np.exp(z / 2) - 1) / z).real.mean(1)
        f1 = h * ((-4 - z + e * (4 - 3 * z + z**2)) / z**3).real.mean(1)
        f2 = 2 * h * ((2 + z + e * (z - 2)) / z**3).real.mean(1)
        f3 = h * ((-4 - 3 * z - z**2 + e * (4 - z)) / z**3).real.mean(1)
        weights = [np.exp(linear), np.exp(linear / 2), *(f * advection for f in (q, f1, f2, f3))]
        return np.fft.irfft(weights, self.n)

    @property
    def transient(self) -> int:
        return round(500 / self.dt)


SYSTEMS: dict[str, type[System]] = {
    "lorenz63": Lorenz63,
    "rossler": Rossler,
    "lorenz96": Lorenz96,
    "mackey-glass": MackeyGlass,
    "kuramoto-sivashinsky": KuramotoSivashinsky,
}
