"""Where direct feedback alignment enters a model: settings that every model's configuration shares."""

from __future__ import annotations

from opu_dfa.config import settings


@settings
class Layout:
    """taps: the blocks that learn from feedback, as names or globs; through: the module whose exact local derivative
    the projected error passes before it reaches them; head: the linear layer that may start from the feedback's
    columns; trained_after: what follows the last block, and alone is trained where the blocks are frozen."""

    taps: list[str]
    through: str | None
    head: str | None
    trained_after: list[str]
