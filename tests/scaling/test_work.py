"""What a Transformer costs by its sizes, against PyTorch's own counts of our GPT."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from opu_dfa import DirectFeedback, GaussianFeedback
from opu_dfa.errors import ConfigError
from opu_dfa.models.gpt import GPT, Block
from opu_dfa.scaling import Sizes, shaped

SIZES = Sizes(n_blocks=3, width=16, context=8, n_symbols=50, hidden=40)
TOKENS = torch.zeros(3, SIZES.context, dtype=torch.long)


@pytest.fixture
def gpt():
    return GPT(SIZES.n_symbols, SIZES.context, SIZES.n_blocks, SIZES.width, n_heads=2, hidden=SIZES.hidden)


def counted(run):
    """FLOPs a token by PyTorch's counter, which sees attention where it runs as plain products, and what came back."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        returned = run()
    return counter.get_total_flops() / TOKENS.numel(), returned


def test_parameters_are_those_of_the_model(gpt):
    assert SIZES.parameters == sum(p.numel() for p in gpt.parameters())
    assert SIZES.block_parameters == sum(p.numel() for p in gpt.blocks[0].parameters())


def test_backprop_does_the_products_that_pytorch_counts(gpt):
    forward, out = counted(lambda: gpt(TOKENS))
    backward, _ = counted(out.square().mean().backward)
    work = SIZES.backprop()
    assert forward == work.forward
    assert backward == work.input_grad + work.weight_grad


def test_dfa_does_the_products_that_pytorch_counts(gpt):
    dfa = DirectFeedback(gpt, ["blocks.*"], GaussianFeedback(SIZES.n_symbols, SIZES.width), through="final_norm")
    forward, out = counted(lambda: gpt(TOKENS))
    backward, _ = counted(lambda: dfa.backward(out.square().mean(), out))
    work = SIZES.dfa()
    assert forward == work.forward
    assert backward == work.input_grad + work.weight_grad + work.project


@pytest.mark.parametrize("cut", [True, False])
def test_stored_numbers_are_those_autograd_saves(cut):
    """Of a block by itself; beyond the closed form are statistics, below (2 norms · 2 + 2 heads) numbers a token."""
    block, kept = Block(SIZES.width, 2, SIZES.hidden), {}
    own = {p.untyped_storage().data_ptr() for p in block.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes() / 4
        return tensor

    h = torch.randn(3, SIZES.context, SIZES.width, requires_grad=not cut)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        block(h)
    statistics = sum(kept.values()) / TOKENS.numel() - SIZES.stored(recompute=False, cut=cut)
    assert 0 <= statistics <= 2 * 2 + 2


def test_recomputing_stores_the_input_of_a_block_alone():
    assert SIZES.stored(recompute=True, cut=True) == SIZES.width


@pytest.mark.parametrize("parameters", [1e8, 1e10, 1e12])
@pytest.mark.parametrize("n_stages", [8, 64, 4096])
def test_a_shape_has_its_parameters_and_whole_blocks_a_stage(parameters, n_stages):
    sizes = shaped(parameters, n_stages, 2048, 50257)
    assert sizes.n_blocks % n_stages == 0
    # the width is rounded, to half of one in the worst case
    assert 12 * sizes.n_blocks * sizes.width**2 == pytest.approx(parameters, rel=1.01 / sizes.width)


def test_a_linear_block_of_dfa_does_33_of_36_products():
    """Far from the first block, the head and attention."""
    sizes = Sizes(n_blocks=10**6, width=64, context=1, n_symbols=1)
    linear = 1e6 * 2 * 36 * 64**2
    attention = 1e6 * 12 * 64
    assert (sizes.dfa(digital=False).total - attention) / linear == pytest.approx(33 / 36, rel=1e-5)


def test_sizes_below_one_are_refused():
    with pytest.raises(ConfigError, match="width must be at least 1, got 0"):
        Sizes(n_blocks=1, width=0, context=1, n_symbols=1)
