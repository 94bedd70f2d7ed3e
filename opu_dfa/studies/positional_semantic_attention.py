"""Whether dot-product attention learns where tokens are or what they say, by the number of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import optimize

from opu_dfa.errors import ConfigError, NotConverged
from opu_dfa.studies.figures import always, draw_curves
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.inference.attention import POSITIONAL, Attention, Branch, own

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray
_START = {"positional": 0.25, "semantic": 0.5}  # of m, and of w·w*/d


@dataclass(frozen=True)
class Point:
    """n = alpha·d samples of two tokens of variance sigma²; omega: the teacher's share of attention to positions."""

    alpha: float = 1.5
    omega: float = 0.3
    sigma: float = 0.5
    ridge: float = 0.01
    d: int = 700

    def __post_init__(self) -> None:
        if self.d < 3 or not self.alpha * self.d >= 1:
            raise ConfigError(f"3 dimensions and a sample are wanted, got d={self.d}, alpha={self.alpha}: raise them")
        Attention(self.sigma, self.omega, self.ridge)

    @property
    def law(self) -> Attention:
        return Attention(self.sigma, self.omega, self.ridge)


class PositionalSemanticAttention(Study[Point]):
    title = "Attention to positions or to meanings"
    paper = (
        "Cui, Behrens, Krzakala, Zdeborová, A phase transition between positional and semantic learning in a solvable "
        "model of dot-product attention, NeurIPS 2024 (arXiv 2402.03902)"
    )
    statement = (
        "The training loss of dot-product attention has a positional minimum and a semantic one; above a critical "
        "number of samples the semantic one is the lower, a first-order transition."
    )
    seeds = tuple(range(6))

    def sweep(self, size: Size) -> list[Point]:
        if size == "small":
            return [Point(alpha, d=400) for alpha in (1.0, 1.2, 1.5, 2.0)]
        return [Point(alpha, d=1000) for alpha in (0.85, 1.0, 1.1, 1.2, 1.25, 1.3, 1.4, 1.5, 1.75, 2.0, 2.5, 3.0)]

    def theory(self, point: Point) -> Values:
        positional, semantic = (point.law.branch(name, point.alpha) for name in ("positional", "semantic"))
        return {
            "positional": positional.loss,
            "semantic": semantic.loss,
            "gap": positional.loss - semantic.loss,
            "m": positional.m,
            "theta": semantic.theta,
            "positional_test": positional.test,
            "semantic_test": semantic.test,
        }

    def experiment(self, point: Point, seed: int = 0) -> Values:
        data = _Data.draw(point, np.random.default_rng(seed))
        (positional, m, _, positional_test), (semantic, _, theta, semantic_test) = (
            data.descend("positional"),
            data.descend("semantic"),
        )
        return {
            "positional": positional,
            "semantic": semantic,
            "gap": positional - semantic,
            "m": m,
            "theta": theta,
            "positional_test": positional_test,
            "semantic_test": semantic_test,
        }

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        if len({r.point.alpha for r in results}) < 2:
            raise ConfigError("the claim compares numbers of samples: leave alpha as the sweep has it")
        at = sorted(results, key=lambda r: r.point.alpha)
        alphas = [r.point.alpha for r in at]
        expected = _crossing(alphas, [float(r.theory["gap"]) for r in at])
        gaps = np.array([r.measured("gap")[0] for r in at])
        errors = np.array([r.measured("gap")[1] for r in at])
        found = _crossing(alphas, gaps.tolist())
        spread = [_crossing(alphas, (gaps + sign * errors).tolist()) for sign in (1, -1)]
        error = abs(spread[0] - spread[1]) / 2
        met = agreement(results, "positional", "semantic", "m", "theta", "positional_test", "semantic_test")
        holds = met.holds and gaps[0] < 0 < gaps[-1] and abs(found - expected) <= 3 * error
        overlaps = {key: [float(r.theory[key]) for r in at] for key in ("m", "theta")}
        detail = (
            f"the semantic minimum is the lower above α = {found:.3f} ± {error:.3f}, theory {expected:.3f}; there m "
            f"falls from {np.interp(expected, alphas, overlaps['m']):.3f} to 0 and θ jumps to "
            f"{np.interp(expected, alphas, overlaps['theta']):.3f}; {met}"
        )
        return Claim(bool(holds), detail)

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure((11, 4), layout="constrained")
        panels = (("positional", "semantic"), ("m", "theta"), ("positional_test", "semantic_test"))
        names = ("training loss / d", "overlap of its branch", "test loss")
        for axis, keys, name in zip(figure.subplots(1, 3), panels, names, strict=True):
            for key in keys:
                draw_curves(axis, results, "alpha", key, always(key.replace("_test", "")))
            axis.set(xlabel="α = n / d", ylabel=name, ylim=(0, None))
            axis.legend(fontsize="small")
        return figure


