"""Reservoirs: layers, seeds, scales, what is refused, what runs away, and how little memory a large one takes."""

import math
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from scipy import special

from opu_dfa.errors import ConfigError, DataError, DivergedError
from opu_dfa.features.nonlinearities import Erf
from opu_dfa.features.pointwise import Nonlinearity
from opu_dfa.reservoir.projections import StructuredProjection
from opu_dfa.reservoir.reservoir import Reservoir

KINDS = pytest.mark.parametrize("kind", ["dense", "sparse", "structured"])
INPUTS = np.random.default_rng(0).standard_normal((2, 20, 3))


@KINDS
def test_one_seed_gives_one_reservoir(kind):
    first, again, other = (Reservoir(40, 3, kind, seed=seed).run(INPUTS)[0] for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_no_global_random_numbers_are_drawn():
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    for kind in ("dense", "sparse", "structured"):
        Reservoir(40, 3, kind).run(INPUTS)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@KINDS
def test_a_second_layer_sees_the_states_of_the_first_at_the_same_step(kind):
    """With no recurrence of its own, s_r = 0, layer 2 is a function of layer 1's present state."""
    deep = Reservoir(30, 3, kind, n_layers=2, spectral_radius=0, bias_scale=0.2, density=0.2, seed=4)
    states, last = deep.run(INPUTS)
    assert states.shape == (2, 20, 60)
    assert last.shape == (2, 2, 30)
    first, second = states[..., :30], states[..., 30:]
    alone, _ = Reservoir(30, 3, kind, spectral_radius=0, bias_scale=0.2, density=0.2, seed=4).run(INPUTS)
    assert np.array_equal(first, alone)
    made, update = deep._layers[1]
    # V of layer 2, column by column, as the states that unit inputs give without a bias.
    v = _linear_response(made, update.bias.size, 30)
    expected = special.erf(first @ v.T + update.bias) / math.sqrt(30)
    assert second == pytest.approx(expected, abs=2e-6)


def _linear_response(made, n, d):
    from opu_dfa.features.nonlinearities import Linear
    from opu_dfa.reservoir.projections import Update

    states, state = np.empty((d, 1, n), np.float32), np.zeros((d, n), np.float32)
    made.run(states, state, np.eye(d, dtype=np.float32)[:, None], Update(np.zeros(n, np.float32), 1.0, Linear()))
    return states[:, 0].T.astype(np.float64) * math.sqrt(n)


def test_layers_have_matrices_of_their_own():
    deep = Reservoir(30, 30, "dense", n_layers=2)
    (first, _), (second, _) = deep._layers
    assert np.abs(first.weights - second.weights).max() > 0.1


def test_the_spectral_radius_is_that_of_the_linear_reservoir():
    """Without input the norm of a linear reservoir's state falls by s_r a step, up to O(1/√N)."""
    n = 4000
    for kind in ("structured", "sparse"):
        reservoir = Reservoir(n, 1, kind, "linear", spectral_radius=0.8, bias_scale=0)
        start = np.random.default_rng(0).standard_normal((1, 1, n)).astype(np.float32)
        states, _ = reservoir.run(np.zeros((1, 10, 1)), start)
        norms = np.linalg.norm(np.concatenate([start[0], states[0]]), axis=1)
        assert norms[1:] / norms[:-1] == pytest.approx(0.8, rel=5 / math.sqrt(n))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("n_units", 0),
        ("n_units", 2.5),
        ("n_inputs", -1),
        ("n_layers", True),
        ("spectral_radius", -0.1),
        ("spectral_radius", math.nan),
        ("spectral_radius", "large"),
        ("input_scale", math.inf),
        ("bias_scale", None),
        ("leak_rate", 0.0),
        ("leak_rate", 1.5),
        ("density", 0),
        ("density", "half"),
        ("projection", "circulant"),
        ("nonlinearity", "softsign"),
        ("nonlinearity", 3),
        ("seed", -1),
        ("seed", "random"),
    ],
)
def test_a_bad_parameter_is_refused_with_its_value(setting, value):
    good = {"n_units": 10, "n_inputs": 1}
    with pytest.raises(ConfigError, match=str(value)):
        Reservoir(**good | {setting: value})


def test_drawing_anew_takes_dense_matrices():
    with pytest.raises(ConfigError, match="'structured'"):
        Reservoir(10, 1, redraw=True)


def test_a_nonlinearity_that_is_not_compiled_is_refused():
    class Cube(Nonlinearity):
        def __call__(self, z):
            return z**3

    with pytest.raises(ConfigError, match="cube"):
        Reservoir(10, 1, nonlinearity=Cube())


def test_a_nonlinearity_may_be_given_by_name_or_as_an_object():
    by_name, by_object = (Reservoir(10, 3, nonlinearity=f).run(INPUTS)[0] for f in ("erf", Erf()))
    assert np.array_equal(by_name, by_object)


@pytest.mark.parametrize(
    "inputs", [np.ones((2, 5, 4)), np.ones((5, 3)), np.ones((2, 5, 2))], ids=lambda u: str(u.shape)
)
def test_inputs_of_another_width_are_refused(inputs):
    with pytest.raises(DataError, match="3"):
        Reservoir(13, 3).run(inputs)


@KINDS
@pytest.mark.parametrize("leak", [1.0, 0.5])
@pytest.mark.parametrize("name", ["relu", "linear", "intensity"])
def test_unbounded_units_of_a_large_radius_are_told(name, leak, kind):
    with pytest.raises(DivergedError, match=f"{name} units are unbounded.*smaller spectral_radius"):
        Reservoir(40, 3, kind, name, spectral_radius=30.0, leak_rate=leak, density=0.5).run(np.tile(INPUTS, (1, 10, 1)))


@pytest.mark.parametrize("name", ["erf", "tanh", "relu"])
def test_inputs_that_are_not_finite_are_told(name):
    inputs = INPUTS.copy()
    inputs[1, 4, 2] = np.nan
    with pytest.raises(DataError, match="not finite"):
        Reservoir(40, 3, nonlinearity=name).run(inputs)


def test_262000_structured_units_take_less_than_50_megabytes():
    """Matrix, work space and a block of states, of which a dense matrix of float64 has 550 GB."""
    n, steps = 262_000, 20
    inputs = np.random.default_rng(0).standard_normal((1, steps, 100))
    tracemalloc.start()
    try:
        reservoir = Reservoir(n, 100)
        state, seen = reservoir.rest(), 0
        for part, states in reservoir.blocks(inputs, state):
            seen += part.stop - part.start
            assert np.isfinite(states[0, -1]).all()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    made = reservoir._layers[0][0]
    assert isinstance(made, StructuredProjection)
    assert made.signs.nbytes == 3 * 2**18
    assert seen == steps
    assert peak < 50e6


def test_262000_structured_units_take_less_than_50_megabytes_of_a_process():
    """Compiled code's own memory included: the process's peak beyond that of one with a small reservoir."""
    code = """
import resource, sys
import numpy as np
from opu_dfa.reservoir.reservoir import Reservoir
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def run(n):
    reservoir = Reservoir(n, 100)
    for _ in reservoir.blocks(np.ones((1, 20, 100)), reservoir.rest()): pass
run(100)
before = peak()
run(262_000)
print((peak() - before) * (1 if sys.platform == "darwin" else 1024))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 50e6
