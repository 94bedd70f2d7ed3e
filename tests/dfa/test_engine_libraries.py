"""Models of other libraries wrap and unwrap unchanged, and each of their blocks learns its own local gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from opu_dfa import DirectFeedback, GaussianFeedback
from opu_dfa.dfa.blocks import call, floating, leading, resolve_blocks
from opu_dfa.dfa.probe import measure

TOKENS = torch.randint(11, (3, 8), generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def gpt2() -> tuple[nn.Module, Any]:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=16, n_layer=2, n_head=2, use_cache=False)
    return GPT2LMHeadModel(config), TOKENS


def llama() -> tuple[nn.Module, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=8,
        use_cache=False,
    )
    return LlamaForCausalLM(config), TOKENS


def vit() -> tuple[nn.Module, Any]:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(16, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=11)
    nn.init.normal_(model.heads.head.weight)  # torchvision starts it at zero, which sends no error
    return model, IMAGES


def vgg() -> tuple[nn.Module, Any]:
    from torchvision.models.vgg import make_layers

    features = make_layers([4, "M", 8, "M"], batch_norm=True)  # convolution, norm, ReLU in place, pooling; twice
    classifier = nn.Sequential(nn.Linear(8 * 16, 16), nn.ReLU(inplace=True), nn.Linear(16, 11))
    return nn.Sequential(features, nn.Flatten(), classifier), IMAGES


class Graph(nn.Module):
    """Two graph convolutions and a linear head on a ring of eight nodes."""

    def __init__(self, convolution: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.first = convolution(5, 16)
        self.second = convolution(16, 16)
        self.head = nn.Linear(16, 11)

    def forward(self, x: Tensor, *edges: Tensor) -> Tensor:
        return self.head(self.second(self.first(x, *edges).tanh(), *edges).tanh())


def graph(kind: str) -> Callable[[], tuple[nn.Module, Any]]:
    def build() -> tuple[nn.Module, Any]:
        import torch_geometric.nn as pyg

        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
        ring = torch.stack((torch.arange(8), (torch.arange(8) + 1) % 8))
        edges = torch.cat((ring, ring.flip(0)), dim=1)
        convolutions = {
            "gcn": pyg.GCNConv,
            "cheb": lambda n, m: pyg.ChebConv(n, m, K=2),
            "gat": lambda n, m: pyg.GATConv(n, m // 4, heads=4),
            "sgc": lambda n, m: pyg.SGConv(n, m, K=2),
        }
        return Graph(convolutions[kind]), (x, edges)

    return build


MODELS = {
    "gpt2 macro": (gpt2, ["transformer.h.*"], None),
    "gpt2 macro through": (gpt2, ["transformer.h.*"], "transformer.ln_f"),
    "gpt2 micro": (gpt2, ["transformer.h.*.attn", "transformer.h.*.mlp"], None),
    "llama macro": (llama, ["model.layers.*"], "model.norm"),
    "llama micro": (llama, ["model.layers.*.self_attn", "model.layers.*.mlp"], None),
    "vit macro": (vit, ["encoder.layers.*"], None),
    "vit through": (vit, ["encoder.layers.*"], "encoder.ln"),
    "vit micro": (vit, ["encoder.layers.*.mlp", "encoder.layers.*.self_attention"], None),
    "vgg": (vgg, ["0.0", "0.2", "0.6", "2.0"], None),
    **{kind: (graph(kind), ["first", "second"], None) for kind in ("gcn", "cheb", "gat", "sgc")},
}


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Any, list[str], str | None]:
    pytest.importorskip(
        "transformers"
        if request.param.startswith(("gpt2", "llama"))
        else "torch_geometric"
        if request.param in ("gcn", "cheb", "gat", "sgc")
        else "torchvision"
    )
    build, blocks, through = MODELS[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(0)  # these libraries draw their weights from the global generator
        model, x = build()
    for p in model.parameters():
        if not p.any():  # biases that start at zero hide mistakes
            nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(1))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train(), x, blocks, through


def operator(model: nn.Module, blocks: list[str], x: Any, through: str | None) -> GaussianFeedback:
    sizes = measure(model, blocks, x, through=through)
    return GaussianFeedback(sizes.n_features, max(sizes.widths))


def loss_of(out: Tensor) -> Tensor:
    return (out - torch.linspace(-1, 1, out.shape[-1])).square().mean()


def detached(given: Any) -> Any:
    if isinstance(given, Tensor):
        return given.detach()
    if isinstance(given, (tuple, list)):
        return type(given)(detached(each) for each in given)
    return {key: detached(each) for key, each in given.items()} if isinstance(given, dict) else given


def test_a_model_is_the_same_after_detaching(case):
    model, x, blocks, through = case
    model.eval()
    weights, before = dict(model.state_dict()), floating(call(model, x), "the output")
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    dfa = DirectFeedback(model, blocks, operator(model, blocks, x, through), through=through)
    assert torch.equal(floating(call(model, x), "the output"), before)
    dfa.detach()
    assert torch.equal(floating(call(model, x), "the output"), before)
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert list(weights) == list(model.state_dict())
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_every_parameter_gets_a_finite_gradient(case):
    model, x, blocks, through = case
    dfa = DirectFeedback(model, blocks, operator(model, blocks, x, through), through=through)
    out = floating(call(model, x), "the output")
    dfa.backward(loss_of(out), out)
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert p.grad.any(), name


def test_each_block_s_gradient_is_autograd_s_of_the_block_run_alone(case):
    """The block alone, at the input it saw, from the projected error by hand: no engine in the reference."""
    model, x, blocks, through = case
    named = resolve_blocks(model, blocks)
    feedback = operator(model, blocks, x, through)
    seen: dict[str, tuple[Any, Any]] = {}
    hooks = [
        block.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: seen.update({name: (detached(args), detached(kwargs))}),
            with_kwargs=True,
        )
        for name, block in named.items()
    ]
    passing: list[Tensor] = []
    if through:
        norm = model.get_submodule(through)
        hooks.append(norm.register_forward_pre_hook(lambda _, args: passing.append(args[0].detach())))
    dfa = DirectFeedback(model, blocks, feedback, through=through)
    out = floating(call(model, x), "the output")
    dfa.backward(loss_of(out), out)
    for hook in hooks:
        hook.remove()
    dfa.detach()

    at = out.detach().requires_grad_()
    (error,) = torch.autograd.grad(loss_of(at), at)
    for name, block in named.items():
        args, kwargs = seen[name]
        alone = leading(block(*args, **kwargs), name)
        size = alone.shape[error.ndim - 1 :].numel()
        signal = (error @ feedback.matrix.T)[..., :size].reshape(alone.shape)
        if through:
            entered = passing[0].clone().requires_grad_()
            (signal,) = torch.autograd.grad(norm(entered), entered, signal)
        mine = [(key, p) for key, p in block.named_parameters() if p.requires_grad]
        if not mine:
            continue  # an activation: its layer stands before it
        wanted = torch.autograd.grad(alone, [p for _, p in mine], signal, allow_unused=True)
        for (key, p), gradient in zip(mine, wanted, strict=True):
            close = torch.allclose(p.grad, gradient, rtol=1e-4, atol=1e-6)
            assert close, f"{name}.{key} differs by up to {(p.grad - gradient).abs().max()}"
