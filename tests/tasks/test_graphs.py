"""Tasks on citation graphs: reading Planetoid's files, classes of nodes, links; and that the experiments train."""

import json
import os
import pickle
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console

from opu_dfa.config import config_folder
from opu_dfa.errors import DataError
from opu_dfa.tasks import build_task
from opu_dfa.tasks.data import VARIABLE, DataSettings
from opu_dfa.tasks.planetoid import read_citations
from opu_dfa.training.run import run_training

N_TRAINING, N_KNOWN, N_TEST, WORDS, CLASSES = 30, 540, 60, 40, 3
EXPERIMENTS = [f"cora-{conv}" for conv in ("gcn", "cheb", "spline", "gat", "dna", "sgc", "links")]


@pytest.fixture
def planetoid(tmp_path: Path) -> DataSettings:
    """A small graph in Planetoid's files: words tell the class, and papers cite their own kind."""
    draw = np.random.default_rng(0)
    n = N_KNOWN + N_TEST
    classes = draw.integers(CLASSES, size=n)
    words = (draw.random((n, WORDS)) < np.where(np.arange(WORDS) % CLASSES == classes[:, None], 0.3, 0.1)).astype(float)
    cited = defaultdict(list)
    for a in range(n):
        for b in draw.choice(np.flatnonzero(classes == classes[a]), 3):
            cited[a].append(int(b))
            cited[int(b)].append(a)
    test = draw.permutation(np.arange(N_KNOWN, n))  # the files' order is not the nodes'
    one_hot = np.eye(CLASSES)[classes]
    parts = {
        "x": scipy.sparse.csr_matrix(words[:N_TRAINING]),
        "y": one_hot[:N_TRAINING],
        "allx": scipy.sparse.csr_matrix(words[:N_KNOWN]),
        "ally": one_hot[:N_KNOWN],
        "tx": scipy.sparse.csr_matrix(words[test]),
        "ty": one_hot[test],
        "graph": cited,
    }
    folder = tmp_path / "data" / "planetoid" / "Cora" / "raw"
    folder.mkdir(parents=True)
    for name, part in parts.items():
        (folder / f"ind.cora.{name}").write_bytes(pickle.dumps(part, protocol=2))
    np.savetxt(folder / "ind.cora.test.index", test, fmt="%d")
    return DataSettings(root=str(tmp_path / "data"), download=False)


def raw(data: DataSettings) -> Path:
    return data.folder / "planetoid" / "Cora" / "raw"


def same_as_pytorch_geometric(data: DataSettings, copied_to: Path) -> None:
    from torch_geometric.datasets import Planetoid
    from torch_geometric.transforms import NormalizeFeatures

    copy = copied_to / "Cora" / "raw"  # PyG writes beside what it reads
    copy.mkdir(parents=True)
    for file in raw(data).iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = Planetoid(str(copied_to), "Cora", transform=NormalizeFeatures())[0]
    ours = read_citations("Cora", data)
    torch.testing.assert_close(ours.features, theirs.x)
    assert torch.equal(ours.edges, theirs.edge_index)
    assert torch.equal(ours.labels, theirs.y)
    for nodes, mask in (
        (ours.training, theirs.train_mask),
        (ours.validation, theirs.val_mask),
        (ours.test, theirs.test_mask),
    ):
        assert torch.equal(nodes, mask.nonzero().flatten())


def test_a_citation_graph_reads_as_pytorch_geometric_reads_it(planetoid, tmp_path):
    same_as_pytorch_geometric(planetoid, tmp_path / "copy")


@pytest.mark.skipif(
    not (Path(os.environ.get(VARIABLE, "/nonexistent")) / "planetoid/Cora").is_dir(), reason=f"no Cora in {VARIABLE}"
)
def test_cora_reads_as_pytorch_geometric_reads_it(tmp_path):
    same_as_pytorch_geometric(DataSettings(root=None, download=False), tmp_path)


def test_test_nodes_that_no_file_describes_have_no_words(planetoid):
    """CiteSeer has some: their numbers are missing in test.index."""
    index = raw(planetoid) / "ind.cora.test.index"
    test = np.loadtxt(index, dtype=int)
    np.savetxt(index, np.where(test == test.max(), test.max() + 2, test), fmt="%d")
    graph = read_citations("Cora", planetoid)
    assert len(graph.features) == N_KNOWN + N_TEST + 2
    assert not graph.features[N_KNOWN + N_TEST - 1 : -1].any()
    assert graph.features[-1].any()


def test_a_missing_file_is_named_with_its_folder_and_the_remedy(planetoid):
    (raw(planetoid) / "ind.cora.graph").unlink()
    with pytest.raises(DataError, match=r"no planetoid/Cora/raw/ind\.cora\.graph in .*data\.download=true"):
        read_citations("Cora", planetoid)


def test_a_download_that_fails_says_so(planetoid, monkeypatch):
    (raw(planetoid) / "ind.cora.graph").unlink()

    def offline(url: str, folder: str, log: bool) -> None:
        raise OSError(f"no route to {url}")

    monkeypatch.setattr("torch_geometric.data.download_url", offline)
    with pytest.raises(DataError, match=r"download of ind\.cora\.graph .* no route to https://"):
        read_citations("Cora", DataSettings(root=planetoid.root, download=True))


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps(7)], ids=["empty", "text", "number"])
def test_a_damaged_file_is_refused(planetoid, content):
    (raw(planetoid) / "ind.cora.allx").write_bytes(content)
    with pytest.raises(DataError, match="again"):
        read_citations("Cora", planetoid)


