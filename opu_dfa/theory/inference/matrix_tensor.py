"""Vectors that several noisy arrays have in common: a sum of hyperedges, such as a matrix u vᵀ and a tensor u ⊗ x ⊗ y.

    Y_e = N^((1 - |e|)/2) ⊗_{i ∈ e} w_i + √Δ_e Z_e,   w_i (N_i = a_i N) of N(0, 1),   Z_e of N(0, 1)

Message passing updates one vector at a time, from the newest of the others; j(i) is what w_i was when w_j was updated:

    B_i = Σ_{e ∋ i} [ N^((1 - |e|)/2) Y_e(all w_j, j ≠ i)  -  Σ_{j ≠ i} σ_j j(i) Π_{k ≠ i, j} w_k·j(k)/N ] / Δ_e
    A_i = Σ_{e ∋ i} Π_{j ≠ i} |w_j|²/N / Δ_e,       σ_j = Σ_rows ∂w_j/∂B_j / N

    posterior means:     w = B / (1 + A)              q_i ← r/(1 + r),    r = Σ_e Π_{j ≠ i} a_j q_j / Δ_e
    maximum likelihood:  w = √N_i B / |B|             m_i² ← r²/(r² + s), r = Σ_e Π_{j ≠ i} a_j m_j / Δ_e,
                                                                          s = Σ_e Π_{j ≠ i} a_j / Δ_e

with overlaps q = w·w*/N_i of posterior means, m of vectors of length √N_i. Likelihood pays for the noise of every array
from the start, s, though an array of three or more has no signal to give before others do: it obstructs the matrix.
(Model: Tabanelli, Mergny, Zdeborová and Krzakala 2025.) All at once instead of one by one, the iteration would fall
apart into two of opposite signs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import numpy as np

from opu_dfa.errors import ConfigError

Array = np.ndarray
Estimate = Literal["mean", "likelihood"]
FLOOR = 1e-8  # of overlaps: products of what is tiny underflow before a matrix has grown its own


class Edge(NamedTuple):
    """Vectors an array is the product of, by their index, and the variance of its noise."""

    members: tuple[int, ...]
    noise: float


@dataclass(frozen=True)
class Hyperedges:
    """The law: arrays, the lengths of vectors over N, and which estimate is asked for.

    Raises:
        ConfigError: noise or lengths that are not positive, vectors in no array, or an unknown estimate.

    >>> from opu_dfa.theory.inference.iterate import settled
    >>> law = matrix_tensor(0.5, 0.4)
    >>> settled(law.evolve, law.start_at).x.round(5).tolist()  # u, v, x, y
    [0.55497, 0.52605, 0.27924, 0.27924]
    """

    edges: tuple[Edge, ...]
    lengths: tuple[float, ...]
    estimate: Estimate = "mean"

    def __post_init__(self) -> None:
        if self.estimate not in get_args(Estimate):
            raise ConfigError(f"there is no estimate {self.estimate!r}; choose one of {', '.join(get_args(Estimate))}")
        if not all(edge.noise > 0 for edge in self.edges) or not all(length > 0 for length in self.lengths):
            raise ConfigError(f"noise variances and lengths are positive, got {self.edges} and {self.lengths}")
        used = {i for edge in self.edges for i in edge.members}
        if used != set(range(len(self.lengths))) or any(len(set(e.members)) != len(e.members) for e in self.edges):
            raise ConfigError(
                f"every vector is in an array, once in each, got {self.edges} of {len(self.lengths)} vectors"
            )

    @property
    def start_at(self) -> Array:
        """Overlaps of an estimate that knows next to nothing."""
        return np.full(len(self.lengths), FLOOR)

    @property
    def truth(self) -> Array:
        return np.ones(len(self.lengths))

    def evolve(self, overlaps: Array) -> Array:
        """State evolution of one sweep over all vectors: q of posterior means, m of likelihood; both above `FLOOR`."""
        q = np.array(overlaps, dtype=np.float64)
        for i in range(len(q)):
            signal, noise = 0.0, 0.0
            for edge in self.edges:
                if i in edge.members:
                    others = [j for j in edge.members if j != i]
                    size = math.prod(self.lengths[j] for j in others) / edge.noise
                    signal += size * math.prod(float(q[j]) for j in others)
                    noise += size
            value = signal / (1 + signal) if self.estimate == "mean" else signal / math.sqrt(signal**2 + noise)
            q[i] = max(value, FLOOR)
        return q

    def cosines(self, overlaps: Array) -> Array:
        """Squared cosines with the truth, of either estimate's overlaps."""
        return overlaps if self.estimate == "mean" else overlaps**2

    def observe(self, rng: np.random.Generator, n: int) -> HyperedgeData:
        """Arrays of N = n, and the vectors, scaled to the length √N_i that they have on average."""
        truth = []
        for length in self.lengths:
            w = rng.standard_normal(max(2, round(length * n)))
            truth.append(w * math.sqrt(len(w)) / np.linalg.norm(w))
        arrays = []
        for edge in self.edges:
            signal = np.array(float(n) ** ((1 - len(edge.members)) / 2))
            for i in edge.members:
                signal = np.multiply.outer(signal, truth[i])
            array = rng.standard_normal(signal.shape, dtype=np.float32)
            array *= np.float32(math.sqrt(edge.noise))
            array += signal.astype(np.float32)
            arrays.append(array)
        return HyperedgeData(self, n, tuple(arrays), tuple(truth))


