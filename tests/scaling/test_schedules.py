"""Orders of tasks: each is done once, in an order that can be done, and keeps no more than it says."""

import numpy as np
import pytest

from opu_dfa.errors import ConfigError
from opu_dfa.scaling import SCHEDULES, schedule

SIZES = [(1, 1), (1, 5), (4, 2), (4, 4), (5, 13), (8, 64)]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("p", "m"), SIZES)
@pytest.mark.parametrize("slack", [0, 3])
def test_every_task_is_done_once_and_after_what_it_needs(name, p, m, slack):
    plan = schedule(name, slack)
    kinds = 3 if plan.split else 2
    for row in plan.order(p, m):
        assert sorted(row) == list(range(kinds * m))
        at = np.argsort(row).reshape(kinds, m)  # the position of each task
        assert (np.diff(at, axis=0) > 0).all()  # forward, backward, weight gradient
        assert (np.diff(at, axis=1) > 0).all()  # micro-batches in their order


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("p", "m"), SIZES)
@pytest.mark.parametrize("slack", [0, 3])
def test_in_flight_is_what_the_order_keeps(name, p, m, slack):
    plan = schedule(name, slack)
    order = plan.order(p, m)
    taken, given = order < m, order >= (2 * m if plan.split else m)
    assert plan.in_flight(p, m) == (np.cumsum(taken, 1) - np.cumsum(given, 1)).max()


def test_an_unknown_schedule_names_those_there_are():
    with pytest.raises(ConfigError, match=r"no pipeline schedule 'pipedream'.*gpipe, 1f1b"):
        schedule("pipedream")


def test_a_pipeline_without_stages_is_refused():
    with pytest.raises(ConfigError, match="got 0 and 3"):
        schedule("dfa").order(0, 3)
