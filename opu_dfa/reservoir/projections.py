"""Random projections of state and input, z = s_r W x + s_i V u: dense, sparse, structured, or of an optical device.

W and V have independent entries of mean 0 and variance 1 (or, structured, entries that are as good as that), and the
update x ← f(z) / √N keeps a state of norm O(1); so s_r is the spectral radius of the linear reservoir. A projection
has as many rows as units, or twice as many for a function of a complex field: first its real parts, then its imaginary
parts, each with half of z's variance.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from opu_dfa.features import Nonlinearity

Array = np.ndarray
_PIECE = 2**22  # numbers of a projected input held at once


@dataclass(frozen=True)
class Shape:
    """The sizes and scales of a projection.

    Attributes:
        n_units: N; n_inputs: d; complex: of a complex field, with 2N rows; spectral_radius: s_r; input_scale: s_i.
    """

    n_units: int
    n_inputs: int
    complex: bool
    spectral_radius: float
    input_scale: float

    @property
    def rows(self) -> int:
        return 2 * self.n_units if self.complex else self.n_units


@dataclass(frozen=True)
class Update:
    """What follows the projection, x ← (1 - a) x + (a / √N) f(z + b): the bias of each row, leak rate a and f."""

    bias: Array
    leak_rate: float
    nonlinearity: Nonlinearity

    @property
    def compiled(self) -> tuple[Array, float, int, np.float32]:
        """The same for the compiled loops: f by its number, and the threshold it may have."""
        from opu_dfa.reservoir.loops import CODES

        threshold = np.float32(getattr(self.nonlinearity, "threshold", 0.0))
        return self.bias, float(self.leak_rate), CODES[self.nonlinearity.name], threshold

    def mix(self, state: Array, values: Array) -> Array:
        """The next states `(batch, N)` from f(z) `(batch, N)`."""
        gain = self.leak_rate / math.sqrt(state.shape[1])
        return ((1 - self.leak_rate) * state + gain * values).astype(np.float32)


class Projection(ABC):
    """The random matrices of one reservoir, their scales included."""

    @abstractmethod
    def run(self, states: Array, state: Array, inputs: Array, update: Update) -> None:
        """Fill `states` `(batch, steps, N)` and leave `state` `(batch, N)` at the last; inputs `(batch, steps, d)`."""


class DenseProjection(Projection):
    """Independent Gaussian entries: O(N²) time and memory."""

    def __init__(self, shape: Shape, draw: np.random.Generator) -> None:
        scale = np.float32(shape.spectral_radius)
        self.weights = draw.standard_normal((shape.rows, shape.n_units), dtype=np.float32) * scale
        self.input_weights = _input_weights(shape, draw)

    def run(self, states: Array, state: Array, inputs: Array, update: Update) -> None:
        from opu_dfa.reservoir import loops

        for part, driven in _driven(inputs, self.input_weights):
            loops.dense(states[:, part], state, driven, self.weights, *update.compiled)


class SparseProjection(Projection):
    """As many entries in every row of W, of variance 1/density, at random places; V is dense.

    Args:
        density: the share of W that is not zero; a row has at least one entry.
    """

    def __init__(self, shape: Shape, draw: np.random.Generator, density: float) -> None:
        entries = max(round(density * shape.n_units), 1)
        # One place in each of as many strata: distinct without a permutation of N for every row.
        edges = np.linspace(0, shape.n_units, entries + 1).astype(np.int64)
        within = draw.random((shape.rows, entries), dtype=np.float32) * np.diff(edges)
        self.columns = (edges[:-1] + np.minimum(within.astype(np.int64), np.diff(edges) - 1)).astype(np.int32)
        scale = np.float32(shape.spectral_radius * math.sqrt(shape.n_units / entries))
        self.values = draw.standard_normal((shape.rows, entries), dtype=np.float32) * scale
        self.input_weights = _input_weights(shape, draw)

    def run(self, states: Array, state: Array, inputs: Array, update: Update) -> None:
        from opu_dfa.reservoir import loops

        for part, driven in _driven(inputs, self.input_weights):
            loops.sparse(states[:, part], state, driven, self.values, self.columns, *update.compiled)


class StructuredProjection(Projection):
    """√n (HD)³ of [s_r x; s_i u; 0]: Walsh-Hadamard transforms and random signs, O(N log N) time and O(N) memory.

    n is a power of two of at least N + d, from 16; N = 2^k - d wastes none of it. Every n rows have signs of their own;
    the entries are of variance 1, and Gaussian to O(1/n).
    Source: Dong, Ohana, Rafayelyan, Krzakala, NeurIPS 2020 (arXiv 2006.07310).
    """

    def __init__(self, shape: Shape, draw: np.random.Generator) -> None:
        self.shape = shape
        n = max(16, 1 << (shape.n_units + shape.n_inputs - 1).bit_length())
        signs = draw.integers(0, 2, (math.ceil(shape.rows / n), 3, n), dtype=np.int8)
        self.signs = 2 * signs - np.int8(1)

    def run(self, states: Array, state: Array, inputs: Array, update: Update) -> None:
        from opu_dfa.reservoir import loops

        scales = float(self.shape.spectral_radius), float(self.shape.input_scale)
        loops.structured(states, state, inputs, self.signs, *scales, *update.compiled)


class RedrawnProjection(Projection):
    """Dense matrices drawn anew at every step, the convergence theorem's case; a batch sees the same ones.

    The steps are counted, so a run cannot be repeated from a state: use another object for another batch.
    """

    def __init__(self, shape: Shape, seed: int) -> None:
        self.shape, self.seed, self.step = shape, seed, 0

    def run(self, states: Array, state: Array, inputs: Array, update: Update) -> None:
        for t in range(inputs.shape[1]):
            drawn = DenseProjection(self.shape, np.random.default_rng([self.seed, self.step]))
            drawn.run(states[:, t : t + 1], state, inputs[:, t : t + 1], update)
            self.step += 1


def _input_weights(shape: Shape, draw: np.random.Generator) -> Array:
    """s_i V, `(rows, d)`."""
    return draw.standard_normal((shape.rows, shape.n_inputs), dtype=np.float32) * np.float32(shape.input_scale)


def _driven(inputs: Array, weights: Array) -> Iterator[tuple[slice, Array]]:
    """Slices of the steps with s_i V u of each, `(batch, steps, rows)`, as much at once as memory should hold."""
    batch, steps, _ = inputs.shape
    size = max(_PIECE // (batch * len(weights)), 1)
    for start in range(0, steps, size):
        part = slice(start, start + size)
        yield part, inputs[:, part] @ weights.T
