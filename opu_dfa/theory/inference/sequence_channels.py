"""Channels of labels that tell their fields up to a sign: phase retrieval, and attention with tied weights.

Attention mixes L tokens with weights that depend on them; given its output the last layer's fields are known but for a
sign, given those of the layer before. (Troiani, Cui, Dandi, Krzakala and Zdeborová, 2502.00901.)
"""

from __future__ import annotations

import numpy as np
from scipy import special

from opu_dfa.errors import ConfigError
from opu_dfa.theory.gaussian import panels
from opu_dfa.theory.inference.channels import Channel
from opu_dfa.theory.inference.index_channels import lengths
from opu_dfa.theory.inference.priors import nodes as gaussian_nodes

Array = np.ndarray
_LEAST = 1e-300
_REACH = 6.0  # standard deviations of a grid
_CHUNK = 2_000_000  # points of grids that are held at once


class UpToSign(Channel):
    """Labels that tell the L fields of one output up to their common sign: z = ±s(y).

    g = (s tanh(s·ω/V) - ω)/V, and Î = (E |s|² tanh² - L M)/V², an integral over |s| and the noise along s.
    """

    def fields(self, y: Array) -> Array:
        """s, `(n, L)`."""
        raise NotImplementedError

    def score(self, y: Array, omega: Array, v: Array) -> Array:
        s = self.fields(y)
        along = np.einsum("nl,nl->n", s, omega[:, :, 0]) / v[0, 0]
        return np.asarray((s * np.tanh(along)[:, None] - omega[:, :, 0]) / v[0, 0])[:, :, None]

    def outcomes(self, nodes: int = 16_384) -> tuple[Array, Array]:
        rule = gaussian_nodes(self.tokens)
        # Turned, so that no two tokens of a grid are equal.
        turn = np.linalg.qr(np.random.default_rng(0).standard_normal((self.tokens, self.tokens)))[0]
        return self.labels((rule.nodes @ turn)[:, :, None], np.empty(0)), rule.weights

    def curvature(self, y: Array, omega: Array, v: Array) -> Array:
        s, g = self.fields(y), self.score(y, omega, v)[:, :, 0]
        along = np.einsum("nl,nl->n", s, omega[:, :, 0]) / v[0, 0]
        slope = s[:, :, None] * s[:, None] / (np.cosh(np.minimum(np.abs(along), 300.0)) ** 2)[:, None, None]
        return np.asarray(slope / v[0, 0] ** 2 - np.eye(self.tokens) / v[0, 0] + g[:, :, None] * g[:, None])

    def information(self, overlap: Array, second: Array, nodes: int = 16_384) -> Array:
        m, v = float(overlap[0, 0]), float(second[0, 0] - overlap[0, 0])
        variance = float(second[0, 0])
        length, weights = lengths(self.tokens, min(1.0, v / variance))
        length = length * np.sqrt(variance)
        noise = panels()
        along = (m / variance * length**2)[:, None] + np.sqrt(m * v / variance) * length[:, None] * noise.nodes
        # By Nishimori E tanh² = E tanh, and 1 - tanh loses no digits where V is small.
        missed = 2 / (1 + np.exp(np.minimum(2 * along / v, 700.0)))
        lost = float((weights * length**2) @ missed @ noise.weights)
        return np.array([[(self.tokens * v - lost) / v**2]])


class PhaseRetrieval(UpToSign):
    """y = z².

    >>> float(PhaseRetrieval().information(np.array([[0.01]]), np.eye(1))[0, 0].round(4))
    0.0193
    """

    def labels(self, z: Array, noise: Array) -> Array:
        return np.asarray(z[:, 0, 0] ** 2)

    def fields(self, y: Array) -> Array:
        return np.sqrt(y)[:, None]


class AttentionOneLayer(UpToSign):
    """y = softmax(z zᵀ), row by row, of L >= 2 tokens; `(n, L, L)`.

    With a_ij = log y_ij - log y_ii = z_i(z_j - z_i) the difference of two tokens is (z_i - z_j)² = -(a_ij + a_ji).

    Raises:
        ConfigError: less than two tokens, of which the softmax is 1.

    >>> z = np.array([[[0.3], [-1.2], [0.5]]])
    >>> channel = AttentionOneLayer(3)
    >>> np.abs(channel.fields(channel.labels(z, None))).round(6).tolist()
    [[0.3, 1.2, 0.5]]
    """

    def __init__(self, tokens: int = 2) -> None:
        if tokens < 2:
            raise ConfigError(f"attention is among two tokens or more, got {tokens}; of one it is 1 whatever the field")
        self.tokens = tokens

    def labels(self, z: Array, noise: Array) -> Array:
        return np.asarray(special.softmax(z @ z.swapaxes(1, 2), axis=2))

    def fields(self, y: Array) -> Array:
        a = np.log(np.maximum(y, _LEAST))
        a = a - np.diagonal(a, axis1=1, axis2=2)[:, :, None]
        n, tokens = np.arange(len(a)), self.tokens
        apart = -(a + a.swapaxes(1, 2))
        first, second = np.divmod(apart.reshape(len(a), -1).argmax(axis=1), tokens)
        gap = np.sqrt(np.maximum(apart[n, first, second], _LEAST))  # of the two that are farthest apart
        one, other = -a[n, first, second] / gap, a[n, second, first] / gap
        # The rest from whichever of the two is larger: z_k = z_i + a_ik / z_i.
        known = np.where(np.abs(one) > np.abs(other), first, second)
        base = np.where(np.abs(one) > np.abs(other), one, other)
        s = base[:, None] + a[n, known] / np.where(base == 0, _LEAST, base)[:, None]
        s[n, first], s[n, second] = one, other
        return s


