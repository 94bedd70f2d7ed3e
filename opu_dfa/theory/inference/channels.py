"""Output channels y ~ P(y | z) of fields z = x·W, and what message passing asks of them.

Of a sample with L tokens and p outputs the fields are z `(L, p)`. Given that each is N(ω_l, V) before y is seen,

    score  g_l = V⁻¹ (E[z_l | y] - ω_l)        information  Î = E Σ_l g_l g_lᵀ,  ω ~ N(0, M), V = ρ - M

A channel that is matched to the labels has -E ∂g = E g gᵀ (Nishimori); that of a loss, g = V⁻¹(prox - ω), has not, and
says its slope itself. Near ω = 0 a matched score is E[z | y] + G(y) ω, with the curvature G = E[zzᵀ | y] - I.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from scipy import special

from opu_dfa.theory.gaussian import panels, root, sobol

Array = np.ndarray
_STEP = 2e-3  # of differences, in standard deviations of z


class Channel(ABC):
    """A law of labels. All fields are `(n, tokens, p)`.

    Attributes:
        size: p. tokens: L. noises: random numbers of N(0, 1) that a label takes besides its fields.
    """

    size: int = 1
    tokens: int = 1
    noises: int = 0

    @abstractmethod
    def labels(self, z: Array, noise: Array) -> Array:
        """y, `(n, ...)`, of fields and of noise `(n, noises)`."""

    @abstractmethod
    def score(self, y: Array, omega: Array, v: Array) -> Array:
        """g, in the shape of ω; V is `(p, p)`."""

    def stiffness(self, y: Array, omega: Array, v: Array) -> Array | None:
        """-Σ_l ∂g_l/∂ω_l of each sample, `(n, p, p)`, of a channel that is not matched; else nothing."""
        return None

    def curvature(self, y: Array, omega: Array, v: Array) -> Array:
        """∂g + g gᵀ of a matched channel, `(n, Lp, Lp)`: G(y) at ω = 0, V = 1. By differences, to seven digits."""
        n, count = len(omega), self.tokens * self.size
        steps = np.tile(_STEP * np.sqrt(np.diagonal(v)), self.tokens)
        g = self.score(y, omega, v).reshape(n, count)
        found = g[:, :, None] * g[:, None]
        for k, step in enumerate(steps):
            shift = (step * np.eye(count)[k]).reshape(1, self.tokens, self.size)
            near, far = (
                (self.score(y, omega + times * shift, v) - self.score(y, omega - times * shift, v)) / (2 * times * step)
                for times in (1, 2)
            )
            found[:, :, k] += ((4 * near - far) / 3).reshape(n, count)
        return np.asarray((found + found.swapaxes(1, 2)) / 2)

    def outcomes(self, nodes: int = 16_384) -> tuple[Array, Array]:
        """Labels of z ~ N(0, I) and their weights, which sum to 1: a quadrature of labels."""
        count = self.tokens * self.size
        draws = sobol(count + self.noises, nodes).nodes
        z = draws[:, :count].reshape(nodes, self.tokens, self.size)
        return self.labels(z, draws[:, count:]), np.full(nodes, 1 / nodes)

    def sample(self, rng: np.random.Generator, z: Array) -> Array:
        """Labels of fields."""
        return self.labels(z, rng.standard_normal((len(z), self.noises)))

    def information(self, overlap: Array, second: Array, nodes: int = 16_384) -> Array:
        """Î `(p, p)` at an overlap M and ρ = E zzᵀ, on Sobol points, the same ones for every M."""
        count = self.tokens * self.size
        draws = sobol(2 * count + self.noises, nodes).nodes
        shape = (nodes, self.tokens, self.size)
        v = second - overlap
        omega = draws[:, :count].reshape(shape) @ root(overlap)
        z = omega + draws[:, count : 2 * count].reshape(shape) @ root(v)
        g = self.score(self.labels(z, draws[:, 2 * count :]), omega, v)
        found = np.einsum("nli,nlj->ij", g, g) / nodes
        return np.asarray((found + found.T) / 2)


class GaussianNoise(Channel):
    """y = z + √Δ ξ of one output.

    >>> float(GaussianNoise(0.5).information(np.array([[0.2]]), np.eye(1))[0, 0].round(6))
    0.769231
    """

    noises = 1

    def __init__(self, variance: float) -> None:
        self.variance = variance

    def labels(self, z: Array, noise: Array) -> Array:
        return np.asarray(z[:, 0] + np.sqrt(self.variance) * noise)

    def score(self, y: Array, omega: Array, v: Array) -> Array:
        return np.asarray((y[:, None] - omega) / (self.variance + v[0, 0]))

    def information(self, overlap: Array, second: Array, nodes: int = 16_384) -> Array:
        return np.array([[1 / (self.variance + second[0, 0] - overlap[0, 0])]])


class Sign(Channel):
    """y = sign(z + √Δ ξ) of one output: probit labels."""

    noises = 1

    def __init__(self, variance: float = 0.0) -> None:
        self.variance = variance

    def labels(self, z: Array, noise: Array) -> Array:
        return np.sign(z[:, 0] + np.sqrt(self.variance) * noise)

    def score(self, y: Array, omega: Array, v: Array) -> Array:
        scale = np.sqrt(v[0, 0] + self.variance)
        t = y[:, None] * omega / scale
        return np.asarray(y[:, None] * np.exp(-t * t / 2 - special.log_ndtr(t)) / (np.sqrt(2 * np.pi) * scale))

    def information(self, overlap: Array, second: Array, nodes: int = 16_384) -> Array:
        m, scale = float(overlap[0, 0]), float(np.sqrt(second[0, 0] - overlap[0, 0] + self.variance))
        rule = panels(width=min(1.0, scale / np.sqrt(max(m, 1e-300))))
        t = np.sqrt(m) * rule.nodes / scale
        density = [np.exp(-t * t - special.log_ndtr(side * t)) for side in (1, -1)]
        return np.array([[float(rule.weights @ sum(density)) / (2 * np.pi * scale**2)]])


class Softmax(Channel):
    """The softmax loss of K classes: g = V⁻¹(prox - ω) = e_y - softmax(prox), of W that minimises the loss and a ridge.

        prox = argmin_x -log softmax(x)_y + (x - ω)ᵀV⁻¹(x - ω)/2,   -∂g/∂ω = (I + H V)⁻¹ H,   H = ∇² of the loss there

    Labels are classes 0 ... K - 1, drawn with the probabilities softmax(z).

    >>> channel, y, omega = Softmax(3), np.array([0]), np.array([[[0.5, 0.0, -1.0]]])
    >>> g = channel.score(y, omega, np.eye(3))
    >>> x = omega + g  # the prox
    >>> bool(np.allclose(g[0, 0], [1, 0, 0] - special.softmax(x[0, 0])))
    True
    """

    _steps, _reach = 100, 4.0  # of Newton's method, and how far a step may go

    def __init__(self, classes: int) -> None:
        self.size = self.noises = classes

    def labels(self, z: Array, noise: Array) -> Array:
        gumbel = -np.log(-special.log_ndtr(noise))
        return np.asarray((z[:, 0] + gumbel).argmax(axis=1))

    def score(self, y: Array, omega: Array, v: Array) -> Array:
        return (np.eye(self.size)[y] - special.softmax(self._prox(y, omega[:, 0], v), axis=1))[:, None]

    def stiffness(self, y: Array, omega: Array, v: Array) -> Array:
        curve = self._curve(special.softmax(self._prox(y, omega[:, 0], v), axis=1))
        return np.asarray(np.linalg.solve(np.eye(self.size) + curve @ v, curve))

    def replicon(self, alpha: float, q: Array, v: Array, nodes: int = 16_384) -> float:
        """The factor by which the mean square of a small difference between two runs changes in a step.

        D ← α E (V G) D (V G)ᵀ, G = -∂g/∂ω, of labels that do not depend on x, at fields ω ~ N(0, Q): its leading
        eigenvalue. Below 1 runs forget where they came from (Çakmak, Lu and Opper, arXiv 2402.08676);
        overlaps themselves settle as the map of state evolution does, which may be slower.
        """
        omega = (sobol(self.size, nodes).nodes @ root(q))[:, None]
        total = np.zeros((self.size**2, self.size**2))
        for y in range(self.size):
            step = v @ self.stiffness(np.full(nodes, y), omega, v)
            total += np.einsum("nij,nkl->ikjl", step, step).reshape(total.shape) / (nodes * self.size)
        return alpha * float(np.abs(np.linalg.eigvals(total)).max())

    def _prox(self, y: Array, omega: Array, v: Array) -> Array:
        x, target = omega, np.eye(self.size)[y]
        for _ in range(self._steps):
            p = special.softmax(x, axis=1)
            left = omega - x + (target - p) @ v
            move = np.linalg.solve(np.eye(self.size) + v @ self._curve(p), left[:, :, None])[:, :, 0]
            length = np.linalg.norm(move, axis=1, keepdims=True)
            x = x + move * np.minimum(1.0, self._reach / np.maximum(length, 1e-300))
            if length.max() < 1e-8:  # whose square is what is left
                break
        return np.asarray(x)

    @staticmethod
    def _curve(p: Array) -> Array:
        return np.asarray(p[:, :, None] * np.eye(p.shape[1]) - p[:, :, None] * p[:, None])
