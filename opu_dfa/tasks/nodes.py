"""Classification of the nodes of a graph, few of which have a label: the class of each. Loss in nats per node."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from opu_dfa.config import settings
from opu_dfa.tasks.data import DataSettings
from opu_dfa.tasks.planetoid import Citations, Name, read_citations
from opu_dfa.tasks.task import Batch, Split, Task

UNLABELLED = -100  # the class of nodes that do not count


@settings
class Settings:
    """data: a citation graph of the data folder."""

    name: Literal["nodes"]
    data: Name


class NodesTask(Task):
    """The whole graph is the batch, of whatever size: features float32 `(n_nodes, n_features)`, classes int64
    `(n_nodes,)`, which are UNLABELLED outside the split.

    What models are built from: n_nodes, n_features, n_outputs, and edge_index, int64 `(2, edges)`.
    """

    unit = "nats per node"
    item = "nodes"

    def __init__(self, title: str, graph: Citations) -> None:
        self.title = title
        self.features = graph.features
        self.edge_index = graph.edges
        self.n_nodes, self.n_features = graph.features.shape
        self.items_per_example = self.n_nodes
        self.n_outputs = int(graph.labels.max()) + 1
        self._split = {"training": graph.training, "validation": graph.validation, "test": graph.test}
        self._labels = {
            name: torch.full_like(graph.labels, UNLABELLED).scatter_(0, nodes, graph.labels[nodes])
            for name, nodes in self._split.items()
        }
        content = b"".join(part.numpy().tobytes() for part in (graph.features, graph.edges, graph.labels))
        self.fingerprint = hashlib.sha256(content).hexdigest()[:16]

    @property
    def description(self) -> str:
        labelled = ", ".join(f"{len(nodes):,} {name}" for name, nodes in self._split.items())
        return (
            f"Graph: {self.title}, {self.n_nodes:,} nodes of {self.n_features:,} features, "
            f"{self.edge_index.shape[1] // 2:,} edges, {self.n_outputs} classes; labels: {labelled}"
        )

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        return self.features, self._labels["training"]

    def examples(self, split: Split, size: int, at_most: int | None = None) -> Iterator[Batch]:
        yield self.features, self._labels[split]

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy in nats per labelled node."""
        return F.cross_entropy(out.float(), y, ignore_index=UNLABELLED)

    def scores(self, out: Tensor, y: Tensor) -> dict[str, float]:
        labelled = y != UNLABELLED
        return {"accuracy": (out.argmax(-1) == y)[labelled].float().mean().item()}

    def error_of_target(self, y: Tensor) -> Tensor:
        labelled = y != UNLABELLED
        target = F.one_hot(y.clamp(min=0), self.n_outputs).float()
        return target * labelled[:, None] / -labelled.sum()


def build(chosen: Settings, data: DataSettings) -> NodesTask:
    """The task of the settings."""
    return NodesTask(chosen.data, read_citations(chosen.data, data))