class AttentionTwoLayers(Channel):
    """y = softmax(h hᵀ), h = (softmax(z₁ z₁ᵀ) + c) z₂, of two tokens; fields (z₁, z₂) of the layers, skip c.

    With A(z₁) the mixing, z₂ = ±A⁻¹h is known given z₁, so that the posterior is an integral over z₁,

        P(y | ω, V) ∝ ∫ dz₁ Σ_± N(z₁, ±A⁻¹h; ω, V) / det A

    on a grid of `nodes` by `nodes` midpoints around ω₁, which must be fine where z₂ is known well.

    Raises:
        ConfigError: a skip connection that is not positive, without which A has no inverse where tokens are equal.
    """

    size = 2
    tokens = 2

    def __init__(self, skip: float = 1.0, nodes: int = 31) -> None:
        if not skip > 0:
            raise ConfigError(f"the skip connection is positive, got {skip}")
        self.skip, self.nodes = skip, nodes
        self._last = AttentionOneLayer(2)

    def labels(self, z: Array, noise: Array) -> Array:
        one, two = z[:, 0], z[:, 1]
        a, b, _ = self._mixing(one[:, 0], two[:, 0])
        h = np.stack([(a + self.skip) * one[:, 1] + (1 - a) * two[:, 1]], 1)
        h = np.column_stack([h, (1 - b) * one[:, 1] + (b + self.skip) * two[:, 1]])
        return self._last.labels(h[:, :, None], noise)

    def score(self, y: Array, omega: Array, v: Array) -> Array:
        return np.concatenate([self._moments(*part, v)[0] for part in self._parts(y, omega)])

    def curvature(self, y: Array, omega: Array, v: Array) -> Array:
        return np.concatenate([self._moments(*part, v, second=True)[1] for part in self._parts(y, omega)])

    def outcomes(self, nodes: int = 16_384) -> tuple[Array, Array]:
        count = int(np.sqrt(nodes))
        reach = _REACH * (1 + self.skip)
        at = (np.arange(count) + 0.5) / count * 2 * reach - reach
        aside = at + reach / (2 * count)  # tokens that are equal have labels which do not tell them
        h = np.stack(np.meshgrid(at[at > 0], aside, indexing="ij"), -1).reshape(-1, 2)
        y = self._last.labels(h[:, :, None], np.empty(0))
        y = y[(y > _LEAST).all(axis=(1, 2))]
        parts = self._parts(y, np.zeros((len(y), 2, 2)))
        weights = np.concatenate([self._moments(*part, np.eye(2))[2] for part in parts])
        return y, weights / weights.sum()

    def _mixing(self, one: Array, two: Array) -> tuple[Array, Array, Array]:
        """Attention of each token to itself, and det A."""
        a, b = special.expit(one * (one - two)), special.expit(two * (two - one))
        return a, b, (1 + self.skip) * (a + b - 1 + self.skip)

    def _parts(self, y: Array, omega: Array) -> list[tuple[Array, Array]]:
        count = max(1, _CHUNK // self.nodes**2)
        return [(y[i : i + count], omega[i : i + count]) for i in range(0, len(y), count)]

    def _moments(self, y: Array, omega: Array, v: Array, second: bool = False) -> tuple[Array, Array, Array]:
        """g, ∂g + g gᵀ if it is asked for, and P(y)."""
        h = self._last.fields(y)
        grid = ((np.arange(self.nodes) + 0.5) / self.nodes * 2 - 1) * _REACH
        chance = np.exp(-(grid**2) / 2)
        chance = np.outer(chance, chance).ravel() / chance.sum() ** 2
        spread = np.sqrt(max(float(v[0, 0]), _LEAST))
        off = spread * np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
        one, two = omega[:, :1, 0] + off[:, 0], omega[:, 1:, 0] + off[:, 1]  # z₁ of the tokens, (n, grid)
        a, b, det = self._mixing(one, two)
        first = ((b + self.skip) * h[:, :1] - (1 - a) * h[:, 1:]) / det
        other = ((a + self.skip) * h[:, 1:] - (1 - b) * h[:, :1]) / det
        slope = v[1, 0] / spread**2
        rest = v[1, 1] - v[1, 0] * slope
        centre = omega[:, :, 1, None] + slope * off.T  # of z₂ given z₁
        up, down = (
            ((sign * first - centre[:, 0]) ** 2 + (sign * other - centre[:, 1]) ** 2) / (-2 * rest) for sign in (1, -1)
        )
        top = np.maximum(up, down).max(axis=1, keepdims=True)
        scale = chance / det
        up, down = np.exp(up - top) * scale, np.exp(down - top) * scale
        total = (up + down).sum(axis=1, keepdims=True)
        evidence = total[:, 0] * np.exp(top[:, 0]) / (2 * np.pi * rest)
        both, odd = (up + down) / total, (up - down) / total
        inverse = np.linalg.inv(v)
        mean = np.stack([both @ off[:, 0], both @ off[:, 1]], 1)
        seen = np.stack([(odd * first).sum(1), (odd * other).sum(1)], 1) - omega[:, :, 1]
        g = np.stack([mean, seen], 2) @ inverse
        if not second:
            return g, g, evidence
        n = len(g)
        moment = np.zeros((n, 4, 4))
        for sign, weights in ((1, up / total), (-1, down / total)):
            parts = np.broadcast_to(off.T, (n, *off.T.shape))
            ends = np.stack([sign * first, sign * other], 1) - omega[:, :, 1, None]
            offsets = np.concatenate([parts[:, :1], ends[:, :1], parts[:, 1:], ends[:, 1:]], 1)  # token, layer
            moment += np.einsum("nk,nik,njk->nij", weights, offsets, offsets, optimize=True)
        turn = np.kron(np.eye(2), inverse)
        return g, turn @ moment @ turn - turn, evidence
