"""Graph networks: the split of the last layer is exact, and feedback reaches what the labels do not."""

from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch_geometric.data import Data
from torch_geometric.nn import ChebConv, GATConv, GCNConv, SGConv
from torch_geometric.nn import SplineConv as PyGSplineConv
from torch_geometric.nn.conv import spline_conv
from torch_geometric.transforms import TargetIndegree

from opu_dfa.dfa import DirectFeedback, GaussianFeedback
from opu_dfa.models import build_model
from opu_dfa.models.graph import GraphNet
from opu_dfa.models.spline import SplineConv, SplinePropagation, spline_basis

N, FEATURES, CLASSES = 12, 9, 4
CONVS = ["gcn", "cheb", "spline", "gat", "dna", "sgc"]


def graph(seed: int = 0) -> torch.Tensor:
    """A ring with some chords, each edge in both directions: every node has a neighbour."""
    generator = torch.Generator().manual_seed(seed)
    ring = torch.stack((torch.arange(N), (torch.arange(N) + 1) % N))
    chords = torch.stack((torch.arange(0, N, 3), torch.randint(N, (4,), generator=generator)))
    once = torch.cat((ring, chords[:, chords[0] != chords[1]]), dim=1)
    return torch.unique(torch.cat((once, once.flip(0)), dim=1), dim=1)


EDGES = graph()
X = torch.rand(N, FEATURES, generator=torch.Generator().manual_seed(1))


def net(conv: str, **changes) -> GraphNet:
    sizes = {"n_nodes": N, "n_features": FEATURES, "n_outputs": CLASSES, "n_blocks": 1, "width": 8, "n_heads": 2}
    return GraphNet(conv, EDGES, **sizes | changes)


