"""Cutting a model at its blocks, by forward hooks: each block's output is kept as a tap and handed on detached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from opu_dfa.dfa.blocks import floating, leading, tensors, with_leading


@dataclass(eq=False)
class Record:
    """What one forward pass leaves for its backward; it lives and dies with the output that carries it.

    Attributes:
        taps, names: the blocks' outputs with their graphs, in the order the blocks ran.
        hidden: what the last block handed on, where the error is taken there.
        entered, passed: what the module of `through` took and returned.
        taught: widths of the blocks that have learned from a target already.
    """

    taps: list[Tensor] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    hidden: Tensor | None = None
    entered: Tensor | None = None
    passed: Tensor | None = None
    taught: list[int] = field(default_factory=list)

    @staticmethod
    def of(out: Tensor) -> Record:
        """The record that an output carries.

        Raises:
            RuntimeError: it carries none, or one whose blocks have learned.
        """
        record: Record | None = getattr(out, "_dfa_record", None)
        if record is None or not (record.taps or record.taught):
            raise RuntimeError(
                "this output carries no record of its blocks: pass backward the tensor that model(...) returned, in "
                "training with gradients enabled, once"
            )
        return record

    def clear(self) -> None:
        """Let go of the graphs: the blocks have learned."""
        self.taps, self.hidden, self.entered, self.passed, self.taught = [], None, None, None, []

    def read(self) -> list[tuple[str, Tensor]]:
        """What the signals are shaped like, and whose it is, for each tap: the tap, or what `through` returned."""
        if self.passed is not None:
            return [("the `through` module", self.passed)] * len(self.taps)
        return [(f"the block {name!r}", tap) for name, tap in zip(self.names, self.taps, strict=True)]

    def pull(self, signals: Sequence[Tensor]) -> list[Tensor]:
        """Jᵀδ for the signal δ of each tap, J the derivative of the `through` module at the input it saw.

        Raises:
            ValueError: the input's shape is not that of every tap.
        """
        assert self.entered is not None
        assert self.passed is not None
        for name, tap in zip(self.names, self.taps, strict=True):
            if tap.shape != self.entered.shape:
                raise ValueError(
                    f"the block {name!r} returns shape {tuple(tap.shape)}, but the `through` module takes "
                    f"{tuple(self.entered.shape)}: the two must be the same; tap other blocks or leave `through` out"
                )
        pulled: dict[int, Tensor] = {}  # blocks of a shared projection hold the same signal: it is pulled once
        for signal in signals:
            if id(signal) not in pulled:
                shaped = signal.reshape(self.passed.shape).to(self.passed.dtype)
                (pulled[id(signal)],) = torch.autograd.grad(self.passed, self.entered, shaped, retain_graph=True)
        return [pulled[id(signal)] for signal in signals]


class Cut:
    """The hooks. `whole` switches them off; `teach` takes each tap as soon as its block has run, instead of a record.

    Args:
        model; blocks: by name, in order; through: see `DirectFeedback`.
        keep_hidden: what the last block hands on asks for a gradient.
    """

    def __init__(
        self, model: nn.Module, blocks: Mapping[str, nn.Module], through: nn.Module | None, keep_hidden: bool
    ) -> None:
        self.whole = False
        self.teach: Callable[[Record, str, Tensor], None] | None = None
        self._record: Record | None = None
        self._hidden_after = list(blocks)[-1] if keep_hidden else None
        self._hooks: list[RemovableHandle] = [
            model.register_forward_pre_hook(self._start),
            model.register_forward_hook(self._finish, always_call=True),  # after a failed forward too
        ]
        for name, block in blocks.items():
            self._hooks.append(block.register_forward_hook(self._cutter(name)))
        if through is not None:
            self._hooks.append(through.register_forward_pre_hook(self._enter, with_kwargs=True))
            self._hooks.append(through.register_forward_hook(self._leave))

    def remove(self) -> None:
        """Take all hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _start(self, module: nn.Module, inputs: Any) -> None:
        self._record = Record() if torch.is_grad_enabled() and not self.whole else None

    def _finish(self, module: nn.Module, inputs: Any, output: Any) -> None:
        record, self._record = self._record, None
        if record is not None:
            for tensor in tensors(output):
                tensor._dfa_record = record  # type: ignore[attr-defined]

    def _cutter(self, name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def cut(module: nn.Module, inputs: Any, output: Any) -> Any:
            record = self._record
            if record is None:
                return None
            tap = leading(output, name)
            if tap.requires_grad and self.teach is not None:
                self.teach(record, name, tap)
            elif tap.requires_grad:
                record.taps.append(tap)
                record.names.append(name)
            passed = tap.detach()
            if name == self._hidden_after:
                record.hidden = passed.requires_grad_()
            return with_leading(output, passed)

        return cut

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Lets `through` read its first tensor under another name, so that its derivative is by this reading alone."""
        if self._record is None:
            return None
        given = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        first = floating(given, "what the module of `through` takes")
        alias = first.view_as(first) if first.requires_grad else first.detach().requires_grad_()
        self._record.entered = alias
        for i, each in enumerate(args):
            if each is first:
                return (*args[:i], alias, *args[i + 1 :]), kwargs
        return args, kwargs | {next(key for key, each in kwargs.items() if each is first): alias}

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._record is not None:
            self._record.passed = floating(output, "what the module of `through` returns")
