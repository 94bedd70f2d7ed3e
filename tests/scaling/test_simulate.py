"""The simulated pipeline, against closed forms and against an event loop written the other way round."""

import heapq
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opu_dfa.errors import ConfigError
from opu_dfa.scaling import SCHEDULES, Link, Projector, StageCosts, predict, schedule, steady_step

F, B, W = 1.0, 1.25, 0.75  # backward to the input, to the weights: different, so that none is taken for another
COSTS = StageCosts(forward=F, input_grad=B, weight_grad=W)
T = F + B + W


@pytest.mark.parametrize(("p", "m"), [(1, 3), (2, 4), (4, 4), (4, 9), (16, 64)])
def test_gpipe_and_1f1b_have_the_bubble_of_their_papers(p, m):
    for name, kept in (("gpipe", m), ("1f1b", min(p, m))):
        found = predict(name, COSTS, Link(), p, m)
        assert found.step_seconds == pytest.approx((m + p - 1) * T)
        assert found.bubble == pytest.approx((p - 1) / (m + p - 1))
        assert found.backward_bubble * found.step_seconds == pytest.approx((p - 1) * (B + W))
        assert found.in_flight == kept


@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 4), (4, 9), (16, 64)])
def test_zb_h1_has_the_bubble_of_its_paper(p, m):
    """(p - 1)(F + B - W), Qi et al. 2024, for W <= F, B; with 1F1B's activations in flight."""
    found = predict("zb-h1", COSTS, Link(), p, m)
    assert found.step_seconds == pytest.approx(m * T + (p - 1) * (F + B - W))
    assert found.in_flight == predict("1f1b", COSTS, Link(), p, m).in_flight


@pytest.mark.parametrize("name", ["dfa", "dfa-flush"])
@pytest.mark.parametrize(("p", "m"), [(1, 3), (2, 4), (4, 2), (4, 4), (4, 9), (16, 64)])
def test_dfa_waits_for_the_forward_fill_alone(name, p, m):
    found = predict(name, COSTS, Link(), p, m)
    assert found.step_seconds == pytest.approx((p - 1) * F + m * T)
    assert found.backward_bubble == pytest.approx(0)


@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 4), (4, 9)])
def test_dfa_with_all_forwards_first_has_no_bubble_from_step_to_step(p, m):
    assert steady_step("dfa-flush", COSTS, Link(), p, m) == pytest.approx(m * T)
    assert steady_step("gpipe", COSTS, Link(), p, m) == pytest.approx((m + p - 1) * T)


def test_1f1b_pays_a_message_a_micro_batch_where_dfa_pays_the_fill_alone():
    """1F1B's neighbours take turns: each further micro-batch costs F + B and one message."""
    p, hop, link = 8, 0.1, Link(latency=0.1, broadcast="chain")
    longer, long = (predict("1f1b", COSTS, link, p, m).step_seconds for m in (66, 64))
    assert longer - long == pytest.approx(2 * (T + hop))
    longer, long = (predict("dfa", COSTS, link, p, m).step_seconds for m in (66, 64))
    assert longer - long == pytest.approx(2 * T)
    # the last error reaches the first stage p - 1 hops later
    assert predict("dfa", COSTS, link, p, 64).step_seconds == pytest.approx((p - 1) * (F + 2 * hop) + 64 * T)


def test_a_slow_link_bounds_the_step_by_its_bytes():
    m, costs = 50, StageCosts(F, B, W, activation_bytes=100.0)
    found = predict("gpipe", costs, Link(bandwidth=10.0), 2, m)  # 10 seconds a message
    assert found.step_seconds == pytest.approx(F + m * 10 + F + B + W + m * 10 + B + W)


def test_a_slow_device_bounds_the_step_by_its_frames():
    m, seconds = 40, 25.0
    found = predict("dfa-flush", COSTS, Link(), 4, m, Projector(seconds))
    assert found.step_seconds == pytest.approx(4 * F + m * seconds + B + W)
    shared = predict("dfa-flush", COSTS, Link(), 4, m, Projector(seconds / 4, shared_by=4))
    assert shared.step_seconds == pytest.approx(found.step_seconds)