def test_a_file_that_would_run_something_is_refused(planetoid, tmp_path):
    class Runs:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    (raw(planetoid) / "ind.cora.x").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(DataError, match="which is no array"):
        read_citations("Cora", planetoid)
    assert not (tmp_path / "ran").exists()


def test_a_split_s_loss_and_accuracy_are_over_its_nodes_alone(planetoid):
    task = build_task({"name": "nodes", "data": "Cora"}, planetoid)
    graph = read_citations("Cora", planetoid)
    out = torch.randn(task.n_nodes, task.n_outputs, generator=torch.Generator().manual_seed(0))
    _, y = task.batch(1, torch.Generator())
    chosen = out[graph.training].log_softmax(1).gather(1, graph.labels[graph.training, None])
    torch.testing.assert_close(task.loss(out, y), -chosen.mean())
    scores = task.evaluate(lambda x: out, "test")
    correct = (out.argmax(1) == graph.labels)[graph.test].float().mean().item()
    assert scores["accuracy"] == pytest.approx(correct)
    assert len({*graph.training.tolist(), *graph.validation.tolist(), *graph.test.tolist()}) == 30 + 500 + N_TEST


def test_the_target_is_the_part_of_a_node_s_error_that_is_known_before(planetoid):
    """e = (softmax - one_hot) / labelled at labelled nodes, zero elsewhere."""
    task = build_task({"name": "nodes", "data": "Cora"}, planetoid)
    _, y = task.batch(1, torch.Generator())
    out = torch.zeros(task.n_nodes, task.n_outputs, requires_grad=True)
    task.loss(out, y).backward()
    even = (y >= 0)[:, None] / (task.n_outputs * N_TRAINING)
    torch.testing.assert_close(out.grad - even, task.error_of_target(y))


@pytest.fixture
def links(planetoid):
    return build_task({"name": "links", "data": "Cora", "n_latent": 4}, planetoid)


def pairs_of(pairs: torch.Tensor) -> set[tuple[int, int]]:
    return {(min(p), max(p)) for p in pairs.T.tolist()}


def test_held_out_links_are_neither_seen_nor_sent_along(links, planetoid):
    every = pairs_of(read_citations("Cora", planetoid).edges)
    seen = pairs_of(links.edge_index)
    held_out = [pairs_of(y[0][:, y[1] == 1]) for split in links.splits for _, y in links.examples(split, 1)]
    assert seen | held_out[0] | held_out[1] == every
    assert len(seen) + len(held_out[0]) + len(held_out[1]) == len(every)
    assert [len(part) for part in held_out] == [round(0.05 * len(every)), round(0.1 * len(every))]
    (pairs, joined) = links.batch(1, torch.Generator().manual_seed(0))[1]
    assert pairs_of(pairs[:, joined == 1]) == seen


def test_pairs_that_are_no_link_are_none_and_drawn_anew(links):
    generator = torch.Generator().manual_seed(0)
    drawn = [links.batch(1, generator)[1] for _ in range(2)]
    for pairs, joined in drawn:
        others = pairs[:, joined == 0]
        assert others.shape[1] == pairs.shape[1] // 2
        assert (others[0] != others[1]).all()
        assert not pairs_of(others) & pairs_of(links.edge_index)
    assert not torch.equal(drawn[0][0], drawn[1][0])


def test_codes_that_know_the_links_find_them_all(links):
    """z from the Cholesky factor of the whole graph's adjacency, so that z_i · z_j is it: nothing is missed."""
    n = links.n_nodes
    everything = torch.zeros(n, n)
    parts = [links.edge_index, *(y[0][:, y[1] == 1] for s in links.splits for _, y in links.examples(s, 1))]
    for edges in parts:
        everything[edges[0], edges[1]] = everything[edges[1], edges[0]] = 1.0
    z = torch.linalg.cholesky(everything + 50 * torch.eye(n))
    scores = links.evaluate(lambda x: z, "test")
    assert scores["auc"] == pytest.approx(1)
    assert scores["average_precision"] == pytest.approx(1)
    assert links.evaluate(lambda x: torch.zeros(n, 4), "test")["loss"] == pytest.approx(np.log(2))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_trains_by_every_method(name, planetoid, tmp_path, monkeypatch):
    monkeypatch.setattr("opu_dfa.training.run.write_report", lambda *given: None)  # most of the time, and not its own
    words = [f"experiment={name}", f"data.root={planetoid.root}", "opu=simulated", "steps=4", "validate_every=2"]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = OmegaConf.to_container(compose("train", words), resolve=True)
    with open(os.devnull, "w") as nothing:
        folder = run_training(config, tmp_path / "run", Console(file=nothing))
    methods = json.loads((folder / "summary.json").read_text())["methods"]
    assert methods.keys() == {"dfa", "bp", "frozen"}
    assert all(np.isfinite(method["test"]["loss"]) for method in methods.values())
