"""What every forecaster promises: scikit-learn's contract, series in any form, original units, states, clear errors."""

import pickle
import warnings

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold, TimeSeriesSplit
from sklearn.utils.estimator_checks import check_estimator

from opu_dfa.errors import ConfigError, DataError
from opu_dfa.reservoir import SYSTEMS, LocalForecaster, ReservoirForecaster

PAST = "a state depends on its past: predictions of some rows are not rows of the predictions"
LORENZ = SYSTEMS["lorenz63"]().series(700)


def small(**parameters):
    return ReservoirForecaster(**{"n_units": 60, "ridge": 1e-4} | parameters)


@pytest.fixture(scope="module")
def fitted():
    return small().fit(LORENZ[:600], washout=50)


@pytest.mark.parametrize(
    "model", [small(n_units=20), LocalForecaster(small(n_units=20))], ids=lambda m: type(m).__name__
)
def test_scikit_learns_own_checks_pass(model):
    expected = {"check_methods_sample_order_invariance": PAST, "check_methods_subset_invariance": PAST}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(model, expected_failed_checks=expected, on_skip=None)
    failed = {r["check_name"] for r in results if r["status"] == "xfail"}
    assert failed == set(expected)


def test_a_clone_has_the_parameters_and_nothing_learned(fitted):
    again = clone(fitted)
    assert again.get_params() == fitted.get_params()
    assert not hasattr(again, "weights_")
    assert np.array_equal(again.fit(LORENZ[:600], washout=50).weights_, fitted.weights_)


@pytest.mark.parametrize("way", ["pickle", "joblib"])
def test_a_pickled_model_forecasts_the_same(fitted, way, tmp_path):
    if way == "pickle":
        again = pickle.loads(pickle.dumps(fitted))
    else:
        joblib.dump(fitted, tmp_path / "model")
        again = joblib.load(tmp_path / "model")
    assert np.array_equal(again.forecast(20), fitted.forecast(20))
    assert np.array_equal(again.predict(LORENZ), fitted.predict(LORENZ))


def test_a_grid_search_over_many_series_picks_the_best_mean_score_of_whole_ones():
    series = [LORENZ[i : i + 200] for i in (0, 250, 400, 500)]
    grid = {"input_scale": [0.4, 1e-4]}
    found = GridSearchCV(small(), grid, cv=KFold(2), error_score="raise").fit(series, washout=20)
    scores = [
        np.mean([
            small(**{"input_scale": s}).fit([series[i] for i in a], washout=20).score([series[i] for i in b])
            for a, b in KFold(2).split(series)
        ])
        for s in grid["input_scale"]
    ]  # fmt: skip
    assert found.cv_results_["mean_test_score"] == pytest.approx(scores)
    assert found.best_params_ == {"input_scale": 0.4}
    assert found.best_estimator_.forecast(5).shape == (5, 3)


def test_a_grid_search_over_one_series_splits_it_in_time():
    found = GridSearchCV(small(), {"ridge": [1e-4, 1e4]}, cv=TimeSeriesSplit(3), error_score="raise").fit(LORENZ)
    assert found.best_params_ == {"ridge": 1e-4}
    assert np.isfinite(found.cv_results_["mean_test_score"]).all()


def test_the_score_is_r2_of_next_steps(fitted):
    predicted = fitted.predict(LORENZ)
    assert fitted.score(LORENZ) == pytest.approx(r2_score(LORENZ[1:], predicted[:-1]))
    both = [LORENZ[:300], LORENZ[300:]]
    truth = np.concatenate([u[1:] for u in both])
    assert fitted.score(both) == pytest.approx(r2_score(truth, np.concatenate([fitted.predict(u)[:-1] for u in both])))


