"""Dot-product attention that attends to where its tokens are, or to what they say.

    two tokens x_1, x_2 ~ N(0, σ² I_d) at the positions p_1 = p, p_2 = -p, |p| = 1
    student  S = softmax(h hᵀ), h_a = w·(x_a + p_a)/√d       teacher  T = (1 - ω) softmax(z zᵀ) + ω A, z_a = w*·x_a/√d

A's rows are (0.6, 0.4) and (0.4, 0.6), and w minimises Σ_μ |(S - T) X|²/(2d) + (λ/2)|w|² on n = αd samples. As |x_1 -
x_2|² → 2σ²d, a sample costs

    ℓ(h; t) = ρ Σ_a (s_a - t_a)²,   s_a = sigmoid(h_a² - h_1 h_2),   ρ = σ²

State evolution of q = σ²|w|²/d, m = p·w/√d, θ = σ² w·w*/d and V, with ξ, u ~ N(0, I_2), z = (θ/√q) ξ + √(ρ - θ²/q) u,
and the step Δ of the prox of V ℓ from √q ξ + (m, -m):

    q̂ = α E|Δ|²/V²   m̂ = α E(Δ_1 - Δ_2)/V   θ̂ = α E Δ·u / (V √(ρ - θ²/q))   V̂ = θ θ̂/q - α E Δ·ξ/(V √q)
    q = ρ (q̂ ρ + m̂² + ρ² θ̂²)/D²   m = m̂/D   θ = ρ² θ̂/D   V = ρ/D   D = λ + V̂ ρ

Prox jumps where both signs of h explain a sample as well: V̂ is by Stein's identity, which counts the jumps, and not by
the derivative, which does not. A branch has θ = 0, the positional one, or m = 0, the semantic one (Cui, Behrens,
Krzakala and Zdeborová, arXiv 2402.03902).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import optimize, special

from hardware.kernels import compiled
from opu_dfa.errors import ConfigError, NotConverged
from opu_dfa.theory.gaussian import sobol

Array = np.ndarray
Branch = Literal["positional", "semantic"]
POSITIONAL = 0.6  # weight of a token's own position in A
_NODES = 16_384
_FAR = 3.0  # residual of overlaps that no weights have


@dataclass(frozen=True)
class Attention:
    """σ of the tokens, ω of the teacher's positional part, and the ridge λ.

    Raises:
        ConfigError: σ or λ that is not positive, or ω outside [0, 1].
    """

    sigma: float = 0.5
    omega: float = 0.3
    ridge: float = 0.01

    def __post_init__(self) -> None:
        if not (0 < self.sigma < math.inf and 0 < self.ridge < math.inf and 0 <= self.omega <= 1):
            raise ConfigError(f"sigma > 0, a ridge > 0 and omega between 0 and 1 are wanted, got {self}")

    def targets(self, z: Array) -> Array:
        """The teacher's attention of each token to itself, `(n, 2)`, of its fields.

        >>> Attention(omega=1.0).targets(np.array([[3.0, -1.0]])).tolist()
        [[0.6, 0.6]]
        """
        return np.asarray((1 - self.omega) * own(z) + self.omega * POSITIONAL)

    def cost(self, h: Array, targets: Array) -> Array:
        """ℓ, `(n,)`, of the student's fields."""
        return np.asarray(self.sigma**2 * ((own(h) - targets) ** 2).sum(axis=1))

    def test(self, q: float, m: float, theta: float, nodes: int = _NODES) -> float:
        """E ℓ on new samples of a student with these overlaps."""
        _, fields, targets = self._fields(q, m, theta, nodes)
        return float(self.cost(fields, targets).mean())

    def branch(self, name: Branch, alpha: float, nodes: int = _NODES) -> Learned:
        """A fixed point of state evolution.

        Args:
            nodes: four times a power of two.

        Raises:
            ConfigError: α that is not positive, or another branch; NotConverged: it does not exist there.

        >>> found = Attention().branch("semantic", 2.0, nodes=2048)
        >>> round(found.q, 2), found.m, round(found.theta, 2), round(found.loss, 4)
        (0.11, 0.0, 0.16, 0.0036)
        """
        if name not in ("positional", "semantic") or not 0 < alpha < math.inf:
            raise ConfigError(f"branches are positional or semantic, of α = n/d > 0; got {name!r} and {alpha}")
        semantic = name == "semantic"

        def residual(logs: Array) -> Array:
            q, overlap, v = np.exp(logs)
            m, theta = (0.0, overlap) if semantic else (overlap, 0.0)
            if not theta**2 < self.sigma**2 * q:
                return np.full(3, _FAR)
            q, m, theta, v = self._evolve(q, m, theta, v, alpha, nodes)
            after = np.array([q, theta if semantic else m, v])
            return np.where(after > 0, np.log(np.maximum(after, 1e-300)) - logs, -_FAR)

        # The map turns the positional branch's perturbations over and enlarges them: its fixed point is a root.
        start = np.log(np.array([0.09, 0.13, 14.0] if semantic else [0.05, 0.25, 14.0]))
        done = optimize.root(residual, start, method="hybr", options={"eps": 1e-4, "xtol": 1e-9})
        left = float(np.abs(done.fun).max())
        if not left < 1e-4:  # jumps of prox are steps of a sum over nodes
            raise NotConverged(f"no {name} branch is found at α={alpha:g}: it may not exist there; raise α", left)
        q, overlap, v = (float(each) for each in np.exp(done.x))
        m, theta = (0.0, overlap) if semantic else (overlap, 0.0)
        _, fields, targets = self._fields(q, m, theta, nodes)
        trained = float(self.cost(self.prox(fields, targets, v), targets).mean())
        loss = alpha * trained + self.ridge * q / (2 * self.sigma**2)
        return Learned(q, m, theta, v, loss, float(self.cost(fields, targets).mean()))

    def prox(self, fields: Array, targets: Array, v: float) -> Array:
        """argmin_x |x - field|²/(2V) + ℓ(x), `(n, 2)`: the minimum that descent from the field ends in."""
        return _prox(np.ascontiguousarray(fields), np.ascontiguousarray(targets), v, self.sigma**2)

    def _fields(self, q: float, m: float, theta: float, nodes: int) -> tuple[Array, Array, Array]:
        """Normal variables (ξ, u), fields before the prox, and targets."""
        xi = _normal(nodes)
        z = theta / math.sqrt(q) * xi[:, :2] + math.sqrt(max(self.sigma**2 - theta**2 / q, 0.0)) * xi[:, 2:]
        return xi, math.sqrt(q) * xi[:, :2] + np.array([m, -m]), self.targets(z)

    def _evolve(
        self, q: float, m: float, theta: float, v: float, alpha: float, nodes: int
    ) -> tuple[float, float, float, float]:
        rho, rest = self.sigma**2, math.sqrt(max(self.sigma**2 - theta**2 / q, 1e-300))
        xi, fields, targets = self._fields(q, m, theta, nodes)
        move = self.prox(fields, targets, v) - fields
        scale = alpha / len(move)
        q_hat = scale * float((move * move).sum()) / v**2
        m_hat = scale * float((move[:, 0] - move[:, 1]).sum()) / v
        theta_hat = scale * float((move * xi[:, 2:]).sum()) / (v * rest)
        v_hat = theta * theta_hat / q - scale * float((move * xi[:, :2]).sum()) / (v * math.sqrt(q))
        d = self.ridge + v_hat * rho
        return (
            rho * (q_hat * rho + m_hat**2 + rho**2 * theta_hat**2) / d**2,
            m_hat / d,
            rho**2 * theta_hat / d,
            rho / d,
        )


