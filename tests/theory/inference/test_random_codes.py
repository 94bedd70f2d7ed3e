"""Gaussian random fields as codes: replica theory against reference numbers, enumeration against direct sampling."""

import math

import numpy as np
import pytest
from scipy import integrate

from opu_dfa.errors import ConfigError
from opu_dfa.theory.inference.random_codes import Field, capacity, decoding, enumerated, secret, threshold, walsh


@pytest.mark.parametrize(("power", "load", "q"), [(3, 1.16447, 0.99754), (4, 1.16148, 0.99967), (8, 1.16095, 1.0)])
def test_thresholds_are_those_of_reference(power, load, q):
    """Of powers 3 and 4; that of power 8 lies within 1e-6 of C / ln 2 = 1.160964, where the reference has 1.16095."""
    found = threshold(Field(power), 0.25)
    assert found == pytest.approx(load, abs=1.6e-5)
    assert decoding(Field(power), found - 1e-7, 0.25).overlap == pytest.approx(q, abs=1.6e-5)
    assert decoding(Field(power), found + 1e-7, 0.25).overlap == 0


@pytest.mark.parametrize(("load", "q"), [(0.5, 0.9917), (1, 0.7981), (1.5, 0.5233), (2, 0.3894), (3, 0.2595)])
def test_linear_fields_lose_bits_smoothly_as_in_reference(load, q):
    assert decoding(Field(1), load, 0.25).overlap == pytest.approx(q, abs=6e-5)


def test_the_capacity_is_the_limit_of_steep_fields():
    assert capacity(0.25) == pytest.approx(0.8047190, abs=1e-7)
    assert threshold(Field(math.inf), 0.25) == pytest.approx(1.160964, abs=1e-6)
    limits = [threshold(Field(p), 0.25) / threshold(Field(math.inf), 0.25) - 1 for p in (3, 4, 5, 6)]
    assert limits == sorted(limits, reverse=True)
    assert 0 < limits[-1] < 3e-5


@pytest.mark.parametrize("field", [Field(1), Field(3), Field(3, 0.4)])
def test_information_is_the_integral_of_the_error_over_the_signal_to_noise_ratio(field):
    """di/ds = ½ E(V - <V>)², s = 1/σ², the error of the field being (Φ(1) - Φ(q)) / (1 + s (Φ(1) - Φ(q)))."""

    def error(s):
        left = 1 - field(decoding(field, 1.5, 1 / s).overlap)
        return left / (1 + s * left) / 2

    total, _ = integrate.quad(error, 1e-9, 2.0, epsabs=1e-8)  # load 1.5 of q³ is lost up to s = 7
    assert decoding(field, 1.5, 0.5).information == pytest.approx(total, rel=1e-6)


def test_the_true_branch_gives_no_more_than_bits_or_channel_hold():
    for power in (1, 3, 5):
        for load in (0.3, 1.0, 1.16, 1.2, 2.5):
            assert decoding(Field(power), load, 0.25).information <= min(capacity(0.25), load * math.log(2)) + 1e-12


def test_the_walsh_transform_is_the_product_with_all_characters():
    words = np.arange(256)
    characters = (-1.0) ** np.bitwise_count(words[:, None] & words)
    v = np.random.default_rng(0).standard_normal((3, 256))
    assert np.allclose(walsh(v), v @ characters)


def test_linear_codes_enumerated_are_those_of_a_random_matrix():
    """Mean information and overlap of y = F x / √N + noise, all of it drawn and summed directly."""
    rng, n, m = np.random.default_rng(1), 6, 6
    words = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    direct = []
    for _ in range(1500):
        v = rng.standard_normal((m, n)) @ words.T / math.sqrt(n)
        y = v[:, :1] + 0.5 * rng.standard_normal((m, 1))
        logs = -((y - v) ** 2).sum(0) / 0.5
        p = np.exp(logs - logs.max())
        direct.append(((p / p.sum()) @ words.mean(1), (logs[0] - logs.max() - math.log(p.mean())) / m))
    _meets(direct, Field(1), n, m)


def test_independent_words_enumerated_are_a_random_codebook():
    rng, n, m = np.random.default_rng(2), 7, 7
    overlaps = 1 - 2 * np.bitwise_count(np.arange(2**n)) / n
    direct = []
    for _ in range(1500):
        v = rng.standard_normal((m, 2**n))
        y = v[:, :1] + 0.5 * rng.standard_normal((m, 1))
        logs = -((y - v) ** 2).sum(0) / 0.5
        p = np.exp(logs - logs.max())
        direct.append(((p / p.sum()) @ overlaps, (logs[0] - logs.max() - math.log(p.mean())) / m))
    _meets(direct, Field(math.inf), n, m)


def _meets(direct, field, n, m):
    found = [enumerated(field, n, m, 0.25, seed) for seed in range(5000, 6500)]
    ours = np.array([(each.overlap, each.information) for each in found])
    direct = np.array(direct)
    error = np.sqrt((ours.var(0) + direct.var(0)) / len(ours))
    assert np.all(np.abs(ours.mean(0) - direct.mean(0)) < 3.5 * error)
    assert np.all(error < 0.02)
    density = np.array([each.density for each in found])
    assert abs(density.mean() - capacity(0.25)) < 3.5 * density.std() / math.sqrt(len(found))


def test_a_secret_of_all_but_no_bits_is_bounded_by_what_the_others_leave():
    """Chain rule: the last bits, given the first, are a code of a field of which a share is known."""
    assert secret(Field(3), 1.0, 0.25, 0.0) == 0
    # without noise to speak of all bits are received, the secret ones too
    assert secret(Field(3), 1.0, 0.01, 0.3) == pytest.approx(0.3 * math.log(2), rel=1e-3)
    # random bits that exceed the capacity hide the others, all of them for independent words
    assert secret(Field(math.inf), 2.0, 1.0, 0.4) == 0
    assert 0 < secret(Field(3), 2.0, 1.0, 0.4) < 0.2 * 0.4 * 2 * math.log(2)


def test_what_is_out_of_range_is_refused():
    for call in (
        lambda: Field(0.5),
        lambda: Field(3, 1.0),
        lambda: capacity(0.0),
        lambda: decoding(Field(3), -1.0, 0.25),
        lambda: threshold(Field(2), 0.25),
        lambda: secret(Field(3), 1.0, 0.25, 1.0),
        lambda: enumerated(Field(3), 30, 10, 0.25, 0),
        lambda: enumerated(Field(2), 6, 6, 0.25, 0),
        lambda: enumerated(Field(3), 6, 6, 0.25, 0, secret=6),
    ):
        with pytest.raises(ConfigError):
            call()
