"""Local forecasters: what a group sees and predicts, one model for all or one for each, and groups that do not fit."""

import numpy as np
import pytest

from opu_dfa.errors import ConfigError
from opu_dfa.reservoir import SYSTEMS, LocalForecaster, ReservoirForecaster

RING = SYSTEMS["lorenz96"](n=12).series(500)


def local(**parameters):
    return LocalForecaster(ReservoirForecaster(n_units=60, ridge=1e-4), **{"n_groups": 4, "overlap": 2} | parameters)


def test_a_group_sees_its_channels_and_its_neighbours_around_the_ring():
    model = local().fit(RING)
    seen = model._windows(np.arange(12.0).reshape(1, 1, 12))[0, :, 0]
    assert seen.tolist() == [[(3 * i + k) % 12 for k in range(-2, 5)] for i in range(4)]


@pytest.mark.parametrize("shared", [True, False])
def test_groups_are_forecasters_of_their_windows(shared):
    """By hand: fitted to the windows and their own channels, and driven by them."""
    model = local(shared=shared).fit(RING, washout=30)
    assert len(model.models_) == (1 if shared else 4)
    standard = model.scale_.standard(RING)
    windows = [standard[:, [(3 * i + k) % 12 for k in range(-2, 5)]] / np.sqrt(12) for i in range(4)]
    own = [standard[:, 3 * i : 3 * i + 3] for i in range(4)]
    for i in range(4):
        groups = range(4) if shared else [i]
        alone = ReservoirForecaster(n_units=60, ridge=1e-4)
        alone.fit([windows[g][:-1] for g in groups], [own[g][1:] for g in groups], washout=30)
        expected = alone.predict([windows[i]])[0]
        found = model.scale_.standard(model.predict(RING))[:, 3 * i : 3 * i + 3]
        assert found == pytest.approx(expected, abs=1e-6)


def test_one_group_without_overlap_is_the_forecaster_itself():
    """But for standardising twice."""
    whole = ReservoirForecaster(n_units=60, ridge=1e-4).fit(RING)
    one = local(n_groups=1, overlap=0).fit(RING)
    assert one.predict(RING) == pytest.approx(whole.predict(RING), abs=0.02 * RING.std())


def test_a_shared_model_moves_with_the_ring():
    """A ring turned by one group gives a forecast turned by one group."""
    model = local().fit(RING)
    turned = np.roll(RING, 3, axis=1)
    found = model.forecast(5, warmup=turned[-100:])
    assert found == pytest.approx(np.roll(model.forecast(5, warmup=RING[-100:]), 3, axis=1), abs=1e-3)


@pytest.mark.parametrize("shared", [True, False])
def test_scales_are_those_of_a_groups_place_if_shared_and_of_a_channel_otherwise(shared):
    model = local(shared=shared).fit(RING)
    by_place = RING.reshape(500, 4, 3).std((0, 1))
    assert model.scale_.deviation == pytest.approx(np.tile(by_place, 4) if shared else RING.std(0))


@pytest.mark.parametrize("shared", [True, False])
def test_warm_ups_together_are_warm_ups_one_by_one(shared):
    model = local(shared=shared).fit(RING)
    warmups = np.stack([RING[:80], RING[100:180], RING[300:380]])
    together = model.forecast(10, warmup=warmups)
    for i in range(3):
        assert together[i] == pytest.approx(model.forecast(10, warmup=warmups[i]), abs=1e-4)
    assert model.forecast(10) == pytest.approx(model.forecast(10, warmup=RING), abs=1e-3)


def test_the_next_step_of_a_field_is_predicted():
    model = local().fit(RING[:400], washout=30)
    error = model.predict(RING)[400:-1] - RING[401:]
    assert error.std() < 0.2 * RING.std()


def test_targets_are_shared_among_the_groups():
    y = RING.reshape(500, 4, 3).sum(2)
    model = local().fit(RING, y, washout=30)
    assert model.predict(RING).shape == (500, 4)
    assert model.score(RING, y) > 0.99
    with pytest.raises(ConfigError, match="5"):
        local().fit(RING, RING[:, :5])


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"n_groups": 5}, "divides the 12 channels, got 5"),
        ({"n_groups": 0}, "got 0"),
        ({"n_groups": 4.0}, "got 4.0"),
        ({"overlap": 5}, "3 channels with overlap=5 .*ring of 12"),
        ({"overlap": -1}, "overlap=-1"),
        ({"overlap": 1.5}, "overlap=1.5"),
    ],
    ids=str,
)
def test_groups_that_do_not_fit_the_ring_are_refused(parameters, words):
    with pytest.raises(ConfigError, match=words):
        local(**parameters).fit(RING)


def test_a_default_forecaster_is_a_reservoirs():
    assert isinstance(LocalForecaster(n_groups=2).fit(RING[:60]).models_[0], ReservoirForecaster)
