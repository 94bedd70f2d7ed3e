"""Blocks of a model by name, what they return, and the shapes by which an error reaches them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn


def resolve_blocks(model: nn.Module, blocks: Sequence[str | nn.Module]) -> dict[str, nn.Module]:
    """The modules that `blocks` names: exact names, globs (`*` stands within one dotted part) or modules, in order.

    Raises:
        ValueError: a name or glob that matches no module, or a module that is not part of the model.

    >>> net = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.ReLU())
    >>> list(resolve_blocks(net, ["0.*", net[1]]))
    ['0.0', '1']
    """
    modules = dict(model.named_modules())
    found: dict[str, nn.Module] = {}
    for wanted in blocks:
        if isinstance(wanted, nn.Module):
            matches = [name for name, module in modules.items() if module is wanted]
        else:
            matches = [
                name
                for name in modules
                if name.count(".") == wanted.count(".")
                and all(fnmatchcase(*parts) for parts in zip(name.split("."), wanted.split("."), strict=True))
            ]
        if not matches:
            known = ", ".join(name for name in modules if name and name.count(".") < 2)
            raise ValueError(f"no module of the model matches the block {wanted!r}; it has {known}")
        found.update({name: modules[name] for name in matches})
    if not found:
        raise ValueError('no blocks given; name at least one, for example blocks=["blocks.*"]')
    return found


def call(model: nn.Module, x: Any) -> Any:
    """model(x); the members of a tuple are its arguments, those of a mapping its named arguments."""
    if isinstance(x, tuple):
        return model(*x)
    return model(**x) if isinstance(x, Mapping) else model(x)


def tensors(output: Any) -> Iterator[Tensor]:
    """Every tensor in what a module takes or returns, in order."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from tensors(value)


def floating(output: Any, whose: str) -> Tensor:
    """The first floating-point tensor in what a module takes or returns.

    Raises:
        ValueError: there is none; `whose` says whose it was.
    """
    for tensor in tensors(output):
        if tensor.is_floating_point():
            return tensor
    raise ValueError(f"{whose} holds no floating-point tensor: {type(output).__name__}")


def leading(output: Any, name: str) -> Tensor:
    """The tensor that a block returned, or the first of the tuple it returned.

    Raises:
        ValueError: the block returned something else.
    """
    first = output[0] if isinstance(output, (tuple, list)) and output else output
    if not isinstance(first, Tensor):
        raise ValueError(f"the block {name!r} must return a tensor or a tuple led by one, not {type(output).__name__}")
    return first


def with_leading(output: Any, tensor: Tensor) -> Any:
    """What a block returned, its leading tensor replaced."""
    return type(output)((tensor, *output[1:])) if isinstance(output, (tuple, list)) else tensor


def width(shape: torch.Size, lead: torch.Size, whose: str) -> int:
    """Width of a tap of this shape for errors of shape (*lead, K): the product of what follows `lead`.

    Raises:
        ValueError: the shape does not begin with `lead`.

    >>> width(torch.Size([7, 3, 4, 4]), torch.Size([7]), "block 'conv'")
    48
    """
    if shape[: len(lead)] != lead:
        raise ValueError(
            f"the output of {whose} has shape {tuple(shape)}, but the error stands at {tuple(lead)}: the leading "
            f"dimensions must be the same, one signal for each error. Tap another block, or let the signal pass "
            f"`through` the module that takes the one shape to the other"
        )
    return math.prod(shape[len(lead) :])


def leaves(starts: Iterable[Tensor], stops: Iterable[Tensor] = ()) -> Iterator[Tensor]:
    """The leaves that tensors depend on, found by walking their graph down to `stops`."""
    ends = {(stop.grad_fn, stop.output_nr) for stop in stops}
    waiting = [(start.grad_fn, start.output_nr) for start in starts]
    seen = set()
    while waiting:
        edge = waiting.pop()
        node = edge[0]
        if node is None or edge in ends or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        waiting.extend(node.next_functions)