def test_a_stack_of_series_is_a_list_of_them_and_one_series_is_a_list_of_one():
    series = [LORENZ[i : i + 200] for i in (0, 250, 400)]
    of_list, of_stack = small().fit(series, washout=10), small().fit(np.stack(series), washout=10)
    assert np.array_equal(of_list.weights_, of_stack.weights_)
    assert np.array_equal(of_list.forecast(5), of_stack.forecast(5))
    for found, u in zip(of_list.predict(series), series, strict=True):
        assert np.array_equal(found, of_list.predict(u))
    assert np.array_equal(np.stack(of_list.predict(series)), of_stack.predict(np.stack(series)))
    one, alone = small().fit([series[0]]), small().fit(series[0])
    assert np.array_equal(one.weights_, alone.weights_)
    assert len(one.predict([series[0]])) == 1


def test_every_series_is_driven_from_rest():
    """Two series are learned from as the rows of each, which one series end to end is not."""
    a, b = LORENZ[:300], LORENZ[350:600]
    model = small().fit([a, b], washout=40)
    scale = model.scale_
    rows, targets = [], []
    for u in (a, b):
        inputs = scale.standard(u)[None] / np.sqrt(3)
        states, _ = model.reservoir_.run(inputs)
        phi = np.concatenate([states[0], inputs[0].astype(np.float32), np.ones((len(u), 1))], axis=1)
        rows.append(phi[40:-1])
        targets.append(scale.standard(u)[41:])
    phi, y = np.concatenate(rows), np.concatenate(targets)
    expected = np.linalg.solve(phi.T @ phi + 1e-4 * np.eye(phi.shape[1]), phi.T @ y)
    assert model.weights_ == pytest.approx(expected, rel=1e-6, abs=1e-6 * np.abs(expected).max())


def test_forecasts_are_in_the_series_own_units():
    """Scaling and shifting every channel scales and shifts the forecast, up to float32's rounding of states."""
    factor, shift = np.array([1e-6, 40.0, 3.0]), np.array([1e3, -5.0, 1e-9])
    first = small().fit(LORENZ[:600], washout=50)
    second = small().fit(LORENZ[:600] * factor + shift, washout=50)
    found = (second.forecast(20) - shift) / factor
    assert found == pytest.approx(first.forecast(20), abs=1e-3 * LORENZ.std())
    predicted = (second.predict(LORENZ * factor + shift) - shift) / factor
    # 1e3 in units of 1e-6 · 8 leaves 5e-5 of double precision.
    assert predicted == pytest.approx(first.predict(LORENZ), abs=1e-3 * LORENZ.std())


def test_a_forecast_goes_on_where_fit_ended(fitted):
    """As one that has seen the whole series again; the next inputs agree to float32's rounding."""
    assert fitted.forecast(20) == pytest.approx(fitted.forecast(20, warmup=LORENZ[:600]), abs=1e-4)
    assert np.array_equal(fitted.forecast(20), fitted.forecast(20))
    assert fitted.forecast(20)[:7] == pytest.approx(fitted.forecast(7))
    assert np.abs(fitted.forecast(10) - LORENZ[600:610]).max() < 0.2 * LORENZ.std()


def test_a_forecast_is_its_own_predictions_fed_back(fitted):
    """Teacher-forced along its own forecast, the model predicts the forecast."""
    future = fitted.forecast(30)
    along = fitted.predict(np.concatenate([LORENZ[:600], future]))
    assert along[599:-1] == pytest.approx(future, abs=1e-3)


def test_many_warm_ups_are_continued_as_one_by_one(fitted):
    warmups = np.stack([LORENZ[i : i + 100] for i in (0, 150, 300)])
    together = fitted.forecast(20, warmup=warmups)
    assert together.shape == (3, 20, 3)
    for i in range(3):
        assert together[i] == pytest.approx(fitted.forecast(20, warmup=warmups[i]), abs=1e-4)
    assert fitted.forecast(20, warmup=warmups[:1]).shape == (1, 20, 3)
    assert fitted.forecast(20, warmup=list(warmups)) == pytest.approx(together, abs=1e-4)


def test_a_state_is_taken_and_set(fitted):
    model = pickle.loads(pickle.dumps(fitted))
    here = model.get_state()
    there = model.get_state(LORENZ[:100])
    expected = model.forecast(10, warmup=LORENZ[:100])
    assert model.set_state(there) is model
    assert np.array_equal(model.forecast(10), expected)
    model.forecast(10)
    assert np.array_equal(model.forecast(10), expected)
    there["output"][:] = 0
    assert np.array_equal(model.forecast(10), expected)
    assert np.array_equal(model.set_state(here).forecast(10), fitted.forecast(10))