def test_slack_hides_a_device_that_keeps_up():
    """Seven micro-batches' worth of delay, twelve at most in flight instead of four."""
    p, m, seconds = 4, 64, T
    bare = predict("dfa", COSTS, Link(), p, m, Projector(seconds)).step_seconds
    eased = predict(schedule("dfa", slack=8), COSTS, Link(), p, m, Projector(seconds))
    assert bare > 1.5 * eased.step_seconds
    assert eased.step_seconds <= (p - 1) * F + (m + 1) * T + 1e-9
    assert eased.in_flight == p + 8


@pytest.mark.parametrize(("topology", "last"), [("chain", 7), ("tree", 3), ("star", 1)])
def test_a_broadcast_of_latency_alone_takes_its_depth(topology, last):
    link = Link(latency=1000.0, broadcast=topology)
    found = predict("dfa", COSTS, link, 8, 1)
    assert found.step_seconds == pytest.approx(8 * F + 7 * 1000 + last * 1000 + B + W)


@given(
    name=st.sampled_from(list(SCHEDULES)),
    p=st.integers(1, 6),
    m=st.integers(1, 9),
    n_steps=st.integers(1, 3),
    slack=st.integers(0, 2),
    topology=st.sampled_from(["chain", "tree", "star"]),
    share=st.sampled_from([None, 0, 1, 2, 4]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=80, deadline=None)
def test_rounds_agree_with_an_event_loop(name, p, m, n_steps, slack, topology, share, seed):
    from opu_dfa.scaling.simulate import _simulate

    draw = np.random.default_rng(seed)
    each = [tuple(draw.exponential(size=p)) for _ in range(5)]
    costs = StageCosts(*each, activation_bytes=draw.exponential(), error_bytes=draw.exponential())
    link = Link(draw.exponential() / 2, 3.0, topology)
    device = None if share is None else Projector(draw.exponential(), shared_by=share or None)
    plan = schedule(name, slack)
    simulated = _simulate(plan, costs, link, p, m, device, n_steps)
    assert simulated == pytest.approx(event_loop(plan, costs, link, p, m, device, n_steps), rel=1e-12)


def event_loop(plan, costs, link, p, m, device, n_steps):
    """The same pipeline as a heap of events: ends of tasks, arrivals of messages, ends of projections."""
    seconds = {0: costs.forward, 2: costs.weight_grad}
    backward = [costs.project[s] + costs.input_grad[s] + (0 if plan.split else costs.weight_grad[s]) for s in range(p)]
    seconds[1] = backward
    tasks = [[(k // m, k % m + n * m) for n in range(n_steps) for k in map(int, row)] for row in plan.order(p, m)]
    here = [set() for _ in range(p)]  # inputs that have come
    here[0] = {(0, i) for i in range(n_steps * m)}
    if plan.backward == "chain":
        here[-1] |= {(1, i) for i in range(n_steps * m)}
    for each in here:
        each |= {(2, i) for i in range(n_steps * m)}
    done, working, busy_until = [0] * p, [False] * p, {}
    queues, next_turn = {}, {}  # of shared devices: who has asked, and whose turn is next
    events, tick, now = [], itertools.count(), 0.0

    def later(when, what, *which):
        heapq.heappush(events, (when, next(tick), what, which))

    def serve(resource, since, lasts):
        busy_until[resource] = max(since, busy_until.get(resource, 0.0)) + lasts
        return busy_until[resource]

    def spread(i, since):
        """From the last stage to all."""
        wire = costs.error_bytes / link.bandwidth
        copies = {"chain": 1, "tree": math.ceil(math.log2(p)) if p > 1 else 0, "star": p - 1}[link.broadcast]
        start = max(since, busy_until.get("broadcast", 0.0))
        if p > 1:
            busy_until["broadcast"] = start + copies * wire
        for s in range(p - 1):
            away = p - 1 - s
            if link.broadcast == "star":
                travel = away * wire + link.latency
            else:
                hops = away if link.broadcast == "chain" else away.bit_length()
                travel = hops * (wire + link.latency)
            later(start + travel, "error", s, i)
        later(since, "error", p - 1, i)

    def start(s):
        if working[s] or done[s] == len(tasks[s]) or tasks[s][done[s]] not in here[s]:
            return
        kind, i = tasks[s][done[s]]
        working[s] = True
        later(now + seconds[kind][s], "computed", s, kind, i)

    for s in range(p):
        start(s)
    end = 0.0
    while events:
        now, _, what, which = heapq.heappop(events)
        s = which[0]
        if what == "computed":
            _, kind, i = which
            done[s] += 1
            if done[s] % (len(tasks[s]) // n_steps) == 0:
                later(now + costs.update[s], "updated", s)
            else:
                working[s] = False
            wire = costs.activation_bytes / link.bandwidth
            if kind == 0 and s < p - 1:
                later(serve(("down", s), now, wire) + link.latency, "came", s + 1, 0, i)
            elif kind == 0 and plan.backward == "broadcast":
                if device is not None and device.shared_by is None:
                    later(serve("device", now, device.seconds), "projected", s, i)
                else:
                    spread(i, now)
            elif kind == 1 and s > 0 and plan.backward == "chain":
                later(serve(("up", s), now, wire) + link.latency, "came", s - 1, 1, i)
        elif what == "updated":
            working[s] = False
        elif what == "projected":
            spread(which[1], now)
        elif what == "error" and device is not None and device.shared_by is not None:
            first = p - 1 - (p - 1 - s) // device.shared_by * device.shared_by  # of the group, the nearest to the last
            asked, turns = queues.setdefault(
                first,
                (set(), itertools.product(range(n_steps * m), range(first, max(-1, first - device.shared_by), -1))),
            )
            asked.add((which[1], s))
            while (turn := next_turn.get(first) or next(turns, None)) in asked:
                later(serve(("device", first), now, device.seconds), "came", turn[1], 1, turn[0])
                next_turn[first] = None
            next_turn[first] = turn
        else:
            here[s].add((1, which[1]) if what == "error" else which[1:])
        end = max(end, now) if what in ("computed", "updated") else end
        start(s)
    assert done == [len(each) for each in tasks]
    return end


@given(name=st.sampled_from(list(SCHEDULES)), p=st.integers(1, 8), m=st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_time_is_either_busy_or_bubble(name, p, m):
    found = predict(name, COSTS, Link(latency=0.3), p, m)
    assert (1 - found.bubble) * found.step_seconds * p == pytest.approx(p * m * T)
    assert 0 <= found.backward_bubble <= 1


def test_bytes_are_those_of_the_messages():
    costs = StageCosts(F, B, W, activation_bytes=100.0, error_bytes=8.0)
    assert predict("1f1b", costs, Link(), 4, 6).bytes_sent == 3 * 6 * 200
    assert predict("dfa", costs, Link(), 4, 6).bytes_sent == 3 * 6 * 108


def test_the_goal_of_64_stages_is_met_with_all_products_and_free_messages():
    """And by how much zero-bubble backprop meets it too: an m of p gives both the same step."""
    costs = StageCosts(1.0, 1.0, 1.0)
    for m, goal in ((64, 0.70), (32, 0.58)):
        steps = {name: predict(name, costs, Link(), 64, m).step_seconds for name in ("1f1b", "zb-h1", "dfa")}
        assert steps["dfa"] <= goal * steps["1f1b"]
        assert (steps["zb-h1"] == steps["dfa"]) == (m == 64)


def test_thousands_of_stages_are_feasible():
    assert predict("dfa", StageCosts(1.0, 1.0, 1.0), Link(), 1024, 64).step_seconds == 1023 + 3 * 64


def test_costs_for_another_number_of_stages_are_refused():
    with pytest.raises(ConfigError, match="forward is one number, or one for each of 3 stages, got 2"):
        predict("dfa", StageCosts((1.0, 2.0), 1.0, 1.0), Link(), 3, 4)


def test_an_unknown_broadcast_is_refused():
    with pytest.raises(ConfigError, match="a chain, a tree or a star, got 'ring'"):
        predict("dfa", COSTS, Link(broadcast="ring"), 3, 4)
