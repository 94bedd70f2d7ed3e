"""Feedback operators: how the output error reaches the blocks. The base of all of them, and the Gaussian one.

A feedback operator is a linear map B from an error `(..., n_features)` to a signal `(..., n_components)`. One
projection serves all blocks of a step: with `layout="shared"` every block reads the first `width` components of the
same signal, with `layout="independent"` consecutive blocks read consecutive slices. Operators are modules: what they
need to continue is in their `state_dict`.

Entries of every random B have variance 1/n_features, as the device's, so that learning rates carry over.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from hardware import OPU, Encoding
from opu_dfa.errors import ConfigError
from opu_dfa.seeds import stream

Layout = Literal["shared", "independent"]
_AT_ONCE = 2**22  # entries of one-hot rows held at a time


class Feedback(nn.Module):
    """Base of the operators: subclasses give `project`, and get encodings, layouts, shapes, columns and state.

    Args:
        n_features: width of the error; n_components: width of the projected signal.
        layout: "shared" or "independent" slices of the signal.
        seed: draws B and whatever a random encoding needs; the same seed gives the same B on any machine.
        encoding: shows the error in binary patterns (`hardware.Encoding`), `patterns_per_error` of them; to study its
            effect without a device. The exact error if None.

    Raises:
        ConfigError: sizes below 1, or a layout of another name.
    """

    def __init__(
        self,
        n_features: int,
        n_components: int,
        layout: Layout = "shared",
        seed: int = 0,
        encoding: Encoding | None = None,
    ) -> None:
        super().__init__()
        if layout not in ("shared", "independent"):
            raise ConfigError(f'layout is "shared" or "independent", got {layout!r}')
        if min(n_features, n_components) < 1:
            raise ConfigError(f"feedback takes sizes of at least 1, got {n_features} -> {n_components}")
        self.n_features = n_features
        self.n_components = n_components
        self.layout = layout
        self.seed = seed
        self.encoding = encoding
        self._draw = stream(seed, "feedback encoding")
        self.prepare()

    def prepare(self) -> None:
        """The constructor's end, for subclasses without arguments of their own: check the sizes, draw B."""

    @abstractmethod
    def project(self, shown: Tensor) -> Tensor:
        """Be for rows of errors as `show` gives them, `(rows, n_features)` -> `(rows, n_components)`."""

    @torch.no_grad()
    def columns(self) -> Tensor:
        """B, `(n_components, n_features)`: the projections of one-hot errors."""
        device = next(itertools.chain(self.parameters(), self.buffers()), torch.empty(0)).device
        one_hot = (hot.to(device) for hot in one_hot_rows(self.n_features))
        return torch.cat([self.project(hot) for hot in one_hot]).T.contiguous()

    @property
    def patterns_per_error(self) -> int:
        """Binary patterns an error is shown in; 0 where it is projected exactly."""
        return 0 if self.encoding is None else self.encoding.n_patterns

    @property
    def opu(self) -> OPU | None:
        """The device that projects, where one does."""
        return None

    def show(self, error: Tensor) -> Tensor:
        """The rows that the patterns of `encoding` stand for; drawn on the CPU, so the same on every torch device."""
        if self.encoding is None:
            return error
        return self.encoding(error.cpu(), self._draw).values().to(error.device)

    def forward(self, error: Tensor, widths: Sequence[int]) -> list[Tensor]:
        """One projection of the error, cut into a float32 signal `(..., width)` for each block.

        Blocks that read the same slice get the same tensor.

        Raises:
            ValueError: the error's width or the blocks' widths do not fit the operator.
        """
        if error.shape[-1] != self.n_features:
            raise ValueError(
                f"the feedback takes errors of width {self.n_features}, but the error has shape {tuple(error.shape)}"
            )
        slices = self.slices(widths)
        rows = error.detach().reshape(-1, self.n_features).float()
        signal = self.project(self.show(rows)).view(*error.shape[:-1], self.n_components)
        cuts = {(s.start, s.stop): signal[..., s] for s in slices}
        return [cuts[s.start, s.stop] for s in slices]

    def slices(self, widths: Sequence[int]) -> list[slice]:
        """The components that each of consecutive blocks of these widths reads.

        Raises:
            ValueError: the operator has fewer.
        """
        needed = signal_width(widths, self.layout)
        if needed > self.n_components:
            raise ValueError(
                f"{self.layout} feedback for blocks of widths {list(widths)} needs n_components >= {needed}, "
                f"but the operator has {self.n_components}"
            )
        starts = [0] * len(widths) if self.layout == "shared" else itertools.accumulate(widths, initial=0)
        return [slice(start, start + width) for start, width in zip(starts, widths, strict=False)]

    def learn(self, error: Tensor, taps: Sequence[Tensor]) -> None:
        """Called after each projection in training; fixed operators learn nothing.

        Args:
            error: rows `(rows, n_features)`; taps: what each block's signal teaches, `(rows, width)` for each block.
        """

    def align(self, tangents: Sequence[Tensor], out_tangent: Tensor) -> None:
        """Move B towards the transposed Jacobian, given samples of forward-mode products.

        Args:
            tangents: v ~ N(0, 1) added at each block, `(rows, width)`; out_tangent: Jv, `(rows, n_features)`.

        Raises:
            TypeError: the operator has no use for them.
        """
        raise TypeError(
            f"{type(self).__name__} does not learn from forward-mode products; use GradientAlignedFeedback (aligned)"
        )

    def get_extra_state(self) -> Tensor:
        fixed = torch.tensor([self.seed, self.n_features, self.n_components]).view(torch.uint8)
        return torch.cat((fixed, self._draw.get_state()))

    def set_extra_state(self, state: Tensor) -> None:
        state = state.cpu()
        self.seed, *sizes = state[:24].clone().view(torch.int64).tolist()
        if sizes != [self.n_features, self.n_components]:
            raise ValueError(
                f"this state belongs to feedback of {sizes[0]} -> {sizes[1]} components, but the operator is "
                f"{self.n_features} -> {self.n_components}: build it with the sizes it was saved with"
            )
        self._draw.set_state(state[24:].clone())


