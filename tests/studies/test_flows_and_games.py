"""Games, generative flows, sampling of spin glasses and depth: reference numbers, identities, and fresh experiments."""

import math

import numpy as np
import pytest

from opu_dfa.errors import ConfigError
from opu_dfa.studies.depth import Point as Deep
from opu_dfa.studies.depth import alignment, best_ridge, excess, products, target, threshold, unexplained
from opu_dfa.studies.flow_generative import Point as Flow
from opu_dfa.studies.games import Point as Game
from opu_dfa.studies.spin_glass_sampling import Point as Glass
from opu_dfa.theory.dynamics.games import (
    averaged_gap,
    contraction,
    distance,
    factor,
    field_of,
    play,
    singular_values,
)
from opu_dfa.theory.dynamics.generative_flow import Mixture, denoiser, generate, motion
from opu_dfa.theory.dynamics.spin_glass_sampling import (
    PlantedTensor,
    correlation,
    denoised,
    free_entropy,
    overlap,
    window,
)
from opu_dfa.theory.gaussian import Rule

# games

ONE = Rule(np.array([1.0]), np.array([1.0]))  # the game x y


@pytest.mark.parametrize(
    ("method", "distances"),
    [
        ("gradient", (1.0440306509, 1.5386239549, 8.6230806604, 74.357520076)),
        ("extragradient", (0.9581753493, 0.6523038427, 0.1180999421, 0.0139475963)),
        ("proximal", (0.9578262852, 0.6499313863, 0.1159678356, 0.0134485388)),
        ("optimistic", (1.0440306509, 0.6643024856, 0.0807635236, 0.0057979971)),
    ],
)
def test_distances_in_the_game_of_a_product_are_those_of_reference(method, distances):
    for steps, expected in zip((1, 10, 50, 100), distances, strict=True):
        assert distance(method, ONE, 0.3, steps) == pytest.approx(expected, rel=1e-9, abs=1.5e-9)
        last, _ = play(method, field_of(np.eye(1)), np.array([1.0, 0.0]), 0.3, steps)
        assert np.linalg.norm(last) == pytest.approx(distance(method, ONE, 0.3, steps), rel=1e-11)


@pytest.mark.parametrize("method", ["gradient", "proximal", "extragradient", "optimistic"])
@pytest.mark.parametrize("convexity", [0.0, 0.4])
def test_a_matrix_game_is_one_game_for_each_singular_pair(method, convexity):
    rng = np.random.default_rng(5)
    payoff = rng.standard_normal((50, 50)) / math.sqrt(50)
    u, sigma, vt = np.linalg.svd(payoff)
    start = rng.standard_normal(100)
    pairs = u.T @ start[:50] + 1j * (vt @ start[50:])
    last, _ = play(method, field_of(payoff, convexity), start, 0.25, 40)
    expected = factor(method, convexity - 1j * sigma, 0.25, 40) * pairs
    assert np.allclose(u.T @ last[:50] + 1j * (vt @ last[50:]), expected, atol=1e-11 * max(1, abs(expected).max()))


def test_the_field_at_extragradient_s_average_is_the_way_gone_over_time():
    rng = np.random.default_rng(6)
    field, start = field_of(rng.standard_normal((20, 20)) / 5, 0.1), rng.standard_normal(40)
    last, average = play("extragradient", field, start, 0.2, 30)
    assert np.allclose(field @ average, (start - last) / (0.2 * 30), atol=1e-12)
    assert averaged_gap(ONE, 0.3, 10) == pytest.approx(abs(1 - factor("extragradient", np.array(-1j), 0.3, 10)) / 3)


def test_gradient_steps_converge_in_a_strongly_monotone_game_below_their_largest_rate_only():
    mu, sigma = 0.5, 1.5
    largest = 2 * mu / (mu**2 + sigma**2)
    assert contraction("gradient", mu - 1j * sigma, 0.999 * largest) < 1
    assert contraction("gradient", mu - 1j * sigma, 1.001 * largest) > 1


