"""Forecasts by recurrent kernels against kernel ridge regression written out, and against ever wider reservoirs."""

import math
import warnings

import numpy as np
import pytest
from scipy import linalg
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit
from sklearn.utils.estimator_checks import check_estimator

from opu_dfa.errors import ConfigError, DataError, DivergedError
from opu_dfa.reservoir import (
    SYSTEMS,
    LocalForecaster,
    RecurrentKernel,
    RecurrentKernelForecaster,
    ReservoirForecaster,
)

LORENZ = SYSTEMS["lorenz63"]().series(400)
VARIANTS = pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"features": "state"},
        {"leak_rate": 0.4},
        {"n_layers": 2},
        {"leak_rate": 0.5, "n_layers": 2, "nonlinearity": "relu"},
        {"nonlinearity": "intensity", "spectral_radius": 0.3},
    ],
    ids=lambda p: "-".join(p) or "default",
)
PAST = "states depend on the past"


def kernel_of(model):
    scales = ("nonlinearity", "spectral_radius", "input_scale", "bias_scale", "leak_rate", "n_layers")
    return RecurrentKernel(**{name: getattr(model, name) for name in scales})


def features(model, u, v):
    inputs = u @ v.T if model.features == "state+input" else 0
    return kernel_of(model).table(u, v) + inputs + 1


def test_it_is_a_scikit_learn_regressor():
    failing = {"check_methods_sample_order_invariance": PAST, "check_methods_subset_invariance": PAST}
    check_estimator(RecurrentKernelForecaster(), expected_failed_checks=failing)


