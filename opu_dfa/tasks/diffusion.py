"""Diffusion: predict the noise in noisy images, and draw new images by removing noise step by step.

x_t = a_t x_0 + s_t ε,  a_t² + s_t² = 1,  t from 0 (image) to 1 (noise);  loss = mean (ε̂(x_t, t) - ε)² per pixel
(Ho, Jain & Abbeel 2020, arXiv 2006.11239). Images are sequences of square patches, so that there is an error for each.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from opu_dfa.config import Count, Fraction, settings
from opu_dfa.errors import ConfigError
from opu_dfa.seeds import stream
from opu_dfa.tasks.data import DataSettings
from opu_dfa.tasks.pictures import read_pictures
from opu_dfa.tasks.task import Batch, Split, Task, evenly

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Schedule = Literal["cosine", "linear"]
_SAMPLES = 36  # in the figure
_LATEST = 0.999  # where sampling starts: at 1 nothing of the image is left, and one divides by how much is


@settings
class Settings:
    """data: "digits" (scikit-learn's 8 x 8, always there), "mnist", "fashion-mnist" or "cifar10" of the data folder;
    patch: side of the squares that images are cut into; schedule: of the noise; validation_fraction: the share of the
    training images that is held out; sampling_steps: of the drawn images."""

    name: Literal["diffusion"]
    data: Literal["digits", "mnist", "fashion-mnist", "cifar10"]
    patch: Count
    schedule: Schedule
    validation_fraction: Fraction
    sampling_steps: Count


def amplitudes(times: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """How much of the image and of the noise there is at times in [0, 1]: a_t and s_t, a_t² + s_t² = 1.

    "cosine": a_t = cos(π/2 · (t + 0.008) / 1.008) (Nichol & Dhariwal 2021, arXiv 2102.09672); "linear":
    a_t² = exp(-0.1 t - 9.95 t²), the continuous limit of DDPM's linear schedule (Song et al. 2021, arXiv 2011.13456).

    >>> a, s = amplitudes(torch.tensor([0.0, 1.0]), "cosine")
    >>> (a.square() + s.square() - 1).abs().max() < 1e-6, a[1].abs() < 1e-6
    (tensor(True), tensor(True))
    """
    if schedule == "cosine":
        angle = (times + 0.008) / 1.008 * (math.pi / 2)
        return angle.cos(), angle.sin()
    log_square = -0.1 * times - 9.95 * times.square()
    return (0.5 * log_square).exp(), (-torch.expm1(log_square)).sqrt()


def to_patches(images: Tensor, side: int) -> Tensor:
    """`(batch, channels, height, width)` -> `(batch, patches, channels · side²)`, patches in reading order."""
    batch, channels, height, width = images.shape
    cut = images.reshape(batch, channels, height // side, side, width // side, side)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * side**2)


def to_images(patches: Tensor, image_shape: tuple[int, int, int], side: int) -> Tensor:
    """The inverse of `to_patches` for images of a shape (channels, height, width)."""
    channels, height, width = image_shape
    cut = patches.reshape(-1, height // side, width // side, channels, side, side)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(-1, *image_shape)


class DiffusionTask(Task):
    """Noisy images and how noisy they are -> their noise.

    Inputs are x_t as patches `(batch, n_tokens, n_outputs)`, pixels in [-1, 1], and times t `(batch,)`; the target is
    ε, shaped like x_t. Held-out images have one fixed time and noise each, the times of a split spread evenly.

    Raises:
        DataError: the data set is not there.
        ConfigError: the patches do not tile the images.
    """

    unit = "squared noise per pixel"
    item = "images"

    def __init__(self, chosen: Settings, data: DataSettings) -> None:
        self.title = f"{chosen.data} diffusion"
        self.chosen = chosen
        training, tested = read_pictures(chosen.data, data)
        channels, height, width = training.images.shape[1:]
        self.image_shape = (channels, height, width)
        if height % chosen.patch or width % chosen.patch:
            raise ConfigError(
                f"task.patch={chosen.patch} does not tile images of {height} x {width}; choose a divisor of both"
            )
        order = torch.randperm(len(training.images), generator=torch.Generator().manual_seed(0))
        n_held_out = round(len(order) * chosen.validation_fraction)
        images = to_patches(training.images, chosen.patch)
        self._parts = {
            "training": images[order[n_held_out:]],
            "validation": images[order[:n_held_out]],
            "test": to_patches(tested.images, chosen.patch),
        }
        self._fixed: dict[str, tuple[Tensor, Tensor]] = {}
        self.n_tokens, self.n_outputs = images.shape[1:]
        self.fingerprint = hashlib.sha256(training.images.numpy().tobytes()).hexdigest()[:16]

    @property
    def description(self) -> str:
        sizes = ", ".join(f"{len(part):,} {name}" for name, part in self._parts.items())
        shape = "x".join(map(str, self.image_shape))
        return f"Noise in images: {self.chosen.data}, {sizes}, {shape} as {self.n_tokens} patches"

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """Random images with random noise; the batch's times are spread evenly from a random start."""
        part = self._parts["training"]
        images = part[torch.randint(len(part), (size,), generator=generator)]
        # One time in each of `size` equal intervals varies the loss less (Kingma et al. 2021, arXiv 2107.00630).
        times = (torch.arange(size) + torch.rand(1, generator=generator)) / size
        return self._examples(images, times, torch.randn(images.shape, generator=generator))

    def examples(self, split: Split, size: int, at_most: int | None = None) -> Iterator[Batch]:
        images = self._parts[split]
        if split not in self._fixed:
            draw = stream(0, f"diffusion {split}")
            times = (torch.randperm(len(images), generator=draw) + 0.5) / len(images)
            self._fixed[split] = times, torch.randn(images.shape, generator=draw)
        times, noise = self._fixed[split]
        for some in evenly(len(images), at_most).split(size):
            yield self._examples(images[some], times[some], noise[some])

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        """Mean squared error of the predicted noise, per pixel."""
        return (out.float() - y).square().mean()

    def error_of_target(self, y: Tensor) -> Tensor:
        return -2 * y / y.numel()

    @torch.no_grad()
    def sample(self, model: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        """`n` images in [-1, 1], drawn by the ancestral sampler of DDPM in `sampling_steps` equal steps from noise."""
        where = next(model.parameters()).device
        steps = self.chosen.sampling_steps
        x = torch.randn(n, self.n_tokens, self.n_outputs, generator=generator).to(where)
        image = x
        for step in range(steps, 0, -1):
            now, then = _LATEST * torch.tensor([step, step - 1]) / steps
            (a, s), (a_then, s_then) = (amplitudes(t, self.chosen.schedule) for t in (now, then))
            noise = model(x, now.expand(n).to(where))
            image = ((x - s * noise) / a).clamp(-1, 1)  # near t = 1 the division magnifies any error
            # The mean and variance of q(x_then | x_now, x_0 = image), of a process with x_now = r x_then + noise.
            r = a / a_then
            variance = (1 - r.square()) * (s_then / s).square()
            x = (r * s_then.square() * x + a_then * (1 - r.square()) * image) / s.square()
            x = x + variance.sqrt() * torch.randn(x.shape, generator=generator).to(where)
        return to_images(image, self.image_shape, self.chosen.patch).cpu()

    def figure(self, model: nn.Module, generator: torch.Generator) -> Figure:
        """A grid of drawn images."""
        from matplotlib.figure import Figure

        images = (self.sample(model, _SAMPLES, generator) + 1) / 2
        across, (channels, height, width) = math.isqrt(_SAMPLES), self.image_shape
        grid = images.view(across, across, channels, height, width).permute(0, 3, 1, 4, 2)
        figure = Figure(figsize=(4, 4), layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(grid.reshape(across * height, across * width, channels).numpy(), cmap="gray", vmin=0, vmax=1)
        axes.set_axis_off()
        return figure

    def _examples(self, images: Tensor, times: Tensor, noise: Tensor) -> Batch:
        image = images.float() / 127.5 - 1
        a, s = (part.view(-1, 1, 1) for part in amplitudes(times, self.chosen.schedule))
        return (a * image + s * noise, times), noise


def build(chosen: Settings, data: DataSettings) -> DiffusionTask:
    """The task of the settings."""
    return DiffusionTask(chosen, data)