def test_optimistic_steps_converge_below_a_rate_of_one_over_root_three():
    assert (
        contraction("optimistic", -1j, 0.999 / math.sqrt(3)) < 1 < contraction("optimistic", -1j, 1.001 / math.sqrt(3))
    )
    assert sorted(abs(np.roots([1, -(1 + 0.6j), 0.3j]))) == pytest.approx([0.3162278, 0.9486833], abs=1e-7)


def test_extragradient_shrinks_at_the_rate_of_the_smallest_singular_value():
    values = singular_values(0.25)
    assert values.weights.sum() == pytest.approx(1)
    assert values.weights @ values.nodes**2 == pytest.approx(1)  # of |A|² / rows
    k = 8000
    fall = math.log(distance("extragradient", values, 0.25, k) / distance("extragradient", values, 0.25, 2 * k))
    # a root at the edge of the law gives k^(-3/4)
    rate = -math.log(contraction("extragradient", -0.5j, 0.25))
    assert (fall - 0.75 * math.log(2)) / k == pytest.approx(rate, rel=1e-3)


def test_experiments_with_games_meet_theory(meets):
    meets("games", Game("optimistic", 32, 0.5, n=200), 8)
    meets("games", Game("extragradient", 50, 0.5, 0.2, 0.4, n=200), 8)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: Game("newton", 3), "no method 'newton'; choose one of gradient"),
        (lambda: Game("gradient", 3, ratio=2.0), "at most 1, got 2.0; exchange the players"),
        (lambda: Game("gradient", 3, rate=-0.1), "above 0, got -0.1"),
        (lambda: Game("gradient", -3), "0 or more, got -3"),
        (lambda: averaged_gap(ONE, 0.1, 0), "one step or more, got 0"),
    ],
)
def test_what_is_out_of_the_domain_of_games_is_said(ask, said):
    with pytest.raises(ConfigError, match=said):
        ask()


# generative flows


@pytest.mark.parametrize(
    ("mixture", "t", "expected"),
    [
        ((8, 1.5), 0.12, (0.10957, 0.00207, 0.83599, 0.11984)),
        ((8, 1.5), 0.27, (0.25837, 0.01252, 0.79206, 0.29031)),
        ((8, 1.5), 0.52, (0.50451, 0.05293, 1.19105, 0.46228)),
        ((8, 1.5), 0.77, (0.74886, 0.11560, 2.21340, 0.50335)),
        ((8, 1.5), 1.0, (0.97284, 0.18327, 3.72974, 0.50374)),
        ((4, 0.5), 1.0, (0.97045, 0.12772, 1.34565, 0.83658)),
        ((64, 1.0), 1.0, (0.98848, 0.01541, 2.00354, 0.69834)),
    ],
)
def test_overlaps_of_a_generative_flow_are_those_of_reference(mixture, t, expected, digits):
    flow = motion(Mixture(*mixture))
    k = round(100 * t) - 1
    assert (flow.mean[k], -flow.xi[k], flow.norm[k], flow.cosine[k]) == digits(*expected)


def test_what_a_generative_flow_misses_is_twice_the_variance_over_samples():
    reference = {4: 1.93245, 8: 1.96158, 16: 1.97807, 32: 1.98675, 64: 1.99121, 128: 1.99351, 256: 1.99476}
    for n, expected in reference.items():
        # the reference prints 6 decimals of the error itself
        assert n * motion(Mixture(n), 1000).error == pytest.approx(expected, abs=1.5e-5 + 1e-6 * n)
    for s in (0.5, 1.0, 1.5):
        assert 2000 * motion(Mixture(2000, s), 5000).error == pytest.approx(2 * s**2, rel=5e-3)


def test_the_denoiser_s_factor_is_that_of_reference(digits):
    # It prints it beside t = 0.52, the time after the step; it is that of 0.51, before it.
    assert (denoiser(Mixture(8, 1.5), 0.51).skip,) == digits(1.39288)


