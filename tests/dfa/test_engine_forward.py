"""What happens during the forward pass: learning from targets, and forward-mode products of the Jacobian."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opu_dfa import DirectFeedback, GaussianFeedback
from opu_dfa.models.gpt import GPT


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    for i, p in enumerate(net.parameters()):
        p.data.copy_(draw(*p.shape, seed=i))
    return net


@pytest.mark.parametrize("layout", ["shared", "independent"])
def test_with_targets_each_block_learns_from_the_projected_target(layout):
    net, x, target = network(), draw(7, 3), -F.one_hot(torch.arange(7) % 4, 4) / 7
    operator = GaussianFeedback(4, 11 if layout == "independent" else 6, layout)
    dfa = DirectFeedback(net, ["1", "3"], operator)
    with dfa.targets(target):
        out = net(x)
    blocks = [p.grad.clone() for p in net[:4].parameters()]
    assert net[4].weight.grad is None
    loss = F.cross_entropy(out, torch.arange(7) % 4)
    dfa.backward(loss, out)
    assert all(torch.equal(p.grad, before) for p, before in zip(net[:4].parameters(), blocks, strict=True))
    dfa.detach()

    first = net[:2](x)
    second = net[2:4](first.detach())
    signals = operator(target, [6, 5])
    wanted = [
        *torch.autograd.grad(first, list(net[:2].parameters()), signals[0]),
        *torch.autograd.grad(second, list(net[2:4].parameters()), signals[1]),
        *torch.autograd.grad(F.cross_entropy(net[4](second.detach()), torch.arange(7) % 4), list(net[4].parameters())),
    ]
    torch.testing.assert_close([p.grad for p in net.parameters()], wanted)


def test_with_targets_a_block_s_graph_is_gone_before_the_next_has_run():
    net, kept = network(), {}
    net[1].register_forward_hook(lambda _, __, output: kept.update(tap=weakref.ref(output)))
    dfa = DirectFeedback(net, ["1", "3"], GaussianFeedback(4, 6))
    alive: list[bool] = []

    def look(*_: object) -> None:
        gc.collect()
        alive.append(kept["tap"]() is not None)

    net[3].register_forward_pre_hook(look)
    out = net(draw(7, 3))
    with dfa.targets(draw(7, 4)):
        out = net(draw(7, 3))
    assert alive == [True, False]
    assert out.requires_grad


def test_targets_are_refused_where_they_cannot_serve():
    net = network()
    with (
        pytest.raises(ValueError, match="leave `through` out"),
        DirectFeedback(net, ["1"], GaussianFeedback(4, 6), through="3").targets(draw(7, 4)),
    ):
        pass
    net = network()
    dfa = DirectFeedback(net, ["1", "3"], GaussianFeedback(4, 6, "independent"))
    with pytest.raises(ValueError, match=r"widths \[6, 5\] needs n_components >= 11"), dfa.targets(draw(7, 4)):
        net(draw(7, 3))
    with pytest.raises(ValueError, match=r"block '1' has shape \(7, 6\), but the error stands at \(5,\)"):  # noqa: SIM117
        with dfa.targets(draw(5, 4)):
            net(draw(7, 3))
    out = net(draw(7, 3))
    assert out._dfa_record.taps  # outside, blocks wait for the error again


def jacobians(net: nn.Sequential, x: Tensor, ends: list[int]) -> list[Tensor]:
    """J of the output by each block's, (rows, K, width), by autograd."""
    found = []
    for end in ends:
        h = net[:end](x).detach()
        found.append(
            torch.stack(
                [torch.autograd.functional.jacobian(net[end:], row) for row in h]  # each row by itself
            )
        )
    return found


def test_the_output_s_tangent_is_the_sum_of_the_jacobians_products():
    net, x = network(), draw(7, 3)
    dfa = DirectFeedback(net, ["1", "3"], GaussianFeedback(4, 6))
    tangents, out_tangent = dfa.jacobian_products(x, torch.Generator().manual_seed(1))
    assert [t.shape for t in tangents] == [(7, 6), (7, 5)]
    wanted = sum(torch.einsum("rkw,rw->rk", j, v) for j, v in zip(jacobians(net, x, [2, 4]), tangents, strict=True))
    torch.testing.assert_close(out_tangent, wanted)
    assert torch.equal(tangents[0], draw(7, 6, seed=1))  # from the generator given
    assert all(p.grad is None for p in net.parameters())


