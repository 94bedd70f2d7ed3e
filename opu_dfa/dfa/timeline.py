"""What a rank of a pipeline did when: how long it worked, and how long it waited before which work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["forward", "error", "project", "backward"]


@dataclass
class Timeline:
    """Spans of work in seconds of this rank's clock; a gap before a piece of work is time spent waiting for it.

    On a GPU a span is the time it takes to launch the work.

    >>> line = Timeline(0.0, [("forward", 1.0, 3.0), ("backward", 4.0, 9.0)])
    >>> line.busy(), line.waited("forward"), line.waited("backward"), line.seconds
    (7.0, 1.0, 1.0, 9.0)
    """

    began: float = field(default_factory=time.perf_counter)
    spans: list[tuple[Kind, float, float]] = field(default_factory=list)

    @contextmanager
    def span(self, kind: Kind) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spans.append((kind, start, time.perf_counter()))

    @property
    def seconds(self) -> float:
        """From the beginning to the end of the last work."""
        return max((end for _, _, end in self.spans), default=self.began) - self.began

    def busy(self, *kinds: Kind) -> float:
        """Seconds of work, of all kinds or of some."""
        return sum(end - start for kind, start, end in self.spans if not kinds or kind in kinds)

    def waited(self, *kinds: Kind) -> float:
        """Seconds idle before work of these kinds could begin."""
        ends = [self.began, *(end for _, _, end in self.spans)]
        return sum(start - end for end, (kind, start, _) in zip(ends, self.spans, strict=False) if kind in kinds)