def test_the_denoiser_is_the_minimum_of_its_loss():
    """The loss of drawn samples in d = 20,000, minimised over w and then over c."""
    n, s, ridge, t, d = 4, 1.5, 0.1, 0.52, 20_000
    rng = np.random.default_rng(3)
    z, x0 = rng.standard_normal((2, n, d))
    x1 = 1 + s * z
    y = t * x1 + (1 - t) * x0
    centred = y - y.sum(axis=0) / (n + ridge)  # w = Σ (x¹ - c y) / (n + ridge) put into the loss
    c = float((centred * x1).sum() / (centred * y).sum())
    f = denoiser(Mixture(n, s, ridge), t)
    w = (x1 - c * y).sum(axis=0) / (n + ridge)
    assert c == pytest.approx(f.skip, abs=5 / math.sqrt(n * d))
    assert w.mean() == pytest.approx(f.pull, abs=5 * (s + 1) / math.sqrt(n * d))
    assert w @ x0.mean(axis=0) / d == pytest.approx(-f.push / n, abs=5 * (s + 1) / math.sqrt(n * d))
    assert (y @ w > 0).all(), "the sign that f takes of a sample is its cluster"


def test_in_finite_dimension_the_overlap_exceeds_its_limit_as_derived():
    """The start with the cluster that is chosen, √(2/πd), carried along: it is there, and falls as d^(-1/2)."""
    limit = motion(Mixture(8, 1.5)).mean[-1]
    few, many = (motion(Mixture(8, 1.5), d=d).mean[-1] - limit for d in (500, 2000))
    assert few / many == pytest.approx(2)
    rng = np.random.default_rng(8)
    found = [generate(Mixture(8, 1.5), 500, 100, 50, rng).mean[-1] for _ in range(60)]
    excess = np.mean(found) - motion(Mixture(8, 1.5), 50).mean[-1]
    derived = motion(Mixture(8, 1.5), 50, d=500).mean[-1] - motion(Mixture(8, 1.5), 50).mean[-1]
    error = np.std(found, ddof=1) / math.sqrt(60)
    assert abs(excess - derived) < 3 * error < derived / 1.5


def test_experiments_with_generative_flows_meet_theory(meets):
    meets("flow-generative", Flow(6, 0.7, d=1500), 16, absolute=0.005)


# sampling spin glasses


@pytest.mark.parametrize(
    ("delta", "uninformed", "informed"),
    [(0.2, 0.06834, 0.73166), (0.22, 0.06443, 0.68711), (0.2449, 0.06136, 0.61324), (0.3, 0.05752, 0.05752)],
)
def test_overlaps_on_the_way_of_a_flow_are_those_of_reference(delta, uninformed, informed, digits):
    assert (overlap(delta, 0.05), overlap(delta, 0.05, start=1.0)) == digits(uninformed, informed)


@pytest.mark.parametrize(
    ("delta", "low", "high"),
    [(0.26, 0.03692, 0.09623), (0.27, 0.06810, 0.10282), (0.28, 0.09402, 0.11013), (0.29, 0.11486, 0.11855)],
)
def test_windows_of_failure_are_those_of_reference_and_of_the_iteration(delta, low, high, digits):
    found = window(delta)
    assert (found.low, found.high) == digits(low, high)
    for signal, fails in ((low - 1e-3, False), (low + 1e-3, True), (high - 1e-3, True), (high + 1e-3, False)):
        assert (overlap(delta, signal, 1.0) - overlap(delta, signal) > 0.02) == fails


def test_the_window_closes_at_eight_27ths_and_reaches_no_signal_at_a_quarter():
    assert window(8 / 27) is None
    nearly = window(8 / 27 - 1e-9)
    assert nearly.low == pytest.approx(nearly.high, abs=1e-5)
    assert window(0.2501).low > 0 == window(0.2499).low


def test_free_entropies_are_those_of_reference_and_stationary_at_fixed_points():
    for delta, expected in ((0.2, (0.919689, 0.971707)), (0.2449, (0.919648, 0.922860))):
        ends = [overlap(delta, 0.05, start) for start in (0.0, 1.0)]
        assert [free_entropy(delta, 0.05, m) for m in ends] == pytest.approx(expected, abs=1.5e-6)
        for m in ends:
            slope = (free_entropy(delta, 0.05, m + 1e-5) - free_entropy(delta, 0.05, m - 1e-5)) / 2e-5
            assert abs(slope) < 1e-7


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (0.3, (0.36652, 0.56619, 0.77906, 0.93469)),
        (0.5, (0.39795, 0.59464, 0.79635, 0.94020)),
        (0.7, (0.45013, 0.63752, 0.82064, 0.94765)),
    ],
)
def test_overlaps_of_stochastic_localisation_are_those_of_reference(beta, expected, digits):
    found = tuple(overlap(1 / beta**2, t, prior="ising", order=2) for t in (0.5, 1, 2, 4))
    assert found == digits(*expected)