def test_a_state_may_come_from_a_text_file(fitted):
    model = pickle.loads(pickle.dumps(fitted))
    state = {name: array.tolist() for name, array in model.get_state().items()}
    assert np.array_equal(model.set_state(state).forecast(10), fitted.forecast(10))


def test_a_state_of_many_is_continued_together(fitted):
    model = pickle.loads(pickle.dumps(fitted))
    warmups = np.stack([LORENZ[:100], LORENZ[100:200]])
    assert np.array_equal(model.set_state(model.get_state(warmups)).forecast(5), fitted.forecast(5, warmup=warmups))


@pytest.mark.parametrize("kind", ["shape", "name"])
def test_a_state_of_another_model_is_refused(fitted, kind):
    other = small(n_units=61).fit(LORENZ[:100]).get_state() if kind == "shape" else {"output": np.zeros((1, 3))}
    with pytest.raises(DataError, match="60"):
        fitted.set_state(other)


def test_targets_are_learned_from_the_past_of_the_input():
    """The memory task, y_t = u_(t-3), and one of two targets at once; predictions have y's shape."""
    u = np.random.default_rng(0).uniform(-1, 1, (1500, 1))
    y = np.roll(u[:, 0], 3)
    model = ReservoirForecaster(n_units=200, nonlinearity="tanh", input_scale=0.1, ridge=1e-8)
    model.fit(u[:1000], y[:1000], washout=50)
    predicted = model.predict(u)
    assert predicted.shape == (1500,)
    assert r2_score(y[1000:], predicted[1000:]) > 0.99
    assert model.score(u[1000:], y[1000:]) > 0.95  # from rest, so the first steps have no past
    two = np.stack([y, 5 - u[:, 0]], axis=1)
    both = clone(model).fit(u[:1000], two[:1000], washout=50)
    assert both.predict(u).shape == (1500, 2)
    assert both.predict(u)[:, 0] == pytest.approx(predicted, abs=1e-5)
    many = clone(model).fit([u[:500], u[500:1000]], [y[:500], y[500:1000]], washout=50)
    assert many.score([u[1000:]], [y[1000:]]) > 0.95
    assert many.predict([u[1000:]])[0].shape == (500, 1)
    with pytest.raises(DataError, match="fit it without"):
        model.forecast(5)


def test_an_integer_seed_is_reproducible_and_touches_no_global_numbers():
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again = (small(random_state=3).fit(LORENZ[:200]).forecast(5) for _ in range(2))
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    assert np.array_equal(first, again)
    assert np.abs(first - small(random_state=4).fit(LORENZ[:200]).forecast(5)).max() > 1e-6


def test_a_random_state_object_is_drawn_from():
    draw = np.random.RandomState(0)
    seeds = {small(random_state=draw).fit(LORENZ[:50]).seed_ for _ in range(2)}
    assert len(seeds) == 2


def test_a_constant_channel_is_forecast_as_it_is():
    series = np.column_stack([LORENZ[:, 0], np.full(len(LORENZ), 7.0)])
    assert small().fit(series[:600]).forecast(10)[:, 1] == pytest.approx(7.0, abs=1e-3)


GROWING = 1.05 ** np.arange(200)[:, None]


@pytest.mark.parametrize("nonlinearity", ["erf", "relu", "linear"])
def test_a_forecast_that_runs_away_ends_in_nan_and_warns_with_the_remedy(nonlinearity):
    """However far it would run: 1.05 to the 20,000 is beyond double precision."""
    model = small(n_units=20, nonlinearity=nonlinearity, spectral_radius=0.5).fit(GROWING)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = model.forecast(2_000)
    assert found.shape == (2_000, 1)
    assert [w.category for w in seen] == [RuntimeWarning]
    for part in ("1 of 1 forecasts run away, the first at step", "Raise the ridge", "lower the spectral_radius"):
        assert part in str(seen[0].message)
    first = int(str(seen[0].message).split("at step ")[1].split(":")[0])
    assert np.isnan(found[first:]).all()
    assert (np.abs(model.scale_.standard(found[:first])) < 1e3).all()
    assert np.abs(model.scale_.standard(found[first - 1])) > 500  # growing by 1.05 a step, it was near


