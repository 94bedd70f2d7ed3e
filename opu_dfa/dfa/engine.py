"""The local backward engine of direct feedback alignment.

In DFA (Nøkland 2016) block l learns from δ_l = B e, a fixed random projection of the output error e, in place of the
gradient that backpropagation would carry down to its output: the block's parameters get (∂h_l/∂θ_l)ᵀ δ_l. The engine
applies this to a model as it stands, with forward hooks alone:

- each block's output leaves the block detached, so what follows it never asks for a gradient with respect to it, and
  the product that would compute one is not done;
- the undetached output is kept as the block's *tap*;
- `backward` differentiates the loss through what follows the last block, takes e on the way, projects it once, and
  starts one local backward from all taps.

What stands between two blocks belongs to the later one, what stands before the first to the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from opu_dfa.dfa.feedback import Feedback

ErrorAt = Literal["output", "hidden"]


@dataclass
class _Record:
    """What one forward pass leaves for its backward: the taps in order, and what the error passes through."""

    taps: list[Tensor] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    hidden: Tensor | None = None
    through_input: Tensor | None = None


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


class DirectFeedback:
    """Train a model's blocks by direct feedback alignment, without rewriting the model.

    Args:
        model: any `nn.Module`.
        blocks: names, globs or modules, in the order they run; each must return a tensor, or a tuple led by one.
        feedback: the operator that projects the error.
        error_at: "output" takes e = dL/d(output of the model); "hidden" takes e = dL/d(output of the last block).
        through: name of a module (a final norm, say) through whose exact local derivative the projected error passes
            before it reaches the blocks; it must map `width` to `width`.

    Raises:
        ValueError: blocks or `through` that are not in the model.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> from opu_dfa.dfa.feedback import GaussianFeedback
    >>> dfa = DirectFeedback(model, blocks=["1"], feedback=GaussianFeedback(n_features=3, n_components=8))
    >>> out = model(torch.ones(5, 4))
    >>> dfa.backward(out.square().mean(), out)
    >>> model[0].weight.grad.shape
    torch.Size([8, 4])
    >>> dfa.detach()
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[str | nn.Module],
        feedback: Feedback,
        error_at: ErrorAt = "output",
        through: str | None = None,
    ) -> None:
        if error_at not in ("output", "hidden"):
            raise ValueError(f'error_at is "output" or "hidden", got {error_at!r}')
        self.model = model
        self.feedback = feedback
        self.blocks = resolve_blocks(model, blocks)
        self.error_at = error_at
        self._through = resolve_blocks(model, [through])[through] if through else None
        self._record: _Record | None = None
        self._cutting = True
        self._last = next(reversed(self.blocks))
        self._hooks: list[RemovableHandle] = [
            model.register_forward_pre_hook(self._start),
            model.register_forward_hook(self._finish, always_call=True),  # after a failed forward too
        ]
        for name, block in self.blocks.items():
            self._hooks.append(block.register_forward_hook(self._cutter(name)))
        if self._through is not None:
            self._hooks.append(self._through.register_forward_pre_hook(self._keep_through_input))

    def backward(self, loss: Tensor, out: Tensor) -> None:
        """Fill `.grad` of every parameter: exact gradients after the last block, feedback gradients in the blocks.

        Args:
            loss: a scalar computed from `out`.
            out: what `model(...)` returned (the tensor itself, or a tensor inside what it returned).

        Raises:
            RuntimeError: `out` does not come from a forward pass that recorded its blocks, the loss does not depend on
                it, or nothing follows the last block.
        """
        record: _Record | None = getattr(out, "_dfa_record", None)
        if record is None or not record.taps:
            raise RuntimeError(
                "this output carries no record of its blocks: pass backward the tensor that model(...) returned, in "
                "training with gradients enabled, once"
            )
        source = out if self.error_at == "output" else record.hidden
        if source is None:
            raise RuntimeError(f"the last block, {self._last!r}, did not run in this forward pass")
        if not loss.requires_grad:
            raise RuntimeError(
                "nothing after the last block asks for a gradient: leave the output layer out of the blocks, it learns "
                "by ordinary backprop"
            )
        caught: list[Tensor] = []
        handle = source.register_hook(caught.append)
        loss.backward(retain_graph=True)  # what stands before a block may also reach the head past it
        handle.remove()
        if not caught:
            raise RuntimeError(f"the loss does not depend on the model's {self.error_at}: no error to project")
        signals = self.feedback(caught[0], [tap.shape[-1] for tap in record.taps])
        if self._through is not None:
            signals = self._local_derivative(record, signals)
        taps, record.taps = record.taps, []
        torch.autograd.backward(taps, [s.to(t.dtype) for s, t in zip(signals, taps, strict=True)])

    @contextmanager
    def exact(self) -> Iterator[None]:
        """Within, the model is whole: forward passes record nothing and `loss.backward()` is backpropagation."""
        cutting, self._cutting = self._cutting, False
        try:
            yield
        finally:
            self._cutting = cutting

    def alignment(self, loss_fn: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> dict[str, float]:
        """Cosine between the DFA and the backpropagation gradient of each block's parameters, on one batch.

        A block's parameters are those its tap depends on, what stands before it included. The parameters' `.grad` are
        left as they were; the feedback is really asked (a device counts the frames).

        Args:
            loss_fn: loss of (output, y); x, y: the batch.

        Returns:
            The cosine by the block's name, in the order the blocks ran.
        """
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        kept = [p.grad for p in parameters]
        try:
            _clear(parameters)
            out = self.model(x)
            record: _Record = out._dfa_record
            owned = {name: _parameters_of(tap) for name, tap in zip(record.names, record.taps, strict=True)}
            self.backward(loss_fn(out, y), out)
            by_feedback = {name: _gradient(mine) for name, mine in owned.items() if mine}
            _clear(parameters)
            with self.exact():
                loss_fn(self.model(x), y).backward()
            return {
                name: torch.nn.functional.cosine_similarity(gradient, _gradient(owned[name]), dim=0).item()
                for name, gradient in by_feedback.items()
            }
        finally:
            for p, grad in zip(parameters, kept, strict=True):
                p.grad = grad

    def detach(self) -> None:
        """Remove every hook: the model is as it was before."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _recording(self) -> bool:
        return self._cutting and torch.is_grad_enabled()

    def _start(self, module: nn.Module, inputs: Any) -> None:
        self._record = _Record() if self._recording() else None

    def _finish(self, module: nn.Module, inputs: Any, output: Any) -> None:
        # The record lives and dies with the output: a forward without a backward leaves nothing behind.
        record, self._record = self._record, None
        if record is not None:
            for tensor in _tensors(output):
                tensor._dfa_record = record  # type: ignore[attr-defined]

    def _cutter(self, name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def cut(module: nn.Module, inputs: Any, output: Any) -> Any:
            record = self._record
            if record is None:
                return None
            tap = output[0] if isinstance(output, tuple) else output
            if tap.requires_grad:
                record.taps.append(tap)
                record.names.append(name)
            passed = tap.detach()
            if name == self._last and self.error_at == "hidden":
                record.hidden = passed.requires_grad_()
            return (passed, *output[1:]) if isinstance(output, tuple) else passed

        return cut

    def _keep_through_input(self, module: nn.Module, inputs: Any) -> None:
        if self._record is not None:
            self._record.through_input = inputs[0].detach()

    def _local_derivative(self, record: _Record, signals: list[Tensor]) -> list[Tensor]:
        """Jᵀδ for each distinct signal, J the derivative of the `through` module at the input it saw."""
        assert self._through is not None
        if record.through_input is None:
            raise RuntimeError("the `through` module did not run in this forward pass")
        # The blocks of a shared projection read the same signal: its pull through the norm is computed once.
        alike = self.feedback.layout == "shared" and len({s.shape for s in signals}) == 1
        with torch.enable_grad():
            at = record.through_input.requires_grad_()
            passed = self._through(at)
            pulled: list[Tensor] = []
            for signal in signals[:1] if alike else signals:
                at.grad = None
                torch.autograd.backward(passed, signal.to(passed.dtype), retain_graph=not alike, inputs=[at])
                assert at.grad is not None
                pulled.append(at.grad)
        return pulled * len(signals) if alike else pulled


def _clear(parameters: Sequence[Tensor]) -> None:
    for p in parameters:
        p.grad = None


def _gradient(parameters: Sequence[Tensor]) -> Tensor:
    """The gradients of some parameters as one float64 vector; zeros where there is none."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten().double() for p in parameters])


def _parameters_of(tap: Tensor) -> list[Tensor]:
    """The leaves that a tap depends on, found by walking its graph: its block's own parameters, inputs being cut."""
    found: dict[int, Tensor] = {}
    waiting, seen = [tap.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found[id(node.variable)] = node.variable
        waiting.extend(previous for previous, _ in node.next_functions)
    return list(found.values())


def _tensors(output: Any) -> Iterator[Tensor]:
    """Every tensor in what a model returned."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _tensors(value)
