"""The denoiser: every patch sees every other and the time; seeded; as many parameters as its formula."""

import pytest
import torch

from opu_dfa.models.denoiser import Denoiser

SIZES = {"n_pixels": 4, "n_tokens": 9, "n_blocks": 2, "width": 16, "n_heads": 2}


def noisy(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(3, 9, 4, generator=draw), torch.rand(3, generator=draw)


@pytest.mark.parametrize("changed", [0, 8])
def test_every_patch_s_output_depends_on_every_patch(changed):
    model, (x, times) = Denoiser(**SIZES), noisy()
    other = x.clone()
    other[:, changed] += 1
    assert ((model(x, times) - model(other, times)).abs().amax(-1) > 0).all()


def test_the_output_depends_on_the_time_of_its_own_example_only():
    model, (x, times) = Denoiser(**SIZES), noisy()
    later = times + torch.tensor([0.1, 0.0, 0.0])
    change = (model(x, times) - model(x, later)).abs().amax((1, 2))
    assert change[0] > 1e-3
    assert change[1:].max() < 1e-6


def test_parameter_count():
    block = 12 * 16**2 + 3 * 16 + 4 * 16 + 16  # qkv, out, up, down; the biases of qkv, up and down
    embedding = (4 * 16 + 16) + 9 * 16 + 32 * 16  # patches, positions, times
    expected = embedding + 2 * block + 2 * 16 + (16 * 4 + 4)
    assert sum(p.numel() for p in Denoiser(**SIZES).parameters()) == expected


def test_a_seed_gives_the_same_weights_whatever_the_global_generator():
    torch.manual_seed(1)
    a = Denoiser(**SIZES, seed=5)
    torch.manual_seed(2)
    b = Denoiser(**SIZES, seed=5)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.head.weight, Denoiser(**SIZES, seed=6).head.weight)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="width 16 and n_heads 3"):
        Denoiser(**SIZES | {"n_heads": 3})
