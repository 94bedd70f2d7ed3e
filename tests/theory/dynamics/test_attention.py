"""Overlaps of students of sequences: averages against Monte Carlo and finite differences, flows against reference
numbers and closed forms, and gradient descent in finite dimensions."""

import math

import numpy as np
import pytest

from opu_dfa.errors import ConfigError
from opu_dfa.theory.dynamics.attention import Attention, FeedForward, descent, flow


@pytest.mark.parametrize(("omega", "m", "e"), [(0.1, 0.2, 0.2), (0.9, 0.6, 0.5), (0.5, 0.95, 0.1)])
def test_averages_of_attention_are_those_of_drawn_samples(omega, m, e):
    rng, n = np.random.default_rng(1), 400_000
    t, z = rng.standard_normal((2, n)), rng.standard_normal((2, n))
    s = m * t + math.sqrt(1 - m * m) * z + np.array([[e], [-e]])

    def softmax(a, b):
        rows = np.stack([np.stack([a * a, a * b]), np.stack([b * a, b * b])])
        rows = np.exp(rows - rows.max(axis=1, keepdims=True))
        return rows / rows.sum(axis=1, keepdims=True)

    own = np.exp(0.75**2) / (np.exp(0.75**2) + np.exp(-(0.75**2)))
    fixed = np.array([[own, 1 - own], [1 - own, own]])[:, :, None]
    target = (1 - omega) * softmax(*t) + omega * fixed

    def loss(shift):
        return ((softmax(s[0] + shift[0], s[1] + shift[1]) - target) ** 2).sum(axis=(0, 1)) / 2

    pulls = [(loss((h, 0)) - loss((-h, 0))) / 2e-4 for h in (1e-4,)]
    pulls += [(loss((0, h)) - loss((0, -h))) / 2e-4 for h in (1e-4,)]
    noise = pulls[0] ** 2 + pulls[1] ** 2
    force, risk = Attention(omega).force(np.array([m, e])), loss((0, 0))
    assert force.risk == pytest.approx(risk.mean(), abs=4 * risk.std() / math.sqrt(n))
    assert force.noise == pytest.approx(noise.mean(), abs=4 * noise.std() / math.sqrt(n))


@pytest.mark.parametrize("model", [Attention(0.5), Attention(0.95), FeedForward("sum", 3), FeedForward("mean", 2, 3)])
def test_slopes_are_those_of_the_risk(model):
    at = np.array([0.3, 0.25]) if isinstance(model, Attention) else np.array([0.4])
    for i, slope in enumerate(model.force(at).slopes):
        step = 1e-4 * np.eye(len(at))[i]
        # central differences err by the third derivative times 1e-8 / 6
        assert slope == pytest.approx((model.force(at + step).risk - model.force(at - step).risk) / 2e-4, abs=1e-6)


def test_attention_follows_the_reference_flow_to_the_error_of_its_quadrature():
    """Of 16 Hermite nodes a field, overlaps are right to 4e-4 and the risk to 8e-5: 24 nodes give 0.29140 and 0.15077
    at t = 2, which trapezoids have to 3e-5."""
    found = flow(Attention(0.1), [0.2, 0.2], np.array([2.0, 4.0, 8.0, 16.0]))
    assert found[:, 0] == pytest.approx([0.29139, 0.42030, 0.77284, 0.99853], abs=3e-4)
    assert found[:, 1] == pytest.approx([0.15049, 0.10548, 0.02863, 0.00004], abs=4e-4)
    assert found[0] == pytest.approx([0.29140, 0.15077], abs=4e-5)
    assert Attention(0.1).force(np.array([0.2, 0.2])).risk == pytest.approx(0.13331, abs=8e-5)


def test_a_target_of_positions_alone_has_nothing_to_say_of_the_direction():
    force = Attention(1.0).force(np.array([0.4, 0.3]))
    assert abs(force.slopes[0]) < 1e-12
    found = flow(Attention(1.0), [0.2, 0.2], np.array([100.0, 300.0]))
    assert (np.diff(found[:, 0]) < 0).all()
    assert found[-1, 1] > 0.8


def test_the_position_is_a_saddle_unless_the_target_is_all_positional():
    """At the best of m = 0, the direction grows at a rate that is positive below ω = 1, and small near it."""
    rates = []
    for omega, e in ((0.9, 0.4197), (0.94, 0.6396), (0.98, 0.8069), (0.99, 0.8444)):
        law = Attention(omega)
        assert abs(law.force(np.array([0.0, e])).slopes[1]) < 1e-5  # stationary in e
        small = law.force(np.array([1e-3, e]))
        rates.append(-small.slopes[0] / 1e-3 + e * small.slopes[1])
    assert (np.diff(rates) < 0).all()
    assert rates[-1] > 3e-4
    # So a rate of 0.3 keeps at the position a student that a smaller one would let go.
    assert 0.15 * Attention(0.99).force(np.array([1e-3, 0.8444])).noise > rates[-1]


