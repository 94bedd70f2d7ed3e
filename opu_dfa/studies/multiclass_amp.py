"""Softmax regression by message passing: it converges, at a rate that is known, and to the one minimum there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from opu_dfa.errors import ConfigError, NotConverged
from opu_dfa.studies.figures import curves
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.erm.multiclass import Classes, multiclass
from opu_dfa.theory.inference.channels import Softmax
from opu_dfa.theory.inference.iterate import iterate
from opu_dfa.theory.inference.priors import Gaussian
from opu_dfa.theory.inference.regression import RegressionData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray
_KICK, _STEPS = 1e-3, 6  # relative size of a perturbation of the fixed point, and steps in which it is watched
_APART = 1e-4  # of weights: what the other solver's tolerance leaves


@dataclass(frozen=True)
class Point:
    """n = alpha·d samples with labels drawn at random among classes, no intercepts."""

    alpha: float = 2.0
    ridge: float = 0.1
    classes: int = 3
    d: int = 300

    def __post_init__(self) -> None:
        if self.classes < 2 or not (self.alpha * self.d >= 1 and self.ridge > 0):
            raise ConfigError(f"2 classes, a sample and a ridge > 0 are wanted, got {self}; raise what is below")


class MulticlassAMP(Study[Point]):
    title = "Message passing for many classes converges"
    paper = (
        "Çakmak, Lu, Opper, A convergence analysis of approximate message passing with non-separable functions and "
        "applications to multi-class classification, 2024 (arXiv 2402.08676)"
    )
    statement = (
        "Message passing for softmax regression converges geometrically, for perturbations at the rate of the replicon "
        "eigenvalue, which a ridge keeps below 1, and its fixed point is the unique minimiser of the loss."
    )
    seeds = tuple(range(6))

    def sweep(self, size: Size) -> list[Point]:
        if size == "small":
            return [Point(1.0), Point(2.0), Point(4.0), Point(2.0, ridge=0.02), Point(4.0, ridge=0.02)]
        alphas = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
        return [Point(alpha, ridge, d=1000) for ridge in (0.02, 0.1, 0.5) for alpha in alphas]

    def theory(self, point: Point) -> Values:
        k = point.classes
        law = Classes(np.zeros((k, k)), np.ones(k), np.full(k, 1 / k))
        student = multiclass("softmax", law, point.alpha, point.ridge)
        return {
            "norm": float(np.trace(student.q)),
            "loss": student.training_loss,
            "rate": Softmax(k).replicon(point.alpha, student.q, student.v),
            "distance": 0.0,
        }

    def experiment(self, point: Point, seed: int = 0) -> Values:
        from sklearn.linear_model import LogisticRegression

        rng = np.random.default_rng(seed)
        d, k, n = point.d, point.classes, round(point.alpha * point.d)
        x, y = rng.standard_normal((n, d)) / np.sqrt(d), rng.integers(k, size=n)
        data = RegressionData(Gaussian(k, 1 / point.ridge), Softmax(k), x, y, np.zeros((d, k)))
        history = iterate(data.step, data.start(rng, noise=0.0), most=300, tolerance=1e-13)
        if not history.converged:
            raise NotConverged(f"message passing still moves at {point}: take more ridge", float(history.residuals[-1]))
        w = history.state.weights
        size = float(np.sqrt((w**2).mean()))
        kick = _KICK * size * rng.standard_normal((d, k))
        kicked = history.state._replace(weights=w + kick - kick.mean(axis=1, keepdims=True))
        apart = iterate(data.step, kicked, lambda state: ((state.weights - w) ** 2).mean(), _STEPS).measured
        # Of two classes the other solver has one row of weights, which is the difference of ours.
        solver = LogisticRegression(
            C=(2 if k == 2 else 1) / point.ridge, fit_intercept=False, tol=1e-8, max_iter=10_000
        )
        other = solver.fit(x, y).coef_
        other = (other if k > 2 else np.concatenate([-other, other]) / 2).T
        return {
            "norm": float((w**2).sum()) / d,
            "loss": float((special.logsumexp(x @ w, axis=1) - (x @ w)[np.arange(n), y]).mean()),
            "rate": float((apart[-1] / apart[0]) ** (1 / (len(apart) - 1))),
            "distance": float(np.linalg.norm(other - w) / np.linalg.norm(w)),
        }

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        met = agreement(results, "norm", "loss", "rate", absolute=0.003)
        rates = [float(r.measured("rate")[0]) for r in results]
        far = max(float(r.measured("distance")[0]) for r in results)
        holds = met.holds and max(rates) < 1 and far < _APART
        detail = (
            f"a perturbation's square is multiplied by {min(rates):.3f} to {max(rates):.3f} in a step, always below 1; "
            f"the fixed point is within {far:.1e} of another solver's minimum; {met}"
        )
        return Claim(bool(holds), detail)

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        keys = ["norm", "loss", "rate"]
        return curves(results, "alpha", keys, label=lambda p: f"ridge {p.ridge:g}", xlabel="n / d", ylim=(0, None))


STUDY = MulticlassAMP()
