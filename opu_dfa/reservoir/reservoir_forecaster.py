"""Forecasts by a reservoir: its states, a linear read-out, and the loop closed between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from hardware import OPU
from opu_dfa.errors import ConfigError, DataError
from opu_dfa.features import Nonlinearity
from opu_dfa.reservoir.forecaster import Forecaster, check_length
from opu_dfa.reservoir.readout import RecursiveLeastSquares, Solver, solve_ridge
from opu_dfa.reservoir.reservoir import Kind, Reservoir
from opu_dfa.reservoir.series import Array, as_series, as_targets

FEATURES = ("state", "squares", "input")


class ReservoirForecaster(Forecaster):
    """A reservoir with a ridge read-out, as a scikit-learn regressor over time series.

        x_t = (1 - a) x_(t-1) + (a / √N) f(s_r W x_(t-1) + s_i V u_t + s_b b),    ŷ_t = wᵀ [x_t; √N x_t²; u_t; 1]

    Args:
        n_units: N, of each layer.
        projection: "dense", "sparse", "structured", or an open `hardware.OPU`, which clones share.
        nonlinearity: f, a name in `opu_dfa.features.NONLINEARITIES` or an object of them.
        spectral_radius, input_scale, bias_scale: s_r, s_i, s_b. Inputs are standardised, with mean ‖u‖² = 1.
        leak_rate: a; n_layers: of a deep reservoir, each driven by the states of the one before.
        density: of "sparse"; bits: of the planes a device shows real numbers in, None for the device's choice (8).
        features: what the read-out sees beside the constant: "state", "squares" and "input", joined by "+".
        ridge: the penalty on w, or several to choose among by cross-validation.
        solver: "primal", "dual", "iterative", or "auto" by size (`opu_dfa.reservoir.readout`).
        forgetting: the weight of a step in the next one, for `partial_fit`.
        random_state: seeds W, V and b: an integer, a `RandomState`, or None for NumPy's own.

    Attributes:
        weights_: `(n_readout_features, K)`; ridge_: the ridge chosen; solver_: how they were found.
        reservoir_: the `Reservoir`; scale_, target_scale_: means and deviations; seed_: what the matrices are drawn
            from; n_features_in_: D.

    `fit`, `predict`, `forecast`, `score`, `get_state`, `set_state`, `save` and `load` are those of `Forecaster`. States
    depend on their past, so predictions of some rows are not rows of the predictions.

    Raises:
        ConfigError: on `fit`, a parameter out of its range, or a device that is too small.
        DivergedError: the states grow beyond all bounds, as those of relu units of a large spectral radius do.

    Source: Jaeger 2001; structured projections: Dong et al., "Reservoir computing meets recurrent kernels and
    structured transforms", NeurIPS 2020 (arXiv 2006.07310).

    >>> t = np.arange(600)[:, None]
    >>> series = np.sin(t / 5)
    >>> model = ReservoirForecaster(n_units=100).fit(series[:500], washout=100)
    >>> bool(np.abs(model.forecast(steps=100) - series[500:]).max() < 0.01)
    True
    """

    weights_: Array
    last_: Array  # what the read-out saw last, whose target comes with the next piece of partial_fit

    def __init__(
        self,
        n_units: int = 500,
        projection: Kind | OPU = "structured",
        nonlinearity: str | Nonlinearity = "erf",
        *,
        spectral_radius: float = 0.9,
        input_scale: float = 0.4,
        bias_scale: float = 0.4,
        leak_rate: float = 1.0,
        n_layers: int = 1,
        density: float = 0.02,
        bits: int | None = None,
        features: str = "state+input",
        ridge: float | Sequence[float] = 1e-6,
        solver: Solver = "auto",
        forgetting: float = 1.0,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_units = n_units
        self.projection = projection
        self.nonlinearity = nonlinearity
        self.spectral_radius = spectral_radius
        self.input_scale = input_scale
        self.bias_scale = bias_scale
        self.leak_rate = leak_rate
        self.n_layers = n_layers
        self.density = density
        self.bits = bits
        self.features = features
        self.ridge = ridge
        self.solver = solver
        self.forgetting = forgetting
        self.random_state = random_state

    def partial_fit(self, X: Any, y: Any = None, *, washout: int = 0) -> ReservoirForecaster:
        """Learn from the next piece of one series, step by step, by recursive least squares.

        The first piece fixes the scales, unless `fit` did, whose weights are then where learning starts. A piece
        continues the one before: the state is kept, and its first row is what the last prediction was of.

        Args:
            X: `(T, D)`; y: None for the next step, or `(T, K)` targets.
            washout: first steps of this piece that are not learned from.

        Raises:
            ConfigError: a ridge that is not one positive number, a forgetting outside (0, 1].
        """
        first = not hasattr(self, "weights_")
        series = as_series(self, X, reset=first)
        if len(series) > 1:
            raise DataError("partial_fit continues one series; fit takes several")
        check_length(series, washout, ahead=y is None and not hasattr(self, "last_"))
        if first:
            n_outputs = self._fix_units(X, y, series)[0].shape[1]
            self._draw()
            self.weights_ = np.zeros((self._n_readout, n_outputs))
            self.state_ = self._rest(1)
        elif (y is None) != self.forecasts_:
            raise DataError("give targets y to every partial_fit, or to none")
        if not hasattr(self, "online_"):
            if np.ndim(self.ridge) > 0:
                raise ConfigError(f"recursive least squares takes one ridge, got {self.ridge!r}")
            self.online_ = RecursiveLeastSquares(self.weights_, float(self.ridge), self.forgetting)  # type: ignore[arg-type]
        state = _layers_first(self.state_["reservoir"])
        phi = np.concatenate([phi[0] for _, phi in self._features(self._inputs(series)[0][None], state)])
        if y is None:  # what was seen last has its target now
            target = self.target_scale_.standard(series[0])
            seen = np.concatenate([self.last_, phi[:-1]]) if hasattr(self, "last_") else phi[:-1]
            self.online_.update(seen[washout:], target[len(target) - len(seen) :][washout:])
            self.last_ = phi[-1:]
        else:
            target = self.target_scale_.standard(as_targets(y, series, False)[0])
            self.online_.update(phi[washout:], target[washout:])
        self.weights_ = self.online_.weights
        self.state_ = {"reservoir": _layers_first(state), "output": phi[-1:] @ self.weights_}
        return self

    def _learn(self, inputs: list[Array], targets: list[Array], washout: int) -> None:
        self.__dict__.pop("online_", None)
        self._draw()
        after: list[Array] = []

        def rows() -> Iterator[tuple[Array, Array]]:
            for u, target in zip(inputs, targets, strict=True):
                state = self.reservoir_.rest()
                for part, phi in self._features(u[None], state):
                    first, last = max(washout - part.start, 0), min(part.stop, len(target)) - part.start
                    if first < last:
                        yield phi[0, first:last], target[part.start + first : part.start + last]
                after[:] = [state, phi[0, -1:]]

        n_rows = sum(len(t) - washout for t in targets)
        readout = solve_ridge(rows, n_rows, self._n_readout, self.ridge, self.solver)
        self.weights_ = np.ascontiguousarray(readout.weights)  # so that a loaded model's products round alike
        self.ridge_, self.solver_ = readout.ridge, readout.solver
        state, self.last_ = after
        self.state_ = {"reservoir": _layers_first(state), "output": self.last_ @ self.weights_}

    def set_state(self, state: dict[str, Array]) -> ReservoirForecaster:
        super().set_state(state)
        self.__dict__.pop("last_", None)  # it is of another place
        return self

    def _draw(self) -> None:
        """The reservoir, from the parameters."""
        chosen = self.features.split("+") if isinstance(self.features, str) else [self.features]
        if not set(chosen) <= set(FEATURES) or len(set(chosen)) < len(chosen):
            raise ConfigError(f'features are of {", ".join(FEATURES)}, joined by "+"; got {self.features!r}')
        self.seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.reservoir_ = self._reservoir()

    def _reservoir(self) -> Reservoir:
        return Reservoir(
            self.n_units,
            self.n_features_in_,
            self.projection,
            self.nonlinearity,
            spectral_radius=self.spectral_radius,
            input_scale=self.input_scale,
            bias_scale=self.bias_scale,
            leak_rate=self.leak_rate,
            n_layers=self.n_layers,
            density=self.density,
            bits=self.bits,
            seed=self.seed_,
        )

    @property
    def _n_readout(self) -> int:
        states = self.n_units * self.n_layers
        sizes = {"state": states, "squares": states, "input": self.n_features_in_}
        return 1 + sum(sizes[name] for name in self.features.split("+"))

    def _features(self, inputs: Array, state: Array) -> Iterator[tuple[slice, Array]]:
        """Slices of the steps with what the read-out sees, float32 `(B, steps, n_readout_features)`."""
        chosen = self.features.split("+")
        for part, states in self.reservoir_.blocks(inputs, state):
            u = inputs[:, part].astype(np.float32)
            of = {"state": states, "input": u}
            if "squares" in chosen:
                of["squares"] = np.float32(self.n_units**0.5) * states**2
            one = np.ones((*u.shape[:2], 1), np.float32)
            yield part, np.concatenate([of[name] for name in chosen] + [one], axis=2)

    def _rest(self, batch: int) -> dict[str, Array]:
        state = self.reservoir_.rest(batch)
        return {"reservoir": _layers_first(state), "output": np.zeros((batch, self.weights_.shape[1]))}

    def _drive(self, state: dict[str, Array], inputs: Array) -> tuple[Array, dict[str, Array]]:
        reservoir = _layers_first(state["reservoir"])
        outputs = np.concatenate([phi @ self.weights_ for _, phi in self._features(inputs, reservoir)], axis=1)
        return outputs, {"reservoir": _layers_first(reservoir), "output": outputs[:, -1]}

    def _learned(self) -> dict[str, Array]:
        return {"weights": self.weights_}

    def _restore(self, arrays: dict[str, Array]) -> None:
        self.weights_ = arrays["weights"]
        self.reservoir_ = self._reservoir()


def _layers_first(state: Array) -> Array:
    """Between `(n_layers, B, N)` of a reservoir and `(B, n_layers, N)` of a forecaster; a copy."""
    return state.transpose(1, 0, 2).copy()
