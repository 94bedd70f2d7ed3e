"""Errors and taps of every shape, necks in between, several outputs, losses and forward passes."""

import pytest
import torch
from torch import Tensor, nn

from opu_dfa import DirectFeedback, GaussianFeedback
from opu_dfa.dfa.feedback import Feedback
from opu_dfa.dfa.probe import Sizes, measure
from opu_dfa.errors import DivergedError


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(model: nn.Module) -> nn.Module:
    for i, p in enumerate(model.parameters()):
        p.data.copy_(draw(*p.shape, seed=i) / max(1, p[0].numel()) ** 0.5)
    return model


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def trained(model: nn.Module, dfa: DirectFeedback, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    out = model(x)
    dfa.backward(out.square().mean(), out)
    return gradients(model)


class Mean(nn.Module):
    """(batch, time, width) -> (batch, width): a norm, a mean over time, and a gate that another argument sets."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, gate: float, h: Tensor, skip: Tensor | None = None) -> Tensor:
        pooled = self.norm(h).mean(1) * gate
        return pooled if skip is None else pooled + skip.mean(1)


class Necked(nn.Module):
    """Tokens (batch, time, 3) -> two blocks -> neck -> (batch, 4)."""

    def __init__(self, as_keyword: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(n, 6), nn.Tanh()) for n in (3, 6)])
        self.neck, self.head = Mean(6), nn.Linear(6, 4)
        self.as_keyword = as_keyword
        filled(self)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(self.neck(2.0, h=x, skip=x) if self.as_keyword else self.neck(2.0, x, x))


class Recording(GaussianFeedback):
    """Keeps what it is taught."""

    def learn(self, error, taps):
        self.seen = (error, list(taps))


def test_a_feature_map_reads_a_signal_of_its_whole_width():
    net = filled(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 16, 5)))
    x = draw(7, 2, 4, 4)
    operator = GaussianFeedback(5, 48)
    ours = trained(net, DirectFeedback(net, ["1"], operator), x)
    error = 2 * net(x).detach() / 35
    tap = net[1](net[0](x))
    wanted = torch.autograd.grad(tap, list(net[0].parameters()), (error @ operator.matrix.T).view(7, 3, 4, 4))
    torch.testing.assert_close([ours["0.weight"], ours["0.bias"]], list(wanted))


def test_a_tap_that_does_not_stand_where_the_error_does_is_refused_by_name():
    net = Necked()
    dfa = DirectFeedback(net, ["blocks.*"], GaussianFeedback(4, 100))
    net.head.forward = lambda h: nn.functional.linear(h, net.head.weight)[:3]  # the batch is 7
    out = net(draw(7, 5, 3))
    with pytest.raises(ValueError, match=r"block 'blocks.0' has shape \(7, 5, 6\), but the error stands at \(3,\)"):
        dfa.backward(out.sum(), out)


@pytest.mark.parametrize("as_keyword", [False, True])
@pytest.mark.parametrize("layout", ["shared", "independent"])
def test_a_neck_s_derivative_spreads_the_signal_over_the_tokens(layout, as_keyword):
    """Only by its first tensor: what else the neck reads is not differentiated."""
    net, x = Necked(as_keyword), draw(7, 5, 3)
    operator = GaussianFeedback(4, 6 * (2 if layout == "independent" else 1), layout)
    dfa = DirectFeedback(net, ["blocks.*"], operator, through="neck")
    ours = trained(net, dfa, x)
    dfa.detach()
    with torch.no_grad():
        first = net.blocks[0](x)
        second = net.blocks[1](first)
        error = 2 * net(x) / 28
    signals = operator(error, [6, 6])
    for i, entered in enumerate((x, first)):
        at = second.clone().requires_grad_()
        (pulled,) = torch.autograd.grad(net.neck(2.0, at, second), at, signals[i])
        wanted = torch.autograd.grad(net.blocks[i](entered), list(net.blocks[i].parameters()), pulled)
        torch.testing.assert_close([ours[f"blocks.{i}.0.weight"], ours[f"blocks.{i}.0.bias"]], list(wanted))
    net.zero_grad()
    net(x).square().mean().backward()
    exact = gradients(net)  # the neck's own parameters and the head are untouched by the signal
    for name in ("neck.norm.weight", "neck.norm.bias", "head.weight", "head.bias"):
        torch.testing.assert_close(ours[name], exact[name])


def test_a_neck_that_takes_another_shape_than_a_tap_is_refused():
    net = Necked()
    net.blocks[1] = filled(nn.Sequential(nn.Flatten(), nn.Linear(30, 30), nn.Unflatten(1, (5, 6))))
    dfa = DirectFeedback(net, ["blocks.0", "blocks.1.1"], GaussianFeedback(4, 6), through="neck")
    out = net(draw(7, 5, 3))
    with pytest.raises(ValueError, match=r"'blocks.1.1' returns shape \(7, 30\), but the `through` module takes"):
        dfa.backward(out.sum(), out)


def test_a_neck_that_did_not_run_is_named():
    net = Necked()
    net.unused = nn.LayerNorm(6)
    dfa = DirectFeedback(net, ["blocks.*"], GaussianFeedback(4, 6), through="unused")
    out = net(draw(7, 5, 3))
    with pytest.raises(RuntimeError, match="`through` module did not run"):
        dfa.backward(out.sum(), out)
    with pytest.raises(ValueError, match="'unused' takes no part"):
        measure(net, ["blocks.*"], draw(7, 5, 3), through="unused")


def test_the_shared_signal_passes_the_neck_once():
    net = Necked()
    dfa = DirectFeedback(net, ["blocks.*"], GaussianFeedback(4, 6), through="neck")
    out = net(draw(7, 5, 3))
    passes = []
    out._dfa_record.passed.grad_fn.register_hook(lambda *_: passes.append(1))
    dfa.backward(out.sum(), out)
    assert len(passes) == 2  # the signal, and the loss on its way to the neck's own parameters


@pytest.mark.parametrize("through", [None, "neck"])
def test_an_operator_is_taught_the_errors_and_what_its_signals_teach(through):
    net, x = Necked(), draw(7, 5, 3)
    operator = Recording(4, 30)
    dfa = DirectFeedback(net, ["blocks.*"], operator, through=through)
    out = net(x)
    taps = [out._dfa_record.passed] * 2 if through else list(out._dfa_record.taps)
    dfa.backward(out.square().mean(), out)
    error, taught = operator.seen
    torch.testing.assert_close(error, 2 * out.detach() / 28)
    assert [t.shape for t in taught] == [(7, 6)] * 2 if through else [(7, 30)] * 2
    assert not any(t.requires_grad for t in taught)
    assert all(torch.equal(t.flatten(), tap.flatten()) for t, tap in zip(taught, taps, strict=True))


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.left, self.right = nn.Linear(3, 6), nn.Linear(6, 2), nn.Linear(6, 4)
        filled(self)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.body(x).tanh()
        return {"left": self.left(h), "right": self.right(h)}


def test_errors_of_several_outputs_are_joined():
    net, x = TwoHeads(), draw(7, 3)
    operator = GaussianFeedback(6, 6, seed=2)
    dfa = DirectFeedback(net, ["body"], operator)
    out = net(x)
    losses = [out["left"].square().sum(), out["right"].sum()]
    dfa.backward(losses, [out["left"], out["right"]])
    error = torch.cat((2 * out["left"].detach(), torch.ones(7, 4)), dim=1)
    torch.testing.assert_close(net.body.weight.grad, (error @ operator.matrix.T).T @ x)
    h = net.body(x).tanh()
    torch.testing.assert_close(net.left.weight.grad, (2 * out["left"].T @ h).detach())


def test_an_output_without_a_share_in_the_loss_has_no_error():
    net, x = TwoHeads(), draw(7, 3)
    operator = GaussianFeedback(6, 6, seed=2)
    dfa = DirectFeedback(net, ["body"], operator)
    out = net(x)
    dfa.backward(out["left"].sum(), [out["left"], out["right"]])
    error = torch.cat((torch.ones(7, 2), torch.zeros(7, 4)), dim=1)
    torch.testing.assert_close(net.body.weight.grad, (error @ operator.matrix.T).T @ x)
    assert net.right.weight.grad is None or not net.right.weight.grad.any()


@pytest.mark.parametrize("error_at", ["output", "hidden"])
def test_one_backward_serves_two_forward_passes(error_at):
    net, a, b = Necked(), draw(7, 5, 3, seed=1), draw(4, 5, 3, seed=2)
    operator = GaussianFeedback(4, 30) if error_at == "output" else GaussianFeedback(6, 6)
    dfa = DirectFeedback(net, ["blocks.*"], operator, error_at)

    def separate(x: Tensor) -> dict[str, Tensor]:
        net.zero_grad()
        out = net(x)
        dfa.backward(out.square().sum(), out)
        return gradients(net)

    first, second = separate(a), separate(b)
    net.zero_grad()
    outs = [net(a), net(b)]
    dfa.backward([out.square().sum() for out in outs], outs)
    torch.testing.assert_close(gradients(net), {name: first[name] + second[name] for name in first})


@pytest.mark.parametrize("error_at", ["output", "hidden"])
def test_a_penalty_beside_the_output_is_in_the_gradient(error_at):
    """A loss that reaches parameters past the output, as weight decay does, in head and block."""
    net, x = Necked(), draw(7, 5, 3)
    operator = GaussianFeedback(4, 30) if error_at == "output" else GaussianFeedback(6, 6)
    dfa = DirectFeedback(net, ["blocks.*"], operator, error_at)
    without = trained(net, dfa, x)
    net.zero_grad()
    out = net(x)
    weights = [net.head.weight, net.blocks[0][0].weight]
    dfa.backward(out.square().mean() + sum(w.square().sum() for w in weights), out)
    torch.testing.assert_close(net.head.weight.grad, without["head.weight"] + 2 * net.head.weight)
    torch.testing.assert_close(weights[1].grad, without["blocks.0.0.weight"] + 2 * weights[1])


def test_a_loss_computed_inside_the_model_is_served():
    class Inside(Necked):
        def forward(self, x):
            logits = super().forward(x)
            return {"loss": logits.square().mean(), "logits": logits}

    net, x = Inside(), draw(7, 5, 3)
    dfa = DirectFeedback(net, ["blocks.*"], GaussianFeedback(4, 30))
    out = net(x)
    dfa.backward(out["loss"], out["logits"])
    inside = gradients(net)
    dfa.detach()
    plain = Necked()
    torch.testing.assert_close(inside, trained(plain, DirectFeedback(plain, ["blocks.*"], GaussianFeedback(4, 30)), x))


def test_a_block_may_be_followed_in_place_where_it_does_not_need_its_output():
    def net(inplace: bool) -> nn.Module:
        return filled(nn.Sequential(nn.Linear(3, 6), nn.ReLU(inplace=inplace), nn.Linear(6, 4)))

    ours = [trained(m, DirectFeedback(m, ["0"], GaussianFeedback(4, 6)), draw(7, 3)) for m in (net(False), net(True))]
    torch.testing.assert_close(*ours)
    needing = filled(nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.ReLU(inplace=True), nn.Linear(6, 4)))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        trained(needing, DirectFeedback(needing, ["1"], GaussianFeedback(4, 6)), draw(7, 3))


def test_a_block_that_returns_no_tensor_is_named():
    net = Necked()
    net.blocks[0].forward = lambda x: {"h": nn.Sequential.forward(net.blocks[0], x)}
    DirectFeedback(net, ["blocks.0"], GaussianFeedback(4, 30))
    with pytest.raises(ValueError, match=r"'blocks.0' must return a tensor or a tuple led by one, not dict"):
        net(draw(7, 5, 3))


def test_a_gradient_that_is_not_finite_is_named_with_its_block():
    net = Necked()
    dfa = DirectFeedback(net, ["blocks.*"], GaussianFeedback(4, 30))
    trained(net, dfa, draw(7, 5, 3))
    dfa.check_gradients()
    net.head.bias.grad[0] = torch.nan
    with pytest.raises(DivergedError, match=r"head.bias, outside the blocks"):
        dfa.check_gradients()
    net.blocks[1][0].weight.grad[0, 0] = torch.inf
    with pytest.raises(DivergedError, match=r"blocks.1.0.weight, in the block 'blocks.1'"):
        dfa.check_gradients()


def test_sizes_are_measured_and_the_model_is_left_untouched():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(32, 10)
    )
    net[2].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    assert measure(net, ["1", "3"], draw(7, 1, 8, 8)) == Sizes(10, (144, 32), (7,))
    assert measure(net, ["1", "4"], draw(7, 1, 8, 8), error_at="hidden") == Sizes(32, (144, 32), (7,))
    assert [m.training for m in net] == [True, True, False, True, True, True]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert not any(m._forward_hooks for m in net.modules())
    assert measure(Necked(), ["blocks.*"], draw(7, 5, 3)) == Sizes(4, (30, 30), (7,))
    assert measure(Necked(), ["blocks.*"], draw(7, 5, 3), through="neck") == Sizes(4, (6, 6), (7,))


def test_sizes_fit_an_operator():
    net = Necked()
    sizes = measure(net, ["blocks.*"], draw(2, 5, 3))
    operator: Feedback = GaussianFeedback(sizes.n_features, sum(sizes.widths), "independent")
    assert trained(net, DirectFeedback(net, ["blocks.*"], operator), draw(2, 5, 3)).keys() >= {"blocks.0.0.weight"}
