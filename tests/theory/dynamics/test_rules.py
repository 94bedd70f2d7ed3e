"""Update rules: their averages against Monte Carlo, and what codes and noise do and do not change."""

import math
from dataclasses import replace

import numpy as np
import pytest

from opu_dfa.errors import ConfigError
from opu_dfa.theory.dynamics.codes import Clipped, Device, Exact, StochasticTernary, ThresholdTernary
from opu_dfa.theory.dynamics.fields import activation, j2
from opu_dfa.theory.dynamics.overlaps import Overlaps, Teacher, alignment, generalisation, joint
from opu_dfa.theory.dynamics.rules import Rule

Q, R = np.array([[0.6, 0.1], [0.1, 0.9]]), np.array([[0.3, -0.2], [0.1, 0.4]])
STATE = Overlaps(Q, R, np.array([[0.4, -0.5], [0.2, 0.3], [-0.6, 0.1]]))
TEACHER = Teacher(np.array([[1.0, 0.5], [-0.3, 0.8], [0.2, -0.9]]), np.eye(2), noise=0.3)
B = np.array([[0.7, -0.4, 0.2], [0.5, 0.6, -0.8]])
CODES = [
    Exact(),
    Clipped(0.5),
    ThresholdTernary(0.2, 0.5),
    ThresholdTernary(0.3),
    StochasticTernary(1.0),
    StochasticTernary(),
]


def sent(code, e, rng):
    """φ(e) as defined, written anew."""
    if isinstance(code, Exact):
        return e
    if isinstance(code, Clipped):
        return np.clip(e, -code.level, code.level)
    largest = np.abs(e).max(axis=1, keepdims=True)
    if isinstance(code, ThresholdTernary):
        on = np.abs(e) > code.threshold * (largest if code.level is None else 1)
        scale = np.linalg.norm(e, axis=1) / np.sqrt(np.maximum(on.sum(axis=1), 1)) if code.level is None else None
        return np.sign(e) * on * (code.level if scale is None else scale[:, None])
    top = code.level
    if top is None:
        top = np.where(e > 0, e.max(axis=1, keepdims=True), -e.min(axis=1, keepdims=True))
    return top * np.sign(e) * (rng.random(e.shape) < np.abs(e) / top)


@pytest.mark.parametrize("name", ["erf", "relu"])
@pytest.mark.parametrize("code", CODES, ids=str)
def test_averages_are_those_of_samples(code, name):
    rng, n, g = np.random.default_rng(0), 400_000, activation(name)
    device, teacher = Device(0.2, 0.3, 0.1, 0.25), replace(TEACHER, activation=name)
    z = rng.multivariate_normal(np.zeros(4), joint(STATE, teacher), size=n)
    value, slope = g.value(z), g.slope(z[:, :2])
    e = value[:, :2] @ STATE.v.T - value[:, 2:] @ teacher.head.T - teacher.noise * rng.standard_normal((n, 3))
    phi = sent(code, e, rng)
    s = phi @ B.T * (1 + device.relative * rng.standard_normal((n, 2))) + device.common * rng.standard_normal((n, 1))
    s += device.additive * rng.standard_normal((n, 2))
    s += device.shown * np.linalg.norm(phi, axis=1, keepdims=True) * rng.standard_normal((n, 2))
    force = s * slope
    found = Rule(0.5, feedback=B, code=code, device=device).averages(STATE, teacher)
    for theory, a, b in ((found.drift, force, z), (found.diffusion, force, force), (found.readout, e, value[:, :2])):
        products = a[:, :, None] * b[:, None]
        error = products.std(axis=0) / math.sqrt(n)
        assert (np.abs(products.mean(axis=0) - theory) < 4.5 * error + 3e-4).all()


