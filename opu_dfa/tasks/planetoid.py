"""Reading the citation graphs Cora, CiteSeer and PubMed: papers, their words, who cites whom (Planetoid's files).

The set's files are pickles of arrays. They are read by an unpickler that makes arrays and nothing else.
"""

from __future__ import annotations

import codecs
import pickle
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from opu_dfa.errors import DataError
from opu_dfa.tasks.data import DataSettings

Name = Literal["Cora", "CiteSeer", "PubMed"]
_PICKLES = ("x", "tx", "allx", "y", "ty", "ally", "graph")
_N_VALIDATION = 500
# All that the pickles may name, wherever old and new versions of the libraries keep it.
_MADE = {
    "_reconstruct": np.empty(0).__reduce__()[0],
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "csr_matrix": scipy.sparse.csr_matrix,
    "defaultdict": defaultdict,
    "list": list,
    "encode": codecs.encode,
}


@dataclass(frozen=True)
class Citations:
    """features: float32 `(nodes, words)`, each row sums to one; edges: int64 `(2, n)`, each citation in both
    directions, none twice, no node with itself; labels: int64 `(nodes,)`; training, validation, test: int64, the nodes
    of the public split."""

    features: Tensor
    edges: Tensor
    labels: Tensor
    training: Tensor
    validation: Tensor
    test: Tensor


def read_citations(name: Name, data: DataSettings) -> Citations:
    """A citation graph with the split of Yang et al., "Revisiting semi-supervised learning with graph embeddings", 2016
    (arXiv 1603.08861): 20 labelled nodes a class, 500 for validation, 1,000 for test.

    Raises:
        DataError: a file is not in the data folder, nor to be downloaded; or it is damaged.
    """
    folder = f"planetoid/{name}/raw"
    if data.download:
        _fetch(name, data.folder / folder)
    read = {}
    for part in _PICKLES:
        path = data.find(f"{folder}/ind.{name.lower()}.{part}", _REMEDY)
        try:
            with open(path, "rb") as file:
                read[part] = _Arrays(file, encoding="latin1").load()
        except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            raise DataError(f"{path} cannot be read as Planetoid's arrays: {error}. Copy it again.") from error
    path = data.find(f"{folder}/ind.{name.lower()}.test.index", _REMEDY)
    try:
        return _assemble(read, np.loadtxt(path, dtype=np.int64))
    except (ValueError, IndexError, KeyError, AttributeError) as error:
        raise DataError(f"the files of {path.parent} do not fit each other: {error}. Copy them again.") from error


_REMEDY = (
    "With a network, data.download=true fetches it; else copy the set's ind.* files there "
    "(github.com/kimiyoung/planetoid, folder data)."
)


class _Arrays(pickle.Unpickler):
    """Makes NumPy arrays, SciPy's sparse rows, dicts and lists, and refuses to make or call anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in _MADE:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")
        return _MADE[name]


def _assemble(read: dict[str, Any], test: np.ndarray) -> Citations:
    """The graph out of its parts: nodes `allx`, then those of `tx` at the places that `test` names."""
    known = read["allx"].shape[0]
    n = max(known, int(test.max()) + 1)  # CiteSeer has test nodes without words or class, left out of tx
    features = np.zeros((n, read["allx"].shape[1]), dtype=np.float32)
    features[:known], features[test] = read["allx"].toarray(), read["tx"].toarray()
    classes = np.zeros((n, read["ally"].shape[1]))
    classes[:known], classes[test] = read["ally"], read["ty"]
    cited = [(a, b) for a, others in read["graph"].items() for b in others if a != b]
    edges = np.unique(np.array(cited, dtype=np.int64).reshape(-1, 2), axis=0).T[::-1]  # by the node it leads to
    if edges.size and not 0 <= edges.min() <= edges.max() < n:
        raise ValueError(f"the graph names nodes {edges.min()} to {edges.max()}, and there are {n}")
    n_training = len(read["y"])
    if n_training + _N_VALIDATION > known:
        raise ValueError(
            f"{known} known nodes are too few for {n_training} to train and {_N_VALIDATION} to validate on"
        )
    return Citations(
        features=torch.from_numpy(features / features.sum(1, keepdims=True).clip(min=1)),
        edges=torch.from_numpy(edges.copy()),
        labels=torch.from_numpy(classes.argmax(1)),
        training=torch.arange(n_training),
        validation=torch.arange(n_training, n_training + _N_VALIDATION),
        test=torch.from_numpy(np.sort(test)),
    )


def _fetch(name: Name, folder: Path) -> None:
    """Planetoid's files that are missing in a folder."""
    from torch_geometric.data import download_url
    from torch_geometric.datasets import Planetoid

    for part in (*_PICKLES, "test.index"):
        file = f"ind.{name.lower()}.{part}"
        if (folder / file).exists():
            continue
        try:
            download_url(f"{Planetoid.url}/{file}", str(folder), log=False)
        except OSError as error:
            raise DataError(f"the download of {file} to {folder} failed: {error}. {_REMEDY}") from error
