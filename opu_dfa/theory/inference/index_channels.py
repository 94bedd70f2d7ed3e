"""Channels of multi-index models: labels that are a function of a few fields, mostly without noise.

Given y the fields lie on a curve or on a few points, so scores are sums over branches or integrals of one variable.
(Troiani et al. 2405.15480.)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy import special

from opu_dfa.errors import ConfigError
from opu_dfa.theory.gaussian import panels, root, sobol
from opu_dfa.theory.inference.channels import Channel

Array = np.ndarray
_REACH = 9.0  # standard deviations of a field
_LEAST = 1e-300


class SignProduct(Channel):
    """y = sign(z₁ z₂).

    P(y) is an orthant probability of two normal variables, by Owen's T; g = ∇ log P.

    >>> float(SignProduct().information(0.5 * np.eye(2), np.eye(2))[0, 0].round(5))
    0.27992
    """

    size = 2

    def labels(self, z: Array, noise: Array) -> Array:
        return np.sign(z[:, 0, 0] * z[:, 0, 1])

    def score(self, y: Array, omega: Array, v: Array) -> Array:
        chance, slope = same_sign(omega[:, 0], v)
        chance = np.where(y > 0, chance, 1 - chance)
        return np.asarray((y / np.maximum(chance, 1e-15))[:, None] * slope)[:, None]

    def curvature(self, y: Array, omega: Array, v: Array) -> Array:
        if omega.any() or (v != np.eye(2)).any():
            return super().curvature(y, omega, v)
        return 2 / np.pi * y[:, None, None] * np.array([[0.0, 1.0], [1.0, 0.0]])

    def outcomes(self, nodes: int = 16_384) -> tuple[Array, Array]:
        return np.array([1.0, -1.0]), np.array([0.5, 0.5])

    def information(self, overlap: Array, second: Array, nodes: int = 16_384) -> Array:
        if abs(overlap[0, 1]) > 1e-12 or abs(second[0, 1]) > 0:
            return super().information(overlap, second, nodes)
        parts = []
        for m, v in zip(np.diag(overlap), np.diag(second - overlap), strict=True):
            rule = panels(width=min(1.0, np.sqrt(v / max(m, _LEAST))))
            rule = type(rule)(rule.nodes[rule.nodes > 0], 2 * rule.weights[rule.nodes > 0])
            t = np.sqrt(m) * rule.nodes / np.sqrt(v)
            density = np.exp(-t * t / 2) / np.sqrt(2 * np.pi * v)
            parts.append((rule.weights, density, special.erf(t / np.sqrt(2)), special.erfc(t / np.sqrt(2))))
        (w1, n1, e1, c1), (w2, n2, e2, c2) = parts
        unlike = c1[:, None] + c2 - np.outer(c1, c2)  # 1 - e1 e2, to all digits
        both = 2 / (2 - unlike) + 2 / np.maximum(unlike, _LEAST)
        found = (w1 * n1**2) @ both @ (w2 * e2**2), (w1 * e1**2) @ both @ (w2 * n2**2)
        return np.diag(np.array(found))


class Product(Channel):
    """y = z₁ z₂: given y, z₁ = ±√|y| eᵗ, an integral over t."""

    size = 2

    def __init__(self, nodes: int = 160) -> None:
        self.nodes = nodes

    def labels(self, z: Array, noise: Array) -> Array:
        return np.asarray(z[:, 0, 0] * z[:, 0, 1])

    def score(self, y: Array, omega: Array, v: Array) -> Array:
        scale = np.sqrt(np.maximum(np.abs(y), _LEAST))[:, None]
        reach = _REACH * np.sqrt(np.diagonal(v)) + np.abs(omega[:, 0]) + scale
        low, high = -np.log(reach[:, 1:] / scale), np.log(reach[:, :1] / scale)
        t = low + (high - low) * (np.arange(self.nodes) + 0.5) / self.nodes
        one = scale * np.exp(t)
        other = np.sign(y)[:, None] * scale * np.exp(-t)
        offsets = np.stack([np.concatenate([one, -one], 1), np.concatenate([other, -other], 1)], -1) - omega
        return _weighted(offsets, v)

    def curvature(self, y: Array, omega: Array, v: Array) -> Array:
        if omega.any() or (v != np.eye(2)).any():
            return super().curvature(y, omega, v)
        size = np.abs(y)
        same = np.where(size > 0, size * special.k1e(size) / special.k0e(np.maximum(size, _LEAST)), 0.0) - 1
        return np.stack([np.stack([same, y], -1), np.stack([y, same], -1)], -1)

    def outcomes(self, nodes: int = 16_384) -> tuple[Array, Array]:
        s = np.linspace(-60, 4.5, 4000)  # |y| = eˢ, of density K₀(|y|) / π
        weights = special.k0(np.exp(s)) * np.exp(s)
        weights = np.concatenate([weights, weights])
        return np.concatenate([np.exp(s), -np.exp(s)]), weights / weights.sum()


class SquaredNorm(Channel):
    """y = |z|²/p: given y, z lies on a sphere; in two dimensions by angles, in more by fixed Sobol directions."""

    def __init__(self, size: int = 2, nodes: int = 512) -> None:
        if size < 2:
            raise ConfigError(f"a squared norm is of p >= 2 fields, got {size}; of one it is PhaseRetrieval")
        self.size, self.nodes = size, nodes

    def labels(self, z: Array, noise: Array) -> Array:
        return np.asarray((z[:, 0] ** 2).mean(axis=1))

    def score(self, y: Array, omega: Array, v: Array) -> Array:
        offsets = np.sqrt(self.size * y)[:, None, None] * _directions(self.size, self.nodes) - omega
        return _weighted(offsets, v)

    def curvature(self, y: Array, omega: Array, v: Array) -> Array:
        if omega.any() or (v != np.eye(self.size)).any():
            return super().curvature(y, omega, v)
        return (y[:, None, None] - 1) * np.eye(self.size)

    def outcomes(self, nodes: int = 16_384) -> tuple[Array, Array]:
        length, weights = lengths(self.size)
        return length**2 / self.size, weights


class Staircase(Channel):
    """y = z₁² + sign(z₁ z₂ z₃): four values of z₁ are left, and of each a sign of z₂ z₃."""

    size = 3

    def labels(self, z: Array, noise: Array) -> Array:
        return np.asarray(z[:, 0, 0] ** 2 + np.sign(z[:, 0].prod(axis=1)))

    def score(self, y: Array, omega: Array, v: Array) -> Array:
        spread = max(float(v[0, 0]), _LEAST)
        slope = v[1:, 0] / spread
        rest = v[1:, 1:] - spread * np.outer(slope, slope)
        logs, gradients = [], []
        for sign, side, off, density in self._places(y, omega[:, 0, 0], spread):
            chance, up = same_sign(omega[:, 0, 1:] + off[:, None] * slope, rest)
            chance = np.maximum(chance if sign == side else 1 - chance, 1e-15)
            up = up * sign * side / chance[:, None]
            logs.append(density + np.log(chance))
            gradients.append(np.column_stack([off / spread - up @ slope, up]))
        weights = special.softmax(np.array(logs), axis=0)
        return np.einsum("an,ani->ni", weights, np.array(gradients))[:, None]

    def outcomes(self, nodes: int = 16_384) -> tuple[Array, Array]:
        z = panels([np.sqrt(2), -np.sqrt(2)], order=24)
        return np.concatenate([z.nodes**2 + 1, z.nodes**2 - 1]), np.concatenate([z.weights, z.weights]) / 2

    def information(self, overlap: Array, second: Array, nodes: int = 16_384) -> Array:
        m = float(overlap[0, 0])
        if np.abs(overlap - np.diag([m, 0, 0])).max() > 1e-3 or (second != np.eye(3)).any():
            return super().information(overlap, second, nodes)
        # Of z₂ and z₃ next to nothing is known, and each sign is as likely.
        z, noise = panels([np.sqrt(2), -np.sqrt(2)], order=24), panels(order=6)
        omega = m * z.nodes[:, None] + np.sqrt(m * (1 - m)) * noise.nodes
        found = 0.0
        for sign in (1, -1):
            y = np.broadcast_to((z.nodes**2 + sign)[:, None], omega.shape)
            places = self._places(y, omega, 1 - m)
            weights = special.softmax(np.array([place[3] for place in places]), axis=0)
            mean = sum(w * place[2] for w, place in zip(weights, places, strict=True))
            found += float(z.weights @ mean**2 @ noise.weights) / 2
        return np.diag([found / (1 - m) ** 2, 0.0, 0.0])

    def _places(self, y: Array, omega: Array, v: float) -> list[tuple[int, int, Array, Array]]:
        """Sign of z₁ z₂ z₃, that of z₁, z₁ - ω₁ and the log of its density, of the four values of z₁."""
        found = []
        for sign, side in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            square = np.maximum(y - sign, _LEAST)
            off = side * np.sqrt(square) - omega
            log = np.where(y > sign, -(off**2) / (2 * v) - np.log(square) / 2, -np.inf)
            found.append((sign, side, off, log))
        return found


class MonteCarlo(Channel):
    """Any law of labels of p fields, by the likelihood of fixed draws of N(ω, V).

    Args:
        link: y of fields `(n, p)` and noise `(n, noises)`.
        likelihood: P(y | z) up to a factor, of labels `(n, 1)` and fields `(n, draws, p)`, `(n, draws)`.

    >>> parity = MonteCarlo(3, lambda z, _: np.sign(z.prod(1)), lambda y, z: y == np.sign(z.prod(2)))
    >>> parity.score(np.array([1.0]), np.full((1, 1, 3), 9.0), np.eye(3)).round(3).tolist()
    [[[0.0, 0.0, 0.0]]]
    """

    def __init__(
        self,
        size: int,
        link: Callable[[Array, Array], Array],
        likelihood: Callable[[Array, Array], Array],
        noises: int = 0,
        draws: int = 512,
    ) -> None:
        self.size, self.noises, self.draws = size, noises, draws
        self.link, self.likelihood = link, likelihood

    def labels(self, z: Array, noise: Array) -> Array:
        return np.asarray(self.link(z[:, 0], noise))

    def score(self, y: Array, omega: Array, v: Array) -> Array:
        offsets = sobol(self.size, self.draws).nodes @ root(v)
        weights = np.asarray(self.likelihood(y[:, None], omega + offsets), dtype=np.float64)
        total = np.maximum(weights.sum(axis=1, keepdims=True), _LEAST)
        return np.asarray((weights @ offsets / total) @ np.linalg.inv(v))[:, None]


def same_sign(omega: Array, v: Array) -> tuple[Array, Array]:
    """P(z₁ z₂ > 0) of z ~ N(ω, V), `(n,)`, and its gradient in ω, `(n, 2)`; ω is `(n, 2)`."""
    spread = np.sqrt(np.maximum(np.diagonal(v), _LEAST))
    h, k = (omega / spread).T
    r = float(np.clip(v[0, 1] / (spread[0] * spread[1]), -1 + 1e-12, 1 - 1e-12))
    free = np.sqrt(1 - r * r)
    h, k = np.where(h == 0, 1e-30, h), np.where(k == 0, 1e-30, k)
    across, along = (k - r * h) / free, (h - r * k) / free
    chance = (h * k > 0) - 2 * special.owens_t(h, across / h) - 2 * special.owens_t(k, along / k)
    gradient = np.stack(
        [
            np.exp(-h * h / 2) * special.erf(across / np.sqrt(2)) / spread[0],
            np.exp(-k * k / 2) * special.erf(along / np.sqrt(2)) / spread[1],
        ],
        axis=1,
    ) / np.sqrt(2 * np.pi)
    return np.clip(chance, 0.0, 1.0), np.asarray(gradient)


def _weighted(offsets: Array, v: Array) -> Array:
    """g where z - ω is one of offsets `(n, nodes, p)`, as likely as N(0, V) is there."""
    inverse = np.linalg.inv(v)
    turned = offsets @ inverse
    weights = special.softmax(-np.einsum("nki,nki->nk", offsets, turned) / 2, axis=1)
    return np.asarray(np.einsum("nk,nki->ni", weights, turned))[:, None]


@lru_cache
def _directions(size: int, nodes: int) -> Array:
    """Unit vectors that cover the sphere."""
    if size == 2:
        angle = 2 * np.pi * (np.arange(nodes) + 0.5) / nodes
        return np.column_stack([np.cos(angle), np.sin(angle)])
    draws = sobol(size, nodes).nodes
    return np.asarray(draws / np.linalg.norm(draws, axis=1, keepdims=True))


def lengths(size: int, width: float = 1.0) -> tuple[Array, Array]:
    """|z| of z ~ N(0, I), and weights."""
    rule = panels(width=width, order=24)
    r = rule.nodes[rule.nodes > 0]
    weights = rule.weights[rule.nodes > 0] * r ** (size - 1)
    return r, weights / weights.sum()