@pytest.mark.parametrize("label", [0.0, 0.3])
def test_moments_of_separate_codes_are_those_of_label_noise(label):
    rng, delta = np.random.default_rng(1), np.array([[-1.4], [-0.1], [0.0], [0.25], [0.9]])
    e = delta + label * rng.standard_normal((5, 400_000))
    for code in (Clipped(0.5), ThresholdTernary(0.2, 0.5), StochasticTernary(0.8)):
        phi = np.stack([sent(code, row[:, None], rng)[:, 0] for row in e])
        for theory, x in zip(code.moments(delta, label, delta), (phi, phi**2), strict=True):
            assert (np.abs(x.mean(axis=1) - theory[:, 0]) < 4 * x.std(axis=1) / math.sqrt(400_000) + 1e-9).all()


def test_nodes_give_what_closed_forms_give():
    rule = Rule(0.5, feedback=B, device=Device(0.2, 0.3, 0.1, 0.25))
    closed, nodes = rule.averages(STATE, TEACHER), rule.averages(STATE, TEACHER, nodes=2**16)
    for one, other in zip(closed, nodes, strict=True):
        assert one == pytest.approx(other, abs=2e-4)


def test_backprop_is_dfa_by_the_transposed_readout():
    one, other = Rule(0.5).averages(STATE, TEACHER), Rule(0.5, feedback=STATE.v.T).averages(STATE, TEACHER)
    for a, b in zip(one, other, strict=True):
        assert np.array_equal(a, b)


def test_additive_noise_enters_the_diagonal_of_the_diffusion_alone():
    quiet, noisy = (Rule(0.5, feedback=B, device=Device(s)).averages(STATE, TEACHER) for s in (0.0, 0.4))
    slopes = j2(joint(STATE, TEACHER), 2)
    assert np.array_equal(quiet.drift, noisy.drift)
    assert np.array_equal(quiet.readout, noisy.readout)
    assert noisy.diffusion - quiet.diffusion == pytest.approx(0.16 * np.diag(np.diag(slopes)))
    together = Rule(0.5, feedback=B, device=Device(common=0.4)).averages(STATE, TEACHER)
    assert together.diffusion - quiet.diffusion == pytest.approx(0.16 * slopes)


def test_unbiased_ternary_errors_have_the_drift_of_exact_ones_and_thresholds_have_not():
    quiet = replace(TEACHER, noise=0.0)
    exact = Rule(0.5, feedback=B).averages(STATE, TEACHER, nodes=2**14)
    fixed = Rule(0.5, feedback=B, code=StochasticTernary(6.0))  # above any error, |e| < 3 + Σ |V|
    assert fixed.averages(STATE, quiet).drift == pytest.approx(
        Rule(0.5, feedback=B).averages(STATE, quiet, nodes=2**14).drift
    )
    unbiased = Rule(0.5, feedback=B, code=StochasticTernary()).averages(STATE, TEACHER)
    biased = Rule(0.5, feedback=B, code=ThresholdTernary(0.2, 0.5)).averages(STATE, TEACHER)
    assert unbiased.drift == pytest.approx(exact.drift, abs=1e-3)  # other nodes: label noise is among them
    assert (np.diag(unbiased.diffusion) > 1.03 * np.diag(exact.diffusion)).all()
    assert np.abs(biased.drift - exact.drift).max() > 0.02


def test_of_one_output_a_scale_of_each_sample_carries_the_error():
    state, teacher = replace(STATE, v=STATE.v[:1]), Teacher(TEACHER.head[:1], np.eye(2), 0.3)
    exact = Rule(0.5, feedback=B[:, :1]).averages(state, teacher)
    for code in (StochasticTernary(), ThresholdTernary(0.2)):
        found = Rule(0.5, feedback=B[:, :1], code=code).averages(state, teacher)
        for a, b in zip(found, exact, strict=True):
            assert a == pytest.approx(b, abs=1e-3)


def test_the_correlation_loss_sends_the_label_alone():
    silent = replace(STATE, v=0 * STATE.v)
    of_label = Rule(0.5, feedback=B, loss="correlation").averages(STATE, TEACHER)
    assert of_label.drift == pytest.approx(Rule(0.5, feedback=B).averages(silent, TEACHER).drift)