def copy(weights: dict[torch.nn.Parameter, torch.Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in weights.items():
            parameter.copy_(value)


def test_gcn_is_two_layers_of_gcnconv():
    model = net("gcn")
    last = GCNConv(8, CLASSES)
    copy({last.lin.weight: model.head.weight, last.bias: model.head.bias})
    hidden = model.blocks[0].conv(X, EDGES).relu()
    torch.testing.assert_close(model(X), last(hidden, EDGES))


def test_sgc_is_sgconv_with_its_matrix_in_two_factors():
    model = net("sgc")
    whole = SGConv(FEATURES, CLASSES, K=2)
    copy({whole.lin.weight: model.head.weight @ model.blocks[0].conv.lin.weight, whole.lin.bias: model.head.bias})
    torch.testing.assert_close(model(X), whole(X, EDGES))


def test_cheb_is_two_layers_of_chebconv():
    model = net("cheb")
    last = ChebConv(8, CLASSES, K=2)
    first, second = model.head.weight.split(8, dim=1)
    copy({last.lins[0].weight: first, last.lins[1].weight: second, last.bias: model.head.bias})
    hidden = ChebConv.forward(model.blocks[0].conv, X, EDGES).relu()
    torch.testing.assert_close(model(X), last(hidden, EDGES))


def test_gat_is_two_layers_of_gatconv():
    """The last layer's attention reads W h by a vector a, and here h by Wᵀa: the same numbers, for a in general."""
    model = net("gat", n_outputs=8)  # so that W can be inverted
    last = GATConv(8, 8)
    weight = model.head.weight.double()
    copy({last.lin.weight: weight, last.bias: model.head.bias})
    for ours, theirs in ((model.propagation.att_src, last.att_src), (model.propagation.att_dst, last.att_dst)):
        copy({theirs: torch.linalg.solve(weight.T, ours.double().flatten()).view_as(theirs)})
    hidden = F.elu(model.blocks[0].conv(X, EDGES))
    torch.testing.assert_close(model(X), last(hidden, EDGES), atol=1e-4, rtol=1e-4)


def test_spline_is_two_layers_of_splineconv():
    model = net("spline")
    last = SplineConv(8, CLASSES, [2])
    *kernels, root = model.head.weight.split(8, dim=1)
    copy({last.weight: torch.stack([k.T for k in kernels]), last.lin.weight: root, last.lin.bias: model.head.bias})
    hidden = F.elu(model.blocks[0].conv(X, EDGES, model.coordinates))
    torch.testing.assert_close(model(X), last(hidden, EDGES, model.coordinates))


def test_the_coordinate_of_an_edge_is_its_target_s_indegree():
    data = TargetIndegree()(Data(edge_index=EDGES, num_nodes=N))
    torch.testing.assert_close(net("spline").coordinates, data.edge_attr)


def loop_spline_conv(x, edges, u, weight, root, bias, sizes):
    """SplineConv edge by edge: the product of two hats in each dimension, from Fey et al. 2018, equations 4 and 5."""
    out = x @ root.T + bias
    for i in range(len(x)):
        incoming = [(e, int(j)) for e, (j, k) in enumerate(edges.T) if int(k) == i]
        for e, j in incoming:
            for index in range(weight.shape[0]):
                b, rest = 1.0, index
                for d, size in enumerate(sizes):
                    b *= max(0.0, 1 - abs(u[e, d].item() * (size - 1) - rest % size))
                    rest //= size
                out[i] += b * (x[j] @ weight[index]) / len(incoming)
    return out


@pytest.mark.parametrize("sizes", [[2], [3], [2, 3]])
def test_splineconv_equals_its_formula_edge_by_edge(sizes):
    conv = SplineConv(FEATURES, 3, sizes)
    u = torch.rand(EDGES.shape[1], len(sizes), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = loop_spline_conv(X, EDGES, u, conv.weight, conv.lin.weight, conv.lin.bias, sizes)
    torch.testing.assert_close(conv(X, EDGES, u), expected)


def test_splineconv_equals_pytorch_geometric_s_around_the_missing_operators():
    """PyG's layer with the two compiled operators stood in for: basis and indices, then the weighted products."""

    def basis(u, kernel_size, is_open_spline, degree):
        return torch.cat((1 - u, u), dim=1), torch.tensor([0, 1]).expand(len(u), 2)

    def weighting(x, weight, values, index):
        return torch.einsum("ek,ei,ekio->eo", values, x, weight[index])

    with patch.multiple(spline_conv, spline_basis=basis, spline_weighting=weighting):
        theirs, ours = PyGSplineConv(FEATURES, 3, dim=1, kernel_size=2), SplineConv(FEATURES, 3, [2])
        copy({ours.weight: theirs.weight, ours.lin.weight: theirs.lin.weight, ours.lin.bias: theirs.bias})
        u = net("spline").coordinates
        torch.testing.assert_close(ours(X, EDGES, u), theirs(X, EDGES, u))


def test_hats_sum_to_one():
    u = torch.linspace(0, 1, 11)[:, None].repeat(1, 2)
    torch.testing.assert_close(spline_basis(u, [3, 4]).sum(1), torch.ones(11))


def test_splineconv_is_linear_in_the_terms_of_its_propagation():
    conv, terms, u = SplineConv(FEATURES, 3, [2]), SplinePropagation([2]), net("spline").coordinates
    matrix = torch.cat((*conv.weight, conv.lin.weight.T))
    torch.testing.assert_close(conv(X, EDGES, u), terms(X, EDGES, u) @ matrix + conv.lin.bias)


def test_features_are_sent_along_the_edges_once_and_others_anew():
    model = net("cheb")
    first = model(X)
    assert model.blocks[0].conv._sent[0] is X
    torch.testing.assert_close(model(X), first, rtol=0, atol=0)
    other = X.flip(0).contiguous()
    torch.testing.assert_close(model(other), net("cheb")(other), rtol=0, atol=0)


@pytest.mark.parametrize("conv", CONVS)
@pytest.mark.parametrize("n_blocks", [1, 2])
def test_feedback_teaches_every_parameter_and_leaves_the_rest_exact(conv, n_blocks):
    model = net(conv, n_blocks=n_blocks)
    dfa = DirectFeedback(model, ["blocks.*"], GaussianFeedback(CLASSES, model.head.in_features), through="propagation")
    y = torch.full((N,), -100)
    y[[0, 5]] = torch.tensor([1, 3])
    out = model(X)
    dfa.backward(F.cross_entropy(out, y, ignore_index=-100), out)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if "lin_k.bias" not in name:  # softmax does not see what is added to all its keys
            assert parameter.grad.abs().sum() > 0, name
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if name.startswith(("head", "propagation"))}
    dfa.detach()
    model.zero_grad()
    F.cross_entropy(model(X), y, ignore_index=-100).backward()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, model.get_parameter(name).grad)


@pytest.mark.parametrize("conv", ["gcn", "cheb", "spline", "gat", "sgc"])
def test_a_head_that_is_the_feedback_makes_one_block_learn_by_backprop(conv):
    model, feedback = net(conv), GaussianFeedback(CLASSES, net(conv).head.in_features)
    copy({model.head.weight: feedback.columns().T})
    y = torch.full((N,), -100)
    y[0] = 1
    model.zero_grad()
    F.cross_entropy(model(X), y, ignore_index=-100).backward()
    exact = [p.grad.clone() for p in model.blocks.parameters()]
    model.zero_grad()
    dfa = DirectFeedback(model, ["blocks.*"], feedback, through="propagation")
    out = model(X)
    dfa.backward(F.cross_entropy(out, y, ignore_index=-100), out)
    for ours, p in zip(exact, model.blocks.parameters(), strict=True):
        torch.testing.assert_close(p.grad, ours)


def test_without_the_propagation_a_node_without_a_label_gets_no_feedback():
    model = net("gcn")
    taught = {}

    def watch(block: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        output.register_hook(lambda g: taught.update(rows=g.abs().sum(1).nonzero()))

    model.blocks[0].register_forward_hook(watch)
    y = torch.full((N,), -100)
    y[0] = 1
    neighbours = EDGES[0, EDGES[1] == 0]
    for through, expected in ((None, [0]), ("propagation", sorted([0, *neighbours.tolist()]))):
        dfa = DirectFeedback(model, ["blocks.*"], GaussianFeedback(CLASSES, 8), through=through)
        out = model(X)
        dfa.backward(F.cross_entropy(out, y, ignore_index=-100), out)
        dfa.detach()
        assert taught["rows"].flatten().tolist() == expected


def test_a_seed_draws_the_weights_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, again, other = net("gat", seed=3), net("gat", seed=3), net("gat", seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not a.any() or not torch.equal(a, c)  # biases start at zero


def test_the_edges_are_no_part_of_what_is_saved():
    assert not {"edge_index", "coordinates"} & net("spline").state_dict().keys()


def test_heads_that_do_not_divide_the_width_are_refused():
    section = {"name": "graph", "conv": "gat", "n_blocks": 1, "width": 9, "n_heads": 2}
    layout = {"taps": ["blocks.*"], "through": "propagation", "head": "head", "trained_after": ["head"]}
    task = SimpleNamespace(edge_index=EDGES, n_nodes=N, n_features=FEATURES, n_outputs=CLASSES)
    with pytest.raises(ValueError, match="multiple of n_heads, got width 9 and n_heads 2"):
        build_model(section | layout, task, seed=0)