def test_products_with_the_tangents_are_unbiased_samples_of_the_transposed_jacobian():
    net, n = network(), 20_000
    dfa = DirectFeedback(net, ["1", "3"], GaussianFeedback(4, 6))
    x = draw(1, 3)
    tangents, out_tangent = dfa.jacobian_products(x.expand(n, 3), torch.Generator().manual_seed(1))
    for v, jacobian in zip(tangents, jacobians(net, x, [2, 4]), strict=True):
        samples = torch.einsum("rw,rk->rwk", v, out_tangent)
        standard_error = samples.std(dim=0) / n**0.5
        assert ((samples.mean(0) - jacobian[0].T).abs() < 4.5 * standard_error).all()


@pytest.mark.parametrize("error_at", ["output", "hidden"])
def test_products_pass_attention_and_a_hidden_error_ends_at_the_last_block(error_at):
    model = GPT(n_symbols=11, context=8, n_blocks=2, width=16, n_heads=2).double()
    tokens = torch.randint(11, (3, 8), generator=torch.Generator().manual_seed(0))
    operator = GaussianFeedback(16 if error_at == "hidden" else 11, 16)
    dfa = DirectFeedback(model, ["blocks.*"], operator, error_at)
    tangents, out_tangent = dfa.jacobian_products(tokens, torch.Generator().manual_seed(1))
    assert [t.shape for t in tangents] == [(24, 16), (24, 16)]
    with torch.no_grad():  # a finite difference along the same tangents
        h = model.embedding(tokens)
        step = 1e-6

        def end(sign: float) -> Tensor:
            first = model.blocks[0](h) + sign * step * tangents[0].view(3, 8, 16)
            second = model.blocks[1](first) + sign * step * tangents[1].view(3, 8, 16)
            return second if error_at == "hidden" else model.head(model.final_norm(second))

        difference = (end(1) - end(-1)) / (2 * step)
    torch.testing.assert_close(out_tangent, difference.flatten(0, 1), rtol=1e-5, atol=1e-6)


def test_with_through_one_tangent_enters_there():
    model = GPT(n_symbols=11, context=8, n_blocks=2, width=16, n_heads=2)
    dfa = DirectFeedback(model, ["blocks.*"], GaussianFeedback(11, 16), through="final_norm")
    tokens = torch.zeros(3, 8, dtype=torch.long)
    tangents, out_tangent = dfa.jacobian_products(tokens, torch.Generator().manual_seed(1))
    assert len(tangents) == 2
    assert tangents[0] is tangents[1]
    torch.testing.assert_close(out_tangent, tangents[0] @ model.head.weight.detach().T)


def test_products_leave_the_model_as_it_was():
    net = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 4))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    dfa = DirectFeedback(net, ["1"], GaussianFeedback(4, 6))
    dfa.jacobian_products(draw(7, 3), torch.Generator())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    dfa.detach()
    assert not any(m._forward_hooks for m in net.modules())


def test_the_operator_is_shown_the_products():
    class Shown(GaussianFeedback):
        def align(self, tangents, out_tangent):
            self.shapes = [t.shape for t in tangents], out_tangent.shape

    net, operator = network(), Shown(4, 6)
    DirectFeedback(net, ["1", "3"], operator).align(draw(7, 3), torch.Generator())
    assert operator.shapes == ([(7, 6), (7, 5)], (7, 4))


def test_encoder_layers_have_no_fast_path_while_tangents_pass():
    net = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 4)).eval()
    dfa = DirectFeedback(net, ["0"], GaussianFeedback(4, 8))
    tangents, out_tangent = dfa.jacobian_products((draw(2, 3, 8),), torch.Generator().manual_seed(0))
    torch.testing.assert_close(out_tangent, tangents[0] @ net[1].weight.detach().T)
    assert torch.backends.mha.get_fastpath_enabled()