class DenseFeedback(Feedback):
    """Base of the operators that hold B as `matrix`, `(n_components, n_features)`."""

    matrix: Tensor

    def project(self, shown: Tensor) -> Tensor:
        return shown @ self.matrix.detach().T.to(shown.dtype)

    def columns(self) -> Tensor:
        return self.matrix.detach().clone()


class GaussianFeedback(DenseFeedback):
    """B with entries N(0, 1/n_features). Rows are prefix-stable: more components leave the first as they are.

    Source: Nøkland, "Direct feedback alignment provides learning in deep neural networks", NeurIPS 2016
    (arXiv 1609.01596); one shared matrix: Launay et al. 2020 (arXiv 2006.12878).

    >>> feedback = GaussianFeedback(n_features=10, n_components=32)
    >>> [signal.shape for signal in feedback(torch.ones(4, 7, 10), widths=[32, 16])]
    [torch.Size([4, 7, 32]), torch.Size([4, 7, 16])]
    """

    def prepare(self) -> None:
        self.register_buffer("matrix", gaussian_matrix(self.n_features, self.n_components, self.seed))


def signal_width(widths: Sequence[int], layout: Layout) -> int:
    """Components that blocks of these widths read: as many as the widest where slices are shared, else all together."""
    return max(widths) if layout == "shared" else sum(widths)


def gaussian_matrix(n_features: int, n_components: int, seed: int) -> Tensor:
    """float32 `(n_components, n_features)` of N(0, 1/n_features)."""
    # NumPy's generator: a model drawn with torch.manual_seed(seed) shares no numbers with B.
    draw = np.random.default_rng(seed)
    matrix = draw.standard_normal((n_components, n_features), dtype=np.float32)
    return torch.from_numpy((matrix / math.sqrt(n_features)).astype(np.float32))


def one_hot_rows(n: int) -> Iterator[Tensor]:
    """The rows of the identity of n, some at a time."""
    at_once = max(1, _AT_ONCE // n)
    for start in range(0, n, at_once):
        yield nn.functional.one_hot(torch.arange(start, min(start + at_once, n)), n).float()
