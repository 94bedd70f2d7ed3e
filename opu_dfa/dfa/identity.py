"""Identity feedback: the error as it is."""

from __future__ import annotations

from torch import Tensor

from opu_dfa.dfa.feedback import Feedback
from opu_dfa.errors import ConfigError


class IdentityFeedback(Feedback):
    """B = I, for `error_at="hidden"` on a residual stream: every block gets what the skip path would carry to it.

    Args:
        n_features, n_components: the width of the stream, twice.
        layout: "shared"; seed, encoding: see `Feedback`.

    Raises:
        ConfigError: sizes that differ, or independent slices.

    >>> import torch
    >>> IdentityFeedback(n_features=2, n_components=2)(torch.tensor([[1.0, -1.0]]), widths=[2])
    [tensor([[ 1., -1.]])]
    """

    def prepare(self) -> None:
        if self.n_features != self.n_components:
            raise ConfigError(
                f"identity feedback sends an error of width {self.n_features} to blocks of width {self.n_components}; "
                'it needs equal ones: take the error at the last block (error_at="hidden"), or another operator'
            )
        if self.layout != "shared":
            raise ConfigError('identity feedback sends every block the same error: choose layout="shared"')

    def project(self, shown: Tensor) -> Tensor:
        return shown