def test_a_run_away_forecast_leaves_the_others_of_its_batch_alone(fitted):
    model = small(n_units=20).fit(GROWING)
    warmups = np.stack([GROWING[-50:], 0 * GROWING[-50:]])
    with pytest.warns(RuntimeWarning, match="of 2 forecasts"):
        together = model.forecast(400, warmup=warmups)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = model.forecast(400, warmup=warmups[1])
    assert together[1, :100] == pytest.approx(alone[:100], rel=1e-3)


def with_one(value):
    series = LORENZ.copy()
    series[70, 1] = value
    return series


@pytest.mark.parametrize(
    ("series", "words"),
    [
        (LORENZ[:50], "50 steps, too short for washout=50: it takes at least 52"),
        ([LORENZ[:100], LORENZ[:51]], "51 steps, too short"),
        (LORENZ[:, 0], "Expected 2D array, got 1D array"),
        (with_one(np.nan), "NaN"),
        (with_one(np.inf), "infinity"),
        ([LORENZ[:100], LORENZ[:100, :2]], "2 features.*3 features"),
        ([], "array"),
        (LORENZ.astype(str).astype(object) + "x", "could not convert"),
    ],
    ids=["short", "one is short", "1-D", "NaN", "infinite", "ragged", "empty", "text"],
)
def test_a_series_that_cannot_be_learned_from_is_refused(series, words):
    with pytest.raises(ValueError, match=words):
        small().fit(series, washout=50)


@pytest.mark.parametrize("washout", [-1, 1.5, True, "long"])
def test_a_washout_is_a_number_of_steps(washout):
    with pytest.raises(ConfigError, match=f"washout is a number of steps.*{washout}"):
        small().fit(LORENZ, washout=washout)


@pytest.mark.parametrize("steps", [0, -3, 2.5, True, "many"])
def test_a_forecast_has_at_least_one_step(fitted, steps):
    with pytest.raises(ConfigError, match=f"at least one step.*{steps}"):
        fitted.forecast(steps)


def test_another_width_is_refused_after_fit(fitted):
    for ask in (fitted.predict, fitted.get_state, lambda u: fitted.forecast(3, warmup=u)):
        with pytest.raises(ValueError, match=r"2 features.*3 features"):
            ask(LORENZ[:, :2])


def test_what_is_not_fitted_says_so(tmp_path):
    asks = [
        lambda m: m.predict(LORENZ),
        lambda m: m.forecast(3),
        lambda m: m.get_state(),
        lambda m: m.set_state({}),
        lambda m: m.save(tmp_path / "model"),
        lambda m: m.score(LORENZ),
    ]
    for ask in asks:
        with pytest.raises(NotFittedError):
            ask(small())


def test_warm_ups_of_several_lengths_are_refused(fitted):
    with pytest.raises(DataError, match=r"one length, got \[90, 100\]"):
        fitted.forecast(3, warmup=[LORENZ[:100], LORENZ[:90]])


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.zeros(699), "700 steps has 699 targets"),
        (np.full(700, np.nan), "NaN"),
        (np.zeros((700, 2, 2)), "dim"),
    ],
    ids=["short", "NaN", "3-D"],
)
def test_targets_that_do_not_fit_the_series_are_refused(y, words):
    with pytest.raises(ValueError, match=words):
        small().fit(LORENZ, y)


def test_every_series_has_its_targets():
    with pytest.raises(DataError, match="2 series and 1 targets"):
        small().fit([LORENZ, LORENZ], [np.zeros(700)])


def test_a_model_of_next_steps_is_not_scored_with_targets(fitted):
    with pytest.raises(DataError, match="without y"):
        fitted.score(LORENZ, LORENZ)