class HyperedgeState(NamedTuple):
    """All vectors in a row `(ΣN_i,)`, σ of each, and all vectors as they were when each was last updated."""

    means: Array
    slopes: Array
    seen: Array


@dataclass(frozen=True)
class HyperedgeData:
    """Arrays of float32 and the vectors in them.

    >>> from opu_dfa.theory.inference.iterate import iterate
    >>> rng = np.random.default_rng(1)
    >>> data = matrix_tensor(0.2, 0.3).observe(rng, 60)
    >>> history = iterate(data.step, data.start(rng), data.cosines, most=60)
    >>> bool((history.measured[-1] > 0.3).all())
    True
    """

    law: Hyperedges
    n: int
    arrays: tuple[Array, ...]
    truth: tuple[Array, ...]

    @property
    def slices(self) -> list[slice]:
        """Where each vector is among all."""
        ends = np.cumsum([0, *(len(w) for w in self.truth)])
        return [slice(int(a), int(b)) for a, b in pairwise(ends)]

    def start(self, rng: np.random.Generator, planted: float = 0.0, noise: float = 0.03) -> HyperedgeState:
        """A little noise, and a share of the truth; of length √N_i where likelihood is asked for."""
        w = np.concatenate([planted * t + noise * rng.standard_normal(len(t)) for t in self.truth])
        if self.law.estimate == "likelihood":
            for part in self.slices:
                w[part] *= math.sqrt(part.stop - part.start) / np.linalg.norm(w[part])
        count = len(self.truth)
        return HyperedgeState(w, np.zeros(count), np.zeros((count, len(w))))

    def step(self, state: HyperedgeState) -> HyperedgeState:
        """One sweep of message passing."""
        return self._sweep(state, correct=True)

    def ascend(self, state: HyperedgeState) -> HyperedgeState:
        """One sweep without the correction: each vector in turn maximises the likelihood given the others."""
        return self._sweep(state, correct=False)

    def likelihood(self, state: HyperedgeState) -> float:
        """Σ_e <Y_e, ⊗ w>/(Δ_e N^((1 + |e|)/2)): of vectors of given lengths, its maximum is that of the likelihood."""
        w = [state.means[part] for part in self.slices]
        total = 0.0
        for edge, array in zip(self.law.edges, self.arrays, strict=True):
            field = contracted(array, [w[j] for j in edge.members], 0)
            total += float(field @ w[edge.members[0]]) / (edge.noise * self.n ** ((1 + len(edge.members)) / 2))
        return total

    def cosines(self, state: HyperedgeState) -> Array:
        """Squared cosine of each vector with the truth."""
        return np.array([_cosine(state.means[part], t) for part, t in zip(self.slices, self.truth, strict=True)])

    def _sweep(self, state: HyperedgeState, correct: bool) -> HyperedgeState:
        parts = self.slices
        means, slopes, seen = (np.array(each) for each in state)
        for i, part in enumerate(parts):
            field, precision = np.zeros(part.stop - part.start), 0.0
            for edge, array in zip(self.law.edges, self.arrays, strict=True):
                if i not in edge.members:
                    continue
                others = [j for j in edge.members if j != i]
                power = self.n ** ((1 - len(edge.members)) / 2)
                inner = contracted(array, [means[parts[j]] for j in edge.members], edge.members.index(i))
                field += power * inner / edge.noise
                precision += math.prod(float(means[parts[j]] @ means[parts[j]]) / self.n for j in others) / edge.noise
                for j in others if correct else ():
                    rest = (float(means[parts[k]] @ seen[j, parts[k]]) / self.n for k in others if k != j)
                    field -= slopes[j] * math.prod(rest) / edge.noise * seen[j, part]
            seen[i] = means
            if self.law.estimate == "mean":
                slope = 1 / (1 + precision)
            else:
                slope = math.sqrt(len(field)) / float(np.linalg.norm(field))
            means[part] = slope * field
            slopes[i] = slope * len(field) / self.n
        return HyperedgeState(means, slopes, seen)


