"""Subspace clustering, matrices with tensors, and sequences: theory against reference numbers and closed forms, and
experiments at a point of each study with seeds of their own."""

import math

import pytest

from opu_dfa.errors import ConfigError
from opu_dfa.studies import load
from opu_dfa.studies.matrix_tensor import Point as Shared
from opu_dfa.studies.sequence_single_index import Point as Sequences
from opu_dfa.studies.subspace_clustering import Point as Clusters

# subspace clustering


def test_overlaps_of_clusters_are_those_of_state_evolution():
    found = load("subspace-clustering").theory(Clusters(0.02, 0.7))
    assert (found["clusters"], found["clusters, told"]) == pytest.approx((0, 0.29798), abs=1.5e-5)
    assert found["centre, told"] <= 1


def test_clustering_experiments_meet_theory(meets):
    # of 40 features that are not 0: finite overlaps of nothing are squares of noise
    meets("subspace-clustering", Clusters(0.1, 1.6, d=1000), 5, absolute=0.02)
    meets("subspace-clustering", Clusters(0.02, 0.75, alpha=1.0), 4, absolute=0.03)


# a matrix and a tensor


def test_the_staircase_s_cosines_are_those_of_state_evolution():
    study = load("matrix-tensor")
    assert tuple(study.theory(Shared(0.3, 0.5)).values()) == pytest.approx((0.71697, 0.30262), abs=1.5e-5)
    assert tuple(study.theory(Shared(0.3, 0.5, "curriculum")).values()) == pytest.approx((0.7, 1 - 0.5 / 0.7))
    assert study.theory(Shared(0.6, 0.15, "likelihood"))["u"] < 1e-6


def test_matrix_and_tensor_experiments_meet_theory(meets):
    for method in ("mean", "likelihood", "curriculum"):
        meets("matrix-tensor", Shared(0.3, 0.25, method, n=160), 5, absolute=9 / 160)


# sequences


def test_the_first_passage_of_one_half_is_that_of_the_logistic_flow():
    """m²/(1 - m²) = 1/3 at m = 1/2, from m0 in a time of log((1/3) (1 - m0²)/m0²) / 2c; noise of a small rate adds."""
    found = load("sequence-single-index").theory(Sequences("tied", tokens=4, horizon=4.0, rate=1e-6))
    assert found["escape"] == pytest.approx(math.log(0.96 / 0.04 / 3) / 2, rel=2e-3)
    untied = load("sequence-single-index").theory(Sequences("untied", tokens=4, horizon=16.0, rate=1e-6))
    assert untied["escape"] == pytest.approx(4 * found["escape"], rel=1e-3)


def test_attention_learns_positions_first_only_of_targets_that_are_almost_all_positional():
    study = load("sequence-single-index")
    for omega, horizon, semantic in ((0.5, 16.0, True), (0.9, 90.0, True), (0.98, 128.0, False), (1.0, 128.0, False)):
        found = study.theory(Sequences(omega=omega, horizon=horizon, rate=0.01))
        assert (found["semantic"] > found["positional"] + 0.2) == semantic


def test_sequence_experiments_meet_theory(meets):
    meets("sequence-single-index", Sequences(omega=0.3, horizon=12.0, rate=0.2, d=150), 8, errors=4, absolute=0.02)
    meets(
        "sequence-single-index",
        Sequences("untied", tokens=3, horizon=6.0, rate=0.03, d=150),
        8,
        errors=4,
        absolute=0.02,
    )


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: Sequences(student="recurrent"), "choose one of attention, tied, untied"),
        (lambda: Sequences(tokens=3), "attention is on 2 tokens"),
        (lambda: Sequences(start=0.7), "a start between 0 and 0.5"),
        (lambda: Shared(matrix=0.0), "noise variances are positive"),
        (lambda: Shared(method="both"), "choose one of mean, likelihood, curriculum"),
        (lambda: Clusters(sparsity=0.0), "sparsity is above 0"),
        (lambda: Clusters(sparsity=0.005, d=500), "take a larger d"),
    ],
)
def test_what_is_out_of_the_domain_of_staircases_and_sequences_is_said(ask, said):
    with pytest.raises(ConfigError, match=said):
        ask()
