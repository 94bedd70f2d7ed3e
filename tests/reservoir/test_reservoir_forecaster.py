"""The reservoir forecaster: its read-out's features, learning in pieces, memory, bad parameters, and its reach."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from opu_dfa.errors import ConfigError, DataError, DivergedError
from opu_dfa.reservoir import SYSTEMS, ReservoirForecaster

LORENZ = SYSTEMS["lorenz63"]().series(1200)


@pytest.mark.parametrize("features", ["state", "state+input", "state+squares+input", "input", "squares"])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_read_out_is_ridge_on_the_features_it_names(features, layers):
    n = 30
    model = ReservoirForecaster(n, n_layers=layers, features=features, ridge=0.01, leak_rate=0.7).fit(LORENZ, washout=9)
    inputs = model.scale_.standard(LORENZ) / np.sqrt(3)
    states = model.reservoir_.run(inputs[None])[0][0].astype(np.float64)
    columns = {"state": states, "squares": np.sqrt(n) * states**2, "input": inputs}
    phi = np.concatenate([columns[name] for name in features.split("+")] + [np.ones((1200, 1))], axis=1)
    rows, y = phi[9:-1], model.scale_.standard(LORENZ)[10:]
    expected = np.linalg.solve(rows.T @ rows + 0.01 * np.eye(phi.shape[1]), rows.T @ y)
    assert model.predict(LORENZ) == pytest.approx(model.scale_.original(phi @ expected), abs=1e-4 * LORENZ.std())


@pytest.mark.parametrize("solver", ["primal", "dual", "iterative"])
def test_the_solvers_agree(solver):
    series = LORENZ[:200]
    expected = ReservoirForecaster(40, ridge=0.1).fit(series).predict(series)
    model = ReservoirForecaster(40, ridge=0.1, solver=solver).fit(series)
    assert model.solver_ == solver
    assert model.predict(series) == pytest.approx(expected, abs=1e-5 * LORENZ.std())


def test_several_ridges_are_chosen_among():
    model = ReservoirForecaster(40, ridge=(1e-6, 1e-2, 1e4)).fit(LORENZ, washout=20)
    assert model.ridge_ == 1e-6
    assert np.array_equal(model.weights_, ReservoirForecaster(40, ridge=1e-6).fit(LORENZ, washout=20).weights_)


def test_100000_steps_are_learned_in_bounded_memory(monkeypatch):
    """A few blocks of states, one of them in float64, where all states of 100 units take 40 MB."""
    monkeypatch.setattr("opu_dfa.reservoir.reservoir._BLOCK", 2**17)
    series = np.sin(np.arange(100_000)[:, None] / 5.0)
    model = ReservoirForecaster(100, ridge=1e-3)
    tracemalloc.start()
    try:
        model.fit(series, washout=100)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - 4 * series.nbytes < 16 * 4 * 2**17  # 8 MB


def same_scale(series):
    """A series followed by itself backwards: its first half has the mean and the variance of the whole."""
    return np.concatenate([series, series[::-1]])


@pytest.mark.parametrize("targets", [False, True], ids=["next step", "targets"])
@pytest.mark.parametrize("washout", [0, 40])
def test_learning_in_pieces_is_learning_at_once(targets, washout):
    """Across the pieces' borders too, where the target of a piece's last step is the next one's first row."""
    series = same_scale(LORENZ[:300])
    y = series[:, 0] * series[:, 1] if targets else None
    edges = [0, 300, 301, 450, 600]  # the first piece fixes the scales, so it is half of the series
    whole = ReservoirForecaster(20, ridge=1e-2).fit(series, y, washout=washout)
    model = ReservoirForecaster(20, ridge=1e-2)
    for i, (a, b) in enumerate(pairwise(edges)):
        part = None if y is None else y[a:b]
        assert model.partial_fit(series[a:b], part, washout=0 if i else washout) is model
    assert model.weights_ == pytest.approx(whole.weights_, abs=1e-6 * np.abs(whole.weights_).max())
    assert model.predict(series) == pytest.approx(whole.predict(series), abs=1e-4 * series.std())
    if not targets:
        assert model.forecast(10) == pytest.approx(whole.forecast(10), abs=1e-3 * series.std())


def test_learning_after_a_fit_is_penalised_for_its_distance_from_there():
    """The weights are of least Σ|y - wφ|² + ridge |w - w₀|² over what is new, the step from old to new included."""
    model = ReservoirForecaster(20, ridge=1e-2).fit(LORENZ[:300])
    before = model.weights_.copy()
    model.partial_fit(LORENZ[300:500]).partial_fit(LORENZ[500:501])
    inputs = model.scale_.standard(LORENZ[:501]) / np.sqrt(3)
    states = model.reservoir_.run(inputs[None])[0][0]
    phi = np.concatenate([states, inputs, np.ones((501, 1))], axis=1)[299:-1]
    y = model.scale_.standard(LORENZ[:501])[300:]
    gained = np.linalg.solve(phi.T @ phi + 1e-2 * np.eye(24), phi.T @ (y - phi @ before))
    assert model.weights_ == pytest.approx(before + gained, abs=1e-5 * np.abs(before).max())


