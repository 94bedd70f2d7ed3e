"""A model as the chain of modules it runs one after the other, and contiguous parts of the chain for several ranks.

Models know nothing of ranks: the chain is read off a forward pass. It holds where each module takes what the one before
it returned and nothing else happens between them, as in a GPT: embedding, blocks, final norm, head.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from opu_dfa.dfa.blocks import call, resolve_blocks, tensors
from opu_dfa.errors import ConfigError


class Stage(nn.Module):
    """A part of a chain, run in order; what it holds keeps its names in the whole model.

    Args:
        units: modules by their names in the model, in the order they run.
        index, count: which of how many stages this is.
    """

    def __init__(self, units: Mapping[str, nn.Module], index: int = 0, count: int = 1) -> None:
        super().__init__()
        self.units = nn.ModuleList(units.values())
        self.names = list(units)
        self.index = index
        self.count = count

    @property
    def first(self) -> bool:
        return self.index == 0

    @property
    def last(self) -> bool:
        return self.index == self.count - 1

    def forward(self, *inputs: Any) -> Any:
        x: Any = inputs if len(inputs) > 1 else inputs[0]
        for unit in self.units:
            x = call(unit, x)
        return x

    def unit(self, name: str) -> nn.Module | None:
        """The module of this name in the model, if it is here."""
        for own, module in zip(self.names, self.units, strict=True):
            if name == own:
                return module
        return None

    def named(self) -> dict[str, nn.Parameter]:
        """The parameters by their names in the model, each once."""
        return {f"{name}.{key}": p for name, unit in self._each() for key, p in unit.named_parameters()}

    def held(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by their names in the model."""
        return {f"{name}.{key}": t for name, unit in self._each() for key, t in unit.state_dict(keep_vars=True).items()}

    def _each(self) -> Iterator[tuple[str, nn.Module]]:
        return zip(self.names, self.units, strict=True)


def chain(model: nn.Module, blocks: Sequence[str | nn.Module], x: Any) -> dict[str, nn.Module]:
    """The modules that the model runs one after the other on the batch x, by name: blocks, and what is around them.

    Read from one forward pass on the meta device: nothing is computed.

    Raises:
        ConfigError: something happens between two modules, so that they cannot run on two ranks as they are.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.Tanh(), nn.Linear(8, 8)), nn.Linear(8, 3))
    >>> list(chain(net, ["1.*"], torch.ones(5, 4)))
    ['0', '1.0', '1.1', '2']
    """
    hollow = skeleton(model)
    modules = dict(model.named_modules())
    named = set(resolve_blocks(model, blocks))
    ran: list[tuple[str, Any, Any]] = []
    hooks = [
        hollow.get_submodule(name).register_forward_hook(
            lambda _, given, returned, name=name: ran.append((name, given, returned))
        )
        for name in _units(model, named)
    ]
    given = _meta(x)
    try:
        with torch.no_grad():
            out = call(hollow, given)
    finally:
        for hook in hooks:
            hook.remove()
    links = [("the input", given), *((f"{name!r}", returned) for name, _, returned in ran)]
    takers = [*((f"{name!r}", taken) for name, taken, _ in ran), ("the output", out)]
    for (before, returned), (after, taken) in zip(links, takers, strict=True):
        if [id(t) for t in tensors(returned)] != [id(t) for t in tensors(taken)]:
            raise ConfigError(
                f"the model cannot be split over ranks: {after} does not take just what {before} gives. Let each "
                "module take what the one before it returned, or train it in one process."
            )
    if len({name for name, _, _ in ran}) < len(ran):
        raise ConfigError("the model cannot be split over ranks: one of its modules runs more than once")
    return {name: modules[name] for name, _, _ in ran}


def split(units: Mapping[str, nn.Module], blocks: Sequence[str], n_stages: int) -> list[dict[str, nn.Module]]:
    """A chain in contiguous stages of about equally many blocks, the later ones with one less; what stands before the
    first block goes to the first stage, what follows a block to that block's.

    Raises:
        ConfigError: fewer blocks than stages, or a parameter that two stages share.

    >>> net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(5)))
    >>> [list(stage) for stage in split(dict(net.named_children()), ["1", "2", "3"], 2)]
    [['0', '1', '2'], ['3', '4']]
    """
    if len(blocks) < n_stages:
        raise ConfigError(f"{len(blocks)} blocks cannot be split over {n_stages} stages: start at most as many ranks")
    each, more = divmod(len(blocks), n_stages)
    starts = {blocks[i * each + min(i, more)]: i for i in range(1, n_stages)}
    stages: list[dict[str, nn.Module]] = [{} for _ in range(n_stages)]
    current = 0
    for name, unit in units.items():
        current = starts.get(name, current)
        stages[current][name] = unit
    owners: dict[nn.Parameter, int] = {}
    for i, stage in enumerate(stages):
        for name, unit in stage.items():
            for key, p in unit.named_parameters():
                if owners.setdefault(p, i) != i:
                    raise ConfigError(
                        f"{name}.{key} is a parameter of two stages of the pipeline: untie them "
                        "(model.tie_weights=false), or train in one process"
                    )
    return stages


def skeleton(model: nn.Module) -> nn.Module:
    """A copy of the model without numbers, on the meta device: it tells shapes."""
    hollow: dict[int, Any] = {}
    for p in model.parameters():
        hollow[id(p)] = nn.Parameter(p.detach().to("meta"), p.requires_grad)
    for b in model.buffers():
        hollow[id(b)] = b.detach().to("meta")
    return copy.deepcopy(model, hollow)


class Shapes:
    """The shapes and types of what each unit of a chain returns for a batch, found on the meta device."""

    def __init__(self, units: Mapping[str, nn.Module]) -> None:
        self.names = list(units)
        self._hollow = [skeleton(unit) for unit in units.values()]
        self._known: dict[Any, dict[str, Tensor]] = {}

    @torch.no_grad()
    def of(self, x: Any) -> dict[str, Tensor]:
        """A meta tensor by each unit's name."""
        key = tuple((t.shape, t.dtype) for t in tensors(x))
        if key not in self._known:
            found, h = {}, _meta(x)
            for name, unit in zip(self.names, self._hollow, strict=True):
                h = found[name] = call(unit, h)
            self._known[key] = found
        return self._known[key]


def _units(model: nn.Module, blocks: set[str], prefix: str = "") -> list[str]:
    """The names of the blocks and of the largest modules without any."""
    names = []
    for name, child in model.named_children():
        whole = prefix + name
        holds = any(block.startswith(whole + ".") for block in blocks)
        names += _units(child, blocks, whole + ".") if holds and whole not in blocks else [whole]
    return names


def _meta(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(_meta(part) for part in x)
    return x.to("meta") if isinstance(x, Tensor) else x
