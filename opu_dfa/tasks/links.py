"""Link prediction by a graph auto-encoder: which pairs of nodes are joined, by the inner product of what they are
encoded as. Loss in nats per pair (Kipf & Welling, "Variational graph auto-encoders", 2016, arXiv 1611.07308).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from opu_dfa.config import Count, settings
from opu_dfa.tasks.data import DataSettings
from opu_dfa.tasks.planetoid import Citations, Name, read_citations
from opu_dfa.tasks.task import Batch, Split, Task

# Of the edges, as in the paper; the rest is the graph that the encoder sees and learns from.
_SHARES = {"validation": 0.05, "test": 0.1}


@settings
class Settings:
    """data: a citation graph of the data folder; n_latent: numbers that a node is encoded as."""

    name: Literal["links"]
    data: Name
    n_latent: Count


class LinksTask(Task):
    """The whole graph is the batch, of whatever size: features float32 `(n_nodes, n_features)`; y is pairs, int64
    `(2, n)`, edges and as many pairs that are none, and whether they are, float32 `(n,)`.

    A model's output z, `(n_nodes, n_latent)`, makes the pair (i, j) an edge with probability sigmoid(z_i · z_j): the
    decoder has nothing to learn, and the error is that of z.
    """

    unit = "nats per pair"
    item = "nodes"

    def __init__(self, title: str, graph: Citations, n_latent: int) -> None:
        self.title = title
        self.features = graph.features
        self.n_nodes, self.n_features = graph.features.shape
        self.items_per_example = self.n_nodes
        self.n_outputs = n_latent
        once = graph.edges[:, graph.edges[0] < graph.edges[1]]
        generator = torch.Generator().manual_seed(0)  # the held-out edges are a fixed random choice
        once = once[:, torch.randperm(once.shape[1], generator=generator)]
        sizes = [round(share * once.shape[1]) for share in _SHARES.values()]
        *held_out, self._training = once.split([*sizes, once.shape[1] - sum(sizes)], dim=1)
        self.edge_index = torch.cat((self._training, self._training.flip(0)), dim=1)
        self._held_out = {
            name: _with_others(edges, once, self.n_nodes, generator)
            for name, edges in zip(_SHARES, held_out, strict=True)
        }
        content = graph.features.numpy().tobytes() + graph.edges.numpy().tobytes()
        self.fingerprint = hashlib.sha256(content).hexdigest()[:16]

    @property
    def description(self) -> str:
        sizes = [
            (self._training.shape[1], "training"),
            *((len(y) // 2, name) for name, (_, y) in self._held_out.items()),
        ]
        edges = ", ".join(f"{n:,} {name}" for n, name in sizes)
        return f"Links: {self.title}, {self.n_nodes:,} nodes of {self.n_features:,} features; edges: {edges}"

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """The graph, all its training edges, and as many new pairs that are none of them."""
        return self.features, _with_others(self._training, self._training, self.n_nodes, generator)

    def examples(self, split: Split, size: int, at_most: int | None = None) -> Iterator[Batch]:
        yield self.features, self._held_out[split]

    def loss(self, out: Tensor, y: tuple[Tensor, Tensor]) -> Tensor:
        """Mean binary cross-entropy in nats per pair."""
        return F.binary_cross_entropy_with_logits(_decode(out, y[0]), y[1])

    def evaluate(self, forward: Callable[[Any], Any], split: Split, at_most: int | None = None) -> dict[str, float]:
        """Loss, area under the ROC curve, and average precision over the split's pairs."""
        from sklearn.metrics import average_precision_score, roc_auc_score

        x, (pairs, joined) = next(self.examples(split, 1))
        out = forward(x)
        logits, truth = _decode(out, pairs).numpy(), joined.numpy()
        return {
            "loss": self.loss(out, (pairs, joined)).item(),
            "auc": float(roc_auc_score(truth, logits)),
            "average_precision": float(average_precision_score(truth, logits)),
        }


def _decode(z: Tensor, pairs: Tensor) -> Tensor:
    """The logit of each pair, z_i · z_j."""
    return (z[pairs[0]] * z[pairs[1]]).sum(-1).float()


def _with_others(edges: Tensor, known: Tensor, n_nodes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Edges and as many random pairs of two nodes that are not `known`, and which is which."""

    def number(pairs: Tensor) -> Tensor:  # of an unordered pair
        return pairs.amin(0) * n_nodes + pairs.amax(0)

    others = torch.empty(2, 0, dtype=torch.long)
    while others.shape[1] < edges.shape[1]:
        drawn = torch.randint(n_nodes, edges.shape, generator=generator)
        drawn = drawn[:, (drawn[0] != drawn[1]) & ~torch.isin(number(drawn), number(known))]
        others = torch.cat((others, drawn), dim=1)[:, : edges.shape[1]]
    joined = torch.cat((torch.ones(edges.shape[1]), torch.zeros(others.shape[1])))
    return torch.cat((edges, others), dim=1), joined


def build(chosen: Settings, data: DataSettings) -> LinksTask:
    """The task of the settings."""
    return LinksTask(chosen.data, read_citations(chosen.data, data), chosen.n_latent)
