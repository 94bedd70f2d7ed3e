"""Low-rank matrices: theory of the studies against reference numbers, and experiments with seeds of their own."""

import math

import numpy as np
import pytest

from opu_dfa.errors import ConfigError
from opu_dfa.studies import Result, load
from opu_dfa.studies.block_pca import Point as Principal
from opu_dfa.studies.inhomogeneous_wigner import Point as Blocks
from opu_dfa.studies.memory_reconstruction import Point as Memory
from opu_dfa.studies.nonlinear_low_rank import Point as Seen

# inhomogeneous noise


@pytest.mark.parametrize(
    ("snr", "signs", "gaussian"),
    [(1.2, 0.17932, 0.16285), (1.6, 0.44279, 0.36949), (2.4, 0.72170, 0.57835), (4.0, 0.91270, 0.74652)],
)
def test_overlaps_in_two_blocks_are_those_of_reference(snr, signs, gaussian, digits):
    study = load("inhomogeneous-wigner")
    found = [study.theory(Blocks(snr, prior, 3.0, 2.0)) for prior in ("signs", "gaussian")]
    assert tuple(values["amp"] for values in found) == digits(signs, gaussian)
    assert found[1]["spectral"] == pytest.approx(found[1]["amp"], abs=2e-6)
    assert found[0]["amp"] > found[0]["spectral"] > found[0]["pca"] >= 0


def test_message_passing_and_its_spectral_method_meet_theory_and_pca_does(meets):
    meets("inhomogeneous-wigner", Blocks(3.5, n=900), 6, errors=4, absolute=0.02)
    meets("inhomogeneous-wigner", Blocks(2.4, "gaussian", 3.0, 2.0, n=900), 6, errors=4, absolute=0.02)


# the best principal component


@pytest.mark.parametrize(
    ("snr", "overlap", "pca"), [(0.8, 0.0, 0.013), (1.6, 0.36949, 0.301), (2.4, 0.57835, 0.523), (4.0, 0.74652, 0.717)]
)
def test_overlaps_of_principal_components_are_those_of_reference(snr, overlap, pca):
    """PCA's are those of simulations of n = 1200, within 0.015."""
    found = load("block-pca").theory(Principal(snr, n=1200))
    assert found["overlap"] == pytest.approx(overlap, abs=1.5e-5)
    assert found["pca"] == pytest.approx(pca, abs=0.015)
    assert found["bulk"].sum() == pytest.approx(1, abs=0.01)
    if snr > 1:
        assert found["top"] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    ("snr", "first", "second"), [(0.8, 0.984, 0.963), (1.2, 0.997, 0.967), (1.6, 1.007, 0.910), (2.4, 1.029, 0.693)]
)
def test_the_first_eigenvalues_are_those_of_simulations_of_reference(snr, first, second):
    """Of n = 1200 and six seeds; of an outlier the standard error is about 0.02."""
    found = load("block-pca").theory(Principal(snr, n=1200))
    assert found["top"] == pytest.approx(first, abs=0.04)
    assert found["second"] == pytest.approx(second, abs=0.02)


def test_spectra_meet_theory(meets):
    meets("block-pca", Principal(2.5, 4.0, 8.0, n=700), 6, "top", "second", "overlap", errors=4, absolute=0.02)
    meets("block-pca", Principal(0.4, n=700), 6, "top", "second", "bulk", errors=4, absolute=0.006)


# memories


@pytest.mark.parametrize(
    ("noise", "patterns", "seen", "overlap"),
    [
        (0.7, 1, "weights", 0.35041),
        (1.3, 2, "weights", 0.0),
        (0.8, 2, "weights", 0.22379),
        (0.5, 2, "weights", 0.61845),
        (0.25, 2, "weights", 0.91651),
        (0.4, 3, "weights", 0.74956),
        (0.4, 2, "sign", 0.44526),
        (0.25, 2, "sign", 0.75874),
    ],
)
def test_overlaps_with_memories_are_those_of_reference(noise, patterns, seen, overlap):
    found = load("memory-reconstruction").theory(Memory(noise, patterns, seen=seen))
    assert (found["amp"], found["planted"]) == pytest.approx((overlap, overlap), abs=1.5e-5)
    effective = noise * (math.pi / 2 if seen == "sign" else 1)
    assert found["span"] == pytest.approx(max(0, 1 - effective), abs=1e-9)
    assert found["pca"] <= found["span"]


