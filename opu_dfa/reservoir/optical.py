"""Reservoirs whose projection is a measurement: state and input on the mirrors, the next state on the camera."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from hardware import OPU, BitPlanes
from opu_dfa.errors import ConfigError
from opu_dfa.reservoir.projections import Array, Projection, Shape, Update

_MEDIAN = math.log(2)  # of an intensity of mean 1


class LinearOptics(Projection):
    """z = √n Re(R) [s_r x; s_i u/√m, m times; 0], from `linear_transform` of the device's n inputs.

    A channel has m mirrors, its share of those that the state leaves. Bit planes resolve a fraction of the largest
    entry, which one of u's few would be: m times u/√m has the same projection in law, and the size of the state's.

    Args:
        bits: of the planes a state is shown in, 2 · bits patterns a step; None leaves it to the device (8).
    """

    def __init__(self, shape: Shape, opu: OPU, bits: int | None) -> None:
        _require(opu, shape.n_units + shape.n_inputs, shape.n_units)
        self.shape, self.opu = shape, opu
        self.each = (opu.n_features - shape.n_units) // shape.n_inputs
        self.encoding = None if bits is None else BitPlanes(bits)

    def run(self, states: Array, state: Array, inputs: Array, update: Update) -> None:
        batch, steps, d = inputs.shape
        n = self.shape.n_units
        part = self.shape.input_scale / math.sqrt(self.each)
        shown = np.zeros((batch, self.opu.n_features), np.float32)
        gain = np.float32(math.sqrt(self.opu.n_features))
        for t in range(steps):
            shown[:, :n] = self.shape.spectral_radius * state
            shown[:, n : n + d * self.each] = np.repeat(part * inputs[:, t], self.each, axis=1)
            z = gain * self.opu.linear_transform(shown, self.encoding)[:, :n]
            state[:] = update.mix(state, update.nonlinearity(z + update.bias))
            states[:, t] = state


class IntensityOptics(Projection):
    """f = |Rb|² in one frame a step, of the binary pattern b that state and input make.

    A unit's mirror is on where its state exceeds an intensity's median. The device's other inputs are shared by the
    channels of u as thermometers: mirror j of m is on where a channel exceeds the normal quantile (j + ½) / m. How much
    of the light each has is what s_r and s_i are elsewhere, so those have no effect; nor has a bias.
    Source: Rafayelyan et al., "Large-scale optical reservoir computing for spatiotemporal chaotic systems prediction",
    PRX 2020 (arXiv 2001.09131).
    """

    def __init__(self, shape: Shape, opu: OPU) -> None:
        _require(opu, shape.n_units + shape.n_inputs, shape.n_units)
        self.opu, self.n_units = opu, shape.n_units
        each = (opu.n_features - shape.n_units) // shape.n_inputs
        # Inputs are standardised and divided by √d.
        self.levels = (special.ndtri((np.arange(each) + 0.5) / each) / math.sqrt(shape.n_inputs)).astype(np.float32)

    def run(self, states: Array, state: Array, inputs: Array, update: Update) -> None:
        batch, steps, _ = inputs.shape
        n, cut = self.n_units, _MEDIAN / math.sqrt(self.n_units)
        shown = np.zeros((batch, self.opu.n_features), np.uint8)
        threshold = getattr(update.nonlinearity, "threshold", None)
        for t in range(steps):
            shown[:, :n] = state > cut
            code = (inputs[:, t, :, None] > self.levels).reshape(batch, -1)
            shown[:, n : n + code.shape[1]] = code
            intensity = self.opu.transform(shown)[:, :n] * np.float32(self.opu.intensity_per_count)
            values = intensity if threshold is None else (intensity > threshold).astype(np.float32)
            state[:] = update.mix(state, values)
            states[:, t] = state


def _require(opu: OPU, n_features: int, n_components: int) -> None:
    if opu.n_features < n_features or opu.n_components < n_components:
        raise ConfigError(
            f"a reservoir of {n_components} units and {n_features - n_components} inputs needs a device of at least "
            f"n_features={n_features} and n_components={n_components}; [{opu.identity}] has {opu.n_features} and "
            f"{opu.n_components}. Open a larger one, or choose fewer units."
        )
