"""Recomputation and offloading change what is held, never what is computed."""

import gc
import weakref

import pytest
import torch
from torch import nn

from opu_dfa import DirectFeedback, GaussianFeedback
from opu_dfa.dfa import memory
from opu_dfa.dfa.memory import offload, recompute
from opu_dfa.models.gpt import GPT


def network() -> GPT:
    return GPT(n_symbols=11, context=6, n_blocks=3, width=8, n_heads=2)


def tokens() -> torch.Tensor:
    return torch.randint(11, (4, 6), generator=torch.Generator().manual_seed(0))


def loss_of(out: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(out.flatten(0, 1), tokens().flatten())


def gradients(model: nn.Module, engine: DirectFeedback | None) -> list[torch.Tensor]:
    out = model(tokens())
    engine.backward(loss_of(out), out) if engine else loss_of(out).backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("taught", [True, False])
@pytest.mark.parametrize("way", ["recompute", "offload"])
def test_gradients_have_the_same_bits(taught, way, monkeypatch):
    monkeypatch.setattr(memory, "_WORTH_A_FILE", 1)
    found = []
    for changed in (False, True):
        model = network()
        engine = DirectFeedback(model, ["blocks.*"], GaussianFeedback(11, 8), through="final_norm") if taught else None
        if changed and way == "recompute":
            recompute(model.blocks)
        if changed and way == "offload":
            with offload(torch.device("cpu")):
                out = model(tokens())
            engine.backward(loss_of(out), out) if engine else loss_of(out).backward()
            found.append([p.grad for p in model.parameters()])
        else:
            found.append(gradients(model, engine))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_second_run_draws_the_masks_of_the_first():
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        block = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8))
        if again:
            recompute([block])
        torch.manual_seed(1)
        block(torch.ones(4, 8)).sum().backward()
        found.append(block[0].weight.grad)
    assert torch.equal(*found)


@pytest.mark.parametrize("again", [False, True])
def test_after_the_forward_pass_a_recomputing_block_holds_nothing_of_its_inside(again):
    model, held = network(), []
    hidden = model.blocks[1].mlp.up
    hidden.register_forward_hook(lambda _, __, out: held.append(weakref.ref(out.untyped_storage())))
    if again:
        recompute(model.blocks)
    out = model(tokens())
    gc.collect()
    assert (held[0]() is None) == again
    assert out.requires_grad


def test_undoing_leaves_the_blocks_as_they_were():
    model = network()
    undo = recompute(model.blocks)
    undo()
    assert not any("forward" in vars(block) for block in model.blocks)


def test_offloaded_activations_are_files_and_parameters_are_not(monkeypatch):
    monkeypatch.setattr(memory, "_WORTH_A_FILE", 1)
    mapped = []
    monkeypatch.setattr(
        memory.torch, "from_file", lambda *a, f=torch.from_file, **k: mapped.append(f(*a, **k)) or mapped[-1]
    )
    layer = nn.Linear(16, 16)
    x = torch.ones(32, 16)
    with offload(torch.device("cpu")):
        layer(x).tanh().sum().backward()
    assert sorted(m.numel() for m in mapped) == [32 * 16, 32 * 16]  # the layer's input and tanh's output
