"""What a training step keeps in memory of the blocks' activations: all, the blocks' inputs alone, or files on disk.

A block's gradient needs what the block computed on its way, and DFA's error exists only after the whole forward pass,
as backpropagation's does. So activations are held until then, unless each block keeps its input alone and runs again
for its gradient (Chen et al. 2016, arXiv 1604.06174), or they wait outside of the device's memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

_WORTH_A_FILE = 2**16  # bytes


def recompute(blocks: Iterable[nn.Module]) -> Callable[[], None]:
    """Let blocks keep only what they are given; each runs once more when its gradient is computed.

    One forward pass more, and of all that happens within the blocks only one block's part is held at a time. The
    second run draws the dropout masks of the first. Works beside `DirectFeedback`, and for backpropagation.

    Returns:
        What undoes it.

    >>> block = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
    >>> undo = recompute([block])
    >>> block(torch.ones(2, 4)).sum().backward()
    >>> undo()
    """
    changed = list(blocks)
    for block in changed:
        block.forward = partial(_keeping_inputs, block.forward)

    def undo() -> None:
        for block in changed:
            del block.forward

    return undo


def _keeping_inputs(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(partial(forward, **kwargs), *args, use_reentrant=False)


@contextmanager
def offload(device: torch.device) -> Iterator[None]:
    """Within, what forward passes save for their gradients waits outside of the device's memory.

    A GPU's activations go to the host's memory, those of a CPU to temporary files, which the operating system writes
    out when memory is short. Parameters stay where they are.

    >>> x = torch.ones(300, 300, requires_grad=True)
    >>> with offload(torch.device("cpu")):
    ...     y = x.exp().sin()
    >>> y.sum().backward()
    >>> torch.allclose(x.grad, x.exp().cos() * x.exp())
    True
    """
    with save_on_cpu(pin_memory=True) if device.type == "cuda" else saved_tensors_hooks(_to_file, _from_file):
        yield


def _to_file(tensor: Tensor) -> Any:
    whole = tensor if tensor._base is None else tensor._base
    if tensor.nbytes < _WORTH_A_FILE or (whole.is_leaf and whole.requires_grad):  # small, or a parameter
        return tensor
    with tempfile.NamedTemporaryFile(prefix="opu-dfa-") as file:  # the name goes at once, the content with its last use
        file.truncate(tensor.nbytes)
        held = torch.from_file(file.name, shared=True, size=tensor.numel(), dtype=tensor.dtype).view(tensor.shape)
    return held.copy_(tensor.detach())


def _from_file(held: Tensor) -> Tensor:
    return held
