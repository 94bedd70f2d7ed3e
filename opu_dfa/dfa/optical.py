"""Feedback by light: the operator whose matrix is the scattering medium of a device."""

from __future__ import annotations

import torch
from torch import Tensor

from hardware import OPU, Encoding, StochasticTernary
from opu_dfa.dfa.feedback import Feedback, Layout


class OpticalFeedback(Feedback):
    """B = Re(R) of an optical device: the error is shown on the mirrors as binary patterns and read by holography.

    Args:
        opu: the device; its n_features is the error's width, its n_components the signal's.
        layout: see `Feedback`.
        encoding: how an error becomes binary patterns; two unbiased patterns a row by default.

    Source: Launay et al., "Hardware beyond backpropagation: a photonic co-processor for direct feedback alignment",
    2020 (arXiv 2012.06373).

    >>> from hardware import open_opu
    >>> opu = open_opu("simulated", n_features=10, n_components=32, preset="noisy-8bit")
    >>> signal, = OpticalFeedback(opu)(torch.randn(5, 10, generator=torch.Generator().manual_seed(0)), widths=[32])
    >>> opu.usage.frames  # 5 errors, 2 patterns each, 2 frames a pattern
    20
    """

    def __init__(self, opu: OPU, layout: Layout = "shared", encoding: Encoding | None = None) -> None:
        shown_by = StochasticTernary() if encoding is None else encoding
        super().__init__(opu.n_features, opu.n_components, layout, encoding=shown_by)
        self._opu = opu

    @property
    def opu(self) -> OPU:
        return self._opu

    def show(self, error: Tensor) -> Tensor:
        return error  # the device shows it

    def project(self, shown: Tensor) -> Tensor:
        """Re(R)e for rows of errors. A row of zeros, as of an example without a label, is not shown: no frames."""
        lit = shown.any(dim=1)
        if lit.all():
            return self.opu.linear_transform(shown, self.encoding)
        signal = shown.new_zeros(len(shown), self.n_components)
        if lit.any():
            signal[lit] = self.opu.linear_transform(shown[lit], self.encoding)
        return signal

    def columns(self, repeats: int = 8) -> Tensor:
        """B measured with one-hot inputs, the mean of `repeats` showings; the device counts their frames."""
        one_hot = torch.eye(self.n_features).repeat(repeats, 1)
        shown = self.opu.linear_transform(one_hot)
        return shown.view(repeats, self.n_features, self.n_components).mean(0).T.contiguous()

    def get_extra_state(self) -> Tensor:
        return self.opu.state()

    def set_extra_state(self, state: Tensor) -> None:
        self.opu.load_state(state)