@VARIANTS
def test_predictions_are_kernel_ridge_regression(parameters):
    model = RecurrentKernelForecaster(ridge=1e-3, **parameters).fit(LORENZ[:150], washout=10)
    mean, deviation = LORENZ[:150].mean(0), LORENZ[:150].std(0)
    train, test = ((x - mean) / deviation / math.sqrt(3) for x in (LORENZ[:150], LORENZ[200:300]))
    gram = features(model, train, train)[10:-1, 10:-1]
    weights = linalg.solve(gram + 1e-3 * np.eye(len(gram)), math.sqrt(3) * train[11:], assume_a="pos")
    expected = features(model, test, train)[:, 10:-1] @ weights * deviation + mean
    assert model.predict(LORENZ[200:300]) == pytest.approx(expected, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("leak_rate", [1.0, 0.4])
def test_several_series_are_each_seen_from_rest_and_every_third_step_is_learned(leak_rate):
    series = [LORENZ[:40], LORENZ[100:170], LORENZ[200:250]]
    targets = [u[:, :1] * u[:, 1:2] for u in series]
    model = RecurrentKernelForecaster(leak_rate=leak_rate, ridge=1e-3, every=3).fit(series, targets, washout=5)
    mean, deviation = np.concatenate(series).mean(0), np.concatenate(series).std(0)
    inputs = [(u - mean) / deviation / math.sqrt(3) for u in series]
    gram = np.block([[features(model, u, v)[5::3, 5::3] for v in inputs] for u in inputs])
    y = np.concatenate(targets)
    level, spread = y.mean(), y.std()
    weights = linalg.solve(
        gram + 1e-3 * np.eye(len(gram)), (np.concatenate([t[5::3] for t in targets]) - level) / spread, assume_a="pos"
    )
    test = (LORENZ[300:330] - mean) / deviation / math.sqrt(3)
    expected = np.concatenate([features(model, test, u)[:, 5::3] for u in inputs], axis=1) @ weights * spread + level
    assert len(model.centres_) == len(gram)
    assert model.predict(LORENZ[300:330]) == pytest.approx(expected, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("parameters", [{}, {"leak_rate": 0.4}, {"n_layers": 2}], ids=str)
def test_ever_wider_reservoirs_predict_what_the_kernel_does(parameters):
    """The deviation falls like 1/√N, by 4 from 150 to 2400 units, within four standard errors of the seeds' scatter."""
    train, test = LORENZ[:250], LORENZ[250:]
    expected = RecurrentKernelForecaster(ridge=1e-2, **parameters).fit(train, washout=20).predict(test)
    found = []
    for n_units, seeds in ((150, 8), (2400, 4)):
        models = [ReservoirForecaster(n_units, ridge=1e-2, random_state=s, **parameters) for s in range(seeds)]
        predicted = np.array([model.fit(train, washout=20).predict(test) for model in models])
        found.append(np.log(((predicted - expected) ** 2).mean((1, 2)) / 2))
    narrow, wide = found
    scatter = math.hypot(*(logs.std(ddof=1) / math.sqrt(len(logs)) for logs in found))
    assert narrow.mean() - wide.mean() == pytest.approx(2 * math.log(4), abs=4 * scatter)


@pytest.mark.parametrize("parameters", [{}, {"leak_rate": 0.4}, {"n_layers": 2, "leak_rate": 0.7}], ids=str)
def test_a_forecast_is_predictions_fed_back(parameters):
    model = RecurrentKernelForecaster(ridge=1e-4, **parameters).fit(LORENZ[:100])
    series = LORENZ[:100]
    for _ in range(4):
        series = np.concatenate([series, model.predict(series)[-1:]])
    future = model.forecast(4)
    assert future == pytest.approx(series[100:], rel=1e-6)
    assert model.forecast(4, warmup=LORENZ[:100]) == pytest.approx(future, rel=1e-6)
    many = np.stack([LORENZ[:60], LORENZ[100:160]])
    assert model.forecast(5, warmup=many)[1] == pytest.approx(model.forecast(5, warmup=LORENZ[100:160]), rel=1e-9)


def test_it_forecasts_a_chaotic_series():
    """Lorenz 63's errors grow e-fold in a Lyapunov time, 1/0.9 of 50 steps: after half of one they are small yet."""
    series = SYSTEMS["lorenz63"]().series(1230)
    model = RecurrentKernelForecaster(every=2).fit(series[:1200], washout=100)
    assert np.abs(model.forecast(25) - series[1200:1225]).max() < 0.1 * series.std()


@VARIANTS
def test_a_loaded_model_is_the_saved_one(parameters, tmp_path):
    model = RecurrentKernelForecaster(ridge=1e-3, **parameters).fit(LORENZ[:60])
    model.save(tmp_path / "model")
    loaded = RecurrentKernelForecaster.load(tmp_path / "model")
    assert loaded.get_params() == model.get_params()
    assert np.array_equal(loaded.forecast(10), model.forecast(10))
    assert np.array_equal(loaded.predict(LORENZ[:30]), model.predict(LORENZ[:30]))


@pytest.mark.parametrize("leak_rate", [1.0, 0.4])
def test_a_state_is_where_a_forecast_continues(leak_rate):
    model = RecurrentKernelForecaster(leak_rate=leak_rate, ridge=1e-3).fit(LORENZ[:60])
    expected = model.forecast(10, warmup=LORENZ[100:120])
    assert np.array_equal(
        clone(model).fit(LORENZ[:60]).set_state(model.get_state(LORENZ[100:120])).forecast(10), expected
    )
    with pytest.raises(DataError, match="this model's state has"):
        model.set_state({"rows": np.zeros((1, 1, 3))})


def test_it_is_searched_and_serves_as_a_local_forecaster():
    search = GridSearchCV(RecurrentKernelForecaster(ridge=1e-4), {"spectral_radius": [0.1, 0.9]}, cv=TimeSeriesSplit(2))
    assert search.fit(LORENZ[:90]).best_params_["spectral_radius"] in (0.1, 0.9)
    ring = SYSTEMS["lorenz96"](n=8).series(120)
    model = LocalForecaster(RecurrentKernelForecaster(ridge=1e-4, leak_rate=0.8), n_groups=4, overlap=1).fit(ring)
    assert len(model.models_[0].centres_) == 4 * 119
    assert model.forecast(5).shape == (5, 8)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_leaky_discontinuous_units_have_a_positive_kernel(n_layers):
    """Rounding errors would tell a series from itself; the matrix then has no Cholesky factor, which is a warning."""
    smooth = np.sin(np.arange(300)[:, None] / 7 + np.arange(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RecurrentKernelForecaster("sign", leak_rate=0.3, n_layers=n_layers).fit(smooth, washout=50)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"features": "squares"}, r"features is one of state, state\+input, got 'squares'"),
        ({"ridge": -1}, "ridge is one number of at least 0, got -1"),
        ({"ridge": (1e-3, 1e-2)}, "ridge is one number of at least 0, got"),
        ({"every": 0}, "every is a number of steps, at least 1; got 0"),
        ({"leak_rate": 2}, "leak_rate is in"),
        ({"n_layers": 0}, "n_layers is an integer of at least 1, got 0"),
    ],
    ids=lambda p: "-".join(p) if isinstance(p, dict) else "",
)
def test_parameters_out_of_their_range_are_errors_on_fit(parameters, message):
    with pytest.raises(ConfigError, match=message):
        RecurrentKernelForecaster(**parameters).fit(LORENZ[:50])


def test_what_does_not_fit_memory_or_diverges_names_its_remedy():
    with pytest.raises(DataError, match=r"a kernel matrix of 39,999 training steps takes 11.9 GiB.*every=3"):
        RecurrentKernelForecaster().fit(np.arange(40_000.0)[:, None] % 7)
    with pytest.raises(DivergedError, match="Choose a smaller spectral_radius"):
        RecurrentKernelForecaster("intensity", spectral_radius=2).fit(LORENZ[:200])