@dataclass(frozen=True)
class Learned:
    """Overlaps of a branch; loss: what is minimised, per d; test: E ℓ on new samples."""

    q: float
    m: float
    theta: float
    v: float
    loss: float
    test: float


def own(h: Array) -> Array:
    """Each token's attention to itself, `(n, 2)`: softmax of h_a h_b over b."""
    return np.asarray(special.expit(h * (h - h[:, ::-1])))


@lru_cache
def _normal(nodes: int) -> Array:
    """(ξ, u) with all four signs of ξ and of u: branches stay what they are."""
    half = sobol(4, nodes // 2).nodes  # with their mirror images
    return np.concatenate([half, half * np.array([1, 1, -1, -1])])


@compiled
def _value(x, y, a, b, t1, t2, v, rho):  # type: ignore[no-untyped-def]
    s1 = 1 / (1 + math.exp(x * (y - x))) - t1
    s2 = 1 / (1 + math.exp(y * (x - y))) - t2
    return ((x - a) ** 2 + (y - b) ** 2) / (2 * v) + rho * (s1 * s1 + s2 * s2)


@compiled
def _prox(fields, targets, v, rho):  # type: ignore[no-untyped-def]
    """Newton's steps, uphill directions turned, halved until they descend."""
    out = np.empty_like(fields)
    for i in range(len(fields)):
        a, b = fields[i]
        t1, t2 = targets[i]
        x, y = a, b
        value = _value(x, y, a, b, t1, t2, v, rho)
        for _ in range(100):
            s1 = 1 / (1 + math.exp(x * (y - x)))
            s2 = 1 / (1 + math.exp(y * (x - y)))
            p1, p2 = s1 * (1 - s1), s2 * (1 - s2)
            f1, f2 = 2 * rho * (s1 - t1) * p1, 2 * rho * (s2 - t2) * p2  # by x² - xy, and by y² - xy
            c1 = 2 * rho * p1 * (p1 + (s1 - t1) * (1 - 2 * s1))
            c2 = 2 * rho * p2 * (p2 + (s2 - t2) * (1 - 2 * s2))
            u, w = 2 * x - y, 2 * y - x
            gx, gy = (x - a) / v + f1 * u - f2 * y, (y - b) / v + f2 * w - f1 * x
            hxx = 1 / v + c1 * u * u + 2 * f1 + c2 * y * y
            hyy = 1 / v + c2 * w * w + 2 * f2 + c1 * x * x
            hxy = -c1 * u * x - f1 - c2 * w * y - f2
            least = (hxx + hyy) / 2 - math.sqrt(((hxx - hyy) / 2) ** 2 + hxy * hxy)
            if least < 1e-3 / v:
                hxx += 0.1 / v - least
                hyy += 0.1 / v - least
            det = hxx * hyy - hxy * hxy
            dx, dy = (hxy * gy - hyy * gx) / det, (hxy * gx - hxx * gy) / det
            slope, share = gx * dx + gy * dy, 1.0
            after = _value(x + dx, y + dy, a, b, t1, t2, v, rho)
            while after > value + 1e-4 * share * slope + 1e-15 and share > 1e-9:
                share /= 2
                after = _value(x + share * dx, y + share * dy, a, b, t1, t2, v, rho)
            x, y, value = x + share * dx, y + share * dy, after
            if share * (abs(dx) + abs(dy)) < 1e-9:
                break
        out[i, 0], out[i, 1] = x, y
    return out
