"""Phase retrieval against known matrices, in closed form and by a device's own speckle."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hardware import open_opu
from opu_dfa.defense.retrieval import (
    Intensities,
    aligned_error,
    from_known,
    lifted,
    prediction_error,
    random_patterns,
    recover_chosen,
    recover_known,
    refine,
)
from opu_dfa.errors import DataError


def _seed(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _medium(m: int, n: int, seed: int = 0) -> Tensor:
    parts = torch.randn(2, m, n, generator=_seed(seed)) / n**0.5
    return torch.complex(parts[0], parts[1])


def _intensities(matrix: Tensor, patterns: Tensor) -> Tensor:
    return (patterns.to(matrix.dtype) @ matrix.T).abs().square()


def _truth(opu) -> Tensor:  # type: ignore[no-untyped-def]
    real, imaginary = opu.speckle(torch.eye(opu.n_features))
    return torch.complex(real, imaginary).T


def test_least_squares_is_exact_without_noise() -> None:
    truth, patterns = _medium(5, 8), random_patterns(80, 8, _seed(1))
    found = lifted(patterns, _intensities(truth, patterns))
    assert aligned_error(found, truth) < 1e-4  # intensities are float32


def test_fewer_queries_than_products_suffice_for_the_iteration() -> None:
    truth, patterns = _medium(10, 24), random_patterns(240, 24, _seed(1))  # 300 products
    found = from_known(patterns, _intensities(truth, patterns), _seed(2))
    assert aligned_error(found, truth) < 1e-3


def test_alignment_ignores_phase_and_conjugation_and_nothing_else() -> None:
    truth = _medium(4, 9)
    phases = torch.exp(2j * torch.pi * torch.rand(4, 1, generator=_seed(3)))
    seen_alike = phases * truth
    seen_alike[::2] = seen_alike[::2].conj()
    assert aligned_error(seen_alike, truth) < 1e-5
    assert aligned_error(1.1 * truth, truth) == pytest.approx(0.1, abs=1e-5)
    probes = random_patterns(50, 9, _seed(4))
    assert prediction_error(seen_alike, probes, _intensities(truth, probes)) < 1e-4


def test_the_truth_is_a_fixed_point() -> None:
    truth, patterns = _medium(6, 12), random_patterns(60, 12, _seed(1))
    kept = refine(truth, patterns, _intensities(truth, patterns), steps=20)
    assert (kept - truth).abs().max() < 1e-4


def test_the_error_falls_with_queries() -> None:
    opu = open_opu("simulated", n_features=16, n_components=8, seed=0, preset="noisy-8bit")
    few, many = (recover_known(opu, count, _seed(1)) for count in (32, 200))
    assert many.relative_error < few.relative_error / 3
    assert aligned_error(many.matrix, _truth(opu)) < aligned_error(few.matrix, _truth(opu)) / 3


def test_the_error_falls_as_the_root_of_the_queries_in_noise() -> None:
    truth, patterns = _medium(10, 8), random_patterns(1600, 8, _seed(1))
    seen = _intensities(truth, patterns)
    noisy = (seen + 0.05 * torch.randn(seen.shape, generator=_seed(2))).clamp(min=0)
    few, many = (aligned_error(from_known(patterns[:n], noisy[:n], _seed(3), quantum=0.1), truth) for n in (100, 1600))
    assert 2 < few / many < 8  # 4 expected of 16 times the queries


def test_chosen_patterns_recover_a_noisy_device_of_eight_bits() -> None:
    opu = open_opu("simulated", n_features=32, n_components=16, seed=0, preset="noisy-8bit")
    found = recover_chosen(opu, _seed(1), repeats=8)
    assert found.relative_error < 0.1
    assert aligned_error(found.matrix, _truth(opu)) < 0.1
    assert found.matrix.shape == (16, 32)


def test_every_pattern_is_counted_repeats_included() -> None:
    opu = open_opu("simulated", n_features=16, n_components=4)
    before = opu.usage.frames
    found = recover_chosen(opu, _seed(1), repeats=2)
    probes = 2 * 256
    assert opu.usage.frames - before == found.queries + probes
    ask = Intensities(opu, repeats=3, chunk=7)
    ask(random_patterns(10, 16, _seed(2)))
    assert ask.queries == 30


def test_intensities_do_not_depend_on_the_chunk() -> None:
    opu = open_opu("simulated", n_features=16, n_components=4)
    patterns = random_patterns(20, 16, _seed(0))
    assert torch.equal(Intensities(opu, chunk=3)(patterns), Intensities(opu)(patterns))


def test_saturated_pixels_are_left_out() -> None:
    truth, patterns = _medium(10, 8), random_patterns(200, 8, _seed(1))
    seen = _intensities(truth, patterns)
    ceiling = seen.flatten().quantile(0.9).item()
    cut = seen.clamp(max=ceiling)
    start = truth + 0.05 * _medium(10, 8, seed=5)
    with_them = aligned_error(refine(start, patterns, cut), truth)
    without = aligned_error(refine(start, patterns, cut, ceiling=ceiling), truth)
    assert without < 1e-3 < with_them


def test_bad_inputs_are_refused() -> None:
    opu = open_opu("simulated", n_features=6, n_components=4)
    with pytest.raises(DataError, match="6 columns takes 6 patterns"):
        recover_known(opu, 5, _seed(0))
    with pytest.raises(DataError, match="recover_known"):
        recover_chosen(opu, _seed(0))
    with pytest.raises(DataError, match="repeats"):
        Intensities(opu, repeats=0)
    with pytest.raises(DataError, match="wanted patterns"):
        from_known(torch.zeros(9, 3), torch.zeros(8, 3), _seed(0))
