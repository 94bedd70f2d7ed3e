"""View synthesis: from photographs of a scene to the colour of any ray through it, by the squared error of colours."""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from opu_dfa.config import Count, Positive, settings
from opu_dfa.errors import ConfigError, DataError
from opu_dfa.tasks.data import DataSettings
from opu_dfa.tasks.rendering import camera_rays, distances_along, render
from opu_dfa.tasks.task import Batch, Split, Task, evenly

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_REMEDY = (
    "It is a NumPy archive of a scene: images_rgba uint8 (views, height, width, 4), poses float32 (views, 4, 4) from "
    "camera to world, camera_angle_x in radians; make it from the views and transforms.json of a synthetic NeRF scene."
)
_AT_ONCE = 512  # rays rendered together


@settings
class Settings:
    """scene: the archive, in the data folder; validation_views, test_views: how many views are held out for each;
    n_samples: samples on a ray, between the distances near and far from the camera."""

    name: Literal["views"]
    scene: str
    validation_views: Count
    test_views: Count
    n_samples: Count
    near: Positive
    far: Positive

    def __post_init__(self) -> None:
        if self.near >= self.far:
            raise ConfigError(f"task.near={self.near} must be less than task.far={self.far}")


class ViewTask(Task):
    """Rays of all training views, at random. x is the samples' `(positions (rays, samples, 3), directions
    (rays, 1, 3))`, y the `(colours (rays, 3), distances (rays, samples))`; a model maps x to `(rays, samples, 4)`,
    which `render` makes a colour of. The rendering is part of the loss, so the error is one of each sample.

    Raises:
        DataError: the scene is not there, or is no scene, or has too few views.
    """

    unit = "squared error of a colour in [0, 1]"
    item = "rays"
    n_outputs = 4

    def __init__(self, chosen: Settings, data: DataSettings) -> None:
        self.settings = chosen
        self.title = Path(chosen.scene).stem
        images, poses, angle = read_scene(data.find(chosen.scene, _REMEDY))
        self.fingerprint = hashlib.sha256(images.numpy().tobytes() + poses.numpy().tobytes()).hexdigest()[:16]
        n_views, self._height, self._width, _ = images.shape
        n_training = n_views - chosen.validation_views - chosen.test_views
        if n_training < 1:
            raise DataError(
                f"{chosen.scene} has {n_views} views, and task.validation_views={chosen.validation_views} with "
                f"task.test_views={chosen.test_views} leave none to train on; hold out fewer."
            )
        straight, alpha = images[..., :3].float() / 255, images[..., 3:].float() / 255
        self._colours = (straight * alpha + (1 - alpha)).view(n_views, -1, 3)  # before a white background
        rays = [camera_rays(pose, self._height, self._width, angle) for pose in poses]
        self._origins = torch.stack([origin for origin, _ in rays])
        self._directions = torch.stack([direction for _, direction in rays])
        # The held-out views are a fixed random choice.
        order = torch.randperm(n_views, generator=torch.Generator().manual_seed(0))
        training, validation, test = order.split([n_training, chosen.validation_views, chosen.test_views])
        self._views = {"training": training, "validation": validation, "test": test}

    @property
    def description(self) -> str:
        sizes = ", ".join(f"{len(views)} {name}" for name, views in self._views.items())
        return f"Views: {self.title}, {sizes}, {self._height}x{self._width}, {self.settings.n_samples} samples on a ray"

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        n_pixels = self._height * self._width
        drawn = torch.randint(len(self._views["training"]) * n_pixels, (size,), generator=generator)
        return self._examples(self._views["training"], drawn, generator)

    def examples(self, split: Split, size: int, at_most: int | None = None) -> Iterator[Batch]:
        views = self._views[split]
        for some in evenly(len(views) * self._height * self._width, at_most).split(size):
            yield self._examples(views, some)

    def loss(self, out: Tensor, y: tuple[Tensor, Tensor]) -> Tensor:
        """Mean squared error of the rendered colours, over rays and channels."""
        colours, distances = y
        return (render(out.float(), distances, self.settings.far) - colours).square().mean()

    def evaluate(self, forward: Callable[[Any], Any], split: Split, at_most: int | None = None) -> dict[str, float]:
        """Mean squared error over a split's rays, and its peak signal-to-noise ratio, -10 log10 of it, in dB."""
        scores = super().evaluate(forward, split, at_most)
        return scores | {"psnr": -10 * math.log10(max(scores["loss"], 1e-12))}

    @torch.no_grad()
    def view(self, model: nn.Module, view: int) -> Tensor:
        """A model's rendering of the n-th test view, `(height, width, 3)` in [0, 1], on the CPU."""
        device = next(model.parameters()).device
        which = torch.arange(self._height * self._width)
        parts = []
        for some in which.split(_AT_ONCE):
            (positions, directions), (_, distances) = self._examples(self._views["test"][view : view + 1], some)
            raw = model(positions.to(device), directions.to(device)).cpu()
            parts.append(render(raw.float(), distances, self.settings.far))
        return torch.cat(parts).clamp(0, 1).view(self._height, self._width, 3)

    def figure(self, model: nn.Module, generator: torch.Generator) -> Figure:
        """Up to three views that were not trained on: photographs above, renderings below."""
        from matplotlib.figure import Figure

        shown = min(3, len(self._views["test"]))
        figure = Figure(figsize=(2.2 * shown, 4.6), layout="constrained")
        panels = figure.subplots(2, shown, squeeze=False)
        for n in range(shown):
            truth = self._colours[self._views["test"][n]].view(self._height, self._width, 3)
            for row, title, image in ((0, "photograph", truth), (1, "rendering", self.view(model, n))):
                panels[row, n].imshow(image.numpy())
                panels[row, n].set_axis_off()
                panels[row, n].set_title(title, fontsize="small")
        return figure

    def _examples(self, views: Tensor, which: Tensor, generator: torch.Generator | None = None) -> Batch:
        """Rays by their number among all pixels of some views."""
        n_pixels = self._height * self._width
        at = views[which // n_pixels], which % n_pixels
        chosen = self.settings
        distances = distances_along(len(which), chosen.n_samples, chosen.near, chosen.far, generator)
        directions = self._directions[at].unsqueeze(1)
        positions = self._origins[at].unsqueeze(1) + distances.unsqueeze(2) * directions
        return (positions, directions), (self._colours[at], distances)


def read_scene(path: Path) -> tuple[Tensor, Tensor, float]:
    """Images uint8 `(views, height, width, 4)`, poses float32 `(views, 4, 4)`, and the field of view in radians.

    Raises:
        DataError: the file is no such archive.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, poses, angle = archive["images_rgba"], archive["poses"], float(archive["camera_angle_x"])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as a scene: {error}. {_REMEDY}") from error
    fits = images.ndim == 4 and images.shape[3] == 4 and images.dtype == np.uint8 and len(images) == len(poses)
    if not fits or poses.shape[1:] != (4, 4) or not 0 < angle < math.pi:
        raise DataError(
            f"{path} holds images {images.dtype} {images.shape}, poses {poses.shape} and an angle of {angle}. {_REMEDY}"
        )
    return torch.from_numpy(images), torch.from_numpy(poses).float(), angle


def build(chosen: Settings, data: DataSettings) -> ViewTask:
    """The task of the settings."""
    return ViewTask(chosen, data)
