"""Encodings: what patterns stand for, without bias, at a known variance."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware import BitPlanes, StochasticTernary, ThresholdTernary
from hardware.encoding import exact_or_bit_planes

rows = st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=12).map(lambda row: torch.tensor([row]))
exact_rows = st.tuples(
    st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=12), st.floats(0.125, 8, width=32)
).map(lambda pair: torch.tensor([pair[0]]) * pair[1])


def fresh() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@given(exact_rows)
@settings(deadline=None)
def test_scaled_ternary_rows_need_at_most_two_patterns_and_are_exact(x):
    patterns = exact_or_bit_planes(x, fresh())
    assert len(patterns.bits) <= 2
    assert torch.equal(patterns.values(), x)


@given(rows, st.integers(1, 12))
@settings(deadline=None)
def test_bit_planes_are_within_one_level(x, n_bits):
    level = x.abs().max() / (2**n_bits - 1)
    error = (BitPlanes(n_bits)(x, fresh()).values() - x).abs().max()
    assert error <= level * 1.001


@given(rows)
@settings(deadline=None)
def test_patterns_are_binary_and_zero_rows_stay_dark(x):
    for encoding in (StochasticTernary(), ThresholdTernary(), BitPlanes(4)):
        patterns = encoding(x, fresh())
        assert len(patterns.bits) == encoding.n_patterns
        assert patterns.bits.max() <= 1
        assert encoding(torch.zeros_like(x), fresh()).bits.sum() == 0


@pytest.mark.parametrize("encoding", [StochasticTernary(), BitPlanes(2)])
def test_random_encodings_are_unbiased(encoding):
    x = torch.tensor([[0.9, -0.3, 0.05, 0.0, -0.8, 0.4]])
    draws = encoding(x.repeat(40_000, 1), fresh()).values()
    standard_error = draws.std(dim=0) / len(draws) ** 0.5
    assert ((draws.mean(dim=0) - x[0]).abs() <= 4 * standard_error + 1e-6).all()


def test_ternary_variance_is_that_of_its_docstring():
    x = torch.tensor([[0.9, -0.3, 0.05, 0.0, -0.8, 0.4]])
    largest = torch.where(x > 0, 0.9, 0.8)
    expected = x.abs() * (largest - x.abs())
    n = 40_000
    measured = StochasticTernary()(x.repeat(n, 1), fresh()).values().var(dim=0)
    # The variance of a sample variance is at most (range^2 / 4)^2 / n for a two-valued variable.
    assert ((measured - expected[0]).abs() <= 4 * 0.25 / n**0.5).all()


def test_separate_scales_never_raise_the_variance():
    x = torch.randn(200, 50, generator=fresh())
    common = (x.abs() * (x.abs().amax(1, keepdim=True) - x.abs())).sum(1)
    ours = (x.abs() * (torch.where(x > 0, x.amax(1, keepdim=True), (-x).amax(1, keepdim=True)) - x.abs())).sum(1)
    assert (ours <= common + 1e-5).all()


def test_threshold_ternary_keeps_the_norm():
    x = torch.randn(20, 50, generator=fresh())
    assert torch.allclose(ThresholdTernary(0.1)(x, fresh()).values().norm(dim=1), x.norm(dim=1))


@pytest.mark.parametrize(("make", "value"), [(ThresholdTernary, 1.0), (ThresholdTernary, -0.1), (BitPlanes, 0)])
def test_settings_out_of_range_are_refused(make, value):
    with pytest.raises(ValueError, match=str(value)):
        make(value)


@pytest.mark.parametrize("encode", [StochasticTernary(), ThresholdTernary(), BitPlanes(4), exact_or_bit_planes])
def test_small_rows_and_dark_ones_are_worth_what_they_hold(encode):
    """Patterns without light weigh nothing, and what is shown scales with the row: noise does too."""
    rows = torch.tensor([[3.0, -1.0, 0.0], [0.0, 0.0, 0.0], [2.0, 1.0, 0.5]])
    large = encode(rows, torch.Generator().manual_seed(0)).weights
    small = encode(rows * 1e-6, torch.Generator().manual_seed(0)).weights
    assert (large[:, 1] == 0).all()
    assert torch.allclose(small, large * 1e-6, rtol=1e-5, atol=0)


def test_a_sign_that_is_absent_weighs_nothing():
    patterns = StochasticTernary()(torch.tensor([[0.5, 0.25]]), torch.Generator().manual_seed(0))
    assert patterns.weights[:, 0].tolist() == [0.5, 0.0]
