"""Linear read-outs against scikit-learn's ridge, plain cross-validation, and weighted normal equations."""

import tracemalloc
import warnings
from itertools import pairwise

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold

from opu_dfa.errors import ConfigError, DataError, DivergedError
from opu_dfa.reservoir import readout
from opu_dfa.reservoir.readout import RecursiveLeastSquares, solve_ridge

SOLVERS = ["primal", "dual", "iterative"]


def problem(n_rows=300, n_features=40, n_outputs=2, noise=0.1, seed=0):
    draw = np.random.default_rng(seed)
    phi = draw.standard_normal((n_rows, n_features)).astype(np.float32)
    y = phi @ draw.standard_normal((n_features, n_outputs)) + noise * draw.standard_normal((n_rows, n_outputs))
    return phi, y


def in_blocks(phi, y, size=None):
    size = size or len(phi)
    return lambda: ((phi[i : i + size], y[i : i + size]) for i in range(0, len(phi), size))


def solved(phi, y, ridge, solver="auto", size=None):
    return solve_ridge(in_blocks(phi, y, size), *phi.shape, ridge, solver)


def sklearns(phi, y, ridge):
    return Ridge(alpha=ridge, fit_intercept=False).fit(phi.astype(np.float64), y).coef_.T


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("shape", [(300, 40), (40, 300)], ids=str)
def test_every_solver_finds_scikit_learns_ridge(solver, shape):
    phi, y = problem(*shape)
    expected = sklearns(phi, y, 0.5)
    # Direct solvers to rounding; conjugate gradients to their tolerance, 1e-8, times the condition number.
    condition = (np.linalg.norm(phi, 2) ** 2 + 0.5) / 0.5
    tolerance = 1e-8 * condition if solver == "iterative" else 1e-13 * condition
    assert solved(phi, y, 0.5, solver).weights == pytest.approx(expected, abs=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("size", [1, 7, 100, 299])
def test_blocks_do_not_matter(solver, size):
    phi, y = problem()
    assert solved(phi, y, 0.5, solver, size).weights == pytest.approx(solved(phi, y, 0.5, solver).weights, rel=1e-9)


def test_auto_takes_the_smaller_matrix_and_iterates_beyond_both(monkeypatch):
    assert solved(*problem(300, 40), 0.5).solver == "primal"
    assert solved(*problem(40, 300), 0.5).solver == "dual"
    assert solved(*problem(40, 300), [0.5, 1.0]).solver == "primal"
    monkeypatch.setattr(readout, "LARGEST_GRAM", 8 * 40**2 - 1)
    assert solved(*problem(300, 40), 0.5).solver == "iterative"
    with pytest.raises(ConfigError, match=r"2 ridges .* Give one"):
        solved(*problem(300, 40), [0.5, 1.0])


@pytest.mark.parametrize("seed", range(4))
def test_cross_validation_picks_what_a_plain_loop_over_contiguous_fifths_picks(seed):
    """Read-outs of the rest are compared on each fifth, and the best ridge is used on all rows."""
    phi, y = problem(203, 60, noise=5.0, seed=seed)
    ridges = [1e-3, 1.0, 30.0, 100.0, 300.0, 1e5]
    errors = np.zeros(len(ridges))
    edges = np.linspace(0, 203, 6).astype(int)
    for first, last in pairwise(edges):
        left_out = np.arange(first, last)
        rest = np.setdiff1d(np.arange(203), left_out)
        for i, ridge in enumerate(ridges):
            errors[i] += ((phi[left_out] @ sklearns(phi[rest], y[rest], ridge) - y[left_out]) ** 2).sum()
    best = ridges[int(errors.argmin())]
    found = solved(phi, y, ridges, size=31)
    assert found.ridge == best
    assert best not in (ridges[0], ridges[-1])
    assert found.weights == pytest.approx(sklearns(phi, y, best), abs=1e-9)


def test_the_fifths_are_scikit_learns_folds_where_five_divides_the_rows():
    phi, y = problem(200, 60, noise=5.0)
    ridges = [1.0, 30.0, 300.0]
    errors = [
        sum(((phi[b] @ sklearns(phi[a], y[a], r) - y[b]) ** 2).sum() for a, b in KFold(5).split(phi)) for r in ridges
    ]
    assert solved(phi, y, ridges).ridge == ridges[int(np.argmin(errors))]


@pytest.mark.parametrize("ridge", [0.0, 1e-20])
@pytest.mark.parametrize("solver", ["primal", "dual"])
@pytest.mark.parametrize("seed", range(3))
def test_too_small_a_ridge_warns_and_gives_the_shortest_solution(solver, ridge, seed):
    """Of features and rows that are each there twice: of all the weights that fit, the pseudo-inverse's."""
    phi, y = problem(300, 20, noise=0.0, seed=seed)
    phi, y = np.tile(phi, (2, 2)), np.tile(y, (2, 1))
    with pytest.warns(RuntimeWarning, match=r"ridge=.* too small .*Raise the ridge"):
        weights = solved(phi, y, ridge, solver).weights
    assert weights == pytest.approx(np.linalg.pinv(phi.astype(np.float64)) @ y, abs=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_a_single_direction_lost_to_rounding_does_no_harm_to_the_fit(seed):
    """Of two features alike, rounding decides whether the matrix counts as singular; their sum is right anyway."""
    phi, y = problem(300, 40, noise=0.0, seed=seed)
    phi[:, 1] = phi[:, 0]
    y = phi @ np.ones((40, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        weights = solved(phi, y, 0.0).weights
    assert np.abs(weights).max() < 10
    assert phi @ weights == pytest.approx(y, abs=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_ridge_above_the_rounding_is_not_warned_of(solver):
    phi, y = problem(300, 40)
    phi[:, 1] = phi[:, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights = solved(phi, y, 1e-6, solver).weights
    assert weights[1] == pytest.approx(weights[0], abs=1e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("where", ["rows", "targets"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_told(solver, where, value):
    phi, y = problem()
    (phi if where == "rows" else y)[17, 1] = value
    with pytest.raises(DataError, match=r"not finite.*NaN"):
        solved(phi, y, 0.5, solver, size=50)


def test_iterations_that_do_not_arrive_are_told():
    phi, y = problem(600, 550)
    phi *= np.logspace(0, -9, 550, dtype=np.float32)
    y = y / np.abs(y).max()
    with pytest.warns(ConvergenceWarning, match="stopped after 500 passes"):
        assert np.isfinite(solved(phi, y, 0.0, "iterative").weights).all()


@pytest.mark.parametrize("ridge", [-1.0, np.nan, np.inf, [], [1.0, -1.0], "much", None])
def test_a_ridge_out_of_range_is_refused(ridge):
    with pytest.raises(ConfigError, match="ridge is a number of at least 0"):
        solved(*problem(), ridge)


def test_an_unknown_solver_is_refused():
    with pytest.raises(ConfigError, match="'lbfgs'"):
        solved(*problem(), 1.0, "lbfgs")


def test_100000_rows_take_the_memory_of_a_block_and_a_gram_matrix():
    n_rows, n_features, size = 100_000, 100, 1000
    w = np.random.default_rng(1).standard_normal((n_features, 1))

    def rows():
        for i in range(n_rows // size):
            phi = np.random.default_rng(i).standard_normal((size, n_features), dtype=np.float32)
            yield phi, phi @ w

    tracemalloc.start()
    try:
        weights = solve_ridge(rows, n_rows, n_features, 1e-6).weights
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert weights == pytest.approx(w, abs=1e-9)
    block, gram = 8 * size * n_features, 8 * n_features**2
    assert peak < 4 * block + 6 * gram  # 4 MB, where all rows take 80


@pytest.mark.parametrize("forgetting", [1.0, 0.97])
def test_recursive_least_squares_solves_the_weighted_normal_equations(forgetting):
    """Σ_t λ^(T-1-t) φφᵀ + λ^T ridge, whatever the pieces."""
    phi, y = problem(120, 10)
    learner = RecursiveLeastSquares(np.zeros((10, 2)), 0.5, forgetting)
    for part in (slice(0, 1), slice(1, 50), slice(50, 120)):
        learner.update(phi[part], y[part])
    rows = phi.astype(np.float64)
    weight = forgetting ** np.arange(119, -1, -1.0)
    gram = rows.T @ (weight[:, None] * rows) + 0.5 * forgetting**120 * np.eye(10)
    assert learner.weights == pytest.approx(np.linalg.solve(gram, rows.T @ (weight[:, None] * y)), abs=1e-10)
    if forgetting == 1:
        assert learner.weights == pytest.approx(solved(phi, y, 0.5).weights, abs=1e-10)


def test_recursive_least_squares_begins_from_its_first_weights():
    """The penalty is on the distance from them."""
    phi, y = problem(120, 10)
    start = np.random.default_rng(3).standard_normal((10, 2))
    kept = start.copy()
    learner = RecursiveLeastSquares(start, 5.0)
    learner.update(phi, y)
    assert np.array_equal(start, kept)
    assert learner.weights == pytest.approx(start + solved(phi, y - phi @ start, 5.0).weights, abs=1e-10)


def test_forgetting_what_no_row_has_is_told_before_it_overflows_into_the_weights():
    """The inverse doubles with every row in the direction of a feature that is always 0: 2^1024 is infinite."""
    phi, y = problem(1100, 3)
    phi[:, 2] = 0
    learner = RecursiveLeastSquares(np.zeros((3, 2)), 1.0, forgetting=0.5)
    with pytest.raises(DivergedError, match=r"forgetting=0\.5.*closer to 1"):
        learner.update(phi, y)


@pytest.mark.parametrize(("ridge", "forgetting"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (1.0, 1.1)])
def test_recursive_least_squares_refuses_what_it_cannot_begin_from(ridge, forgetting):
    with pytest.raises(ConfigError, match="got"):
        RecursiveLeastSquares(np.zeros((3, 1)), ridge, forgetting)
