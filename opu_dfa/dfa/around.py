"""Operators around another operator: a sketch of the error before it, or the batch mean removed after it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hardware import OPU
from opu_dfa.dfa.feedback import Feedback, one_hot_rows
from opu_dfa.dfa.sketch import Sketch
from opu_dfa.errors import ConfigError


class _Around(Feedback):
    """What an operator around `feedback` passes on to it."""

    def __init__(self, feedback: Feedback, n_features: int) -> None:
        super().__init__(n_features, feedback.n_components, feedback.layout, feedback.seed, feedback.encoding)
        self.feedback = feedback

    @property
    def opu(self) -> OPU | None:
        return self.feedback.opu

    def show(self, error: Tensor) -> Tensor:
        return self.feedback.show(error)

    def project(self, shown: Tensor) -> Tensor:
        return self.feedback.project(shown)

    def columns(self) -> Tensor:
        return self.feedback.columns()

    def learn(self, error: Tensor, taps: Sequence[Tensor]) -> None:
        self.feedback.learn(error, taps)

    def align(self, tangents: Sequence[Tensor], out_tangent: Tensor) -> None:
        self.feedback.align(tangents, out_tangent)


class SketchedFeedback(_Around):
    """B S e: any operator, fed with a sketch of the error in place of the error.

    Args:
        feedback: takes the sketch, so its n_features is the sketch's n_components; its encoding shows the sketch.
        sketch: `RandomSketch` or `TopK`.

    Raises:
        ConfigError: the sketch and the operator do not fit.

    >>> from opu_dfa.dfa import GaussianFeedback, RandomSketch
    >>> feedback = SketchedFeedback(GaussianFeedback(16, 32), RandomSketch(n_features=1000, n_components=16))
    >>> feedback(torch.ones(2, 1000), widths=[32])[0].shape
    torch.Size([2, 32])
    """

    def __init__(self, feedback: Feedback, sketch: Sketch) -> None:
        if feedback.n_features != sketch.n_components:
            raise ConfigError(
                f"the sketch gives {sketch.n_components} components, but the feedback takes {feedback.n_features}: "
                f"build it with n_features={sketch.n_components}"
            )
        super().__init__(feedback, sketch.n_features)
        self.sketch = sketch

    def show(self, error: Tensor) -> Tensor:
        return self.feedback.show(self.sketch(error))

    @torch.no_grad()
    def columns(self) -> Tensor:
        """B S, from the operator's own columns."""
        columns = self.feedback.columns()
        one_hot = (hot.to(columns.device) for hot in one_hot_rows(self.n_features))
        return torch.cat([columns @ self.sketch(hot).T for hot in one_hot], dim=1)

    def learn(self, error: Tensor, taps: Sequence[Tensor]) -> None:
        self.feedback.learn(self.sketch(error), taps)

    def align(self, tangents: Sequence[Tensor], out_tangent: Tensor) -> None:
        self.feedback.align(tangents, self.sketch(out_tangent))


class CenteredFeedback(_Around):
    """B e less its mean over the rows of the batch: the push common to all of them is taken out.

    A biased encoding of the error (`ThresholdTernary`) leaves such a push, which swamps a residual stream. Rows are all
    that the error has before its last dimension, tokens included; a batch of one row gives no signal.

    >>> from opu_dfa.dfa import GaussianFeedback
    >>> signal, = CenteredFeedback(GaussianFeedback(4, 8))(torch.eye(4), widths=[8])
    >>> bool(signal.sum(dim=0).abs().max() < 1e-6)
    True
    """

    def __init__(self, feedback: Feedback) -> None:
        super().__init__(feedback, feedback.n_features)

    def project(self, shown: Tensor) -> Tensor:
        signal = self.feedback.project(shown)
        return signal - signal.mean(dim=0)