def test_a_state_that_is_set_is_not_learned_from_what_came_before_it():
    model = ReservoirForecaster(20, ridge=1e-2).fit(LORENZ[:300])
    elsewhere = model.get_state(LORENZ[400:500])
    weights = model.weights_.copy()
    model.set_state(elsewhere)
    with pytest.raises(DataError, match="1 steps, too short"):
        model.partial_fit(LORENZ[500:501])
    assert np.array_equal(model.weights_, weights)
    model.partial_fit(LORENZ[500:502])


def test_learning_goes_on_from_a_fit():
    """From its weights and its state: more of the same series makes the predictions better, and fit starts anew."""
    model = ReservoirForecaster(50, ridge=1e-2).fit(LORENZ[:200], washout=50)
    first = model.score(LORENZ[900:])
    scale = model.scale_
    model.partial_fit(LORENZ[200:900])
    assert model.scale_ is scale
    assert model.score(LORENZ[900:]) > first
    along = model.forecast(5)
    assert along == pytest.approx(model.forecast(5, warmup=LORENZ[:900]), abs=1e-3 * LORENZ.std())
    model.fit(LORENZ[:200], washout=50)
    assert model.score(LORENZ[900:]) == first


def test_forgetting_follows_a_system_that_changes():
    """Of y = ±u, with the sign turned half-way, one that forgets knows the second half only."""
    u = np.random.default_rng(0).uniform(-1, 1, (800, 1))
    y = np.where(np.arange(800) < 400, 1.0, -1.0) * u[:, 0]
    settings = {"n_units": 10, "ridge": 1e-2, "features": "input"}
    forgets = ReservoirForecaster(**settings, forgetting=0.95).partial_fit(u, y)
    keeps = ReservoirForecaster(**settings).partial_fit(u, y)
    assert forgets.predict(u)[400:] == pytest.approx(y[400:], abs=0.01)
    assert np.abs(keeps.predict(u)[400:] - y[400:]).max() > 0.5


def test_pieces_are_of_one_kind():
    model = ReservoirForecaster(10).partial_fit(LORENZ[:100])
    with pytest.raises(DataError, match="every partial_fit, or to none"):
        model.partial_fit(LORENZ[100:200], LORENZ[100:200, 0])
    with pytest.raises(DataError, match="one series"):
        model.partial_fit([LORENZ[:100], LORENZ[:100]])


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"features": "states"}, "'states'"),
        ({"features": "state+state"}, "'state\\+state'"),
        ({"features": ""}, "''"),
        ({"features": None}, "None"),
        ({"ridge": -1.0}, "-1.0"),
        ({"solver": "svd"}, "'svd'"),
        ({"n_units": 0}, "n_units.*0"),
        ({"leak_rate": 2.0}, "leak_rate.*2.0"),
        ({"projection": "toeplitz"}, "'toeplitz'"),
        ({"nonlinearity": "sigmoid"}, "'sigmoid'"),
        ({"spectral_radius": -1}, "spectral_radius.*-1"),
    ],
    ids=str,
)
def test_a_bad_parameter_is_refused_when_fitting(parameters, words):
    with pytest.raises(ConfigError, match=words):
        ReservoirForecaster(**{"n_units": 10} | parameters).fit(LORENZ[:50])


@pytest.mark.parametrize(
    ("parameters", "words"),
    [({"ridge": 0.0}, "positive ridge.*0"), ({"ridge": [1.0, 2.0]}, "one ridge"), ({"forgetting": 1.5}, "1.5")],
    ids=str,
)
def test_a_bad_parameter_is_refused_when_learning_in_pieces(parameters, words):
    with pytest.raises(ConfigError, match=words):
        ReservoirForecaster(10, **parameters).partial_fit(LORENZ[:50])


def test_units_that_diverge_are_told():
    with pytest.raises(DivergedError, match="smaller spectral_radius"):
        ReservoirForecaster(50, nonlinearity="relu", spectral_radius=20.0).fit(LORENZ)


@pytest.mark.parametrize("projection", ["dense", "sparse", "structured"])
def test_lorenz_is_forecast_for_a_lyapunov_time(projection):
    """Its exponent is 0.906: 55 steps of 0.02."""
    model = ReservoirForecaster(200, projection, density=0.1, ridge=1e-8, features="state+squares+input")
    future = model.fit(LORENZ[:1100], washout=100).forecast(55)
    assert np.abs(future - LORENZ[1100:1155]).max() < 0.1 * LORENZ.std()
