"""The diffusion task: its noise, its loss, its splits, and a sampler against the distributions it should draw."""

import math

import pytest
import torch
from torch import nn

from opu_dfa.errors import ConfigError
from opu_dfa.tasks import build_task
from opu_dfa.tasks.data import DataSettings
from opu_dfa.tasks.diffusion import DiffusionTask, amplitudes, to_images, to_patches
from opu_dfa.tasks.pictures import read_pictures

SECTION = {
    "name": "diffusion",
    "data": "digits",
    "patch": 4,
    "schedule": "cosine",
    "validation_fraction": 0.1,
    "sampling_steps": 20,
}


def task(**changes) -> DiffusionTask:
    return build_task(SECTION | changes)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_patches_are_the_images_cut_and_put_together_again():
    images = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    patches = to_patches(images, 2)
    assert patches.shape == (2, 6, 12)
    assert torch.equal(patches[1, 4].view(3, 2, 2), images[1, :, 2:4, 2:4])  # second row, second column
    assert torch.equal(to_images(patches, (3, 4, 6), 2), images)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_noise_grows_from_almost_none_to_almost_all_and_keeps_the_variance(schedule):
    times = torch.linspace(0, 1, 101)
    a, s = amplitudes(times, schedule)
    assert torch.allclose(a.square() + s.square(), torch.ones(101))
    assert (s.diff() > 0).all()
    assert s[0] < 0.02
    assert a[-1] < 0.01


def test_the_linear_schedule_is_the_limit_of_ddpm_s_product():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    discrete = (1 - betas).cumprod(0)
    a, _ = amplitudes((torch.arange(1000) + 1) / 1000, "linear")
    # log(1 - β) = -β - β²/2 - ...: the discrete product differs from the limit by about Σβ²/2 <= 0.07 in its logarithm.
    difference = a.double().square().log() - discrete.log()
    assert difference.abs().max() < 1.05 * betas.square().sum() / 2 + 1e-3


def test_the_loss_is_the_noise_s_mean_square_beside_the_image():
    mine = task()
    (x, times), noise = mine.batch(64, seeded())
    assert x.shape == noise.shape == (64, mine.n_tokens, mine.n_outputs) == (64, 4, 16)
    a, s = (part.view(-1, 1, 1) for part in amplitudes(times, "cosine"))
    image = (x - s * noise) / a
    assert image[times < 0.9].abs().max() < 1 + 1e-4  # pixels in [-1, 1]
    assert mine.loss(noise, noise) == 0
    assert mine.loss(noise + 0.5, noise).item() == pytest.approx(0.25)


def test_the_target_s_error_is_that_of_an_output_of_zero():
    mine = task()
    _, y = mine.batch(8, seeded())
    out = torch.zeros_like(y, requires_grad=True)
    mine.loss(out, y).backward()
    assert torch.allclose(out.grad, mine.error_of_target(y))


def test_a_batch_has_a_time_in_each_of_equal_intervals():
    (_, times), _ = task().batch(8, seeded())
    assert torch.equal((times * 8).floor(), torch.arange(8.0))


def test_held_out_examples_are_the_same_each_time_and_their_times_spread_evenly():
    mine = task()
    first, second = (list(mine.examples("validation", 50)) for _ in range(2))
    assert all(torch.equal(a[0][0], b[0][0]) for a, b in zip(first, second, strict=True))
    assert sum(len(x[0]) for x, _ in first) == 144  # a tenth of four fifths of 1797
    times = torch.cat([x[1] for x, _ in first]).sort().values
    assert torch.allclose(times, (torch.arange(144) + 0.5) / 144)
    some = torch.cat([x[0] for x, _ in mine.examples("validation", 50, at_most=10)])
    everything = torch.cat([x[0] for x, _ in first])
    assert all((everything == one).flatten(1).all(1).any() for one in some)


def test_every_image_is_in_one_part():
    mine = task()
    together = torch.cat([mine._parts[name] for name in ("training", "validation", "test")])
    training, tested = read_pictures("digits", DataSettings(root=None, download=False))
    whole = torch.cat([to_patches(part.images, 4) for part in (training, tested)])
    assert torch.equal(_sorted(together), _sorted(whole))


def _sorted(images: torch.Tensor) -> torch.Tensor:
    return torch.tensor(sorted(images.flatten(1).tolist()))


class GaussianDenoiser(nn.Module):
    """The exact E[ε | x_t] where pixels are independent N(mean, deviation²)."""

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self.mean, self.deviation = mean, deviation
        self.anchor = nn.Parameter(torch.zeros(()))  # by which the sampler finds the device

    def forward(self, x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        a, s = (part.view(-1, 1, 1) for part in amplitudes(times, "cosine"))
        return s * (x - a * self.mean) / ((a * self.deviation) ** 2 + s**2)


def test_with_the_exact_denoiser_the_sampler_draws_the_distribution():
    mean, deviation, model = 0.3, 0.2, GaussianDenoiser(0.3, 0.2)
    coarse, fine = (task(sampling_steps=n).sample(model, 300, seeded(n)) for n in (100, 200))
    assert fine.shape == (300, 1, 8, 8)
    # Finite steps narrow the samples by O(1 / steps), which twice the fine less the coarse takes away; three standard
    # errors of what remains.
    error = math.sqrt(5) * deviation / math.sqrt(2 * fine.numel())
    assert abs(2 * fine.std() - coarse.std() - deviation) < 3 * error
    assert abs(2 * fine.mean() - coarse.mean() - mean) < 3 * math.sqrt(2) * error


def test_samples_are_seeded():
    model = GaussianDenoiser(0.0, 0.5)
    first, second = (task().sample(model, 3, seeded(4)) for _ in range(2))
    assert torch.equal(first, second)


def test_the_figure_is_a_grid_of_samples():
    grid = task(sampling_steps=3).figure(GaussianDenoiser(0.0, 0.5), seeded()).axes[0].images[0].get_array()
    assert grid.shape[:2] == (48, 48)


def test_patches_that_do_not_tile_the_image_are_refused():
    with pytest.raises(ConfigError, match=r"task\.patch=3 does not tile images of 8 x 8"):
        task(patch=3)
