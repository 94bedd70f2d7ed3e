"""A matrix and a tensor that share a vector: what is learned from both at once, by posterior means or by maximum
likelihood, and from one after the other.

Likelihood is maximised by message passing, whose state evolution is known, closed-form threshold included. What it
misses is there: of noises 0.6 and 0.15 the likelihood is larger near the truth. Plain ascent, one vector after the
other, stays in the same noise; where message passing succeeds it may still be stuck, and there is no theory of it here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from opu_dfa.errors import ConfigError
from opu_dfa.studies.figures import draw_curves
from opu_dfa.studies.study import Claim, Result, Size, Study, Values, agreement
from opu_dfa.theory.inference.iterate import iterate, settled
from opu_dfa.theory.inference.matrix_tensor import (
    Hyperedges,
    curriculum,
    curriculum_cosines,
    likelihood_growth,
    matrix_tensor,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Method = Literal["mean", "likelihood", "curriculum"]
_MOST, _TOLERANCE = 60, 1e-13
_TINY = (
    3e-3  # at first, so that directions are found before lengths: a long u in a wrong direction fits x and y to noise
)


@dataclass(frozen=True)
class Point:
    """u vᵀ in noise of variance `matrix`, u ⊗ x ⊗ y in noise of variance `tensor`, all vectors of length n.

    method: "mean", message passing for posterior means; "likelihood", message passing for the joint maximum of
    likelihood; "curriculum", singular vectors of the matrix, then of the tensor contracted with its u.
    """

    matrix: float = 0.5
    tensor: float = 0.4
    method: Method = "mean"
    n: int = 200

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ConfigError(f"there is no method {self.method!r}; choose one of {', '.join(get_args(Method))}")
        if not (self.matrix > 0 and self.tensor > 0 and self.n >= 10):
            raise ConfigError(f"noise variances are positive and n is 10 or more, got {self}")

    @property
    def law(self) -> Hyperedges:
        """Of message passing; that of posterior means where there is none."""
        return matrix_tensor(self.matrix, self.tensor, estimate="likelihood" if self.method == "likelihood" else "mean")


class MatrixTensor(Study[Point]):
    title = "A staircase of a matrix and a tensor that share a vector"
    paper = (
        "Tabanelli, Mergny, Zdeborová, Krzakala, Computational thresholds in multi-modal learning via the spiked "
        "matrix-tensor model (arXiv 2506.02664)"
    )
    statement = (
        "Posterior means learn a matrix below a noise of 1 and then, helped by it, a tensor below 1 less the matrix's "
        "noise. Maximum likelihood of both at once learns nothing where the tensor's noise in the shared vector drowns "
        "the matrix, though the tensor could have been learned; after the matrix alone, the tensor is learned again."
    )
    seeds = tuple(range(5))

    def sweep(self, size: Size) -> list[Point]:
        methods: tuple[Method, ...] = get_args(Method)
        if size == "small":
            pairs = [(2.0, 0.15), (0.6, 0.15), (0.25, 0.15), (0.5, 1.5), (0.25, 1.5)]
            return [Point(matrix, tensor, method) for matrix, tensor in pairs for method in methods]
        noises = (1.6, 1.3, 0.65, 0.4, 0.3, 0.22)
        return [Point(matrix, t, method, 300) for t in (0.1, 0.2, 1.5) for matrix in noises for method in methods]

    def theory(self, point: Point) -> Values:
        if point.method == "curriculum":
            return _values(curriculum_cosines(point.matrix, point.tensor))
        law = point.law
        return _values(law.cosines(settled(law.evolve, law.start_at).x))

    def experiment(self, point: Point, seed: int = 0) -> Values:
        rng = np.random.default_rng(seed)
        data = point.law.observe(rng, point.n)
        if point.method == "curriculum":
            return _values(curriculum(data))
        return _values(iterate(data.step, data.start(rng, noise=_TINY), data.cosines, _MOST, _TOLERANCE).measured[-1])

    def claim(self, results: Sequence[Result[Point]]) -> Claim:
        # Squared cosines of n-vectors fluctuate by up to 1/√n from run to run; five runs say too little of it.
        runs = min(r.point.n * len(r.experiments) for r in results)
        found = agreement(results, absolute=3 / math.sqrt(runs))
        of = {(r.point.matrix, r.point.tensor, r.point.method): r for r in results}
        pairs = dict.fromkeys((r.point.matrix, r.point.tensor) for r in results)
        stairs, obstructed, wrong = 0, [], []
        for matrix, tensor in pairs:
            each = [of.get((matrix, tensor, method)) for method in get_args(Method)]
            if any(r is None for r in each):
                raise ConfigError("the claim compares methods: leave method as the sweep has it")
            (mean_u, mean_x), (most_u, _), (_, after_x) = (
                (float(r.measured("u")[0]), float(r.measured("x")[0])) for r in each if r is not None
            )
            if (mean_u > 0.1, mean_x > 0.1) != (matrix < 1, tensor < 1 - matrix):
                wrong.append(f"{matrix:g}, {tensor:g}")
            stairs += matrix < 1 and tensor > 1 - matrix
            if tensor < 1 - matrix and likelihood_growth(matrix, tensor) < 1:
                obstructed.append((matrix, tensor, mean_x, most_u, after_x))
        holds = found.holds and not wrong and stairs > 0 and bool(obstructed)
        # At n = 200 one run in twenty or so still leaves the noise by luck.
        holds = holds and all(u < 0.25 and min(mean, after) > 0.3 for _, _, mean, u, after in obstructed)
        told = "; ".join(
            f"of noises {matrix:g} and {tensor:g} the likelihood's maximum is sought in vain ({u:.2f} of u), where "
            f"posterior means learn {mean:.2f} of x and one after the other {after:.2f}"
            for matrix, tensor, mean, u, after in obstructed
        )
        missed = f"; on the wrong side of a threshold: {'; '.join(wrong)}" if wrong else ""
        return Claim(bool(holds), f"{told}{missed}; {found}")

    def figure(self, results: Sequence[Result[Point]]) -> Figure:
        from matplotlib.figure import Figure

        names = {"mean": "posterior means", "likelihood": "likelihood", "curriculum": "one after the other"}
        tensors = list(dict.fromkeys(r.point.tensor for r in results))
        figure = Figure((3.6 * len(tensors), 6), layout="constrained")
        rows = figure.subplots(2, len(tensors), sharex=True, sharey=True, squeeze=False)
        for column, tensor in enumerate(tensors):
            group = [r for r in results if r.point.tensor == tensor]
            for row, key in enumerate(("u", "x")):
                draw_curves(rows[row][column], group, lambda p: 1 / p.matrix, key, lambda p: names[p.method])
                rows[row][column].set(ylabel=f"cos² of {key} with the truth" if column == 0 else "")
            rows[0][column].set(title=f"tensor noise {tensor:g}")
            rows[1][column].set(xlabel="1 / matrix noise")
        figure.axes[0].legend(fontsize="small")
        return figure


def _values(cosines: np.ndarray) -> Values:
    """Squared cosines of the shared vector, and of one that is in the tensor alone."""
    return {"u": float(cosines[0]), "x": float(cosines[2])}


STUDY = MatrixTensor()
