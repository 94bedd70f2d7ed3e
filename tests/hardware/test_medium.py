"""The medium's matrix: who determines it, how Gaussian it is, how exact its products are."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hardware import DeviceInputError
from hardware.medium import SIGMA, DenseMedium, integer_entries

FINGERPRINT = """
import hashlib
from hardware.medium import integer_entries
print(hashlib.sha256(integer_entries(7, 100, 0, 50).tobytes()).hexdigest())
"""


@given(st.integers(0, 2**32), st.integers(1, 70), st.integers(0, 20), st.integers(1, 20))
@settings(deadline=None, max_examples=50)
def test_any_range_of_rows_is_a_slice_of_the_same_matrix(seed, n_features, start, count):
    whole = integer_entries(seed, n_features, 0, start + count)
    assert np.array_equal(integer_entries(seed, n_features, start, start + count), whole[start:])


def test_a_seed_gives_the_same_matrix_in_another_process():
    here = hashlib.sha256(integer_entries(7, 100, 0, 50).tobytes()).hexdigest()
    there = subprocess.run([sys.executable, "-c", FINGERPRINT], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here
    assert here == "6f43eb20f16dc3999d1f97ecfb07edde7a229a1d6889ab0e5336f68a628c75df"


def test_entries_have_the_moments_of_a_rounded_gaussian():
    entries = integer_entries(3, 500, 0, 1000).astype(float).ravel() / SIGMA
    n = entries.size
    assert abs(entries.mean()) < 4 / n**0.5
    # Sheppard: rounding to integers adds 1/12 to the variance of the unrounded Gaussian.
    assert entries.var() == pytest.approx(1 + 1 / (12 * SIGMA**2), abs=4 * (2 / n) ** 0.5)
    assert stats.kurtosis(entries) == pytest.approx(0, abs=4 * (24 / n) ** 0.5)
    # Undo the rounding with a uniform dither, then no test at a million samples should see a difference.
    dithered = entries + np.random.default_rng(0).uniform(-0.5, 0.5, n) / SIGMA
    assert stats.kstest(dithered, "norm").pvalue > 1e-3


def test_rows_and_parts_are_uncorrelated():
    entries = integer_entries(0, 4000, 0, 20).reshape(40, 4000).astype(float)
    correlation = np.corrcoef(entries) - np.eye(40)
    assert np.abs(correlation).max() < 5 / 4000**0.5


def test_fields_are_the_same_bits_for_any_batch_size_and_thread_count():
    medium = DenseMedium(300, 70, seed=1)
    patterns = torch.randint(0, 2, (1000, 300), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    whole = medium.in_phase(patterns)
    for size in (1, 7):
        assert torch.equal(torch.cat([medium.in_phase(part) for part in patterns[:70].split(size)]), whole[:70])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(medium.in_phase(patterns), whole)
    finally:
        torch.set_num_threads(threads)


def test_too_wide_for_exact_sums_is_refused():
    with pytest.raises(DeviceInputError, match="exact up to"):
        DenseMedium(200_000, 1, seed=0)
