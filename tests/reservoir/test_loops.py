"""Compiled state loops against the features' own values and against the update equation in NumPy's float64."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.linalg import hadamard

from opu_dfa.features.nonlinearities import NONLINEARITIES, BinaryIntensity
from opu_dfa.reservoir import loops
from opu_dfa.reservoir.projections import (
    DenseProjection,
    Projection,
    RedrawnProjection,
    Shape,
    SparseProjection,
    StructuredProjection,
    Update,
)
from opu_dfa.reservoir.reservoir import Reservoir

EPSILON = float(np.finfo(np.float32).eps)
EACH = pytest.mark.parametrize("f", NONLINEARITIES.values(), ids=NONLINEARITIES.keys())
N, D, STEPS = 37, 3, 12


def matrices(made: Projection, n_units: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """s_r W `(rows, N)` and s_i V `(rows, d)` in float64, from what a projection holds."""
    if isinstance(made, StructuredProjection):
        n = made.signs.shape[2]
        h = hadamard(n).astype(np.float64)
        whole = np.concatenate([h @ np.diag(c) @ h @ np.diag(b) @ h @ np.diag(a) / n for a, b, c in made.signs])
        shape = made.shape
        whole = whole[: shape.rows]
        return whole[:, :n_units] * shape.spectral_radius, whole[:, n_units : n_units + d] * shape.input_scale
    if isinstance(made, SparseProjection):
        w = np.zeros((len(made.values), n_units))
        np.put_along_axis(w, made.columns.astype(np.int64), made.values.astype(np.float64), axis=1)
    else:
        w = made.weights.astype(np.float64)
    return w, made.input_weights.astype(np.float64)


def next_state(w, v, bias, f, leak, state, u):
    """x ← (1 - a) x + (a / √N) f(z), of states `(batch, N)` and inputs `(batch, d)`."""
    z = state @ w.T + u @ v.T + bias
    n = state.shape[1]
    if f.field == "complex":  # E|z|² is the variance of either of its rows
        z = (z[:, :n] + 1j * z[:, n:]) / math.sqrt(2)
    return (1 - leak) * state + leak / math.sqrt(n) * f(z)


def assert_follows(states, layer, f, inputs, leak, first=None):
    """Every state is the equation's of the one before it, to a few roundings of float32.

    A sum of n products is off by less than √n roundings of its size, erf and tanh by four more, and |z|² doubles that.
    """
    made, update = layer
    batch, steps, n = states.shape
    w, v = matrices(made, n, inputs.shape[2])
    before = np.zeros((batch, n)) if first is None else first
    for t in range(steps):
        expected = next_state(w, v, update.bias.astype(np.float64), f, leak, before, inputs[:, t])
        size = max(np.abs(expected).max() * math.sqrt(n), 1.0)
        assert states[:, t] == pytest.approx(expected, abs=4 * math.sqrt(n) * EPSILON * size / math.sqrt(n), rel=0)
        before = states[:, t].astype(np.float64)


@EACH
def test_a_compiled_nonlinearity_is_the_features_own(f):
    z = np.linspace(-9, 9, 4001, dtype=np.float32)
    rest = np.linspace(5, -7, 4001, dtype=np.float32)
    work = np.concatenate([z, rest])
    loops.activate(work, z.size, loops.CODES[f.name], np.float32(getattr(f, "threshold", 0)))
    exact = f((z + 1j * rest.astype(np.float64)) / math.sqrt(2)) if f.field == "complex" else f(z.astype(np.float64))
    # Measured roundings, in units of the value or of 1: erf and tanh are rational approximations.
    assert work[: z.size] == pytest.approx(exact, rel=4 * EPSILON, abs=4 * EPSILON)


def test_every_nonlinearity_is_compiled():
    assert set(loops.CODES) == set(NONLINEARITIES)


@pytest.mark.parametrize("leak", [1.0, 0.3], ids=["plain", "leaky"])
@pytest.mark.parametrize("kind", ["dense", "sparse", "structured"])
@EACH
def test_states_follow_the_equation(f, kind, leak):
    inputs = np.random.default_rng(1).standard_normal((2, STEPS, D))
    reservoir = Reservoir(N, D, kind, f, spectral_radius=0.3, leak_rate=leak, density=0.2, seed=5)
    states, last = reservoir.run(inputs)
    assert states.dtype == last.dtype == np.float32
    assert states.shape == (2, STEPS, N)
    assert np.array_equal(last[0], states[:, -1])
    assert_follows(states, reservoir._layers[0], f, inputs.astype(np.float32).astype(float), leak)


def test_a_threshold_is_the_nonlinearitys_own():
    inputs = np.random.default_rng(1).standard_normal((1, STEPS, D))
    on = [
        (Reservoir(400, D, nonlinearity=BinaryIntensity(t), bias_scale=0, seed=1).run(inputs)[0] > 0).mean()
        for t in (0.0, 0.5, 2.0)
    ]
    assert on[0] == 1
    assert on[0] > on[1] > on[2]


@pytest.mark.parametrize("kind", ["dense", "sparse", "structured"])
def test_a_run_goes_on_from_the_state_it_is_given(kind):
    inputs = np.random.default_rng(1).standard_normal((2, STEPS, D))
    reservoir = Reservoir(N, D, kind, leak_rate=0.5)
    whole, last = reservoir.run(inputs)
    first, middle = reservoir.run(inputs[:, :5])
    kept = middle.copy()
    second, end = reservoir.run(inputs[:, 5:], middle)
    assert np.array_equal(middle, kept)
    # One product of matrices is rounded as its shape is: the input's has fewer rows here.
    assert np.concatenate([first, second], axis=1) == pytest.approx(whole, abs=8 * EPSILON)
    assert end == pytest.approx(last, abs=8 * EPSILON)


@pytest.mark.parametrize("kind", ["dense", "sparse", "structured"])
def test_a_batch_is_its_single_runs(kind):
    inputs = np.random.default_rng(1).standard_normal((3, STEPS, D))
    reservoir = Reservoir(N, D, kind)
    together, last = reservoir.run(inputs)
    for i in range(3):
        alone, end = reservoir.run(inputs[i : i + 1])
        assert together[i] == pytest.approx(alone[0], abs=8 * EPSILON)
        assert last[:, i] == pytest.approx(end[:, 0], abs=8 * EPSILON)


@pytest.mark.parametrize("kind", ["dense", "sparse", "structured"])
def test_blocks_are_one_run_in_pieces(kind, monkeypatch):
    inputs = np.random.default_rng(1).standard_normal((2, STEPS, D))
    reservoir = Reservoir(N, D, kind, n_layers=2)
    whole, last = reservoir.run(inputs)
    monkeypatch.setattr("opu_dfa.reservoir.reservoir._BLOCK", 5 * 2 * 2 * N)
    monkeypatch.setattr("opu_dfa.reservoir.projections._PIECE", 3 * 2 * N)
    state = reservoir.rest(2)
    pieces = list(reservoir.blocks(inputs, state))
    assert [part.stop - part.start for part, _ in pieces] == [5, 5, 2]
    assert np.concatenate([s for _, s in pieces], axis=1) == pytest.approx(whole, abs=16 * EPSILON)
    assert state == pytest.approx(last, abs=16 * EPSILON)


@pytest.mark.parametrize("sizes", [(100, 28), (100, 29), (5, 1), (1, 1), (15, 1), (16, 1)], ids=str)
@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
def test_a_structured_matrix_has_orthogonal_rows_and_entries_of_variance_1(sizes, is_complex):
    """Rows of one block have norm √n, so the mean of W's and V's squares over whole rows is 1 exactly."""
    n_units, d = sizes
    made = StructuredProjection(Shape(n_units, d, is_complex, 1.0, 1.0), np.random.default_rng(0))
    n = made.signs.shape[2]
    assert n == max(16, 2 ** math.ceil(math.log2(n_units + d)))
    assert set(np.unique(made.signs)) == {-1, 1}
    h = hadamard(n).astype(np.float64)
    for a, b, c in made.signs:
        whole = h * c @ h * b @ h * a / n
        assert whole @ whole.T == pytest.approx(n * np.eye(n), abs=1e-9 * n)


def test_structured_entries_are_as_good_as_gaussian():
    """Mean, variance and fourth moment of the entries of 20 draws, within five standard errors of N(0, 1)'s.

    Entries of a block are dependent (their squares add up to n in every row), which makes the errors smaller.
    """
    draws = [StructuredProjection(Shape(250, 6, False, 1.0, 1.0), np.random.default_rng(seed)) for seed in range(20)]
    entries = np.concatenate([np.concatenate([w.ravel(), v.ravel()]) for w, v in (matrices(p, 250, 6) for p in draws)])
    count = entries.size
    assert abs(entries.mean()) < 5 / math.sqrt(count)
    assert (entries**2).mean() == pytest.approx(1, abs=5 * math.sqrt(2 / count))
    assert (entries**4).mean() == pytest.approx(3, abs=3 * 4 / 256)  # of a sum of 256 signs: 3 - O(1/n)


@pytest.mark.parametrize(("n_units", "density"), [(100, 0.05), (97, 0.1), (50, 1.0), (30, 0.001)], ids=str)
def test_sparse_rows_hold_as_many_entries_at_distinct_places(n_units, density):
    made = SparseProjection(Shape(n_units, 2, True, 0.8, 0.3), np.random.default_rng(0), density)
    entries = max(round(density * n_units), 1)
    assert made.columns.shape == made.values.shape == (2 * n_units, entries)
    assert all(len(set(row)) == entries for row in made.columns.tolist())
    assert made.columns.min() >= 0
    assert made.columns.max() < n_units


def test_sparse_entries_have_the_variance_that_makes_the_radius_right():
    """E‖W x‖² / rows = s_r² ‖x‖²; columns are all used alike."""
    n = 1000
    made = SparseProjection(Shape(n, 2, False, 0.8, 0.3), np.random.default_rng(0), 0.02)
    w, v = matrices(made, n, 2)
    count = 20 * n
    assert (w**2).sum() / n**2 == pytest.approx(0.8**2, rel=5 * math.sqrt(2 / count))
    assert (v**2).mean() == pytest.approx(0.3**2, rel=5 * math.sqrt(2 / v.size))
    used = (w != 0).sum(0)  # binomial-like, of mean 20 and variance below 20
    assert np.abs(used - 20).max() < 5 * math.sqrt(20)


def test_dense_entries_have_variance_s_squared():
    made = DenseProjection(Shape(300, 40, False, 0.8, 0.3), np.random.default_rng(0))
    assert (made.weights**2).mean() == pytest.approx(0.8**2, rel=5 * math.sqrt(2 / made.weights.size))
    assert (made.input_weights**2).mean() == pytest.approx(0.3**2, rel=5 * math.sqrt(2 / made.input_weights.size))


@pytest.mark.parametrize("kind", ["dense", "sparse", "structured"])
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 100, 255])
def test_any_number_of_units_is_accepted(kind, n):
    for name in ("erf", "intensity"):
        states, _ = Reservoir(n, 1, kind, name).run(np.ones((1, 3, 1)))
        assert states.shape == (1, 3, n)
        assert np.isfinite(states).all()


def test_redrawn_matrices_differ_from_step_to_step_and_are_a_batchs_own():
    inputs = np.repeat(np.random.default_rng(1).standard_normal((2, 1, D)), 4, axis=1)
    shape = Shape(N, D, False, 0.7, 0.4)
    f = NONLINEARITIES["erf"]
    update = Update(np.zeros(N, np.float32), 1.0, f)
    states, state = np.empty((2, 4, N), np.float32), np.zeros((2, N), np.float32)
    RedrawnProjection(shape, seed=3).run(states, state, inputs.astype(np.float32), update)
    before = np.zeros((2, N))
    drawn = []
    for t in range(4):
        made = DenseProjection(shape, np.random.default_rng([3, t]))
        drawn.append(made.weights)
        assert_follows(states[:, t : t + 1], (made, update), f, inputs[:, t : t + 1], 1.0, before)
        before = states[:, t].astype(np.float64)
    assert all(np.abs(a - b).max() > 0.1 for a, b in pairwise(drawn))
