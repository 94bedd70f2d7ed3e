"""Three layers against two and against a kernel: each learns what the one before has made low-dimensional."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import optimize

from opu_dfa.errors import ConfigError
from opu_dfa.studies.figures import draw_curves
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.erm.minimise import ridge_weights
from opu_dfa.theory.gaussian import sobol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray
_TEST = 2000


@dataclass(frozen=True)
class Point:
    """n = d^kappa fresh samples a layer, of y = tanh(3h), h = Σ_k ±(z_k² - 1) / √(2r) in r ≈ √d directions, z = W*x."""

    d: int = 36
    kappa: float = 2.0

    def __post_init__(self) -> None:
        if self.d < 4 or not 0 < self.kappa <= 4:
            raise ConfigError(f"d >= 4 and kappa from 0 to 4 are wanted, got {self}")

    @property
    def n(self) -> int:
        return max(2, round(self.d**self.kappa))

    @property
    def r(self) -> int:
        """Directions, as many of either sign."""
        return 2 * round(math.sqrt(self.d) / 2)


class Target(NamedTuple):
    """Draws of a target's law: z `(draws, r)`, as many other normal numbers, the signs of h, the feature h, and y."""

    z: Array
    other: Array
    signs: Array
    h: Array
    y: Array

    @property
    def linear(self) -> float:
        """(E y h)², the part of E y² that is linear in h; E h² = 1."""
        return float((self.y * self.h).mean() ** 2)

    @property
    def energy(self) -> float:
        return float((self.y**2).mean())


