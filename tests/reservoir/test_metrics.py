"""Metrics of forecasts against closed forms, known attractors and the coverage that an interval claims."""

import math

import numpy as np
import pytest

from opu_dfa.errors import DataError
from opu_dfa.reservoir.metrics import (
    nrmse,
    power_spectrum,
    prediction_time,
    return_map,
    valid_prediction_time,
)
from opu_dfa.reservoir.systems import Lorenz63, MackeyGlass


def test_the_mean_as_a_forecast_has_error_one_and_units_do_not_matter():
    truth = np.random.default_rng(0).standard_normal((100, 3)) * [1.0, 10.0, 0.1]
    assert nrmse(truth, np.broadcast_to(truth.mean(0), truth.shape)) == pytest.approx(1)
    forecast = truth + np.random.default_rng(1).standard_normal(truth.shape)
    units = np.array([3.0, 0.01, 500.0])
    assert nrmse(truth * units + 7, forecast * units + 7) == pytest.approx(nrmse(truth, forecast))
    of_each = [nrmse(truth[:, d : d + 1], forecast[:, d : d + 1]) for d in range(3)]
    assert nrmse(truth, forecast) == pytest.approx(math.sqrt(np.mean(np.square(of_each))))


def times(errors, **settings):
    """Of forecasts whose error is given, `(starts, T)`, of a truth of unit standard deviation in one channel of two."""
    forecast = np.zeros((*np.shape(errors), 2))
    forecast[..., 1] = errors
    settings = {"dt": 0.5, "lyapunov_exponent": 0.1, "scale": np.array([0.0, 1.0]), **settings}
    return valid_prediction_time(np.zeros_like(forecast), forecast, **settings)


def test_an_error_that_grows_exponentially_is_found_where_it_passes_the_threshold():
    """ε e^(λt) > θ from t = ln(θ/ε) / λ, within a step."""
    dt, exponent = 0.01, 0.9
    t = dt * np.arange(2000)
    for threshold in (0.2, 0.4, 0.5):
        found = times(1e-4 * np.exp(exponent * t)[None], dt=dt, lyapunov_exponent=exponent, threshold=threshold)
        assert 0 <= found[0] - math.log(threshold / 1e-4) < dt * exponent


def test_what_is_wrong_once_does_not_become_valid_and_the_whole_length_is_the_cap():
    found = times([[0, 0.5, 0, 0], [0.5, 0, 0, 0], [0.1, 0.2, 0.3, 0.4], [0, 0, math.nan, 0], [0, 0, 0, math.inf]])
    assert found == pytest.approx(0.05 * np.array([1, 0, 4, 2, 3]))


def test_channels_count_by_their_size_and_the_scale_is_the_truths_by_default():
    """‖error‖ and √(Σ_d σ_d²) are over the channels together (Pathak et al. 2018)."""
    truth = np.random.default_rng(0).standard_normal((4, 50, 3)) * [1.0, 2.0, 2.0]
    whole = math.sqrt(sum(truth[..., d].var() for d in range(3)))
    for size, valid in ((0.399, 50), (0.401, 0)):
        forecast = truth + size * whole * np.array([0.0, 0.6, -0.8])
        assert valid_prediction_time(truth, forecast, dt=1, lyapunov_exponent=1) == pytest.approx([valid] * 4)
        given = {"dt": 1, "lyapunov_exponent": 1, "scale": truth.std((0, 1))}
        assert valid_prediction_time(truth, forecast, **given) == pytest.approx([valid] * 4)


def test_intervals_hold_the_true_mean_and_median_about_as_often_as_they_claim():
    """Of 60 starts with exponential times: a share near 95 %, less what percentile intervals lack at that size."""
    draw = np.random.default_rng(0)
    found = [prediction_time(draw.exponential(size=60), random_state=i) for i in range(150)]
    for interval, true in (("mean_interval", 1.0), ("median_interval", math.log(2))):
        hold = np.mean([low <= true <= high for low, high in (getattr(f, interval) for f in found)])
        assert abs(hold - 0.94) < 3 * math.sqrt(0.94 * 0.06 / 150)


