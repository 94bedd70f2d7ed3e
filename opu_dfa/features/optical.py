"""An optical device as a scikit-learn transformer: rows of data in, random features out."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from hardware import OPU, Preset, open_opu
from opu_dfa.errors import ConfigError


class OpticalRandomFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Random features of an optical device: the intensity |Rx|² of binarised rows, or Re(R)x of real ones.

    The intensities' inner products approach a kernel as features are added, with b, c the binary patterns of two rows:

        (1/n_components) Σ_j |Rb|²_j |Rc|²_j  →  (2/n_features)² (‖b‖² ‖c‖² + (b·c)²)

    Args:
        n_components: features; with `opu`, the first so many of its outputs.
        output: "intensity" for |Rx|², in units in which the real and imaginary entries of R have variance 1/n_features
            (counts times `opu_.intensity_per_count`), or "linear" for Re(R)x.
        binarize: how an intensity's real inputs become mirrors that are on or off. "mean" or "median": mirror i is on
            where x_i exceeds that statistic of feature i over the rows of `fit`. A feature that is 0 or 1 in every row
            of `fit` is cut at 1/2 instead, so inputs of {0, 1} are shown as they are. The median of a feature that is
            mostly at its maximum leaves its mirror off; the mean always splits a feature that varies. None: rows
            must be binary. "linear" takes real rows, encoded by the device, and uses none of this.
        device: the kind that `fit` opens with `hardware.open_opu`: "simulated", "lighton", "auto" for the appliance if
            one answers and else the simulator, or "remote://host:port". An appliance can be opened once only: pass it
            as `opu` if there are to be clones, as in a grid search.
        preset, medium: of the simulator, see `hardware.SimulatedOPU`.
        random_state: draws the simulator's seed: an integer for the same matrix at every `fit`, a `RandomState`, or
            None for NumPy's own.
        opu: an open device to use instead; `device`, `preset`, `medium` and `random_state` are then without effect.
            Clones share it.

    Attributes:
        opu_: the device; `opu_.usage` is what it has spent.
        thresholds_: `(n_features,)`, the cut of each feature, where rows are binarised.
        n_features_in_, feature_names_in_, n_components_: sizes and names.

    With the preset "ideal" a row's features are a function of the row alone. With the others every measurement has
    noise of its own: the same row measured twice differs, as on a device. Pickles hold the seed, the calibration and
    the ledger but no matrix: what was simulated is opened again from its seed, with the same bits. Other devices are
    connected again where the pickle is read.

    Raises:
        ConfigError: on `fit`, a parameter out of its range, or more components than `opu` has.
        ValueError: rows that scikit-learn refuses: not finite, not numbers, of another width than in `fit`.
        DeviceUnavailable: on `fit` or unpickling, the device does not answer.
        DeviceInputError: rows are not binary though `binarize` is None; a device, sizes, preset or medium that cannot
            be.
        DeviceFault: the device fails and goes on failing.

    Source: Saade et al., "Random projections through multiple optical scattering", ICASSP 2016 (arXiv 1510.06664);
    the kernel: Ohana et al., "Kernel computations from large-scale random features obtained by optical processing
    units", ICASSP 2020 (arXiv 1910.09880).

    >>> from sklearn.linear_model import RidgeClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> x = np.random.default_rng(0).integers(0, 2, size=(200, 16))
    >>> y = x[:, 0] ^ x[:, 1]  # no linear function of the pixels
    >>> model = make_pipeline(OpticalRandomFeatures(n_components=500, random_state=0), RidgeClassifier())
    >>> model.fit(x[:150], y[:150]).score(x[150:], y[150:]) > 0.9
    True
    """

    def __init__(
        self,
        n_components: int = 1000,
        *,
        output: Literal["intensity", "linear"] = "intensity",
        binarize: Literal["mean", "median"] | None = "mean",
        device: str = "simulated",
        preset: str | Preset = "ideal",
        medium: str = "dense",
        random_state: int | np.random.RandomState | None = None,
        opu: OPU | None = None,
    ) -> None:
        self.n_components = n_components
        self.output = output
        self.binarize = binarize
        self.device = device
        self.preset = preset
        self.medium = medium
        self.random_state = random_state
        self.opu = opu

    def fit(self, X: Any, y: object = None) -> OpticalRandomFeatures:
        """Open the device and learn where to cut each feature.

        Args:
            X: `(n_samples, n_features)`, finite real numbers.
            y: ignored.
        """
        self._check_parameters()
        X = validate_data(self, X, dtype="numeric")
        self.opu_ = self._open(X.shape[1])
        self.n_components_ = int(self.n_components)
        if self._binarizes:
            self.thresholds_ = _thresholds(X, self.binarize)
        elif hasattr(self, "thresholds_"):
            del self.thresholds_
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The features of rows `(n_samples, n_features)`: float32 `(n_samples, n_components)`."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype="numeric", reset=False)
        if self.output == "linear":
            features = self.opu_.linear_transform(X)
        else:
            patterns = (self.thresholds_ < X).astype(np.uint8) if self._binarizes else X
            features = self.opu_.transform(patterns) * np.float32(self.opu_.intensity_per_count)
        return np.ascontiguousarray(features[:, : self.n_components_])

    @property
    def _binarizes(self) -> bool:
        return self.output == "intensity" and self.binarize is not None

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def _check_parameters(self) -> None:
        if self.output not in ("intensity", "linear"):
            raise ConfigError(f'output is "intensity" or "linear", got {self.output!r}')
        if self.binarize not in ("mean", "median", None):
            raise ConfigError(f'binarize is "mean", "median" or None, got {self.binarize!r}')
        whole = isinstance(self.n_components, (int, np.integer)) and not isinstance(self.n_components, bool)
        if not whole or self.n_components < 1:
            raise ConfigError(f"n_components is an integer of at least 1, got {self.n_components!r}")
        if self.opu is None:
            return
        if not isinstance(self.opu, OPU):
            raise ConfigError(f"opu is an open device (hardware.open_opu) or None, got {type(self.opu).__name__}")
        if self.n_components > self.opu.n_components:
            raise ConfigError(
                f"n_components = {self.n_components}, but the device [{self.opu.identity}] has "
                f"{self.opu.n_components} outputs; ask for at most those, or open a larger one"
            )

    def _open(self, n_features: int) -> OPU:
        """The device for rows of this width."""
        if self.opu is not None:
            if self.opu.n_features != n_features:
                raise ConfigError(
                    f"the rows have {n_features} features, but the device [{self.opu.identity}] has "
                    f"{self.opu.n_features} inputs; open one with n_features={n_features}"
                )
            return self.opu
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        return open_opu(
            self.device,
            n_features=n_features,
            n_components=int(self.n_components),
            seed=seed,
            noise_seed=seed,
            preset=self.preset,
            medium=self.medium,
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _thresholds(X: np.ndarray, statistic: str | None) -> np.ndarray:
    """The cut of each feature, float64 `(n_features,)`: its mean or median, or 1/2 if it is 0 or 1 in every row."""
    if statistic == "mean":
        # Within the range, so that a constant feature is off whichever way its mean was rounded.
        cut = np.mean(X, axis=0, dtype=np.float64).clip(X.min(axis=0), X.max(axis=0))
    else:
        cut = np.median(X.astype(np.float64), axis=0)
    return np.where(((X == 0) | (X == 1)).all(axis=0), 0.5, cut)
