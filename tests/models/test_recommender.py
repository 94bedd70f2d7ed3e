"""The recommenders: each interaction against its formula, and what direct feedback gives them."""

import pytest
import torch

from opu_dfa.dfa import DirectFeedback, GaussianFeedback
from opu_dfa.errors import ConfigError
from opu_dfa.models.build import build_model
from opu_dfa.models.interactions import Cross, FieldAttention, FieldEmbedding, Logarithmic, PairwisePool
from opu_dfa.models.recommender import Recommender

SIZES = (4, 3, 5)
KINDS = ("fm", "deepfm", "dcn", "autoint", "afn")
TOWERS = KINDS[1:]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model(kind: str) -> Recommender:
    return Recommender(SIZES, kind, width=4, n_interactions=2, n_blocks=2, hidden=16)


def rows(n: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.stack([torch.randint(size, (n,), generator=generator) for size in SIZES], dim=1)


def feedback_gradients(net: Recommender, x: torch.Tensor, align: bool) -> dict[str, torch.Tensor]:
    """Gradients of one batch by shared Gaussian feedback; with `align`, the head starts at its columns."""
    fm = net.kind == "fm"
    feedback = GaussianFeedback(n_features=1, n_components=net.head.weight.shape[1])
    if align:
        with torch.no_grad():
            net.head.weight.copy_(feedback.columns().T)
    dfa = DirectFeedback(net, ["embedding"] if fm else ["blocks.*"], feedback, through="pool" if fm else "final_norm")
    out = net(x)
    dfa.backward(loss(out), out)
    dfa.detach()
    return {name: p.grad for name, p in net.named_parameters()}


def exact_gradients(net: Recommender, x: torch.Tensor) -> dict[str, torch.Tensor]:
    net.zero_grad()
    loss(net(x)).backward()
    return {name: p.grad for name, p in net.named_parameters()}


def loss(out: torch.Tensor) -> torch.Tensor:
    return (out.squeeze(-1) - normal(len(out), seed=2)).square().mean()


def test_fields_do_not_share_vectors():
    embedding = FieldEmbedding(SIZES, width=2)
    table = embedding.table.weight
    got = embedding(torch.tensor([[3, 0, 4]]))
    assert torch.equal(got, torch.cat((table[3], table[4], table[11]))[None])


def test_the_pool_sums_the_products_of_all_pairs():
    v = normal(6, 3 * 4)
    a, b, c = v.unflatten(1, (3, 4)).unbind(1)
    assert torch.allclose(PairwisePool(3)(v), a * b + a * c + b * c, atol=1e-5)


def test_with_a_head_of_ones_fm_is_the_factorisation_machine():
    net = model("fm")
    with torch.no_grad():
        net.head.weight.fill_(1.0)
        net.first_order.weight.table.weight.normal_(generator=torch.Generator().manual_seed(0))
        net.first_order.bias.fill_(0.3)
    table, weights = net.embedding.table.weight, net.first_order.weight.table.weight
    x = rows(1)
    i, j, k = (x[0] + torch.tensor([0, 4, 7])).tolist()
    pairs = table[i] @ table[j] + table[i] @ table[k] + table[j] @ table[k]
    assert torch.allclose(net(x), 0.3 + weights[i] + weights[j] + weights[k] + pairs, atol=1e-5)


def test_a_cross_multiplies_the_embedding_by_a_number_of_the_stream():
    cross, h, v = Cross(6), normal(5, 6), normal(5, 6, seed=1)
    number = (h * cross.weight.weight).sum(1, keepdim=True)
    assert torch.allclose(cross(h, v), h + number * v + cross.bias, atol=1e-6)


def test_attention_mixes_the_fields_as_torch_does():
    mine = FieldAttention(n_fields=3, width=4, n_heads=1)
    theirs = torch.nn.MultiheadAttention(4, 1, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(mine.qkv.weight)
        theirs.in_proj_bias.copy_(mine.qkv.bias)
        theirs.out_proj.weight.copy_(mine.down.weight)
        theirs.out_proj.bias.zero_()
    h = normal(5, 12)
    fields = torch.nn.functional.layer_norm(h, (12,)).view(5, 3, 4)
    expected = h + theirs(fields, fields, fields)[0].flatten(1)
    assert torch.allclose(mine(h, h), expected, atol=1e-5)


def test_logarithmic_neurons_are_products_of_powers():
    block, v = Logarithmic(n_fields=3, width=2, n_neurons=5), normal(4, 6)
    fields, orders = v.view(4, 3, 2).abs(), block.orders.weight
    powers = fields[:, :, :, None] ** orders.T[None, :, None]  # (batch, fields, width, neurons)
    products = powers.prod(1) * block.orders.bias.exp()
    expected = v + block.down(torch.nn.functional.layer_norm(products.flatten(1), (10,)))
    assert torch.allclose(block(v, v), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_taught_by_feedback(kind):
    for name, gradient in feedback_gradients(model(kind), rows(), align=False).items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.any(), name


@pytest.mark.parametrize("kind", TOWERS)
def test_from_an_aligned_head_the_last_block_learns_as_by_backpropagation(kind):
    net, x = model(kind), rows()
    mine = feedback_gradients(net, x, align=True)
    exact = exact_gradients(net, x)
    last = f"blocks.{len(net.blocks) - 1}."
    for name in (name for name in exact if name.startswith(last)):
        assert torch.allclose(mine[name], exact[name], rtol=1e-4, atol=1e-6), name


def test_from_an_aligned_head_a_factorisation_machine_learns_as_by_backpropagation():
    net, x = model("fm"), rows()
    mine = feedback_gradients(net, x, align=True)
    for name, gradient in exact_gradients(net, x).items():
        assert torch.allclose(mine[name], gradient, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_draws_the_same_weights(kind):
    one, other = model(kind).state_dict(), model(kind).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_task_of_another_kind_is_refused():
    section = {
        "name": "recommender",
        "kind": "dcn",
        "width": 4,
        "n_interactions": 1,
        "n_blocks": 1,
        "hidden": 8,
        "n_heads": 1,
        "taps": ["blocks.*"],
        "through": "final_norm",
        "head": "head",
        "trained_after": ["head"],
    }
    with pytest.raises(ConfigError, match="n_categories"):
        build_model(section, object(), seed=0)


def test_a_tower_without_blocks_is_refused():
    with pytest.raises(ValueError, match="no tower"):
        Recommender(SIZES, "deepfm", n_blocks=0)