def test_a_summary_repeats_and_counts_the_capped():
    scores = np.array([3.0, 1.0, 2.0, 4.0, 4.0])
    found = prediction_time(scores, cap=4.0)
    assert found == prediction_time(scores, cap=4.0)
    assert (found.mean, found.median, found.n_starts, found.capped) == (2.8, 3.0, 5, 2)
    assert prediction_time(scores).capped == 0
    assert "2 to the end" in str(found)
    assert "to the end" not in str(prediction_time(scores))
    assert prediction_time(np.array([2.0])).mean_interval == (2.0, 2.0)


def test_a_spectrum_of_white_noise_is_flat_and_integrates_to_the_variance():
    noise = 3 * np.random.default_rng(0).standard_normal((100_000, 2))
    frequencies, power = power_spectrum(noise, dt=0.5, segment=256)
    assert frequencies[[0, -1]] == pytest.approx([0, 1])  # to Nyquist's 1 / (2 dt)
    # Some 780 segments, of which a Hann window makes about that many independent: each value scatters by 1 / √780.
    assert power[2:-2] == pytest.approx(9.0, rel=6 / math.sqrt(780))
    assert power.sum(0) * frequencies[1] == pytest.approx(noise.var(0), rel=0.02)


def test_a_spectrum_peaks_at_the_frequency_of_a_wave():
    series = np.stack([np.sin(2 * math.pi * f * 0.1 * np.arange(8192)) for f in (0.5, 2.0)], axis=1)
    frequencies, power = power_spectrum(series, dt=0.1)
    assert frequencies[power.argmax(0)] == pytest.approx([0.5, 2.0], abs=frequencies[1])
    assert power.sum(0) * frequencies[1] == pytest.approx(0.5, rel=0.01)


def test_maxima_of_a_wave_are_found_between_its_samples():
    """A cosine's parabola misses its top by up to h⁴/26, to leading order; the best sample by up to h²/8."""
    h = 0.2
    found = return_map(np.cos(h * np.arange(2000)))
    assert np.abs(found - 1).max() < h**4 / 20
    assert len(found) == int(2000 * h / (2 * math.pi)) - 1


def test_lorenz_return_map_is_his_cusp():
    """A curve, rising then falling with slopes beyond ±1, so that its neighbours part: all its orbits are unstable."""
    found = return_map(Lorenz63(dt=0.01).series(40_000)[:, 2])
    found = found[found[:, 0].argsort()]
    top = found[:, 1].argmax()
    assert found[top, 0] == pytest.approx(38.5, abs=0.5)
    left, right = found[:top], found[top + 1 :]
    assert (np.diff(left[:, 1]) > -0.05).all()
    assert (np.diff(right[:, 1]) < 0.05).all()
    for branch in (left, right):
        ends = branch[len(branch) // 10], branch[-len(branch) // 10]
        assert abs(ends[1][1] - ends[0][1]) > abs(ends[1][0] - ends[0][0])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: nrmse(np.ones((3, 2)), np.ones((3, 1))), r"both \(T, D\), got \(3, 2\) and \(3, 1\)"),
        (lambda: nrmse(np.array([[0.0, 1.0], [1.0, 1.0]]), np.ones((2, 2))), "channel 1 of the truth is constant"),
        (lambda: nrmse(np.array([[0.0], [np.nan]]), np.ones((2, 1))), r"the truth holds nan at \(1, 0\)"),
        (lambda: times([0.0, 1.0]), r"both \(starts, T, D\), got \(2, 2\)"),
        (lambda: times([[0.0]], scale=np.ones(3)), "each of 2 channels"),
        (lambda: times([[0.0]], scale=None), "got scale=0; give scale="),
        (lambda: prediction_time(np.array([])), r"one number a start, got shape \(0,\)"),
        (lambda: power_spectrum(np.ones(100), dt=1.0), r"at least 8 steps, got \(100,\)"),
        (lambda: return_map(np.arange(9.0)), "two local maxima, got 0 in 9 steps"),
        (lambda: return_map(MackeyGlass().series(9)), r"one channel \(T,\), got \(9, 1\)"),
    ],
)
def test_what_cannot_be_measured_is_told(call, match):
    with pytest.raises(DataError, match=match):
        call()