def test_generalisation_and_alignment_are_what_they_say():
    assert generalisation(STATE, TEACHER) == pytest.approx(generalisation(STATE, replace(TEACHER, noise=0.0))), (
        "label noise is left out"
    )
    z = np.random.default_rng(0).multivariate_normal(np.zeros(4), joint(STATE, TEACHER), size=400_000)
    u = np.hstack([STATE.v, -TEACHER.head])
    for name in ("erf", "square", "relu"):
        half = ((activation(name).value(z) @ u.T) ** 2).sum(axis=1) / 2
        error = half.std() / math.sqrt(400_000)
        assert generalisation(STATE, replace(TEACHER, activation=name)) == pytest.approx(half.mean(), abs=4 * error)
    assert alignment(B.T, 3 * B) == pytest.approx(1)
    assert alignment(0 * B.T, B) == 0


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: Rule(-1.0), "rates are 0 or more"),
        (lambda: Rule(1.0, loss="hinge"), "no loss 'hinge'"),
        (lambda: Rule(1.0, batch=1.5), "whole number of samples"),
        (lambda: Rule(1.0, feedback=B.T).averages(STATE, TEACHER), r"shape \(2, 3\), not \(3, 2\)"),
        (lambda: Device(-0.1), "standard deviation"),
        (lambda: Clipped(0.0), "level of a code is positive"),
        (lambda: ThresholdTernary(1.5), "below 1 without a level"),
        (lambda: StochasticTernary(-1.0), "level of a code is positive"),
        (lambda: Teacher(np.ones((1, 2)), np.eye(3)), r"head \(O, M\)"),
        (lambda: Teacher(np.ones((1, 2)), np.eye(2), -1.0), "label noise"),
        (lambda: joint(replace(STATE, r=3 * R), TEACHER), "no weights have these overlaps"),
        (lambda: joint(replace(STATE, v=np.ones((1, 2))), TEACHER), r"V \(3, K\)"),
    ],
)
def test_what_cannot_be_is_refused(ask, said):
    with pytest.raises(ConfigError, match=said):
        ask()


def test_the_grid_gives_the_closed_equations_of_square_units():
    """Of Arnaboldi et al. (arXiv 2302.05882), for a committee of p = 2 and k = 2 with P = I."""
    p, k, q, m, one, noise = 2, 2, Q, R, np.eye(2), 0.3
    state, teacher = Overlaps(q, m, np.full((1, p), 1 / p)), Teacher(np.full((1, k), 1 / k), one, noise, "square")
    found, b = Rule(1.0).averages(state, teacher), p  # the paper's step has 1/p of the readout in its time
    tq, tp, mm = np.trace(q), np.trace(one), m @ m.T
    drift = 2 * ((tp / k - tq / p) * m + 2 * (m / k - q @ m / p))
    assert -b * found.drift[:, 2:] == pytest.approx(drift)
    linear = 4 * ((tp / k - tq / p) * q + 2 * (mm / k - q @ q / p))
    assert -b * (found.drift[:, :2] + found.drift[:, :2].T) == pytest.approx(linear)
    both = (tp * tq + 2 * np.trace(mm)) * q + 2 * tq * mm + 2 * tp * q @ q + 4 * (mm @ q + q @ mm)
    squares = (tp**2 + 2 * k) * q + 4 * tp * mm + 8 * mm
    own = (tq**2 + 2 * np.trace(q @ q)) * q + 4 * tq * q @ q + 8 * q @ q @ q
    quadratic = 4 * (squares / k**2 - 2 / (p * k) * both + own / p**2 + noise**2 * q)
    assert b**2 * found.diffusion == pytest.approx(quadratic)
    risk = (tp**2 + 2 * k) / k**2 + (tq**2 + 2 * np.trace(q @ q)) / p**2 - 2 * (tp * tq + 2 * np.trace(mm)) / (p * k)
    assert generalisation(state, teacher) == pytest.approx(risk / 2)
