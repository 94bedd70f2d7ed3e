"""Click prediction: a yes or no from a row of categories. Loss in nats, the area under the ROC curve beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from opu_dfa.config import Count, Fraction, settings
from opu_dfa.errors import DataError
from opu_dfa.tasks.click_tables import Table, read_table
from opu_dfa.tasks.data import DataSettings
from opu_dfa.tasks.task import Batch, Split, Task, evenly

_AT_ONCE = 4096  # examples evaluated at a time


@settings
class Settings:
    """data: "adult" (census, 14 fields) or "criteo" (advertisements, 39 fields) of the data folder; rows: read the
    first so many, None for all; n_bins: categories an amount is cut into; min_count: a category seen less often in
    training is "rare", as is one never seen; validation_fraction, test_fraction: shares held out at random."""

    name: Literal["clicks"]
    data: Literal["adult", "criteo"]
    rows: Count | None
    n_bins: Count
    min_count: Count
    validation_fraction: Fraction
    test_fraction: Fraction


class ClickTask(Task):
    """Rows of categories int64 `(batch, n_fields)`, numbered from 0 ("rare") in each field; labels float32 `(batch,)`.

    Bins and numbers come from the training rows alone; the same rows are held out whatever the run's seed.
    `n_categories` says how many each field has; a model gives one logit, `(batch, 1)`.

    Raises:
        DataError: the file is missing or not what it should be, or a split lacks one of the two labels.
    """

    unit = "nats per example"
    n_outputs = 1

    def __init__(self, chosen: Settings, data: DataSettings) -> None:
        self.title = chosen.data
        table = read_table(chosen.data, data, chosen.rows)
        order = np.random.default_rng(0).permutation(len(table.labels))
        ends = np.cumsum([round(len(order) * f) for f in (chosen.validation_fraction, chosen.test_fraction)])
        held_out, tested, training = np.split(order, ends)
        columns = _categories(table, training, chosen.n_bins, chosen.min_count)
        self.n_categories = tuple(int(column.max()) + 1 for column in columns)
        x, y = torch.from_numpy(np.stack(columns, axis=1)), torch.from_numpy(table.labels.astype(np.float32))
        self._parts = {
            name: (x[rows], y[rows])
            for name, rows in (("training", training), ("validation", held_out), ("test", tested))
        }
        for name, (_, labels) in self._parts.items():
            if not 0 < labels.sum() < len(labels):
                raise DataError(
                    f"the {len(labels)} rows of the {name} part of {chosen.data} do not show both labels: read more "
                    "rows (task.rows), or hold out a larger share"
                )
        self.fingerprint = hashlib.sha256(x.numpy().tobytes() + y.numpy().tobytes()).hexdigest()[:16]

    @property
    def description(self) -> str:
        sizes = ", ".join(f"{len(y):,} {name}" for name, (_, y) in self._parts.items())
        return (
            f"Clicks: {self.title}, {sizes}, {len(self.n_categories)} fields of {sum(self.n_categories):,} categories"
        )

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        x, y = self._parts["training"]
        which = torch.randint(len(y), (size,), generator=generator)
        return x[which], y[which]

    def examples(self, split: Split, size: int, at_most: int | None = None) -> Iterator[Batch]:
        x, y = self._parts[split]
        for some in evenly(len(y), at_most).split(size):
            yield x[some], y[some]

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        """Mean binary cross-entropy of logits `(batch, 1)`, in nats per example."""
        return F.binary_cross_entropy_with_logits(out.float().squeeze(-1), y)

    def evaluate(self, forward: Callable[[Any], Any], split: Split, at_most: int | None = None) -> dict[str, float]:
        """The loss, and the area under the ROC curve: the probability that a yes is ranked above a no."""
        from sklearn.metrics import roc_auc_score

        outs, labels = zip(*((forward(x), y) for x, y in self.examples(split, _AT_ONCE, at_most)), strict=True)
        out, y = torch.cat(outs).float(), torch.cat(labels)
        scores = {"loss": self.loss(out, y).item()}
        if 0 < y.sum() < len(y):  # a small part of a split may show one label alone
            scores["auc"] = float(roc_auc_score(y.numpy(), out.squeeze(-1).numpy()))
        return scores

    def error_of_target(self, y: Tensor) -> Tensor:
        return y[:, None] / -len(y)


def _categories(table: Table, training: np.ndarray, n_bins: int, min_count: int) -> list[np.ndarray]:
    """Each field's values numbered: those of at least `min_count` training rows from 1, all others 0."""
    columns = []
    for name, column in zip(table.fields, table.values.T, strict=True):
        if name in table.numeric:
            # Quantiles of the distinct values: amounts that are mostly zero would have them all at zero.
            quantiles = np.quantile(np.unique(column[training]), np.linspace(0, 1, n_bins + 1)[1:-1])
            column = np.searchsorted(quantiles, column, side="right")
        seen, counts = np.unique(column[training], return_counts=True)
        kept = seen[counts >= min_count]
        place = np.searchsorted(kept, column)
        known = place < len(kept)
        known[known] = kept[place[known]] == column[known]
        columns.append(np.where(known, place + 1, 0))
    return columns


def build(chosen: Settings, data: DataSettings) -> ClickTask:
    """The task of the settings."""
    return ClickTask(chosen, data)
