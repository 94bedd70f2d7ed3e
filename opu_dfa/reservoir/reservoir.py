"""A reservoir: a fixed random recurrent network, driven by a series.

    x_t = (1 - a) x_(t-1) + (a / √N) f(s_r W x_(t-1) + s_i V u_t + s_b b)

with W, V, b of independent N(0, 1) entries. Of N → ∞ units the inner products of states are a recurrent kernel
(`opu_dfa.reservoir.kernel`). A deep reservoir's next layer has the states of the one before as its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from numbers import Real
from typing import Literal, get_args

import numpy as np

from hardware import OPU
from opu_dfa.errors import ConfigError, DataError, DivergedError
from opu_dfa.features import NONLINEARITIES, Nonlinearity
from opu_dfa.features import nonlinearity as _nonlinearity
from opu_dfa.reservoir.optical import IntensityOptics, LinearOptics
from opu_dfa.reservoir.projections import (
    Array,
    DenseProjection,
    Projection,
    RedrawnProjection,
    Shape,
    SparseProjection,
    StructuredProjection,
    Update,
)

Kind = Literal["dense", "sparse", "structured"]
_BLOCK = 2**22  # state entries held at once: 16 MiB


class Reservoir:
    """The states of one random recurrent network, float32.

    Args:
        n_units: N, of each layer; n_inputs: d.
        projection: "dense", "sparse", "structured", or an open `hardware.OPU`. A device shows [s_r x; s_i u] in bit
            planes where f is a function of a real number, and one binary pattern of state and input where it is an
            intensity (`opu_dfa.reservoir.optical`).
        nonlinearity: f, by its name in `opu_dfa.features.NONLINEARITIES` or as an object.
        spectral_radius, input_scale, bias_scale: s_r, s_i and s_b.
        leak_rate: a, in (0, 1].
        n_layers: layers; density: of "sparse"; bits: of a device's planes, None for its own choice.
        redraw: draw W and V anew at every step.
        seed: of every draw.

    Raises:
        ConfigError: a value out of its range, an unknown name, a device that is too small.

    >>> reservoir = Reservoir(n_units=50, n_inputs=2)
    >>> states, state = reservoir.run(np.ones((1, 10, 2)))
    >>> states.shape, state.shape
    ((1, 10, 50), (1, 1, 50))
    """

    def __init__(
        self,
        n_units: int,
        n_inputs: int,
        projection: Kind | OPU = "structured",
        nonlinearity: str | Nonlinearity = "erf",
        *,
        spectral_radius: float = 0.9,
        input_scale: float = 0.4,
        bias_scale: float = 0.4,
        leak_rate: float = 1.0,
        n_layers: int = 1,
        density: float = 0.02,
        bits: int | None = None,
        redraw: bool = False,
        seed: int = 0,
    ) -> None:
        counts = {"n_units": (n_units, 1), "n_inputs": (n_inputs, 1), "n_layers": (n_layers, 1), "seed": (seed, 0)}
        for name, (count, least) in counts.items():
            if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < least:
                raise ConfigError(f"{name} is an integer of at least {least}, got {count!r}")
        scales = {"spectral_radius": spectral_radius, "input_scale": input_scale, "bias_scale": bias_scale}
        for name, scale in scales.items():
            if not isinstance(scale, Real) or not 0 <= scale < math.inf:
                raise ConfigError(f"{name} is a number of at least 0, got {scale!r}")
        for name, share in (("leak_rate", leak_rate), ("density", density)):
            if not isinstance(share, Real) or not 0 < share <= 1:
                raise ConfigError(f"{name} is in (0, 1], got {share!r}")
        if redraw and projection != "dense":
            raise ConfigError(f'matrices are drawn anew at every step with projection="dense" only, got {projection!r}')
        self.n_units, self.n_inputs, self.n_layers = int(n_units), int(n_inputs), int(n_layers)
        self.nonlinearity = _nonlinearity(nonlinearity)
        if not isinstance(projection, OPU) and self.nonlinearity.name not in NONLINEARITIES:
            raise ConfigError(
                f"{self.nonlinearity.name!r} is not compiled for reservoirs on the CPU, whose nonlinearity is one of "
                f"{', '.join(NONLINEARITIES)}"
            )
        self._layers: list[tuple[Projection, Update]] = []
        for layer in range(n_layers):
            complex_field = self.nonlinearity.field == "complex"
            inputs = self.n_inputs if layer == 0 else self.n_units
            shape = Shape(self.n_units, inputs, complex_field, float(spectral_radius), float(input_scale))
            draw = np.random.default_rng([seed, layer])
            bias = np.float32(bias_scale) * draw.standard_normal(shape.rows, dtype=np.float32)
            if self.nonlinearity.random_phase:
                bias += 2 * np.float32(math.pi) * draw.random(shape.rows, dtype=np.float32)
            made = self._projection(shape, projection, draw, density, bits, redraw)
            self._layers.append((made, Update(bias, leak_rate, self.nonlinearity)))

    def _projection(
        self, shape: Shape, kind: Kind | OPU, draw: np.random.Generator, density: float, bits: int | None, redraw: bool
    ) -> Projection:
        if isinstance(kind, OPU):
            return IntensityOptics(shape, kind) if shape.complex else LinearOptics(shape, kind, bits)
        if redraw:
            return RedrawnProjection(shape, int(draw.integers(2**63)))
        if kind == "dense":
            return DenseProjection(shape, draw)
        if kind == "sparse":
            return SparseProjection(shape, draw, density)
        if kind == "structured":
            return StructuredProjection(shape, draw)
        raise ConfigError(f"projection is one of {', '.join(get_args(Kind))}, or an open hardware.OPU; got {kind!r}")

    def rest(self, batch: int = 1) -> Array:
        """The state before anything has been seen: zeros `(n_layers, batch, N)`."""
        return np.zeros((self.n_layers, batch, self.n_units), np.float32)

    def run(self, inputs: Array, state: Array | None = None) -> tuple[Array, Array]:
        """All states under inputs `(batch, steps, d)`: `(batch, steps, n_layers · N)`, and the last, as `rest`'s.

        Raises:
            DataError: inputs or a state of another shape, or not finite.
            DivergedError: the states are not finite any more.
        """
        state = self.rest(len(inputs)) if state is None else state.copy()
        self._check(inputs, state)
        return self._block(inputs, state), state

    def blocks(self, inputs: Array, state: Array) -> Iterator[tuple[slice, Array]]:
        """`run` in pieces: slices of the steps and their states; `state` is left at the last of them.

        Raises:
            DataError, DivergedError: as `run`.
        """
        self._check(inputs, state)
        batch, steps, _ = inputs.shape
        size = max(_BLOCK // (batch * self.n_layers * self.n_units), 1)
        for start in range(0, steps, size):
            part = slice(start, min(start + size, steps))
            yield part, self._block(inputs[:, part], state)

    def _check(self, inputs: Array, state: Array) -> None:
        """Compiled loops do not look whether an index is inside."""
        if inputs.ndim != 3 or inputs.shape[2] != self.n_inputs:
            raise DataError(f"a reservoir's inputs are (batch, steps, {self.n_inputs}), got {inputs.shape}")
        if state.shape != (self.n_layers, len(inputs), self.n_units):
            raise DataError(
                f"the state of {len(inputs)} series is {(self.n_layers, len(inputs), self.n_units)}, got {state.shape}"
            )

    def _block(self, inputs: Array, state: Array) -> Array:
        batch, steps, _ = inputs.shape
        found = []
        given = inputs = np.ascontiguousarray(inputs, np.float32)
        for (projection, update), at in zip(self._layers, state, strict=True):
            states = np.empty((batch, steps, self.n_units), np.float32)
            projection.run(states, at, inputs, update)
            found.append(states)
            inputs = states
        if not np.isfinite(state).all():
            if not np.isfinite(given).all():
                raise DataError("the inputs of a reservoir are not finite; look for NaN or infinities in the series")
            raise DivergedError(
                f"the reservoir's states have grown beyond all bounds: {self.nonlinearity.name} units are unbounded. "
                "Choose a smaller spectral_radius, or bounded units such as erf."
            )
        return found[0] if self.n_layers == 1 else np.concatenate(found, axis=2)
