"""Forecasts by a recurrent kernel: a reservoir of infinitely many units, with its read-out in dual form."""

from __future__ import annotations

import math
from numbers import Real

import numpy as np

from opu_dfa.errors import ConfigError, DataError
from opu_dfa.features import Nonlinearity
from opu_dfa.reservoir.forecaster import Forecaster
from opu_dfa.reservoir.kernel import Past, RecurrentKernel
from opu_dfa.reservoir.readout import LARGEST_GRAM, positive_solution
from opu_dfa.reservoir.series import Array

FEATURES = ("state", "state+input")


class RecurrentKernelForecaster(Forecaster):
    """Kernel ridge regression with a recurrent kernel, as a scikit-learn regressor over time series.

        ŷ_t = Σ_s α_s [K(t, s) + <u_t, u_s> + 1],    α = (K + <u, u> + 1 + ridge)⁻¹ y

    with sums over the training steps s. It is what a `ReservoirForecaster` of the same parameters predicts when it has
    infinitely many units. A step takes one evaluation of the nonlinearity's kernel for every training step and layer:
    rows K(t, ·) follow from K(t-1, ·), so no window of the past is cut off. With a leak a, a series also carries its
    own last `RecurrentKernel.memory` inputs, 207 at a = 0.3 and 700 at a = 0.1.

    Args:
        nonlinearity: a name in `opu_dfa.features.NONLINEARITIES` or an object of them.
        spectral_radius, input_scale, bias_scale: s_r, s_i, s_b. Inputs are standardised, with mean ‖u‖² = 1.
        leak_rate: a; n_layers: of a deep reservoir, each driven by the states of the one before.
        features: what the read-out sees beside the constant: "state", or "state+input".
        ridge: the penalty, which means what it does in `ReservoirForecaster`.
        every: learn from every so many training steps only; memory grows with their number's square, and the time of
            `fit` with its cube.

    Attributes:
        weights_: α, `(n_centres, K)`; centres_: the steps learned from, in the training series one after the other;
            kernel_: the `RecurrentKernel`; scale_, target_scale_: means and deviations; n_features_in_: D.

    `fit`, `predict`, `forecast`, `score`, `get_state`, `set_state`, `save` and `load` are those of `Forecaster`. A
    saved model holds its training series. Discontinuous units tell series apart that differ by next to nothing: leaky
    ones take a training series, when it is predicted, for a new one after some hundred steps of rounding errors.

    Raises:
        ConfigError: on `fit`, a parameter out of its range.
        DataError: more steps to learn from than a matrix of 2 GiB has rows, 16,384.
        DivergedError: the kernel grows beyond all bounds, as that of intensities with a large spectral radius does.

    Source: Dong, Ohana, Rafayelyan, Krzakala, "Reservoir computing meets recurrent kernels and structured transforms",
    NeurIPS 2020 (arXiv 2006.07310).

    >>> t = np.arange(400)[:, None]
    >>> series = np.sin(t / 5)
    >>> model = RecurrentKernelForecaster().fit(series[:300], washout=50)
    >>> bool(np.abs(model.forecast(steps=100) - series[300:]).max() < 0.01)
    True
    """

    def __init__(
        self,
        nonlinearity: str | Nonlinearity = "erf",
        *,
        spectral_radius: float = 0.9,
        input_scale: float = 0.4,
        bias_scale: float = 0.4,
        leak_rate: float = 1.0,
        n_layers: int = 1,
        features: str = "state+input",
        ridge: float = 1e-6,
        every: int = 1,
    ) -> None:
        self.nonlinearity = nonlinearity
        self.spectral_radius = spectral_radius
        self.input_scale = input_scale
        self.bias_scale = bias_scale
        self.leak_rate = leak_rate
        self.n_layers = n_layers
        self.features = features
        self.ridge = ridge
        self.every = every

    def _learn(self, inputs: list[Array], targets: list[Array], washout: int) -> None:
        self.kernel_ = self._kernel()
        self.series_ = np.concatenate(inputs)
        self.starts_ = np.cumsum([0] + [len(u) for u in inputs[:-1]])
        self.variances_ = np.empty((self.n_layers, len(self.series_)))
        learned = [np.arange(washout, len(target), self.every) for target in targets]
        self.centres_ = np.concatenate([start + steps for start, steps in zip(self.starts_, learned, strict=True)])
        y = np.concatenate([target[steps] for target, steps in zip(targets, learned, strict=True)])
        gram, at = _square(len(y), self.every), 0
        for start, u, steps in zip(self.starts_, inputs, learned, strict=True):
            chosen, rows = set(steps.tolist()), np.zeros((1, *self.variances_.shape))
            for t, past in enumerate(self.kernel_.itself(u[None], len(u))):
                products = u[None, t] @ self.series_.T
                self.variances_[:, start + t] = past.variances[0, :, 0]
                if start:
                    rows[:, :, :start] = self._row(rows, products, past, start)
                rows[:, :, start : start + t + 1] = past.kernel[:, :, t::-1]
                if t in chosen:  # a column of the upper triangle; the rest of the matrix is not asked for
                    gram[:, at] = self._features(rows, products)[0]
                    at += 1
        self.weights_ = np.ascontiguousarray(positive_solution(gram, y, float(self.ridge)))
        self.state_ = self._rest(1)
        lags = min(self.kernel_.memory, len(u))
        self.state_["inputs"][0, :lags] = u[::-1][:lags]
        for name, array in vars(past).items():
            self.state_[name][:, :, :lags] = array[:, :, :lags]
        self.state_ |= {"rows": rows, "output": self._features(rows, products) @ self.weights_}

    def _kernel(self) -> RecurrentKernel:
        if self.features not in FEATURES:
            raise ConfigError(f"features is one of {', '.join(FEATURES)}, got {self.features!r}")
        if not isinstance(self.ridge, Real) or not 0 <= self.ridge < math.inf:
            raise ConfigError(f"ridge is one number of at least 0, got {self.ridge!r}")
        if isinstance(self.every, bool) or not isinstance(self.every, (int, np.integer)) or self.every < 1:
            raise ConfigError(f"every is a number of steps, at least 1; got {self.every!r}")
        return RecurrentKernel(
            self.nonlinearity,
            self.spectral_radius,
            self.input_scale,
            self.bias_scale,
            self.leak_rate,
            self.n_layers,
        )

    def _rest(self, batch: int) -> dict[str, Array]:
        lags, n_inputs = self.kernel_.memory, self.series_.shape[1]
        return {
            "rows": np.zeros((batch, *self.variances_.shape)),
            "inputs": np.zeros((batch, lags, n_inputs)),
            **vars(self.kernel_.rest(batch, lags)),
            "output": np.zeros((batch, len(self.target_scale_.mean))),
        }

    def _drive(self, state: dict[str, Array], inputs: Array) -> tuple[Array, dict[str, Array]]:
        outputs = np.empty((*inputs.shape[:2], self.weights_.shape[1]))
        rows, last, past = state["rows"], state["inputs"], Past(state["variances"], state["kernel"])
        for t in range(inputs.shape[1]):
            u = inputs[:, t]
            last = np.concatenate([u[:, None], last[:, :-1]], axis=1)
            past = self.kernel_.advance(past, (last @ u[:, :, None])[:, :, 0])
            products = u @ self.series_.T
            rows = self._row(rows, products, past, len(self.series_))
            outputs[:, t] = self._features(rows, products) @ self.weights_
        return outputs, {"rows": rows, "inputs": last, **vars(past), "output": outputs[:, -1]}

    def _row(self, before: Array, products: Array, past: Past, stop: int) -> Array:
        """K(t, ·) with the first `stop` training steps, those of whole series, from K(t-1, ·)."""
        starts = self.starts_[self.starts_ < stop]
        own, others = past.variances[:, :, 0], self.variances_[:, :stop]
        return self.kernel_.row(before[:, :, :stop], products[:, :stop], own, others, starts)

    def _features(self, rows: Array, products: Array) -> Array:
        """The read-out's kernel with the centres, `(B, n_centres)`."""
        features = 1 + rows[:, :, self.centres_].sum(1)
        return features + products[:, self.centres_] if self.features == "state+input" else features

    def _learned(self) -> dict[str, Array]:
        return {name.rstrip("_"): getattr(self, name) for name in _LEARNED}

    def _restore(self, arrays: dict[str, Array]) -> None:
        for name in _LEARNED:
            setattr(self, name, arrays[name.rstrip("_")])
        self.kernel_ = self._kernel()


def _square(n: int, every: int) -> Array:
    """Room for a kernel matrix."""
    if 8 * n * n > LARGEST_GRAM:
        fewer = every * math.ceil(n / math.sqrt(LARGEST_GRAM / 8))
        raise DataError(
            f"a kernel matrix of {n:,} training steps takes {8 * n * n / 2**30:.1f} GiB, beyond "
            f"{LARGEST_GRAM / 2**30:g}; learn from fewer, with every={fewer}"
        )
    return np.zeros((n, n), order="F")


_LEARNED = ("weights_", "centres_", "series_", "starts_", "variances_")
