"""Ising models with rotation-invariant couplings: message passing without memory, random spins at a time.

Magnetisations m = tanh(β h + γ) of spins with couplings J = O diag(s) Oᵀ, O a random rotation, are the fixed points of

    γ = A f(γ),   f(γ) = tanh(β h + γ) / χ - γ,   A = (λ - β J)⁻¹ / χ - 1,   χ = 1 - q,   tr (λ - β J)⁻¹ / N = χ.

tr A = 0 and E f' = 0, so the past of a spin does not act back on it: as N → ∞ the fields φ(t) = A f(γ(t - 1)) are
Gaussian, with covariances C(t, s) = a E f(γ(t - 1)) f(γ(s - 1)), a = tr A² / N. If in each step a random share η of
the γ_i is set to φ_i and the others are kept, these close for any η (`residuals`), and near the fixed point the mean
square error of γ changes by 1 - η (1 - μ) a step, μ = a E f'²: any share converges if and only if μ < 1, which is the
line of de Almeida and Thouless, for Gaussian couplings β² E (1 - m²)² < 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy import linalg, optimize

from opu_dfa.errors import ConfigError
from opu_dfa.theory.fixed_point import fixed_point
from opu_dfa.theory.gaussian import Rule, marchenko_pastur
from opu_dfa.theory.inference.iterate import History, iterate

Array = np.ndarray
Law = Literal["semicircle", "bimodal", "marchenko-pastur"]
_Z = np.arange(-9.5, 9.5, 0.02) + 0.01  # tanh is analytic: exact to rounding for fields of a deviation up to 5
_WEIGHTS = np.exp(-_Z * _Z / 2) / np.exp(-_Z * _Z / 2).sum()
_ORDERS = 160  # Hermite coefficients of f


@dataclass(frozen=True)
class Couplings:
    """The law of J's eigenvalues: on [-2, 2] (entries N(0, 1/N)), ±1 in equal parts, or of F Fᵀ / 2N, F of N x 2N."""

    law: Law = "semicircle"

    def __post_init__(self) -> None:
        if self.law not in get_args(Law):
            raise ConfigError(f"there is no spectrum {self.law!r}; choose one of {', '.join(get_args(Law))}")

    @property
    def spectrum(self) -> Rule:
        """A quadrature over the eigenvalues."""
        if self.law == "bimodal":
            return Rule(np.array([-1.0, 1.0]), np.array([0.5, 0.5]))
        if self.law == "marchenko-pastur":
            return marchenko_pastur(0.5, 400)
        angle = (np.arange(400) + 0.5) * math.pi / 400
        return Rule(2 * np.cos(angle), 2 * np.sin(angle) ** 2 / 400)

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """A matrix `(n, n)` of that spectrum."""
        if self.law == "semicircle":
            g = rng.standard_normal((n, n))
            return np.asarray((g + g.T) / math.sqrt(2 * n))
        if self.law == "marchenko-pastur":
            g = rng.standard_normal((n, 2 * n))
            return np.asarray(g @ g.T / (2 * n))
        # A projector on half of the directions: any basis of a random half of space.
        half = linalg.qr(rng.standard_normal((n, n // 2)), mode="economic", check_finite=False)[0]
        return np.asarray(2 * half @ half.T - np.eye(n))


@dataclass(frozen=True)
class Equilibrium:
    """Of a temperature and a field: overlap q, variance v of γ, shift λ, power a = tr A²/N, stability μ = a E f'².

    almeida: β² E (1 - m²)², of Gaussian couplings below 1 where μ is.
    """

    couplings: Couplings
    beta: float
    field: float
    q: float
    variance: float
    shift: float
    power: float
    stability: float
    almeida: float

    def activation(self, gamma: Array) -> Array:
        """f(γ), which has no divergence on average."""
        return np.asarray(np.tanh(self.beta * self.field + gamma) / (1 - self.q) - gamma)

    def matrix(self, j: Array) -> Array:
        """A of couplings J."""
        inverse = linalg.inv(self.shift * np.eye(len(j)) - self.beta * j, check_finite=False)
        return np.asarray(inverse / (1 - self.q) - np.eye(len(j)))

    def rate(self, share: float) -> float:
        """Theory's factor of the mean square error in a sweep of 1 / share steps: (1 - η (1 - μ))^{1/η}."""
        _share(share)
        return float((1 - share * (1 - self.stability)) ** (1 / share))


def equilibrium(couplings: Couplings, beta: float, field: float) -> Equilibrium:
    """The replica-symmetric state: q = E tanh²(β h + √v z), v = a / (1 + a) · q / χ².

    Raises:
        ConfigError: β or h are not positive.
        NotConverged: the iteration of q does not settle.

    >>> state = equilibrium(Couplings("semicircle"), beta=1.0, field=0.5)
    >>> round(state.q, 4), round(state.almeida, 4), round(state.stability, 4)
    (0.3025, 0.5534, 0.1303)
    """
    if not (0 < beta < math.inf and 0 < field < math.inf):
        raise ConfigError(f"the inverse temperature and the field are positive, got {beta} and {field}")
    s, weights = couplings.spectrum

    def of(q: float) -> tuple[float, float, float]:
        chi, top = 1 - q, beta * float(s.max())

        def excess(distance: float) -> float:
            return float(weights @ (1 / (top + distance - beta * s))) - chi

        shift = top + float(optimize.brentq(excess, 1e-13, 1e3 + 2 / chi, xtol=1e-15))
        power = float(weights @ (1 / (chi * (shift - beta * s)) - 1) ** 2)
        return power / (1 + power) * q / chi**2, shift, power

    def step(q: Array) -> Array:
        magnetisation = np.tanh(beta * field + math.sqrt(of(float(q[0]))[0]) * _Z)
        return np.array([_WEIGHTS @ magnetisation**2])

    q = float(fixed_point(step, np.array([0.0]), 1e-13, most=20_000, damping=1.0, memory=0).x[0])
    variance, shift, power = of(q)
    left = 1 - np.tanh(beta * field + math.sqrt(variance) * _Z) ** 2
    slope = float(_WEIGHTS @ (left / (1 - q) - 1) ** 2)
    almeida = beta**2 * float(_WEIGHTS @ left**2)
    return Equilibrium(couplings, beta, field, q, variance, shift, power, power * slope, almeida)


def residuals(state: Equilibrium, share: float, steps: int) -> Array:
    """Theory of E (φ_i(t + 1) - γ_i(t))², t = 0..steps, from γ(0) that is normal of variance v.

    A spin keeps the field of its last refresh. With F(c) = E f(γ) f(γ') of covariance c, and t > s,

        C(t, s) = a D(t-1, s-1),  D(t, s) = η Q(t, s) + (1-η) D(t-1, s),  Q(t, s) = η F(C(t, s)) + (1-η) Q(t, s-1),

    where D is of what two times hold and Q of a field just computed and what an earlier time holds.

    Raises:
        ConfigError: the share is not in (0, 1], or no step.

    >>> state = equilibrium(Couplings(), beta=1.0, field=0.5)
    >>> residuals(state, share=1.0, steps=3).round(4).tolist()
    [0.605, 0.034, 0.0042, 0.0006]
    """
    _share(share)
    if steps < 1:
        raise ConfigError(f"a step or more is wanted, got {steps}")
    v, squares = state.variance, _hermite_squares(state)
    same = v / state.power  # F(v)
    squares[-1] += same - squares.sum()  # or what is left out would be a floor of the residuals
    orders = np.arange(len(squares))

    def product(c: Array) -> Array:
        return np.asarray((np.clip(c / v, -1, 1)[..., None] ** orders) @ squares)

    d = np.zeros((steps + 2, steps + 2))
    d[0, 0] = same
    found = [2 * v]
    for t in range(1, steps + 2):
        c = np.concatenate([[0.0], state.power * d[t - 1, :t]])  # with γ(0), and with φ(1..t)
        fresh, held = product(c), np.empty(t)
        held[0], with_held = fresh[0], c[0]
        for s in range(1, t):
            held[s] = share * fresh[s] + (1 - share) * held[s - 1]
            with_held = share * c[s] + (1 - share) * with_held
        found.append(2 * (v - with_held))
        d[t, :t] = share * held + (1 - share) * d[t - 1, :t]
        d[t, t] = same
        d[:t, t] = d[t, :t]
    return np.array(found[1:])


def _hermite_squares(state: Equilibrium) -> Array:
    """Squares of the coefficients of f in normalised Hermite polynomials: F(c) = Σ_k a_k² (c / v)^k."""
    f = state.activation(math.sqrt(state.variance) * _Z)
    before, polynomial, squares = np.zeros_like(_Z), np.ones_like(_Z), []
    for k in range(_ORDERS):
        squares.append(float(_WEIGHTS @ (f * polynomial)) ** 2)
        before, polynomial = polynomial, (_Z * polynomial - math.sqrt(k) * before) / math.sqrt(k + 1)
    return np.array(squares)


def pass_messages(state: Equilibrium, j: Array, share: float, sweeps: int, rng: np.random.Generator) -> History:
    """Refresh random shares of the spins, 1 / share times a sweep; measured: mean m² and the residual, a sweep each.

    Raises:
        ConfigError: the share is not in (0, 1] or refreshes no spin of so few.
    """
    _share(share)
    n = len(j)
    part, times = round(share * n), round(1 / share)
    if part < 1 or sweeps < 1:
        raise ConfigError(f"a share of {share} of {n} spins is none; take a larger one, and a sweep or more")
    a = state.matrix(j)

    def sweep(at: tuple[Array]) -> tuple[Array]:
        gamma = at[0].copy()
        f = state.activation(gamma)
        for _ in range(times):
            chosen = rng.permutation(n)[:part] if part < n else slice(None)
            gamma[chosen] = a[chosen] @ f
            f[chosen] = state.activation(gamma[chosen])
        return (gamma,)

    def measure(at: tuple[Array]) -> Array:
        gamma = at[0]
        m = np.tanh(state.beta * state.field + gamma)
        return np.array([np.mean(m * m), np.mean((a @ state.activation(gamma) - gamma) ** 2)])

    start = math.sqrt(state.variance) * rng.standard_normal(n)
    return iterate(sweep, (start,), measure, most=sweeps, tolerance=0.0)


def _share(share: float) -> None:
    if not 0 < share <= 1:
        raise ConfigError(f"the share of spins refreshed in a step is in (0, 1], got {share}")
