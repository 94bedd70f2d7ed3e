"""Many small forecasters side by side, for fields in space: each sees its neighbourhood and predicts its own part."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn.base import clone

from hardware import OPU
from opu_dfa.errors import ConfigError
from opu_dfa.reservoir import saving
from opu_dfa.reservoir.forecaster import Forecaster
from opu_dfa.reservoir.reservoir_forecaster import ReservoirForecaster
from opu_dfa.reservoir.series import Array, Scale


class LocalForecaster(Forecaster):
    """D channels on a ring, in g groups of q = D / g: a forecaster a group, with l channels of each neighbour as input.

    The work grows with D rather than with D²: a group's forecaster needs as many units for a longer ring as for a short
    one. Where the system is the same everywhere, one forecaster learns from all groups and serves them all.

    Args:
        forecaster: of one group, cloned; a `ReservoirForecaster` of default parameters if None.
        n_groups: g, which divides D; overlap: l, at most D - q channels from both sides together.
        shared: one forecaster for all groups, of a system that is the same everywhere, or one for each.

    Attributes:
        models_: the fitted forecasters, one if shared.

    Raises:
        ConfigError: on `fit`, groups that do not divide the channels, or an overlap beyond the ring.

    Source: Pathak et al., "Model-free prediction of large spatiotemporally chaotic systems from data", PRL 2018.

    >>> from opu_dfa.reservoir import SYSTEMS
    >>> series = SYSTEMS["lorenz96"](n=8).series(300)
    >>> model = LocalForecaster(ReservoirForecaster(n_units=50), n_groups=4, overlap=2).fit(series)
    >>> model.forecast(steps=5).shape
    (5, 8)
    """

    def __init__(
        self, forecaster: Forecaster | None = None, n_groups: int = 1, overlap: int = 0, shared: bool = True
    ) -> None:
        self.forecaster = forecaster
        self.n_groups = n_groups
        self.overlap = overlap
        self.shared = shared

    @property
    def _own(self) -> int:
        return self.n_features_in_ // self.n_groups

    @property
    def _targets(self) -> int:
        """What a group predicts: its own channels, or its share of the targets."""
        return len(self.target_scale_.mean) // self.n_groups

    def _fix_units(self, X: Any, y: Any, series: list[Array]) -> list[Array]:
        """Where one forecaster serves all groups, these have one scale: what differs between them is chance."""
        targets = super()._fix_units(X, y, series)
        self._check(targets)
        if self.shared:
            self.scale_ = self._common(series)
            self.target_scale_ = self.scale_ if y is None else self._common(targets)
        return targets

    def _common(self, series: list[Array]) -> Scale:
        of_group = Scale.of([u.reshape(-1, u.shape[1] // self.n_groups) for u in series])
        return Scale(np.tile(of_group.mean, self.n_groups), np.tile(of_group.deviation, self.n_groups))

    def _check(self, targets: list[Array]) -> None:
        d = self.n_features_in_
        if not _whole(self.n_groups) or self.n_groups < 1 or d % self.n_groups:
            raise ConfigError(f"n_groups divides the {d} channels, got {self.n_groups!r}")
        if not _whole(self.overlap) or self.overlap < 0 or self._own + 2 * self.overlap > d:
            raise ConfigError(
                f"a group of {self._own} channels with overlap={self.overlap} on both sides does not fit a ring of {d}"
            )
        if targets[0].shape[1] % self.n_groups:
            raise ConfigError(f"n_groups={self.n_groups} groups share the targets, got {targets[0].shape[1]} of them")

    def _learn(self, inputs: list[Array], targets: list[Array], washout: int) -> None:
        windows = [self._windows(u[None])[0] for u in inputs]  # (g, T, width) each
        own = [t.reshape(len(t), self.n_groups, self._targets).transpose(1, 0, 2) for t in targets]
        self.models_ = []
        for groups in self._served():
            model = clone(self.forecaster) if self.forecaster is not None else ReservoirForecaster()
            seen = [w[i, : len(t[i])] for w, t in zip(windows, own, strict=True) for i in groups]
            self.models_.append(model.fit(seen, [t[i] for t in own for i in groups], washout=washout))
        _, self.state_ = self._drive(self._rest(1), inputs[-1][None])

    def _served(self) -> list[list[int]]:
        """The groups of every model."""
        each = list(range(self.n_groups))
        return [each] if self.shared else [[i] for i in each]

    def _windows(self, inputs: Array) -> Array:
        """What every group sees, `(B, g, T, q + 2l)` of inputs `(B, T, D)`."""
        first = np.arange(self.n_groups) * self._own - self.overlap
        places = (first[:, None] + np.arange(self._own + 2 * self.overlap)) % inputs.shape[2]
        return inputs[:, :, places].transpose(0, 2, 1, 3)

    def _rest(self, batch: int) -> dict[str, Array]:
        """The states of all groups, `(B, g, …)`."""
        found = [model._rest(batch * len(groups)) for model, groups in zip(self.models_, self._served(), strict=True)]
        state = {
            f"group/{name}": np.concatenate([f[name].reshape(batch, -1, *f[name].shape[1:]) for f in found], axis=1)
            for name in found[0]
        }
        return state | {"output": np.zeros((batch, self._targets * self.n_groups))}

    def _drive(self, state: dict[str, Array], inputs: Array) -> tuple[Array, dict[str, Array]]:
        batch, steps, _ = inputs.shape
        windows = self._windows(inputs)
        outputs = np.empty((batch, self.n_groups, steps, self._targets))
        after = {name: array.copy() for name, array in saving.under("group/", state).items()}
        for model, groups in zip(self.models_, self._served(), strict=True):
            mine = {name: array[:, groups].reshape(-1, *array.shape[2:]) for name, array in after.items()}
            seen = windows[:, groups].reshape(batch * len(groups), steps, -1)
            found, mine = model._drive(mine, model.scale_.standard(seen) / math.sqrt(seen.shape[2]))
            outputs[:, groups] = model.target_scale_.original(found).reshape(batch, len(groups), steps, -1)
            for name, array in mine.items():
                after[name][:, groups] = array.reshape(batch, len(groups), *array.shape[1:])
        joined = outputs.transpose(0, 2, 1, 3).reshape(batch, steps, -1)
        return joined, {f"group/{name}": array for name, array in after.items()} | {"output": joined[:, -1]}

    def _learned(self) -> dict[str, Array]:
        return {
            f"{i}/{name}": array for i, model in enumerate(self.models_) for name, array in saving.pack(model).items()
        }

    def _restore(self, arrays: dict[str, Array]) -> None:
        device = getattr(self.forecaster, "projection", None)  # by now the one that `load` was given
        parts = [saving.under(f"{i}/", arrays) for i in range(len(self._served()))]
        self.models_ = [saving.unpack(part, device if isinstance(device, OPU) else None) for part in parts]


def _whole(number: object) -> bool:
    return isinstance(number, (int, np.integer)) and not isinstance(number, bool)
