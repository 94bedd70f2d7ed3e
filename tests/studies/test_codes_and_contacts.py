"""Codes, sequential message passing and epidemics: experiments at points of their own, and what they refuse."""

import math

import numpy as np
import pytest

from opu_dfa.errors import ConfigError
from opu_dfa.studies import load
from opu_dfa.studies.epidemic_mitigation import Point as Screened
from opu_dfa.studies.epidemic_mitigation import season
from opu_dfa.studies.random_sequential_amp import Point as Refreshed
from opu_dfa.studies.secure_coding import Point as Coded

# secure coding


def test_codes_far_from_the_threshold_meet_theory(meets):
    for power in (1.0, 3.0, math.inf):
        meets("secure-coding", Coded(power, 0.5), 4, "information", "overlap", absolute=0.5 / 12)
        meets("secure-coding", Coded(power, 3.0), 5, "information", absolute=0.5 / 12)


def test_an_eavesdropper_learns_little_of_what_is_received(meets):
    """The finite field leaks of the order of 1/n beyond theory's 0.018 and 0."""
    for power in (3.0, math.inf):
        meets("secure-coding", Coded(power, 1.4, 2.0, 0.4), 6, "secret", "information", absolute=0.5 / 12)
    received = Coded(3.0, 1.4, 0.02, 0.4)  # 5 of 12 bits in 9 observations
    assert load("secure-coding").theory(received)["secret"] == pytest.approx(5 / 9 * math.log(2), rel=1e-3)


@pytest.mark.parametrize("wrong", [{"power": 2.5}, {"load": 0.0}, {"load": 30.0}, {"noise": 0.0}, {"share": 1.0}])
def test_codes_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError):
        Coded(**wrong)


# random sequential message passing


def test_refreshes_of_random_spins_meet_theory(early):
    early(Refreshed("semicircle", 1.0, 0.2), 10)
    early(Refreshed("marchenko-pastur", 1.0, 0.2), 8)


def test_parallel_refreshes_of_bimodal_couplings_meet_theory(early):
    """Also where β² E (1 - m²)² = 2.6: the line is that of the spectrum, not of Gaussian couplings."""
    early(Refreshed("bimodal", 4.0, 1.0), 8)
    state = Refreshed("bimodal", 4.0).state
    assert state.almeida > 2
    assert state.stability < 1


@pytest.fixture
def early():
    """Residuals of the first sweeps are those of theory, as logarithms."""

    def check(point, seeds):
        found = load("random-sequential-amp").run(point, seeds=range(1000, 1000 + seeds))
        mean, error = found.measured("residual")
        assert np.all(
            np.abs(mean - found.theory["residual"])[:4] < np.maximum(4 * error, 0.08)[:4]
        )  # 20 %: top modes of A are few

    return check


@pytest.mark.parametrize("wrong", [{"law": "cauchy"}, {"beta": 0.0}, {"share": 0.3}, {"share": 0.0}, {"n": 2}])
def test_messages_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError):
        Refreshed(**wrong)


# epidemics


def test_beliefs_are_calibrated_whoever_is_tested(meets):
    for policy in ("random", "beliefs"):
        meets("epidemic-mitigation", Screened(policy, 0.12, nodes=200), 12, "surplus", "auc_surplus", errors=4)


def test_mean_field_counts_far_more_hidden_cases_than_there_are():
    found = [season(Screened("random", 0.1, nodes=200), seed) for seed in range(6)]
    assert np.mean([each.true["overcount"] for each in found]) > 1.5
    assert all(np.all(np.diff(each.daily) >= 0) for each in found)
    assert all(each.true["cases"] == each.daily[-1] for each in found)


@pytest.mark.parametrize(
    "wrong", [{"policy": "prayer"}, {"tests": 0}, {"tests": 100}, {"infection": 1.0}, {"sources": 200.0}, {"days": 1}]
)
def test_epidemics_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError):
        Screened(**wrong)