def test_all_that_is_revealed_is_known_and_nothing_is_a_plain_overlap():
    assert overlap(0.3, 0.0, revealed=1.0) == 1.0
    assert overlap(0.3, 0.05, revealed=0.0) == overlap(0.3, 0.05)
    m = overlap(0.3, 0.0, revealed=0.2)
    assert m == pytest.approx(0.2 + 0.8 * denoised("spherical", m**2 / 0.3), abs=1e-9)


def test_a_tensor_drawn_as_it_is_asked_has_the_law_of_a_whole_one():
    """Products of two answers' noises, in N = 10, averaged over draws of either."""
    n, delta, draws = 10, 0.4, 2000
    rng = np.random.default_rng(11)
    x = np.ones(n)
    a, b = rng.standard_normal((2, n))
    scale = math.sqrt(delta / 2) / n

    def whole():
        noise = rng.standard_normal((n, n, n))
        total = sum(noise.transpose(p) for p in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)))
        tensor = total / math.sqrt(6) * scale + np.multiply.outer(np.outer(x, x), x) / n**2
        return [np.einsum("ijk,j,k", tensor, m, m) for m in (a, b, a)]

    def asked():
        tensor = PlantedTensor(x, delta, rng)
        return [tensor.contract(m) for m in (a, b, a)]

    for law in (whole, asked):
        answers = np.array([law() for _ in range(draws)])
        assert np.allclose(answers[:, 0], answers[:, 2])
        noise = answers - np.array([x * (x @ m / n) ** 2 for m in (a, b, a)])
        # E F_i(m) F_j(m') = 2σ² [(m·m')² δ_ij + 2 (m·m') m'_i m_j] for a tensor with E S_123² = σ²
        for (i, m), (j, other) in (((0, a), (0, a)), ((0, a), (1, b))):
            dot = m @ other
            expected = 2 * scale**2 * (dot**2 * np.eye(n) + 2 * dot * np.outer(other, m))
            products = noise[:, i, :, None] * noise[:, j, None, :]
            error = products.std(axis=0) / math.sqrt(draws)
            assert (abs(products.mean(axis=0) - expected) < 4.5 * error).all()


def test_correlations_of_langevin_dynamics_begin_and_end_as_they_must():
    start = correlation(0.27, 0.01, 1000)
    # C = 1 - t + (1/Δ + 1) t²/2 + ...
    assert start[-1] == pytest.approx(1 - 0.01 + (1 / 0.27 + 1) * 0.01**2 / 2, abs=2e-5)
    assert np.allclose(correlation(1e9, 1.0, 4000)[-1], math.exp(-1), atol=1e-4)
    glass, liquid = correlation(0.2, 60.0, 2400)[-1], correlation(0.35, 60.0, 2400)[-1]
    assert glass == pytest.approx(0.5 + math.sqrt(0.25 - 0.2), abs=0.01)
    assert liquid < 0.1
    # Between 1/4 and 8/27, where flows fail: a plateau would be at 1/2 or above
    assert correlation(0.26, 100.0, 2000)[-1] < 0.48