def test_the_direction_wins_of_a_target_that_is_nine_tenths_positional():
    found = flow(Attention(0.9), [0.2, 0.2], np.array([64.0, 128.0]))
    assert found[0] == pytest.approx([0.6675, 0.1329], abs=1.5e-4)
    assert found[1, 0] > 0.99


@pytest.mark.parametrize("target", ["sum", "mean"])
@pytest.mark.parametrize("order", [2, 3])
def test_untied_students_are_tied_ones_slowed_down_by_their_tokens(target, order):
    times = np.array([0.5, 1.0, 2.0])
    tied = flow(FeedForward(target, 3, order), [0.3], times, rate=0.02)
    untied = flow(FeedForward(target, 3, order, tied=False), [0.3], 3 * times, rate=0.02)
    assert tied == pytest.approx(untied, abs=1e-5)


def test_order_two_without_noise_is_logistic():
    """dm/dt = c m (1 - m²): m²/(1 - m²) grows as exp(2ct)."""
    law = FeedForward("sum", 4)
    m = flow(law, [0.1], np.array([1.0, 2.0]))[:, 0]
    assert law.speed == pytest.approx(1.0)
    assert m**2 / (1 - m**2) == pytest.approx(0.01 / 0.99 * np.exp([2.0, 4.0]), rel=1e-4)


@pytest.mark.parametrize(("target", "tokens", "order"), [("sum", 3, 2), ("mean", 3, 2), ("sum", 2, 3)])
def test_noise_of_feed_forward_students_is_that_of_drawn_samples(target, tokens, order):
    rng, n, m = np.random.default_rng(4), 1_000_000, 0.6
    h = {1: lambda x: x, 2: lambda x: (x * x - 1) / math.sqrt(2), 3: lambda x: (x**3 - 3 * x) / math.sqrt(6)}
    t = rng.standard_normal((n, tokens))
    s = (m * t + 0.8 * rng.standard_normal((n, tokens))).sum(axis=1) / math.sqrt(tokens)
    y = h[order](t.sum(axis=1) / math.sqrt(tokens)) if target == "mean" else h[order](t).sum(axis=1) / math.sqrt(tokens)
    force = FeedForward(target, tokens, order).force(np.array([m]))
    loss, noise = (h[order](s) - y) ** 2 / 2, ((h[order](s) - y) * math.sqrt(order) * h[order - 1](s)) ** 2
    assert force.risk == pytest.approx(loss.mean(), abs=4 * loss.std() / 1000)
    assert force.noise == pytest.approx(noise.mean(), abs=4 * noise.std() / 1000)


@pytest.mark.parametrize(
    ("model", "start", "rate", "times"),
    [
        (Attention(0.1), [0.2, 0.2], 0.3, (2.0, 4.0, 8.0)),
        (Attention(0.9), [0.2, 0.2], 0.3, (20.0, 40.0)),
        (FeedForward("sum", 2, 3), [0.4], 0.01, (0.5, 1.0)),
        (FeedForward("sum", 2, 2, tied=False), [0.2], 0.04, (1.0, 3.0)),
    ],
)
def test_gradient_descent_follows_the_flow(model, start, rate, times):
    times = np.array(times)
    runs = [descent(model, start, times, rate, 200, np.random.default_rng(seed)) for seed in range(40, 48)]
    means, errors = np.mean(runs, axis=0), np.std(runs, axis=0, ddof=1) / math.sqrt(len(runs))
    # beyond their spread, overlaps are off by some 1/d
    assert (np.abs(means - flow(model, start, times, rate)) < np.maximum(4 * errors, 4 / 200)).all()


def test_descent_starts_from_the_overlaps_it_is_given():
    found = descent(Attention(0.3), [0.3, 0.4], np.array([0.0]), 0.1, 20, np.random.default_rng(0))
    assert found.ravel() == pytest.approx([0.3, 0.4])


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: Attention(1.5), "from 0 to 1, got 1.5"),
        (lambda: FeedForward("product", 2), "choose one of mean, sum"),
        (lambda: FeedForward("sum", 9), "over 1 to 6 tokens"),
        (lambda: flow(Attention(0.1), [0.9, 0.9], np.array([1.0])), "a length below 1"),
        (lambda: descent(Attention(0.1), [0.1, 0.1], np.array([1.0]), 0.0, 50, None), "a positive rate"),
    ],
)
def test_what_is_out_of_the_domain_is_said(ask, said):
    with pytest.raises(ConfigError, match=said):
        ask()
