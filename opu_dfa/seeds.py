"""Independent random streams out of one seed."""

from __future__ import annotations

import numpy as np
import torch


def stream(seed: int, name: str) -> torch.Generator:
    """A CPU generator for one use of a run's seed; streams of different names share no numbers.

    >>> stream(0, "data").initial_seed() != stream(0, "sample").initial_seed()
    True
    """
    hashed = np.random.SeedSequence([seed, *name.encode()]).generate_state(1)[0]
    return torch.Generator().manual_seed(int(hashed))