def matrix_tensor(
    matrix: float, tensor: float, lengths: tuple[float, float, float, float] = (1, 1, 1, 1), estimate: Estimate = "mean"
) -> Hyperedges:
    """u vᵀ in noise of variance `matrix`, u ⊗ x ⊗ y in noise of variance `tensor`; vectors in the order u, v, x, y."""
    return Hyperedges((Edge((0, 1), matrix), Edge((0, 2, 3), tensor)), lengths, estimate)


def curriculum(data: HyperedgeData) -> Array:
    """Squared cosines of u, v, x, y when the matrix is learned first: its leading singular vectors, then those of the
    tensor contracted with u."""
    matrix, tensor = data.arrays
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    x, _, y = np.linalg.svd(np.tensordot(left[:, 0], tensor, 1), full_matrices=False)
    found = (left[:, 0], right[0], x[:, 0], y[0])
    return np.array([_cosine(w, t) for w, t in zip(found, data.truth, strict=True)])


def curriculum_cosines(matrix: float, tensor: float) -> Array:
    """The same of infinite size, all lengths equal: 1 - Δ_m of u and v, then 1 - Δ_t/(1 - Δ_m) of x and y, or 0."""
    first = max(0.0, 1 - matrix)
    second = max(0.0, 1 - tensor / first) if first else 0.0
    return np.array([first, first, second, second])


def likelihood_growth(matrix: float, tensor: float) -> float:
    """By how much a sweep of maximum likelihood multiplies a small m_u², all lengths equal: nothing is found below 1.

    Δ_m⁻³ / (1/Δ_m + 1/Δ_t): that of the matrix alone is 1/Δ_m², and the clearer the tensor, the lower it is.

    >>> likelihood_growth(0.5, 1e9).__round__(6), likelihood_growth(0.5, 0.1).__round__(6)
    (4.0, 0.666667)
    """
    return matrix**-3 / (1 / matrix + 1 / tensor)


def contracted(array: Array, vectors: list[Array], kept: int) -> Array:
    """An array times a vector along every axis but one; the vector of that one is not used."""
    for vector in reversed(vectors[kept + 1 :]):
        array = (array.reshape(-1, len(vector)) @ vector.astype(np.float32)).reshape(array.shape[:-1])
    for vector in vectors[:kept]:
        array = (vector.astype(np.float32) @ array.reshape(len(vector), -1)).reshape(array.shape[1:])
    return np.asarray(array.astype(np.float64))


def _cosine(a: Array, b: Array) -> float:
    return float(a @ b) ** 2 / max(float(a @ a) * float(b @ b), 1e-300)
