"""How many samples it takes to learn anything of a multi-index model, direction by direction.

    G = ∂g + g gᵀ,   F(δ) = Σ_ll' E[G_ll' δ G_ll'ᵀ],   α_c = 1 / max F   on small overlaps δ >= 0

A direction in which E[g | y] is not zero is learned in one step of any α > 0 (trivial), one that F makes grow above α_c
(easy), and one that neither does, never in α = O(1) (hard). What has been learned may make others trivial or easy: the
staircase. (Troiani et al. 2405.15480.)
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from scipy import optimize

from opu_dfa.errors import ConfigError
from opu_dfa.theory.gaussian import root, sobol
from opu_dfa.theory.inference.channels import Channel

Array = np.ndarray
_KNOWN = 1 - 1e-9  # overlap of a direction that is known: a score divides by what is left of its variance


class Step(NamedTuple):
    """Directions that become known together: an orthonormal basis `(p, k)`, and from which α on."""

    kind: Literal["trivial", "easy", "hard"]
    alpha: float
    directions: Array


def weak_recovery(channel: Channel, known: Array | None = None, nodes: int = 8192) -> Step:
    """What is learned next, given an overlap `(p, p)`; nothing at first.

    A direction is a candidate as far as the overlap is zero on it. Fields are N(0, I).

    Raises:
        ConfigError: an overlap that is not between 0 and 1, or that leaves nothing to learn.

    >>> from opu_dfa.theory.inference.index_channels import SignProduct
    >>> from opu_dfa.theory.inference.sequence_channels import PhaseRetrieval
    >>> float(weak_recovery(PhaseRetrieval()).alpha.round(6)), float(weak_recovery(SignProduct()).alpha.round(6))
    (0.5, 2.467401)
    """
    p = channel.size
    overlap = np.zeros((p, p)) if known is None else np.asarray(known, dtype=np.float64)
    values, vectors = np.linalg.eigh(overlap) if overlap.shape == (p, p) else (np.full(p, np.nan), np.eye(p))
    if not (values >= -1e-9).all() or not (values <= 1).all():
        raise ConfigError(f"an overlap is ({p}, {p}) with eigenvalues from 0 to 1, got {overlap.tolist()}")
    free = vectors[:, values < 1e-9]
    if not free.shape[1]:
        raise ConfigError("an overlap in all directions leaves none to learn: give one that is zero in some")
    overlap = (vectors * np.clip(values, 0, _KNOWN)) @ vectors.T
    v = np.eye(p) - overlap
    if values.max() < 1e-9:
        y, weights = channel.outcomes(nodes)
        omega = np.zeros((len(weights), channel.tokens, p))
    else:
        y, omega = _drawn(channel, overlap, v, nodes)
        weights = np.full(nodes, 1 / nodes)
    basis, wide = free, free.shape[1]
    score = channel.score(y, omega, v) @ basis
    first = np.einsum("n,nli,nlj->ij", weights, score, score)
    sizes, turned = np.linalg.eigh(first)
    # A quadrature leaves its error squared where nothing is.
    trivial = sizes > 1e-3
    if trivial.any():
        return Step("trivial", 0.0, basis @ turned[:, trivial])
    count = channel.tokens
    g = channel.curvature(y, omega, v).reshape(-1, count, p, count, p)
    g = np.einsum("nlimj,ia,jb->nlamb", g, basis, basis)
    map_ = np.einsum("n,nlamb,nlcmd->acbd", weights, g, g, optimize=True).reshape(wide**2, wide**2)
    grow, deltas = np.linalg.eigh((map_ + map_.T) / 2)
    if grow[-1] < 1e-3:
        return Step("hard", math.inf, basis)
    # The leading overlap that power iteration comes to from the identity, which is positive semi-definite.
    leading = deltas[:, grow > grow[-1] * (1 - 1e-3)]
    delta = (leading @ (leading.T @ np.eye(wide).ravel())).reshape(wide, wide)
    sizes, turned = np.linalg.eigh((delta + delta.T) / 2)
    return Step("easy", 1 / grow[-1], basis @ turned[:, sizes > 1e-2 * sizes[-1]])


def staircase(channel: Channel, nodes: int = 8192) -> list[Step]:
    """All steps, each given that what came before is known exactly; the last may be hard.

    >>> from opu_dfa.theory.inference.index_channels import Staircase
    >>> [(step.kind, round(float(step.alpha), 2), step.directions.shape[1]) for step in staircase(Staircase())]
    [('easy', 0.58, 1), ('easy', 2.47, 2)]
    """
    known = np.zeros((channel.size, channel.size))
    steps: list[Step] = []
    while round(float(np.trace(known))) < channel.size:
        steps.append(weak_recovery(channel, known, nodes))
        if steps[-1].kind == "hard":
            break
        known = known + steps[-1].directions @ steps[-1].directions.T
    return steps


def control(channel: Channel, m: float, direction: Array | None = None) -> float:
    """α of which an overlap m of one direction (the first), or of m times a projector P, is a fixed point.

        α = m / ((1 - m) q̂(m)),   Î(m P) = q̂ P

    Weights are N(0, 1). Where it falls with m the fixed point is unstable, and where it turns is a spinodal.

    >>> from opu_dfa.theory.inference.index_channels import SignProduct
    >>> round(control(SignProduct(), 0.64384, np.eye(2)), 3)
    4.0
    """
    p = channel.size
    projector = np.diag(np.arange(p) < 1).astype(float) if direction is None else direction
    found = channel.information(m * projector, np.eye(p))
    strength = float((found * projector).sum() / projector.sum())
    return m / ((1 - m) * strength)


def fixed_overlap(
    channel: Channel, alpha: float, direction: Array | None = None, informed: bool = False, points: int = 60
) -> float:
    """The overlap of one direction (or m P) that message passing comes to, from nothing or from the truth.

    The first m, from below or from above, at which `control` crosses α; 1 if it is below α to the end.

    >>> from opu_dfa.theory.inference.index_channels import SignProduct
    >>> [round(fixed_overlap(SignProduct(), alpha, np.eye(2)), 4) for alpha in (2.4, 4.0)]
    [0.0, 0.6438]
    """
    grid = np.append(np.linspace(1e-4, 0.995, points), 0.9999)
    if informed:
        grid = grid[::-1]
    above = np.array([control(channel, float(m), direction) for m in grid]) > alpha
    if informed:
        if not above[0]:
            return 1.0
        crossed = np.flatnonzero(~above)
    else:
        if above[0]:
            return 0.0
        crossed = np.flatnonzero(above)
    if not len(crossed):
        return 0.0 if informed else 1.0
    ends = sorted((float(grid[crossed[0] - 1]), float(grid[crossed[0]])))
    return float(optimize.brentq(lambda m: control(channel, m, direction) - alpha, *ends, xtol=1e-9))


def _drawn(channel: Channel, overlap: Array, v: Array, nodes: int) -> tuple[Array, Array]:
    """Labels, and what is known of their fields, `(nodes, L, p)`."""
    count = channel.tokens * channel.size
    shape = (nodes, channel.tokens, channel.size)
    draws = sobol(2 * count + channel.noises, nodes).nodes
    omega = draws[:, :count].reshape(shape) @ root(overlap)
    z = omega + draws[:, count : 2 * count].reshape(shape) @ root(v)
    return channel.labels(z, draws[:, 2 * count :]), omega
