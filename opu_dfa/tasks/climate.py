"""Climate projection, image to image: maps of what forces a climate -> the map of the warming that follows.

The climate is an energy-balance model on the sphere, at rest at T where what comes in equals what leaves:

    S (1 - α) [1 - s (1 - exp(-τ)) (1 - α)]  +  F  =  σ T⁴ [1 - m tanh(c T⁶)]  -  D ∇²T  +  u ∂T/∂longitude

S is the insolation, α an albedo that rises where ice lies, τ the depth of aerosol, F the forcing by carbon dioxide, D
diffusion by eddies, u the mean zonal wind (Sellers 1969, J. Appl. Meteorol. 8, 392, for the outgoing radiation; North
1975, J. Atmos. Sci. 32, 2033, for the diffusion; on a map with land and sea as in North et al. 1983, J. Geophys. Res.
88, 6576). The maps are drawn from a generator, the warming is solved for: nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opu_dfa.config import Count, Seed, settings
from opu_dfa.errors import ConfigError
from opu_dfa.seeds import stream
from opu_dfa.tasks.data import DataSettings
from opu_dfa.tasks.energy_balance import EnergyBalance, forcings
from opu_dfa.tasks.task import Batch, Split, Task, evenly

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHANNELS = ("carbon dioxide", "aerosol", "insolation", "land use")


@settings
class Settings:
    """latitudes, longitudes: cells of the map; patch: cells a side of what one output of the model covers; n_training,
    n_held_out: maps to learn from, and to validate and to test by (as many each); seed: draws them."""

    name: Literal["climate"]
    latitudes: Count
    longitudes: Count
    patch: Count
    n_training: Count
    n_held_out: Count
    seed: Seed

    def __post_init__(self) -> None:
        if self.latitudes % self.patch or self.longitudes % self.patch:
            raise ConfigError(
                f"task.patch={self.patch} must divide task.latitudes={self.latitudes} and "
                f"task.longitudes={self.longitudes}"
            )


class ClimateTask(Task):
    """Forcings `(batch, 4, latitudes, longitudes)`, standardised by channel, and warming `(batch, latitudes,
    longitudes)` in standard deviations of the training maps. A model's output is `(batch, patches, patch²)`: patches
    row by row, and the cells of each row by row.

    The loss is the mean square error, each cell weighing as its area; scores are R², the share of the split's variance
    that is explained, and the root mean square error in kelvin.
    """

    unit = "variance of the training maps"
    item = "maps"
    title = "climate"

    def __init__(self, chosen: Settings) -> None:
        self.patch = chosen.patch
        self.image_shape = (len(CHANNELS), chosen.latitudes, chosen.longitudes)
        self.n_outputs = chosen.patch**2
        climate = EnergyBalance(chosen.latitudes, chosen.longitudes)
        self.area = climate.area[:, None]  # (latitudes, 1), mean 1
        n = chosen.n_training + 2 * chosen.n_held_out
        maps = forcings(n, climate, stream(chosen.seed, "climate"))
        warming = climate.temperature(maps) - climate.temperature(torch.zeros_like(maps[:1]))
        learned, seen = maps[: chosen.n_training], warming[: chosen.n_training]
        centre, scale = learned.mean((0, 2, 3), keepdim=True), learned.std((0, 2, 3), keepdim=True)
        self._offset = seen.mean()
        self.kelvin = float((seen - self._offset).square().mul(self.area).mean().sqrt())
        x = (maps - centre) / scale
        y = (warming - self._offset) / self.kelvin
        sizes = [chosen.n_training, chosen.n_held_out, chosen.n_held_out]
        names = ("training", "validation", "test")
        self._parts = dict(zip(names, zip(x.split(sizes), y.split(sizes), strict=True), strict=True))
        self.fingerprint = hashlib.sha256(maps.numpy().tobytes()).hexdigest()[:16]

    @property
    def description(self) -> str:
        sizes = ", ".join(f"{len(y):,} {name}" for name, (_, y) in self._parts.items())
        return f"Climate: warming by {', '.join(CHANNELS)}, {'x'.join(map(str, self.image_shape[1:]))} cells, {sizes}"

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        x, y = self._parts["training"]
        which = torch.randint(len(y), (size,), generator=generator)
        return x[which], y[which]

    def examples(self, split: Split, size: int, at_most: int | None = None) -> Iterator[Batch]:
        x, y = self._parts[split]
        for some in evenly(len(y), at_most).split(size):
            yield x[some], y[some]

    def field(self, out: Tensor) -> Tensor:
        """Patches `(batch, patches, patch²)` put together: `(batch, latitudes, longitudes)`."""
        rows = self.image_shape[1] // self.patch
        return F.pixel_shuffle(out.transpose(1, 2).unflatten(2, (rows, -1)), self.patch).squeeze(1)

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        """Mean square error by area."""
        return ((self.field(out.float()) - y).square() * self.area.to(y.device)).mean()

    def evaluate(self, forward: Callable[[Any], Any], split: Split, at_most: int | None = None) -> dict[str, float]:
        loss = super().evaluate(forward, split, at_most)["loss"]
        y = torch.cat([y for _, y in self.examples(split, 64, at_most)])
        spread = ((y - (y * self.area).mean()).square() * self.area).mean().item()
        return {"loss": loss, "r2": 1 - loss / spread, "kelvin": self.kelvin * math.sqrt(loss)}

    @torch.no_grad()
    def figure(self, model: nn.Module, generator: torch.Generator) -> Figure:
        """Three test maps drawn at random: what forces, the warming that follows, and what the model makes of it."""
        from matplotlib.figure import Figure

        x, y = self._parts["test"]
        which = torch.randint(len(y), (3,), generator=generator)
        where = next(model.parameters()).device
        guess = self.field(model(x[which].to(where)).cpu()) * self.kelvin + self._offset
        truth = y[which] * self.kelvin + self._offset
        figure = Figure(figsize=(11, 5.2), layout="constrained")
        for row, axes in enumerate(figure.subplots(3, 5)):
            for column, name in enumerate(CHANNELS[:3]):
                axes[column].imshow(x[which[row], column].numpy(), cmap="PuOr_r", vmin=-3, vmax=3)
                axes[column].set_title(name if row == 0 else "", fontsize="small")
            reach = float(truth[row].abs().max())
            for axis, picture, name in ((axes[3], truth, "warming"), (axes[4], guess, "prediction")):
                shown = axis.imshow(picture[row].numpy(), cmap="RdBu_r", vmin=-reach, vmax=reach)
                axis.set_title(name if row == 0 else "", fontsize="small")
            figure.colorbar(shown, ax=axes[4], label="K")
            for axis in axes:
                axis.set(xticks=[], yticks=[])
        return figure


def build(chosen: Settings, data: DataSettings) -> ClimateTask:
    """The task of the settings."""
    return ClimateTask(chosen)
