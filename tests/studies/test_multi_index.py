"""Studies of multi-index models: reference numbers, fresh experiments, domains and claims that fail."""

from dataclasses import replace

import numpy as np
import pytest

from opu_dfa.errors import ConfigError
from opu_dfa.studies import load
from opu_dfa.studies.multi_index_limits import Point as Limit
from opu_dfa.studies.multi_index_spectral import Point as Spectral
from opu_dfa.studies.multi_index_spectral import amp_overlap
from opu_dfa.studies.sequence_multi_index import Point as Sequence
from opu_dfa.theory.inference.sequence_channels import AttentionTwoLayers
from opu_dfa.theory.inference.thresholds import control


@pytest.mark.parametrize(
    ("point", "overlap"),
    [
        (Limit("sign-product", 2.4), 0.0),
        (Limit("sign-product", 3.0), 0.24271),
        (Limit("sign-product", 5.0), 0.82354),
        (Limit("staircase", 1.5), 1.0),
        (Limit("staircase", 1.2, "truth"), 1.0),
        (Limit("phase-retrieval", 1.2), 1.0),
        (Limit("phase-retrieval", 0.45, "truth"), 0.0),
    ],
)
def test_limits_are_those_of_reference(point, overlap):
    assert load("multi-index-limits").theory(point)["overlap"] == pytest.approx(overlap, abs=2e-5)


def test_limits_meet_message_passing(meets):
    meets("multi-index-limits", Limit("sign-product", 6.0, d=400, steps=60), 5, absolute=0.02)
    meets("multi-index-limits", Limit("staircase", 1.3, "truth", 600, 50), 3, absolute=0.02)


@pytest.mark.parametrize("alpha", [4.0, 5.0, 7.0])
def test_spectral_estimators_know_less_than_message_passing(alpha):
    theory = load("multi-index-spectral").theory(Spectral(alpha))
    assert theory["asymmetric_overlap"] < theory["symmetric_overlap"] < amp_overlap(alpha)
    assert theory["symmetric"] == pytest.approx(1.0, abs=1e-9)


def test_spectra_meet_their_theory(meets):
    meets("multi-index-spectral", Spectral(6.0, d=400), 5, absolute=0.04)  # d^(-2/3) is 0.02


@pytest.mark.parametrize(
    ("alpha", "overlap"), [(0.15, 0.0), (0.18, 0.0140), (0.2, 0.0408), (0.25, 0.1354), (0.3, 0.2621), (0.4, 0.5903)]
)
def test_overlaps_of_one_layer_are_those_of_reference(alpha, overlap):
    """Which are of 20,000 samples, and good to 0.003 and what their slope makes of it near the threshold."""
    found = load("sequence-multi-index").theory(Sequence(alpha))["overlap"]
    assert found == pytest.approx(overlap, abs=0.008)


def test_two_layers_follow_the_published_state_evolution():
    """Their authors' overlaps of the second layer, from Monte Carlo of few samples."""
    for alpha, overlap in ((0.4, 0.49878), (0.5, 0.77344), (0.6, 0.92122)):
        assert control(AttentionTwoLayers(1.0, 25), overlap, np.diag([0.0, 1.0])) == pytest.approx(alpha, abs=0.015)


def test_attention_meets_message_passing(meets):
    meets("sequence-multi-index", Sequence(0.7, d=1000, steps=60), 4, absolute=0.02)
    meets("sequence-multi-index", Sequence(0.3, 2, 1.0, m0=0.3, d=2000, steps=1), 6, absolute=0.02)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: Limit("cubic"), "got 'cubic'"),
        (lambda: Limit(alpha=0.0), "alpha > 0"),
        (lambda: Spectral(link="staircase"), "got 'staircase'"),
        (lambda: Spectral(d=3), "d >= 50"),
        (lambda: Sequence(layers=3), "got 3 layers"),
        (lambda: Sequence(layers=2, tokens=3), "two of two tokens"),
        (lambda: Sequence(m0=1.5), "m0 between 0 and 1"),
    ],
)
def test_points_out_of_their_domain_say_so(ask, said):
    with pytest.raises(ConfigError, match=said):
        ask()


@pytest.mark.parametrize("name", ["multi-index-limits", "multi-index-spectral", "sequence-multi-index"])
def test_claims_fail_of_experiments_that_are_off(name):
    from opu_dfa.studies import Result

    study = load(name)
    exact = [Result(point, theory := study.theory(point), (theory,) * 2) for point in study.sweep("small")]
    assert study.claim(exact).holds
    wrong = [replace(r, experiments=tuple({k: 0.7 * v for k, v in e.items()} for e in r.experiments)) for r in exact]
    assert not study.claim(wrong).holds
    with pytest.raises(ConfigError, match="leave"):
        study.claim([r for r in exact if r.point.alpha > 0.55 and np.isfinite(r.point.alpha)][:1])