def test_experiments_with_spin_glasses_meet_theory(meets):
    meets("spin-glass-sampling", Glass("flow", 0.23, 0.03), 6, absolute=0.03)
    meets("spin-glass-sampling", Glass("informed", 0.23, 0.03), 6, absolute=0.03)
    meets("spin-glass-sampling", Glass("langevin", 0.4, 1.0, 400), 8, absolute=0.03)
    meets("spin-glass-sampling", Glass("localisation", 4.0, 1.0, 400), 8, absolute=0.03)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: Flow(0), "a sample or more"),
        (lambda: Flow(t=0.001), "from 1/steps to 1 is wanted, got 0.001"),
        (lambda: denoiser(Mixture(1, 1.0, 0.0), 0.5), "n > 1 or a ridge > 0"),
        (lambda: Glass("glauber"), "no sampler 'glauber'; choose one of flow"),
        (lambda: Glass("energy", 0.5), "delta > 1, got 0.5; raise it"),
        (lambda: window(-1.0), "above 0, got -1.0"),
        (lambda: overlap(0.2, -1.0), "signal=-1.0"),
        (lambda: denoised("binary", 1.0), "choose one of spherical, ising"),
    ],
)
def test_what_is_out_of_the_domain_of_flows_and_samplers_is_said(ask, said):
    with pytest.raises(ConfigError, match=said):
        ask()


# depth


def test_the_samples_that_directions_take_grow_as_the_dimension_to_the_three_halves():
    """n/d at the threshold is r ~ √d times a number, and that of a rank-one spike under Wigner noise."""
    few, many = (threshold(target(r)) for r in (4, 32))
    assert math.log(many / few) / math.log(32 / 4) == pytest.approx(1, abs=0.1)
    # At large r a spike's strength is √(2 linear / r) and the noise's edge, 2√(d E y² / n), twice its least strength.
    law = target(32)
    assert many == pytest.approx(32 * law.energy / (2 * law.linear), rel=0.1)


def test_directions_are_learned_above_the_threshold_only_and_exactly_from_all_samples():
    law = target(6)
    assert alignment(law, 0.98 * threshold(law)) == 0
    assert 0 < alignment(law, 1.05 * threshold(law)) < 0.3
    # noise of a spike goes as d E y² / n over its strength squared
    assert 1 - alignment(law, 1e4) == pytest.approx((1 - alignment(law, 1e5)) * 10, rel=0.02)


def test_excess_of_the_best_ridge_is_that_of_the_exact_average():
    """Isotropic Gaussian features and weights: S E tr (XᵀX/λ + 1)⁻¹ / p, drawn."""
    rng, p, n, signal, energy = np.random.default_rng(2), 300, 450, 0.5, 0.7
    x = rng.standard_normal((n, p))
    ridge = best_ridge(signal, energy, p)
    measured = signal * np.trace(np.linalg.inv(x.T @ x / ridge + np.eye(p))) / p
    # the bend of the noise by what is not yet learned is what the self-consistent equation counts
    assert excess(signal, energy, p, n) == pytest.approx(measured, rel=0.02)
    assert excess(signal, energy, p, 1) == pytest.approx(signal, rel=0.01)


def test_the_samples_of_the_second_layer_grow_as_the_dimension():
    """n at which half of the feature is learned, directions known: r ~ √d of them have r(r + 1)/2 products."""
    few, many = (min(n for n in range(1, 4000) if excess(0.5, 0.7, r * (r + 1) / 2, n) < 0.25) for r in (8, 32))
    assert math.log(many / few) / math.log(32**2 / 8**2) == pytest.approx(1, abs=0.05)


def test_products_are_orthonormal_and_the_target_is_their_sum():
    u = np.random.default_rng(1).standard_normal((200_000, 3))
    phi = products(u)
    assert np.allclose(phi.T @ phi / len(u), np.eye(6), atol=0.03)
    law = target(4)
    assert (law.h**2).mean() == pytest.approx(1, rel=0.02)
    assert unexplained(law, 1.0, 1.0) < 1e-3 < 0.99 * law.energy < unexplained(law, 0.0, 1.0) < 1.01 * law.energy


def test_experiments_with_depth_meet_theory(meets):
    meets("depth", Deep(36, 2.1), 4, absolute=0.03)


@pytest.mark.parametrize(
    ("ask", "said"), [(lambda: Deep(2), "d >= 4"), (lambda: Deep(36, -1.0), "kappa from 0 to 4 are wanted")]
)
def test_what_is_out_of_the_domain_of_depth_is_said(ask, said):
    with pytest.raises(ConfigError, match=said):
        ask()
