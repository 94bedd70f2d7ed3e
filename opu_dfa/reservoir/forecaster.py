"""What every forecaster does: scikit-learn's contract, closed-loop forecasts in original units, saving and loading."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from hardware import OPU
from opu_dfa.errors import CheckpointError, ConfigError, DataError
from opu_dfa.reservoir import saving
from opu_dfa.reservoir.series import Array, Scale, as_series, as_targets, is_many

Self = TypeVar("Self", bound="Forecaster")
_FAR = 1e3  # standard deviations, from which on a forecast has run away


class Forecaster(RegressorMixin, BaseEstimator, ABC):
    """A model that is driven by a series and predicts, at every step, the next step or a target.

    Inside, channels are standardised, and inputs divided by √D besides, so that ‖u_t‖² is 1 on average whatever the
    series' units and width. Subclasses say what a state is and what it makes of inputs; theirs are `_learn`, `_rest`
    and `_drive`, and the arrays and settings of `_learned` and `_restore`.

    A state is a dict of arrays whose first axis is the batch; its "output" is the standardised prediction of what comes
    next, `(B, K)`.
    """

    scale_: Scale
    target_scale_: Scale
    state_: dict[str, Array]

    @abstractmethod
    def _learn(self, inputs: list[Array], targets: list[Array], washout: int) -> None:
        """Learn from inputs `(T, D)` and targets `(T or T - 1, K)`, leaving `state_` after the last series."""

    @abstractmethod
    def _rest(self, batch: int) -> dict[str, Array]:
        """The states of a batch that has seen nothing."""

    @abstractmethod
    def _drive(self, state: dict[str, Array], inputs: Array) -> tuple[Array, dict[str, Array]]:
        """Predictions `(B, T, K)` at every step of inputs `(B, T, D)`, and the states after the last."""

    @abstractmethod
    def _learned(self) -> dict[str, Array]:
        """The arrays that make the fitted model, beside its parameters and scales."""

    @abstractmethod
    def _restore(self, arrays: dict[str, Array]) -> None:
        """Take them back."""

    def fit(self: Self, X: Any, y: Any = None, *, washout: int = 0) -> Self:
        """Learn to predict the next step of a series, or targets.

        Args:
            X: a series `(T, D)`, or several, `(B, T, D)` or a list of `(T, D)`, each driven from rest.
            y: targets of every step, `(T,)` or `(T, K)`, as many as there are series; None for the next step, which
                `forecast` needs.
            washout: first steps of every series that are not learned from, until the state has forgotten rest.

        Raises:
            ConfigError: a parameter out of its range.
            DataError: a series that is shorter than the washout.
            ValueError: what scikit-learn refuses.
        """
        series = as_series(self, X, reset=True)
        check_length(series, washout, ahead=y is None)
        targets = self._fix_units(X, y, series)
        self._learn(self._inputs(series), [self.target_scale_.standard(t) for t in targets], washout)
        return self

    def _fix_units(self, X: Any, y: Any, series: list[Array]) -> list[Array]:
        """Learn the scales and what is predicted; the targets in their own units."""
        self.scale_ = Scale.of(series)
        self.forecasts_ = y is None
        self.flat_ = y is not None and not is_many(X) and np.asarray(y).ndim == 1
        targets = [u[1:] for u in series] if y is None else as_targets(y, series, is_many(X))
        self.target_scale_ = self.scale_ if y is None else Scale.of(targets)
        return targets

    def predict(self, X: Any) -> Any:
        """The prediction at every step, driven from rest: `(T, K)`, or as `X` is given if it is several series."""
        check_is_fitted(self)
        series = as_series(self, X, reset=False)
        found = []
        for u in self._inputs(series):
            outputs, _ = self._drive(self._rest(1), u[None])
            found.append(self.target_scale_.original(outputs[0]))
        if self.flat_:
            found = [f[:, 0] for f in found]
        if not is_many(X):
            return found[0]
        return np.stack(found) if getattr(X, "ndim", 0) == 3 else found

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """R² of the predictions, of next steps if `y` is None, averaged over channels."""
        from sklearn.metrics import r2_score

        check_is_fitted(self)
        if (y is None) != self.forecasts_:
            raise DataError("score a model fitted to next steps without y, and one fitted to targets with y")
        predicted = self.predict(X)
        if not is_many(X):
            predicted, X, y = [predicted], [X], [y]
        truth = [np.asarray(u)[1:] for u in X] if self.forecasts_ else [np.asarray(t) for t in y]
        ours = [p[: len(t)] for p, t in zip(predicted, truth, strict=True)]
        return float(r2_score(np.concatenate(truth), np.concatenate(ours), sample_weight=sample_weight))

    def forecast(self, steps: int, warmup: Any = None) -> Array:
        """The series continued by itself: every prediction is the next input.

        Args:
            steps: how many.
            warmup: a series `(T, D)` to continue, or many of one length, `(B, T, D)`, seen from rest; None continues
                the last series of `fit`, or `set_state`.

        Returns:
            `(steps, D)`, or `(B, steps, D)`, in the series' own units; NaN, with a warning, from where a forecast has
            left the series by a thousand standard deviations.

        Raises:
            DataError: the model was fitted to targets; warm-ups of several lengths.
        """
        check_is_fitted(self)
        if not self.forecasts_:
            raise DataError("this model was fitted to targets y; fit it without, to next steps, and it can forecast")
        if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1:
            raise ConfigError(f"a forecast has at least one step, got steps={steps!r}")
        state = self.state_ if warmup is None else self.get_state(warmup)
        found = np.empty((len(state["output"]), steps, state["output"].shape[1]))
        gone = np.zeros(len(found), bool)
        for t in range(steps):
            found[:, t] = state["output"]
            gone |= ~(np.abs(found[:, t]) < _FAR).all(axis=1)
            found[gone, t] = np.nan  # and nothing more is fed of it, which would overflow
            if t + 1 < steps:
                fed = np.where(gone[:, None], 0, self._fed(found[:, t]))
                _, state = self._drive(state, fed[:, None])
        _warn_of_runaways(found)
        found = self.target_scale_.original(found)
        return found if len(found) > 1 or (warmup is not None and is_many(warmup)) else found[0]

    def get_state(self, X: Any = None) -> dict[str, Array]:
        """A copy of the state after a series `(T, D)`, or several of one length, seen from rest; after `fit` if None.

        Raises:
            DataError: series of several lengths.
        """
        check_is_fitted(self)
        if X is None:
            return {name: array.copy() for name, array in self.state_.items()}
        series = as_series(self, X, reset=False)
        if len({len(u) for u in series}) > 1:
            raise DataError(
                f"warm-ups are of one length, got {sorted({len(u) for u in series})}; cut them, or forecast one by one"
            )
        inputs = np.stack(self._inputs(series))
        return self._drive(self._rest(len(inputs)), inputs)[1]

    def set_state(self: Self, state: dict[str, Array]) -> Self:
        """Let the next `forecast` continue from a state of `get_state`.

        Raises:
            DataError: not a state of this model.
        """
        check_is_fitted(self)
        shapes = {name: array.shape[1:] for name, array in self.state_.items()}
        given = {name: np.shape(array)[1:] for name, array in state.items()}
        if given != shapes:
            raise DataError(f"this model's state has {shapes}, after the batch's axis; got {given}")
        self.state_ = {name: np.array(array, self.state_[name].dtype) for name, array in state.items()}
        return self

    def save(self, path: str | Path) -> None:
        """Write the fitted model to one safetensors file; random matrices are written as their seed.

        Raises:
            OSError: the file cannot be written.
        """
        from safetensors.numpy import save

        check_is_fitted(self)
        Path(path).write_bytes(save(saving.pack(self)))

    @classmethod
    def load(cls: type[Self], path: str | Path, projection: OPU | None = None) -> Self:
        """A model from `save`, ready to predict and forecast.

        Args:
            projection: the device, for a model whose reservoir is one, as a file cannot hold it.

        Raises:
            CheckpointError: the file is missing or damaged, of another kind of model, or of another device.
        """
        model = saving.load(path, projection)
        if not isinstance(model, cls):
            raise CheckpointError(f"{path} holds a {type(model).__name__}; load it with {type(model).__name__}.load")
        return model

    def _inputs(self, series: list[Array]) -> list[Array]:
        """Series in the units the reservoir sees."""
        return [self.scale_.standard(u) / math.sqrt(u.shape[1]) for u in series]

    def _fed(self, output: Array) -> Array:
        """A prediction `(B, D)` as the next input."""
        return output / math.sqrt(output.shape[1])

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        return tags


def check_length(series: list[Array], washout: int, ahead: bool) -> None:
    """Every series has at least one row to learn from."""
    if isinstance(washout, bool) or not isinstance(washout, (int, np.integer)) or washout < 0:
        raise ConfigError(f"washout is a number of steps, at least 0; got {washout!r}")
    shortest = min(len(u) for u in series)
    needed = washout + (2 if ahead else 1)
    if shortest < needed:
        raise DataError(
            f"a series has {shortest} steps, too short for washout={washout}: it takes at least {needed}; give a "
            "longer series or a shorter washout"
        )


def _warn_of_runaways(found: Array) -> None:
    gone = np.isnan(found).any(axis=2)
    if gone.any():
        ran = gone.any(axis=1)
        warnings.warn(
            f"{int(ran.sum())} of {len(found)} forecasts run away, the first at step {int(gone[ran].argmax(1).min())}: "
            f"beyond {_FAR:g} standard deviations of the series; NaN from there on. Raise the ridge, lower the "
            "spectral_radius, or train on a longer series.",
            RuntimeWarning,
            stacklevel=3,
        )
