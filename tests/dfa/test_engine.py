"""The engine against autograd: exact where the feedback is exact, local everywhere, and nothing computed upstream."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hardware import SimulatedOPU
from opu_dfa import DirectFeedback, GaussianFeedback, OpticalFeedback
from opu_dfa.dfa.engine import resolve_blocks
from opu_dfa.models.gpt import GPT


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Residual(nn.Module):
    """h + tanh(W h)"""

    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, h):
        return h + self.inner(h).tanh()


class Network(nn.Module):
    """first, two residual blocks, a norm and a head."""

    def __init__(self, width: int = 6, n_outputs: int = 4):
        super().__init__()
        self.first = nn.Linear(3, width)
        self.blocks = nn.ModuleList(Residual(width) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_outputs)
        for i, p in enumerate(self.parameters()):
            p.data.copy_(draw(*p.shape, seed=i))

    def forward(self, x):
        h = self.first(x)
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def backprop(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(x).square().mean().backward()
    return gradients(model)


def feedback_of(matrix: torch.Tensor, layout="shared") -> GaussianFeedback:
    operator = GaussianFeedback(matrix.shape[1], matrix.shape[0], layout)
    operator.matrix.copy_(matrix)
    return operator


def assert_same(ours: dict, theirs: dict, names=None):
    for name in names or theirs:
        assert torch.allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-7), name


def test_transposed_weights_through_a_linear_chain_are_backprop():
    net = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 6), nn.Linear(6, 4))
    x = draw(7, 3)
    exact = backprop(net, x)
    second = net[2].weight.detach().T  # (6, 4)
    first = net[1].weight.detach().T @ second  # (5, 4)
    dfa = DirectFeedback(net, ["0", "1"], feedback_of(torch.cat((first, second)), "independent"))
    net.zero_grad()
    out = net(x)
    dfa.backward(out.square().mean(), out)
    assert_same(gradients(net), exact)


def test_through_the_final_norm_the_head_s_transpose_gives_the_last_block_its_exact_gradient():
    net, x = Network(), draw(7, 3)
    exact = backprop(net, x)
    dfa = DirectFeedback(net, ["blocks.*"], feedback_of(net.head.weight.detach().T), through="norm")
    net.zero_grad()
    out = net(x)
    dfa.backward(out.square().mean(), out)
    ours = gradients(net)
    assert_same(
        ours, exact, ["blocks.1.inner.weight", "blocks.1.inner.bias", "norm.weight", "head.weight", "head.bias"]
    )
    assert not torch.allclose(ours["blocks.0.inner.weight"], exact["blocks.0.inner.weight"])


def test_identity_feedback_of_the_hidden_error_gives_the_last_block_its_exact_gradient():
    net, x = Network(), draw(7, 3)
    exact = backprop(net, x)
    dfa = DirectFeedback(net, ["blocks.*"], feedback_of(torch.eye(6)), error_at="hidden")
    net.zero_grad()
    out = net(x)
    dfa.backward(out.square().mean(), out)
    assert_same(gradients(net), exact, ["blocks.1.inner.weight", "norm.weight", "head.weight"])


def test_each_block_gets_its_own_local_gradient_of_the_projected_error():
    net, x = Network(), draw(7, 3)
    operator = GaussianFeedback(4, 6, seed=3)
    dfa = DirectFeedback(net, ["blocks.*"], operator)
    out = net(x)
    dfa.backward(out.square().mean(), out)
    ours = gradients(net)
    error = 2 * out.detach() / out.numel()
    signal = error @ operator.matrix.T
    with dfa.exact():
        first = net.first(x)
        taps = [net.blocks[0](first), net.blocks[1](net.blocks[0](first).detach())]
    local = {"first.weight": net.first.weight, "blocks.0.inner.weight": net.blocks[0].inner.weight}
    for name, parameter in local.items():
        assert torch.allclose(torch.autograd.grad(taps[0], parameter, signal, retain_graph=True)[0], ours[name])
    wanted = torch.autograd.grad(taps[1], net.blocks[1].inner.weight, signal)[0]
    assert torch.allclose(wanted, ours["blocks.1.inner.weight"])


def test_no_upstream_product_is_computed():
    """Four square layers and a head: backprop does 3 products a layer, DFA 2, and no input gradient of the head."""
    width, batch, k = 64, 32, 10
    net = nn.Sequential(
        *[layer for _ in range(4) for layer in (nn.Linear(width, width), nn.Tanh())], nn.Linear(width, k)
    )
    x = draw(batch, width)
    square, head = 2 * batch * width * width, 2 * batch * width * k
    with FlopCounterMode(display=False) as counter:
        net(x).square().mean().backward()
    assert counter.get_total_flops() == (3 * 4 - 1) * square + 3 * head  # the first layer's input asks for nothing
    dfa = DirectFeedback(net, ["1", "3", "5", "7"], GaussianFeedback(k, width))
    with FlopCounterMode(display=False) as counter:
        out = net(x)
        dfa.backward(out.square().mean(), out)
    assert counter.get_total_flops() == 2 * 4 * square + 2 * head + head  # the last is the projection


@pytest.mark.parametrize("layout", ["shared", "independent"])
@pytest.mark.parametrize("through", [None, "final_norm"])
@pytest.mark.parametrize("error_at", ["output", "hidden"])
def test_every_parameter_of_a_gpt_gets_a_finite_gradient(layout, through, error_at):
    model = GPT(n_symbols=11, context=8, n_blocks=3, width=16, n_heads=2)
    width = {"output": 11, "hidden": 16}[error_at]
    opu = SimulatedOPU(width, 16 * (3 if layout == "independent" else 1), preset="noisy-8bit")
    dfa = DirectFeedback(model, ["blocks.*"], OpticalFeedback(opu, layout), error_at, through)
    tokens = torch.randint(11, (4, 8), generator=torch.Generator().manual_seed(0))
    out = model(tokens)
    dfa.backward(nn.functional.cross_entropy(out.flatten(0, 1), tokens.flatten()), out)
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().sum() > 0, name


def test_all_blocks_share_one_projection_a_step():
    model = GPT(n_symbols=11, context=8, n_blocks=3, width=16, n_heads=2)
    opu = SimulatedOPU(11, 16, preset="noisy-8bit")
    dfa = DirectFeedback(model, ["blocks.*"], OpticalFeedback(opu), through="final_norm")
    out = model(torch.zeros(4, 8, dtype=torch.long))
    dfa.backward(out.square().mean(), out)
    assert opu.usage.frames == 4 * 8 * 2 * 2  # tokens, binary patterns a token, frames a pattern


def test_two_forwards_before_one_backward_and_accumulation():
    net = Network()
    a, b = draw(5, 3, seed=1), draw(5, 3, seed=2)
    dfa = DirectFeedback(net, ["blocks.*"], GaussianFeedback(4, 6))

    def one(x):
        net.zero_grad()
        out = net(x)
        dfa.backward(out.square().sum(), out)
        return gradients(net)

    separate = {name: g + one(b)[name] for name, g in one(a).items()}
    net.zero_grad()
    first, second = net(a), net(b)
    dfa.backward(first.square().sum(), first)
    dfa.backward(second.square().sum(), second)
    assert_same(gradients(net), separate)


def test_a_forward_without_a_backward_leaves_nothing_behind():
    net = Network()
    dfa = DirectFeedback(net, ["blocks.*"], GaussianFeedback(4, 6))
    out = net(draw(5, 3))
    tap = weakref.ref(out._dfa_record.taps[0])
    assert tap() is not None
    del out
    gc.collect()
    assert tap() is None
    dfa.detach()


def test_detach_gives_the_model_back_untouched():
    net, x = Network(), draw(7, 3)
    exact = backprop(net, x)
    names = list(net.state_dict())
    DirectFeedback(net, ["blocks.*"], GaussianFeedback(4, 6), through="norm").detach()
    assert_same(backprop(net, x), exact)
    assert list(net.state_dict()) == names
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_without_gradients_nothing_is_recorded():
    net = Network()
    dfa = DirectFeedback(net, ["blocks.*"], GaussianFeedback(4, 6))
    with torch.no_grad():
        out = net(draw(2, 3))
    with pytest.raises(RuntimeError, match="no record of its blocks"):
        dfa.backward(out.sum(), out)


def test_backward_twice_and_foreign_outputs_are_refused():
    net = Network()
    dfa = DirectFeedback(net, ["blocks.*"], GaussianFeedback(4, 6))
    out = net(draw(2, 3))
    loss = out.square().sum()
    dfa.backward(loss, out)
    with pytest.raises(RuntimeError, match="no record of its blocks"):
        dfa.backward(loss, out)
    with pytest.raises(RuntimeError, match="no record of its blocks"):
        dfa.backward(loss, out * 2)


def test_blocks_and_shapes_that_do_not_fit_are_refused_by_name():
    net = Network()
    with pytest.raises(ValueError, match=r"'layers\.\*'; it has first, blocks"):
        DirectFeedback(net, ["layers.*"], GaussianFeedback(4, 6))
    with pytest.raises(ValueError, match="no blocks given"):
        DirectFeedback(net, [], GaussianFeedback(4, 6))
    with pytest.raises(ValueError, match="matches the block 'nrm'"):
        DirectFeedback(net, ["blocks.*"], GaussianFeedback(4, 6), through="nrm")
    with pytest.raises(ValueError, match="error_at"):
        DirectFeedback(net, ["blocks.*"], GaussianFeedback(4, 6), error_at="input")
    for operator, says in (
        (GaussianFeedback(5, 6), "errors of width 5"),
        (GaussianFeedback(4, 5), "n_components >= 6"),
    ):
        dfa = DirectFeedback(net, ["blocks.*"], operator)
        out = net(draw(2, 3))
        with pytest.raises(ValueError, match=says):
            dfa.backward(out.sum(), out)
        dfa.detach()


def test_what_reaches_the_head_past_a_block_gets_both_gradients():
    """A stem that a block reads and the head reads too: exact through the skip, local through the block."""

    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.block, self.head = nn.Linear(3, 6), Residual(6), nn.Linear(6, 4)

        def forward(self, x):
            h = self.stem(x).tanh()
            return self.head(self.block(h) + h)

    net, x = Skip(), draw(7, 3)
    operator = feedback_of(net.head.weight.detach().T)
    dfa = DirectFeedback(net, ["block"], operator)
    out = net(x)
    dfa.backward(out.square().mean(), out)
    ours = gradients(net)
    dfa.detach()
    assert_same(ours, backprop(net, x))  # with Wᵀ as feedback the one block's gradient is exact, so all are


def test_a_failed_forward_leaves_the_engine_clean():
    net = Network()
    dfa = DirectFeedback(net, ["blocks.*"], GaussianFeedback(4, 6))
    with pytest.raises(RuntimeError, match="shapes"):
        net(draw(2, 5))
    assert net.blocks[0](draw(2, 6)).requires_grad  # called alone, a block is whole
    dfa.detach()


def test_a_model_that_ends_in_a_block_is_refused():
    net = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 4))
    dfa = DirectFeedback(net, ["0", "1"], GaussianFeedback(4, 6))
    out = net(draw(2, 3))
    with pytest.raises(RuntimeError, match="leave the output layer out"):
        dfa.backward(out.sum(), out)


def test_a_star_matches_one_level():
    assert list(resolve_blocks(Network(), ["blocks.*"])) == ["blocks.0", "blocks.1"]


def test_alignment_is_one_for_exact_feedback_and_leaves_the_gradients_alone():
    net, x = Network(), draw(7, 3)
    dfa = DirectFeedback(net, ["blocks.1"], feedback_of(net.head.weight.detach().T), through="norm")
    net.head.bias.grad = torch.ones(4)
    cosines = dfa.alignment(lambda out, y: (out - y).square().mean(), x, draw(7, 4))
    assert list(cosines) == ["blocks.1"]
    assert cosines["blocks.1"] == pytest.approx(1, abs=1e-6)
    assert torch.equal(net.head.bias.grad, torch.ones(4))
    assert net.first.weight.grad is None


def test_alignment_counts_what_stands_before_a_block_with_it():
    """With the first layer in the first block, its share of that block's gradient is in the cosine."""
    net, x, y = Network(), draw(7, 3), draw(7, 4)
    dfa = DirectFeedback(net, ["blocks.*"], GaussianFeedback(4, 6, seed=1))

    def loss_fn(out, target):
        return (out - target).square().mean()

    measured = dfa.alignment(loss_fn, x, y)["blocks.0"]
    mine = [net.first.weight, net.first.bias, net.blocks[0].inner.weight, net.blocks[0].inner.bias]

    def flat():
        return torch.cat([p.grad.flatten() for p in mine])

    out = net(x)
    dfa.backward(loss_fn(out, y), out)
    by_feedback = flat()
    net.zero_grad()
    with dfa.exact():
        loss_fn(net(x), y).backward()
    expected = nn.functional.cosine_similarity(by_feedback, flat(), dim=0)
    assert measured == pytest.approx(expected.item(), abs=1e-5)
