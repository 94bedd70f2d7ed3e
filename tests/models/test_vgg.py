"""The VGG: what it computes, and which blocks its taps name."""

import pytest
import torch
from torch import nn

from opu_dfa.dfa.blocks import resolve_blocks
from opu_dfa.models.vgg import VGG

STAGES = [[8], [12, 12]]


def test_it_is_the_network_of_the_paper_with_batch_norm():
    model = VGG((3, 8, 8), 5, STAGES)
    layers: list[nn.Module] = []
    for stage in model.stages:
        for unit in stage.units:
            layers += [unit.conv, unit.norm, nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    reference = nn.Sequential(*layers, nn.Flatten(), model.head)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x), reference(x))


def test_taps_name_stages_or_convolutions():
    model = VGG((3, 8, 8), 5, STAGES)
    assert list(resolve_blocks(model, ["stages.*"])) == ["stages.0", "stages.1"]
    units = ["stages.0.units.0", "stages.1.units.0", "stages.1.units.1"]
    assert list(resolve_blocks(model, ["stages.*.units.*"])) == units


def test_signals_keep_their_size_at_the_start():
    """He's initialisation: without norms, a unit's output has the second moment of its input, up to sampling."""
    model = VGG((3, 16, 16), 5, [[256]], seed=3)
    x = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    h = model.stages[0].units[0].conv(x)[:, :, 1:-1, 1:-1].relu()
    # 256 channels of weights of 27 entries: relative error of the mean square about sqrt(2 / (256 · 27))
    assert h.square().mean().item() == pytest.approx(1, abs=4 * (2 / (256 * 27)) ** 0.5)


def test_the_same_seed_draws_the_same_weights():
    first, again = VGG((3, 8, 8), 5, STAGES, seed=1), VGG((3, 8, 8), 5, STAGES, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("stages", [[], [[8], []], [[8]] * 4])
def test_sizes_that_do_not_fit_are_refused(stages: list[list[int]]):
    with pytest.raises(ValueError, match="each needs a convolution"):
        VGG((3, 8, 8), 5, stages)