@dataclass(frozen=True)
class _Data:
    """Tokens `(2n, d)`, the first of all samples first, with their positions added; targets `(n, 2)`, |x_1 - x_2|²/d
    `(n,)`; the position p and the teacher w*."""

    point: Point
    tokens: Array
    targets: Array
    weights: Array
    position: Array
    teacher: Array

    @classmethod
    def draw(cls, point: Point, rng: np.random.Generator) -> _Data:
        d, n = point.d, round(point.alpha * point.d)
        position = rng.choice([-1.0, 1.0], d) / math.sqrt(d)
        teacher = rng.standard_normal(d)
        teacher -= (teacher @ position) * position
        teacher *= math.sqrt(d) / np.linalg.norm(teacher)
        x = point.sigma * rng.standard_normal((2, n, d))
        targets = (1 - point.omega) * own((x @ teacher).T / math.sqrt(d)) + point.omega * POSITIONAL
        weights = ((x[0] - x[1]) ** 2).sum(axis=1) / d
        x += np.stack([position, -position])[:, None]
        return cls(point, x.reshape(2 * n, d), targets, weights, position, teacher)

    def descend(self, name: Branch) -> tuple[float, float, float, float]:
        """Loss per d, |m|, |θ| and test loss of the minimum below the start of a branch."""
        root, n = math.sqrt(self.point.d), len(self.targets)

        def objective(w: Array) -> tuple[float, Array]:
            h = (self.tokens @ w / root).reshape(2, n).T
            s = own(h)
            wrong = s - self.targets
            pull = self.weights[:, None] * wrong * s * (1 - s)
            gradient = pull * (2 * h - h[:, ::-1]) - pull[:, ::-1] * h[:, ::-1]
            value = float(self.weights @ (wrong**2).sum(axis=1)) / 2 + self.point.ridge / 2 * float(w @ w)
            return value, gradient.T.ravel() @ self.tokens / root + self.point.ridge * w

        towards = root * self.position if name == "positional" else self.teacher
        options = {"maxiter": 3000, "maxfun": 6000, "ftol": 1e-10, "gtol": 1e-6}
        done = optimize.minimize(objective, _START[name] * towards, jac=True, method="L-BFGS-B", options=options)
        if done.nit >= 3000:
            raise NotConverged(f"no {name} minimum: {done.message}", float(np.abs(done.jac).max()))
        sigma = self.point.sigma
        q = sigma**2 * float(done.x @ done.x) / self.point.d
        m, theta = float(self.position @ done.x) / root, sigma**2 * float(self.teacher @ done.x) / self.point.d
        return done.fun / self.point.d, abs(m), abs(theta), self.point.law.test(q, m, theta)


def _crossing(alphas: Sequence[float], gaps: Sequence[float]) -> float:
    """Where the gap rises through 0, between its neighbours; at an end of the range where it does not."""
    for i in range(len(gaps) - 1):
        if gaps[i] < 0 <= gaps[i + 1]:
            return alphas[i] - gaps[i] * (alphas[i + 1] - alphas[i]) / (gaps[i + 1] - gaps[i])
    return alphas[-1] if gaps[-1] < 0 else alphas[0]


STUDY = PositionalSemanticAttention()
