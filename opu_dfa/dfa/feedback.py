"""Feedback operators: how the output error reaches the blocks.

A feedback operator is a fixed linear map B from an error `(..., n_features)` to a signal `(..., n_components)`. One
projection serves all blocks of a step: with `layout="shared"` every block reads the first `width` components of the
same signal, with `layout="independent"` consecutive blocks read consecutive slices. Operators are modules: what they
need to continue is in their `state_dict`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from hardware import OPU, Encoding, StochasticTernary

Layout = Literal["shared", "independent"]


class Feedback(nn.Module):
    """Base of the operators: subclasses give `project`, and get the layouts, shapes and column measurement.

    Args:
        n_features: width of the error; n_components: width of the projected signal.
        layout: "shared" or "independent" slices of the signal.
    """

    def __init__(self, n_features: int, n_components: int, layout: Layout = "shared") -> None:
        super().__init__()
        if layout not in ("shared", "independent"):
            raise ValueError(f'layout is "shared" or "independent", got {layout!r}')
        self.n_features = n_features
        self.n_components = n_components
        self.layout = layout

    @abstractmethod
    def project(self, error: Tensor) -> Tensor:
        """Be for rows of errors, `(rows, n_features)` -> `(rows, n_components)`."""

    @abstractmethod
    def columns(self) -> Tensor:
        """B as measured from one-hot errors, `(n_components, n_features)`."""

    def forward(self, error: Tensor, widths: Sequence[int]) -> list[Tensor]:
        """One projection of the error, cut into a signal `(..., width)` for each block.

        Raises:
            ValueError: the error's width or the blocks' widths do not fit the operator.
        """
        if error.shape[-1] != self.n_features:
            raise ValueError(
                f"the feedback takes errors of width {self.n_features}, but the error has shape {tuple(error.shape)}"
            )
        needed = max(widths) if self.layout == "shared" else sum(widths)
        if needed > self.n_components:
            raise ValueError(
                f"{self.layout} feedback for blocks of widths {list(widths)} needs n_components >= {needed}, "
                f"but the operator has {self.n_components}"
            )
        rows = error.detach().reshape(-1, self.n_features).float()
        signal = self.project(rows).view(*error.shape[:-1], self.n_components)
        starts = [0] * len(widths) if self.layout == "shared" else [sum(widths[:i]) for i in range(len(widths))]
        return [signal[..., start : start + width] for start, width in zip(starts, widths, strict=True)]


class GaussianFeedback(Feedback):
    """B held in memory, entries N(0, 1/n_features); `encoding` shows the error in binary patterns first.

    Args:
        n_features, n_components, layout: see `Feedback`.
        seed: draws B and whatever a random encoding needs.
        encoding: a `hardware.Encoding`, to study its effect without a device; the exact error if None.

    >>> feedback = GaussianFeedback(n_features=10, n_components=32)
    >>> [signal.shape for signal in feedback(torch.ones(4, 7, 10), widths=[32, 16])]
    [torch.Size([4, 7, 32]), torch.Size([4, 7, 16])]
    """

    matrix: Tensor

    def __init__(
        self,
        n_features: int,
        n_components: int,
        layout: Layout = "shared",
        seed: int = 0,
        encoding: Encoding | None = None,
    ) -> None:
        super().__init__(n_features, n_components, layout)
        # NumPy's generator: a model drawn with torch.manual_seed(seed) shares no numbers with B.
        draw = np.random.default_rng(seed)
        matrix = draw.standard_normal((n_components, n_features), dtype=np.float32) / math.sqrt(n_features)
        self.register_buffer("matrix", torch.from_numpy(matrix.astype(np.float32)))
        self.encoding = encoding
        self._draw = torch.Generator().manual_seed(int(draw.integers(2**32)))

    def project(self, error: Tensor) -> Tensor:
        if self.encoding is not None:
            error = self.encoding(error.cpu(), self._draw).values().to(error.device)
        return error @ self.matrix.T.to(error.dtype)

    def columns(self) -> Tensor:
        return self.matrix.clone()

    def get_extra_state(self) -> Tensor:
        return self._draw.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self._draw.set_state(state.cpu())


class OpticalFeedback(Feedback):
    """B = Re(R) of an optical device: the error is shown on the mirrors as binary patterns and read by holography.

    Args:
        opu: the device; its n_features is the error's width, its n_components the signal's.
        layout: see `Feedback`.
        encoding: how an error becomes binary patterns; two unbiased patterns a row by default.

    >>> from hardware import open_opu
    >>> opu = open_opu("simulated", n_features=10, n_components=32, preset="noisy-8bit")
    >>> signal, = OpticalFeedback(opu)(torch.randn(5, 10, generator=torch.Generator().manual_seed(0)), widths=[32])
    >>> opu.usage.frames  # 5 errors, 2 patterns each, 2 frames a pattern
    20
    """

    def __init__(self, opu: OPU, layout: Layout = "shared", encoding: Encoding | None = None) -> None:
        super().__init__(opu.n_features, opu.n_components, layout)
        self.opu = opu
        self.encoding = StochasticTernary() if encoding is None else encoding

    def project(self, error: Tensor) -> Tensor:
        return self.opu.linear_transform(error, self.encoding)

    def columns(self, repeats: int = 8) -> Tensor:
        """B measured with one-hot inputs, the mean of `repeats` showings; the device counts their frames."""
        one_hot = torch.eye(self.n_features).repeat(repeats, 1)
        shown = self.opu.linear_transform(one_hot)
        return shown.view(repeats, self.n_features, self.n_components).mean(0).T.contiguous()

    def get_extra_state(self) -> Tensor:
        return self.opu.state()

    def set_extra_state(self, state: Tensor) -> None:
        self.opu.load_state(state)
