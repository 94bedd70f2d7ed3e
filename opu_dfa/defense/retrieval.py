"""The attacker who measures the medium: its matrix T from binary patterns and the intensities |Tb|² they give.

Intensities of real patterns are the same for every rotation and reflection of a row of T in the complex plane, so each
row is recovered up to a phase and a conjugation of its own. Neither changes |Tb|², and nothing else of T reaches the
classifier.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from hardware import OPU, SimulatedOPU
from opu_dfa.errors import DataError

_LARGEST_LIFT = 64  # mirrors; beyond them the n(n + 1)/2 products make the least squares too large
_ANCHORS = 4  # two fix a field, the others those of pixels at which the two are in phase
_ROWS = 1024  # outputs that are recovered at once


@dataclass(frozen=True)
class Recovered:
    """What an attacker knows of a medium.

    Attributes:
        matrix: complex64 `(n_components, n_features)`, in units in which its rows predict |Tb|².
        queries: patterns that were measured for it.
        relative_error: of intensities predicted for patterns it has not seen, in units of their spread (see
            `prediction_error`); 0 is perfect, 1 knows nothing.
    """

    matrix: Tensor
    queries: int
    relative_error: float


class Intensities:
    """A device as its attacker meets it: binary patterns in, intensities out, every pattern counted.

    Args:
        opu: the device; repeats: measurements of a pattern, which are averaged; chunk: patterns of one call.

    Attributes:
        queries: patterns shown so far, repeats included; quantum: the intensity of one count; ceiling: that from which
            on the camera saturates.
    """

    def __init__(self, opu: OPU, repeats: int = 1, chunk: int = 1000) -> None:
        if repeats < 1 or chunk < 1:
            raise DataError(f"repeats and chunk are at least 1, got {repeats} and {chunk}")
        self.opu, self.repeats, self.chunk = opu, repeats, chunk
        self.quantum = opu.intensity_per_count
        self.ceiling = opu.largest_count * self.quantum
        self.queries = 0

    def __call__(self, patterns: Tensor) -> Tensor:
        """|Tb|², float32 `(batch, n_components)`, of patterns `(batch, n_features)` of 0 and 1."""
        self.queries += self.repeats * len(patterns)
        parts = []
        for part in patterns.to(torch.uint8).split(self.chunk):
            counts = sum(self.opu.transform(part).float() for _ in range(self.repeats))
            parts.append(torch.as_tensor(counts) * (self.opu.intensity_per_count / self.repeats))
        return torch.cat(parts)


class Noiseless(Intensities):
    """A simulated device seen without its camera: the same medium, no noise, no counts, no saturation."""

    def __init__(self, opu: SimulatedOPU, chunk: int = 1000) -> None:
        super().__init__(opu, chunk=chunk)
        self.quantum, self.ceiling = 0.0, inf
        self.speckle = opu.speckle

    def __call__(self, patterns: Tensor) -> Tensor:
        """|Tb|², float32 `(batch, n_components)`, as the field gives it."""
        self.queries += len(patterns)
        return torch.cat([self.speckle(part.float()).square().sum(dim=0) for part in patterns.split(self.chunk)])


def recover_known(
    opu: OPU | Intensities, n_queries: int, generator: torch.Generator, repeats: int = 1, steps: int = 100
) -> Recovered:
    """T from patterns the attacker sees but does not choose: random ones, each mirror on half of the time.

    Args:
        opu: the device, or what measures it in another way (`Noiseless`), which then says `repeats`; n_queries:
            patterns, at least its mirrors; repeats: measurements of each; steps: of `refine`.

    Raises:
        DataError: fewer patterns than mirrors.

    >>> from hardware import open_opu
    >>> opu = open_opu("simulated", n_features=8, n_components=4)
    >>> found = recover_known(opu, 300, torch.Generator().manual_seed(0))
    >>> found.matrix.shape, found.queries, found.relative_error < 0.1  # the camera counts in 8 bits
    (torch.Size([4, 8]), 300, True)
    """
    ask = opu if isinstance(opu, Intensities) else Intensities(opu, repeats)
    patterns = random_patterns(n_queries, ask.opu.n_features, generator)
    matrix = from_known(patterns, ask(patterns), generator, ask.quantum, ask.ceiling, steps)
    return _judged(matrix, ask, generator)


def recover_chosen(opu: OPU, generator: torch.Generator, repeats: int = 1, steps: int = 100) -> Recovered:
    """T from patterns the attacker chooses, (`_ANCHORS` + 1) for each of 1 to 2 n of them, n the mirrors.

    Polarisation: with an anchor a and a pattern s on other mirrors, |T(a + s)|² - |Ta|² - |Ts|² = 2 Re((Ta)* Ts). The
    anchors' own products, from |T(a + a')|², fix their fields up to the phase and conjugation that nobody sees; the
    fields of all s follow by least squares, and T by inverting the patterns (a Hadamard matrix of 0 and 1). Patterns,
    not single mirrors, because one mirror's light is below one count of an 8-bit camera. First the half of the mirrors
    without anchors, then the other half with patterns of the first as anchors; last, `refine` on all of it.

    Raises:
        DataError: a device of fewer than 8 mirrors.
    """
    n = opu.n_features
    if n < 2 * (_ANCHORS + 1):
        raise DataError(f"chosen patterns take {2 * (_ANCHORS + 1)} mirrors at least, got {n}; use recover_known")
    ask = Intensities(opu, repeats)
    order = torch.randperm(n, generator=generator)
    halves = order[: n // 2], order[n // 2 :]
    shown: list[Tensor] = []
    seen: list[Tensor] = []

    def measure(patterns: Tensor) -> Tensor:
        shown.append(patterns)
        seen.append(ask(patterns))
        return seen[-1]

    anchors = _anchors(halves[1], n)
    pairs = torch.combinations(torch.arange(_ANCHORS))
    alone = measure(anchors)
    product = torch.diag_embed(alone.T)
    for (i, j), both in zip(pairs.tolist(), measure(anchors[pairs].sum(dim=1)), strict=True):
        product[:, i, j] = product[:, j, i] = (both - alone[i] - alone[j]) / 2
    columns = torch.zeros(2, opu.n_components, n)
    columns[:, :, halves[0]] = _polarised(measure, anchors, alone, _rank_two(product), halves[0])
    anchors = _anchors(halves[0], n)
    columns[:, :, halves[1]] = _polarised(measure, anchors, measure(anchors), columns @ anchors.T, halves[1])
    matrix = refine(
        torch.complex(*columns), torch.cat(shown), torch.cat(seen), opu.intensity_per_count, ask.ceiling, steps
    )
    return _judged(matrix, ask, generator)


def from_known(
    patterns: Tensor,
    intensities: Tensor,
    generator: torch.Generator,
    quantum: float = 0.0,
    ceiling: float = inf,
    steps: int = 100,
    restarts: int = 4,
) -> Tensor:
    """T, complex64 `(n_components, n_features)`, from patterns `(N, n_features)` and intensities `(N, n_components)`.

    By least squares where the patterns outnumber the products of mirrors (and those are not too many), else from
    `restarts` random matrices, of which each output keeps the one that fits best; `refine` follows. Binary patterns
    share half of their light, which is as good as a reference beam: a spectral start gains little.

    Raises:
        DataError: fewer patterns than mirrors, or other shapes.
    """
    n = patterns.shape[-1]
    if patterns.ndim != 2 or intensities.ndim != 2 or len(patterns) != len(intensities):
        raise DataError(
            "wanted patterns (N, n_features) and intensities (N, n_components), got "
            f"{tuple(patterns.shape)} and {tuple(intensities.shape)}"
        )
    if len(patterns) < n:
        raise DataError(f"a matrix of {n} columns takes {n} patterns at least, got {len(patterns)}")
    if n <= _LARGEST_LIFT and len(patterns) >= n * (n + 1) // 2:
        return refine(lifted(patterns, intensities), patterns, intensities, quantum, ceiling, steps)
    best = torch.zeros(intensities.shape[1], n, dtype=torch.complex64)
    least = torch.full(best.shape[:1], inf)
    scale = (2 * intensities.mean(dim=0) / n).sqrt()
    for _ in range(restarts):
        x = torch.randn(2, len(scale), n, generator=generator) * scale[:, None]
        found = refine(torch.complex(*x), patterns, intensities, quantum, ceiling, steps)
        misfit = _misfit(found, patterns, intensities, ceiling)
        better = misfit < least
        best[better], least[better] = found[better], misfit[better]
    return best


def lifted(patterns: Tensor, intensities: Tensor) -> Tensor:
    """T in closed form: |T_k b|² = Σ_ij Re(T_ki* T_kj) b_i b_j is linear in the products of mirrors.

    Least squares gives the matrix of Re(T_ki* T_kj), which has rank two; its two leading eigenvectors are T_k.
    Exact without noise for n(n + 1)/2 or more generic patterns.
    """
    n = patterns.shape[1]
    i, j = torch.triu_indices(n, n)
    bits = patterns.double()
    design = bits[:, i] * bits[:, j] * torch.where(i == j, 1.0, 2.0)
    found = torch.linalg.lstsq(design, intensities.double(), driver="gelsd").solution  # patterns may be degenerate
    product = found.new_zeros(intensities.shape[1], n, n)
    product[:, i, j] = product[:, j, i] = found.T
    return torch.complex(*_rank_two(product)).to(torch.complex64)


def refine(
    start: Tensor, patterns: Tensor, intensities: Tensor, quantum: float = 0.0, ceiling: float = inf, steps: int = 200
) -> Tensor:
    """Gerchberg-Saxton with momentum, T ← T + B⁺[w (√I z/|z| - z)] from fields z = TB of all patterns B.

    Args:
        start: complex `(n_components, n_features)`; quantum: intensity of one count, below which an amplitude √I says
            little: w = I / (I + quantum); ceiling: intensities from here on are cut off and left out.
    """
    bits, inverse = patterns.float().T.contiguous(), _inverse(patterns).T.contiguous()
    parts = []
    for rows in torch.arange(len(start)).split(_ROWS):
        seen = intensities[:, rows].T
        amplitude, weight = seen.clamp(min=0).sqrt(), seen / (seen + quantum).clamp(min=1e-30) * (seen < ceiling)
        x = before = torch.stack([start[rows].real, start[rows].imag]).float()
        for step in range(steps):
            ahead = x + step / (step + 3) * (x - before)
            z = ahead @ bits
            shift = weight * (amplitude / z.norm(dim=0).clamp(min=1e-20) - 1)
            x, before = ahead + (shift * z) @ inverse, x
        parts.append(torch.complex(*x))
    return torch.cat(parts)


def prediction_error(matrix: Tensor, patterns: Tensor, intensities: Tensor, ceiling: float = inf) -> float:
    """√(Σ (|Tb|² - I)² / Σ (I - Ī)²), Ī each output's mean: what of the speckle the matrix does not explain.

    The camera's noise is in I: what a perfect matrix leaves is its share. Predictions saturate as the camera does.
    """
    spread = (intensities - intensities.mean(dim=0)).square().sum()
    return (_misfit(matrix, patterns, intensities, ceiling).sum() / spread.clamp(min=1e-30)).sqrt().item()


def aligned_error(matrix: Tensor, truth: Tensor) -> float:
    """‖T̂ - T‖/‖T‖, each row of T̂ turned and reflected to fit best: for media whose matrix is known."""
    a, b = (torch.stack([m.real, m.imag], dim=1).double() for m in (matrix, truth))
    u, _, v = torch.linalg.svd(b @ a.transpose(1, 2))
    return ((u @ v @ a - b).norm() / b.norm()).item()


def random_patterns(count: int, n_features: int, generator: torch.Generator) -> Tensor:
    """uint8 `(count, n_features)`, each mirror on half of the time."""
    return torch.randint(0, 2, (count, n_features), generator=generator, dtype=torch.uint8)


def _judged(matrix: Tensor, ask: Intensities, generator: torch.Generator) -> Recovered:
    """Against 256 patterns that were not used, which the attack itself does not need."""
    queries = ask.queries
    probes = random_patterns(256, matrix.shape[1], generator)
    return Recovered(matrix, queries, prediction_error(matrix, probes, ask(probes), ask.ceiling))


def _anchors(mirrors: Tensor, n: int) -> Tensor:
    """Patterns `(_ANCHORS, n)` that light a part of the mirrors each, and no mirror twice."""
    patterns = torch.zeros(_ANCHORS, n)
    for pattern, part in zip(patterns, mirrors.tensor_split(_ANCHORS), strict=True):
        pattern[part] = 1
    return patterns


def _polarised(
    measure: Callable[[Tensor], Tensor], anchors: Tensor, alone: Tensor, fields: Tensor, mirrors: Tensor
) -> Tensor:
    """Columns `(2, n_components, n_mirrors)` of T, from anchors on others, `alone` and `fields` their |Ta|² and Ta."""
    small = (_hadamard(len(mirrors) + 1)[:, 1 : len(mirrors) + 1] + 1) / 2
    patterns = torch.zeros(len(small), anchors.shape[1])
    patterns[:, mirrors] = small
    dark = measure(patterns)
    products = torch.stack([(measure(patterns + a) - dark - i) / 2 for a, i in zip(anchors, alone, strict=True)])
    inverse = torch.linalg.pinv(fields.permute(1, 2, 0).double())  # (n_components, 2, 3)
    shown = torch.einsum("mca,asm->cms", inverse, products.double())
    return (shown @ torch.linalg.pinv(small.double()).T).float()


def _rank_two(product: Tensor) -> Tensor:
    """x `(2, m, n)` with xᵀx nearest to the symmetric matrices `(m, n, n)`."""
    values, vectors = torch.linalg.eigh(product)
    return (vectors[..., -2:] * values[..., None, -2:].clamp(min=0).sqrt()).permute(2, 0, 1)


def _misfit(matrix: Tensor, patterns: Tensor, intensities: Tensor, ceiling: float) -> Tensor:
    """Squared errors of the predicted intensities, summed over the patterns: `(n_components,)`."""
    x = torch.stack([matrix.real, matrix.imag]).float()
    predicted = (x @ patterns.float().T).square().sum(dim=0).clamp(max=ceiling)
    return (predicted - intensities.T).square().sum(dim=1)


def _inverse(patterns: Tensor) -> Tensor:
    """B⁺ `(n, N)`: in double precision, since all patterns share half of their light."""
    return torch.linalg.pinv(patterns.double()).float()


def _hadamard(size: int) -> Tensor:
    """Sylvester's matrix of ±1, of the next power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)])
    return matrix