def test_sparse_memories_have_a_hard_phase_and_signs_have_none():
    study = load("memory-reconstruction")
    for active, hard in ((0.05, True), (0.3, False)):
        found = study.theory(Memory(1.2, kind="sparse", active=active))
        assert found["amp"] < 1e-5
        assert (found["planted"] > 0.5) == hard
    easy = study.theory(Memory(0.95, kind="sparse", active=0.05))
    assert easy["amp"] == pytest.approx(easy["planted"], abs=1e-6)


def test_principal_components_of_gaussian_like_patterns_are_turned_at_random():
    """Of two patterns with E ξ⁴ = 3: the mean of max(cos², sin²) is 1/2 + 1/π; of signs without noise it is 1/2."""
    study, active = load("memory-reconstruction"), 0.5 - math.sqrt(1 / 4 - 1 / 6)  # 1/(f(1 - f)) - 3 = 3
    found = study.theory(Memory(0.5, kind="sparse", active=active))
    assert found["pca"] / found["span"] == pytest.approx(0.5 + 1 / math.pi, abs=0.005)
    found = study.theory(Memory(1e-9))
    assert found["pca"] / found["span"] == pytest.approx(0.5, abs=0.002)


def test_memories_of_signs_and_sparse_ones_are_found_as_theory_says(meets):
    meets("memory-reconstruction", Memory(0.3, n=700), 8, errors=4, absolute=0.02)
    meets("memory-reconstruction", Memory(0.4, kind="sparse", active=0.15, n=700), 6, errors=4, absolute=0.02)


# nonlinear outputs


def test_outputs_of_the_same_information_are_the_same_problem():
    study = load("nonlinear-low-rank")
    found = {name: study.theory(Seen(3.0, name, "positive", n=10**14))["error"] for name in ("linear", "absolute")}
    signs = {study.theory(Seen(3.0, name, n=10**14))["error"] for name in ("linear", "sign", "counts", "cauchy")}
    assert found["linear"] == pytest.approx(found["absolute"], abs=1e-5)
    assert max(signs) - min(signs) < 1e-6
    assert study.theory(Seen(0.95))["error"] == pytest.approx(1, abs=1e-5)
    assert study.theory(Seen(1.05))["error"] < 0.96


def test_outputs_are_learned_from_as_theory_says(meets):
    meets("nonlinear-low-rank", Seen(3.0, "cauchy", n=700), 8, errors=4, absolute=0.01)
    meets("nonlinear-low-rank", Seen(2.0, "absolute", "positive", n=700), 8, errors=4, absolute=0.01)


def test_without_the_next_order_absolute_values_at_finite_size_are_not_met():
    study, point = load("nonlinear-low-rank"), Seen(2.0, "absolute", "positive", n=700)
    result = study.run(point, seeds=range(2000, 2008))
    mean, error = result.measured("error")
    assert mean - point.law.error_at(math.inf) > 3 * error


# domains


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: Blocks(prior="uniform"), "no prior 'uniform'; choose one of signs, gaussian"),
        (lambda: Blocks(fraction=1.0), "between 0 and 1"),
        (lambda: Principal(snr=0.0), "snr and noise are positive"),
        (lambda: Memory(patterns=9), "patterns 1 to 4"),
        (lambda: Memory(kind="dense"), "got 'dense'"),
        (lambda: Seen(output="square"), "choose an output of linear, sign"),
        (lambda: Seen(output="absolute"), "choose unknown=positive"),
        (lambda: Seen(effective=-1.0), "λ_e is positive"),
    ],
)
def test_points_out_of_the_domain_are_refused(ask, said):
    with pytest.raises(ConfigError, match=said):
        ask()


@pytest.mark.parametrize("name", ["inhomogeneous-wigner", "block-pca", "memory-reconstruction", "nonlinear-low-rank"])
def test_claims_say_which_points_they_want(name):
    study = load(name)
    point = study.sweep("small")[0]
    theory = {key: np.asarray(value) for key, value in study.theory(point).items()}
    with pytest.raises(ConfigError, match="claim"):
        study.claim([Result(point, theory, (theory, theory))])
