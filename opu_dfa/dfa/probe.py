"""Looking at a model without disturbing it: the sizes an operator needs, and forward-mode products of its Jacobian."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from opu_dfa.dfa.blocks import call, floating, leading, resolve_blocks, width, with_leading


@dataclass(frozen=True)
class Sizes:
    """n_features: width of the error; widths: of the signal for each block, in the order they ran; lead: the shape at
    which errors stand, (batch,) or (batch, time), say."""

    n_features: int
    widths: tuple[int, ...]
    lead: tuple[int, ...]


def measure(
    model: nn.Module, blocks: Sequence[str | nn.Module], x: Any, error_at: str = "output", through: str | None = None
) -> Sizes:
    """What a feedback operator for these blocks must be sized for, by one forward pass in evaluation mode.

    A shared operator needs n_components = max(widths), one with independent slices sum(widths).

    Args:
        model, blocks, error_at, through: as of `DirectFeedback`; x: a batch.

    Raises:
        ValueError: a tap that does not begin with the error's leading dimensions, a `through` that does not run.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 25, 10))
    >>> measure(net, ["0"], torch.ones(7, 1, 5, 5))
    Sizes(n_features=10, widths=(100,), lead=(7,))
    """
    named = resolve_blocks(model, blocks)
    taps: list[tuple[str, torch.Size]] = []
    passed: list[torch.Size] = []
    hooks = [
        block.register_forward_hook(lambda _, __, output, name=name: taps.append((name, leading(output, name).shape)))
        for name, block in named.items()
    ]
    if through is not None:
        hook = resolve_blocks(model, [through])[through].register_forward_hook(
            lambda _, __, output: passed.append(floating(output, through).shape)
        )
        hooks.append(hook)
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad(), undisturbed(model):
            out = call(model, x)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    error = dict(taps)[next(reversed(named))] if error_at == "hidden" else floating(out, "the model's output").shape
    lead = error[:-1]
    taught = [(f"the block {name!r}", shape) for name, shape in taps]
    if through is not None:
        if not passed:
            raise ValueError(f"the module {through!r} takes no part in the forward pass; name one that does, or none")
        taught = [(f"the module {through!r}", passed[-1])] * len(taps)
    return Sizes(error[-1], tuple(width(shape, lead, whose) for whose, shape in taught), tuple(lead))


def jacobian_products(
    model: nn.Module,
    blocks: Mapping[str, nn.Module],
    x: Any,
    generator: torch.Generator,
    error_at: str = "output",
    through: nn.Module | None = None,
) -> tuple[list[Tensor], Tensor]:
    """Random tangents v_l at the blocks' outputs, and what they do together to the output: Σ_l J_l v_l.

    One forward pass with dual numbers. The v_l are independent N(0, 1), so that E[v_l (Σ_m J_m v_m)ᵀ] = J_lᵀ: an
    unbiased sample of the Jacobian's transpose, which is the feedback that backpropagation would use (GrAPE, 2026;
    Bacho and Chu, arXiv 2212.07282). With `through`, one tangent enters at that module's output and stands for all.

    Returns:
        The tangents, `(rows, width)` for each block, and the output's, `(rows, K)`; rows are the errors' leading
        dimensions. Nothing is recorded; parameters, running statistics and the global random state stay untouched.
    """
    injected: list[tuple[str, Tensor]] = []
    ran: list[str] = []
    hidden: list[Tensor] = []
    last = list(blocks)[-1]

    def inject(whose: str, output: Tensor) -> Tensor:
        value, tangent = forward_ad.unpack_dual(output)
        v = torch.randn(value.shape, generator=generator, device=generator.device).to(value)
        injected.append((whose, v))
        return forward_ad.make_dual(value, v if tangent is None else tangent + v)

    def at_block(name: str, output: Any) -> Any:
        ran.append(name)
        dual = leading(output, name)
        if through is None:
            dual = inject(f"the block {name!r}", dual)
        if name == last:
            hidden.append(dual)
        return with_leading(output, dual)

    hooks = [
        block.register_forward_hook(lambda _, __, output, name=name: at_block(name, output))
        for name, block in blocks.items()
    ]
    if through is not None:
        hooks.append(
            through.register_forward_hook(
                lambda _, __, output: with_leading(output, inject("`through`", leading(output, "through")))
            )
        )
    try:
        with torch.no_grad(), undisturbed(model), _differentiable_forward():
            out = floating(call(model, x), "the model's output")
            value, tangent = forward_ad.unpack_dual(hidden[-1] if error_at == "hidden" else out)
    finally:
        for hook in hooks:
            hook.remove()
    if tangent is None:
        raise RuntimeError(f"the model's {error_at} does not depend on the blocks: no product to take")
    lead = value.shape[:-1]
    rows = [v.reshape(math.prod(lead), width(v.shape, lead, whose)) for whose, v in injected]
    return rows if through is None else rows[-1:] * len(ran), tangent.reshape(-1, value.shape[-1])


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Within, forward passes leave no trace: afterwards buffers and the global random state are as they were."""
    owners = [
        (m, name, b, b.detach().clone()) for m in model.modules() for name, b in m._buffers.items() if b is not None
    ]
    devices = sorted({p.device.index for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            with torch.no_grad():
                for module, name, buffer, kept in owners:
                    module._buffers[name] = buffer.copy_(kept)


@contextmanager
def _differentiable_forward() -> Iterator[None]:
    """Within, attention runs by kernels that know their forward derivative."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