class Depth(Study[Point]):
    """Layers are trained one after the other, each by a step that theory solves, which is not how the paper trains its
    networks: W₁ are the extreme eigenvectors of Σ y x xᵀ (what gradient steps of quadratic neurons converge to), W₂ is
    ridge regression on the products of W₁ x, and the last layer one on relu neurons of the single feature. Two layers
    are the same without the last; gradient descent on all layers at once was not run.

    The paper's rates are n ~ d^(1+ε) for the first layer and d^(2ε) for a quadratic feature of d^ε directions. Here
    ε = 1/2: d^(3/2) is derived as the threshold of those eigenvectors, and r(r + 1)/2 ~ d/2 products are what the
    second layer fits. Around the threshold finite d blurs what theory has of d = ∞, and they are compared from four
    times it on.
    """

    title = "What depth gains: effective dimensions from d to √d to 1"
    paper = (
        "Dandi, Pesce, Zdeborová, Krzakala, The computational advantage of depth: learning high-dimensional "
        "hierarchical functions with gradient descent (arXiv 2502.13961)"
    )
    statement = (
        "Of a hierarchical target in √d directions the first layer learns the directions from n ~ d^(3/2) samples, the "
        "second then its one nonlinear feature from ~ d, and the third the function of it; a quadratic kernel takes "
        "n ~ d², and it and two layers stop at the part that is linear in the feature."
    )
    seeds = tuple(range(5))

    def sweep(self, size: Size) -> list[Point]:
        if size == "small":
            pairs = {16: (1.0, 1.4, 1.8, 2.2), 36: (1.0, 1.4, 1.8, 2.0, 2.2), 64: (1.0, 1.4, 1.75)}
            return [Point(d, kappa) for d, each in pairs.items() for kappa in each]
        kappas = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2)
        return [Point(d, kappa) for d in (36, 64, 100) for kappa in kappas if d < 100 or kappa < 2]

    def theory(self, point: Point) -> Values:
        law = target(point.r)
        aligned = alignment(law, point.n / point.d)
        aligned += (1 - aligned) * point.r / point.d  # of a direction by chance
        signal = law.linear * aligned**2  # a product of two directions loses twice
        two = excess(signal, law.energy, point.r * (point.r + 1) / 2, point.n)
        feature = aligned**2 * (1 - two / signal)
        wide = excess(law.linear, law.energy, point.d * (point.d + 1) / 2, point.n)
        return {
            "alignment": aligned,
            "feature": feature,
            "kernel": (law.energy - law.linear + wide) / law.energy,
            "two": (law.energy - signal + two) / law.energy,
            "three": unexplained(law, aligned, 1 - two / signal) / law.energy,
        }

    def experiment(self, point: Point, seed: int = 0) -> Values:
        rng, law = np.random.default_rng(seed), target(point.r)
        d, r, n = point.d, point.r, point.n
        true = np.linalg.qr(rng.standard_normal((d, r)))[0].T
        signs = np.tile([1.0, -1.0], r // 2)

        def drawn(number: int) -> tuple[Array, Array, Array]:
            x = rng.standard_normal((number, d))
            h = ((x @ true.T) ** 2 - 1) @ signs / math.sqrt(2 * r)
            return x, h, np.tanh(3 * h)

        (x1, _, y1), (x2, _, y2), (x3, _, y3), (x, h, y) = (drawn(k) for k in (n, n, n, _TEST))
        vectors = np.linalg.eigh((x1.T * y1) @ x1)[1]
        first = np.concatenate([vectors[:, : r // 2], vectors[:, -(r // 2) :]], axis=1)
        signal = float(self.theory(point)["alignment"]) ** 2 * law.linear
        second = ridge_weights(products(x2 @ first), y2, best_ridge(signal, law.energy, r * (r + 1) / 2))
        found, seen = products(x3 @ first) @ second, products(x @ first) @ second
        knots = np.quantile(found, np.linspace(0, 1, 20, endpoint=False))

        def relu(feature: Array) -> Array:
            scaled = np.maximum(feature[:, None] - knots, 0) / found.std()
            return np.column_stack([np.ones(len(feature)), scaled])

        third = ridge_weights(relu(found), y3, 1.0)
        wide = best_ridge(law.linear, law.energy, d * (d + 1) / 2)
        kernel = products(x) @ ridge_weights(products(x2), y2, wide)
        power = float((y**2).mean())
        return {
            "alignment": float(((true @ first) ** 2).sum() / r),
            "feature": float(np.corrcoef(seen, h)[0, 1] ** 2),
            "kernel": float(((y - kernel) ** 2).mean() / power),
            "two": float(((y - seen) ** 2).mean() / power),
            "three": float(((y - relu(seen) @ third) ** 2).mean() / power),
        }

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        samples = {r.point: r.point.n / r.point.d / threshold(target(r.point.r)) for r in results}
        above = [r for r in results if samples[r.point] > 4]
        below = [r for r in results if samples[r.point] < 0.5]
        if not above or not below:
            raise ConfigError("the claim compares few samples and many: leave kappa as the sweep has it")
        found = agreement(above, absolute=0.03)  # r and d are finite: 1/d at the least of them is 0.06
        last = max(above, key=lambda r: (r.point.kappa, r.point.d))
        kernel, two, three = (float(last.measured(key)[0]) for key in ("kernel", "two", "three"))
        law = target(last.point.r)
        floor = 1 - law.linear / law.energy
        blind = max(float(r.measured("feature")[0]) for r in below)
        seen = min(float(r.measured("feature")[0]) for r in above)
        detail = (
            f"below half of the predicted threshold in n the feature's squared correlation is {blind:.2f} at most, "
            f"above four times it {seen:.2f} or more; at d = {last.point.d}, n = {last.point.n} errors are "
            f"{kernel:.2f} of the kernel, {two:.2f} of two layers, {three:.2f} of three, and {floor:.2f} of all that "
            f"is linear in the feature; {found}"
        )
        return Claim(bool(found.holds and three < floor < min(kernel, two) and blind < 0.15 < seen), detail)

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((12, 4), layout="constrained")
        layers, risks, compared = figure.subplots(1, 3)
        middle = sorted({r.point.d for r in results})[len({r.point.d for r in results}) // 2]
        draw_curves(layers, results, lambda p: p.n / p.d**1.5, "alignment", lambda p: f"layer 1, d {p.d}")
        draw_curves(risks, results, lambda p: p.n / p.d**1.5, "feature", lambda p: f"layer 2, d {p.d}")
        for key in ("kernel", "two", "three"):
            draw_curves(compared, [r for r in results if r.point.d == middle], "n", key, _called(key))
        layers.set(xlabel="n / d^1.5", ylabel="overlap with the target's directions")
        risks.set(xlabel="n / d^1.5", ylabel="squared correlation with the feature")
        compared.set(xlabel="n", ylabel="test error / E y²", title=f"d = {middle}")
        for axis in figure.axes:
            axis.set_xscale("log")
            axis.legend(fontsize="small")
        return figure


def _called(name: str) -> Callable[[Point], str]:
    return lambda _: {"kernel": "quadratic kernel", "two": "two layers", "three": "three layers"}[name]


@lru_cache
def target(r: int) -> Target:
    """2¹⁵ draws of the target of r directions."""
    nodes = sobol(2 * r, 2**16).nodes[: 2**15]  # the others are mirror images, of which h is the same
    signs = np.tile([1.0, -1.0], r // 2)
    h = (nodes[:, :r] ** 2 - 1) @ signs / math.sqrt(2 * r)
    return Target(nodes[:, :r], nodes[:, r:], signs, h, np.tanh(3 * h))


def products(u: Array) -> Array:
    """(u_a² - 1) / √2 and u_a u_b, a < b: orthonormal for u ~ N(0, I)."""
    a, b = np.triu_indices(u.shape[1])
    return (u[:, a] * u[:, b] - (a == b)) * np.where(a == b, math.sqrt(0.5), 1.0)


def alignment(law: Target, alpha: float) -> float:
    """cos² of a direction and its eigenvector of (1/n) Σ y x xᵀ, α = n/d (Lu, Li 2020, of one direction of several).

    With φ(λ) = λ E[z² y/(λ - y)] and ψ(λ) = λ (1/α + E[y/(λ - y)]) at φ = ψ: ψ' / (ψ' - φ'), or 0 if ψ' < 0 there.
    """
    y, square, top = law.y, law.z[:, 0] ** 2, float(law.y.max())

    def apart(value: float) -> float:
        return 1 / alpha - float(((square - 1) * y / (value - y)).mean())

    low, high = top * (1 + 1e-9), 1e3 * (1 + alpha)
    if apart(low) >= 0:
        return 0.0
    at = optimize.brentq(apart, low, high)
    slope_psi = 1 / alpha - float((y**2 / (at - y) ** 2).mean())
    slope_phi = -float((square * y**2 / (at - y) ** 2).mean())
    return slope_psi / (slope_psi - slope_phi) if slope_psi > 0 else 0.0


def threshold(law: Target) -> float:
    """The least n/d at which the directions are learned at all: ψ' = 0 where φ = ψ."""

    def slope(value: float) -> float:
        return float(((law.z[:, 0] ** 2 - 1) * law.y / (value - law.y) - (law.y / (value - law.y)) ** 2).mean())

    at = optimize.brentq(slope, float(law.y.max()) * (1 + 1e-6), 1e6)
    return 1 / float(((law.z[:, 0] ** 2 - 1) * law.y / (at - law.y)).mean())


def best_ridge(signal: float, energy: float, features: float) -> float:
    """λ of Σ (y - w·φ)² + λ|w|² for weights of Σ w² = signal spread over all features."""
    return features * (energy - signal) / signal


def excess(signal: float, energy: float, features: float, n: int) -> float:
    """E of ridge regression at its best λ on isotropic features: E = S / (1 + (n/p) S / (E y² - S + E))."""
    noise, ratio = energy - signal, n / features
    half = (noise + ratio * signal - signal) / 2
    return float(-half + math.sqrt(half**2 + signal * noise))


def unexplained(law: Target, aligned: float, kept: float, bins: int = 128) -> float:
    """E Var(y | f) of the feature f that ridge regression finds, `kept` its squared share of the best of its products.

    f = √kept Σ_k ±(u_k² - 1)/√(2r) + √(1 - kept) noise, u = √aligned z + √(1 - aligned) other; the noise is Gaussian
    with the variance of random weights on the products of u, Σ φ(u)² / p.
    """
    r = law.z.shape[1]
    u = math.sqrt(aligned) * law.z + math.sqrt(1 - aligned) * law.other
    length = (u**2).sum(axis=1)
    spread = np.sqrt((length**2 - 2 * length + r) / (r * (r + 1)))
    noise = spread * np.random.default_rng(0).standard_normal(len(u))
    feature = math.sqrt(kept) * ((u**2 - 1) @ law.signs) / math.sqrt(2 * r) + math.sqrt(1 - kept) * noise
    groups = law.y[np.argsort(feature)].reshape(bins, -1)
    return float(groups.var(axis=1, ddof=1).mean())


STUDY = Depth()
