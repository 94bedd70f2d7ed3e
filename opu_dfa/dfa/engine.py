"""The local backward engine of direct feedback alignment.

In DFA (Nøkland 2016, arXiv 1609.01596) block l learns from δ_l = B e, a fixed random projection of the output error e,
in place of the gradient that backpropagation would carry down to its output: the block's parameters get
(∂h_l/∂θ_l)ᵀ δ_l. The engine applies this to a model as it stands, with forward hooks alone (`opu_dfa.dfa.cut`):

- each block's output leaves the block detached, so what follows it never asks for a gradient with respect to it, and
  the product that would compute one is not done;
- the undetached output is kept as the block's *tap*;
- `backward` takes e, projects it once, and starts one backward pass from the output and from all taps.

What stands between two blocks belongs to the later one, what stands before the first to the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from opu_dfa.dfa.alignment import Alignment, flat_gradient
from opu_dfa.dfa.blocks import call, floating, leaves, resolve_blocks, width
from opu_dfa.dfa.cut import Cut, Record
from opu_dfa.dfa.feedback import Feedback
from opu_dfa.dfa.probe import jacobian_products, undisturbed
from opu_dfa.errors import DivergedError

__all__ = ["DirectFeedback", "ErrorAt", "resolve_blocks"]

ErrorAt = Literal["output", "hidden"]


class DirectFeedback:
    """Train a model's blocks by direct feedback alignment, without rewriting the model.

    An error of shape (*lead, K) serves taps whose shapes begin with `lead`: a tap (batch, C, H, W) reads a signal of
    width C·H·W from an error (batch, K), a tap (batch, T, d) one of width d from an error (batch, T, K).

    Args:
        model: any `nn.Module`; of a `DistributedDataParallel` the module within is meant.
        blocks: names, globs or modules, in the order they run; each must return a tensor, or a tuple led by one.
        feedback: the operator that projects the error.
        error_at: "output" takes e = dL/d(output of the model); "hidden" takes e = dL/d(output of the last block).
        through: name of a module between the blocks and the output (a final norm, a pooling neck, a graph propagation).
            The signal then has the shape of that module's output, and its exact local derivative, with respect to the
            first floating-point tensor it takes, brings it to the shape of its input, which is that of every tap.

    Raises:
        ValueError: blocks or `through` that are not in the model, or a model compiled as a whole.

    Blocks may be compiled, replaced (`model.blocks[i] = torch.compile(block)`) or in place (`block.compile()`), but not
    the model around them. Ranks of a `DistributedDataParallel` (without find_unused_parameters) agree if their
    operators have the same seed; call the wrapper for the output, and `alignment` measures each rank's own batch. What
    a block returns may be changed in place only if the block's own gradient does not need it; PyTorch refuses the rest.

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
        if hasattr(model, "_orig_mod"):
            raise ValueError("a model compiled as a whole cannot be cut: compile its blocks, block.compile(), instead")
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.feedback = feedback
        self.blocks = resolve_blocks(self.model, blocks)
        self.error_at = error_at
        self._through = resolve_blocks(self.model, [through])[through] if through else None
        self._cut = Cut(self.model, self.blocks, self._through, keep_hidden=error_at == "hidden")

    def backward(self, loss: Tensor | Sequence[Tensor], out: Tensor | Sequence[Tensor]) -> None:
        """Fill `.grad` of every parameter: exact gradients after the last block, feedback gradients in the blocks.

        Args:
            loss: a scalar computed from `out`, or several, which are summed.
            out: what `model(...)` returned (a tensor of it, or several). The errors of several outputs of one forward
                pass are joined in their last dimension; outputs of several forward passes serve each its own blocks.

        Raises:
            RuntimeError: `out` does not come from a forward pass that recorded its blocks, the loss does not depend on
                it, or nothing follows the last block.
            ValueError: errors, taps and operator do not fit each other.
        """
        losses, outs = _several(loss), _several(out)
        served: dict[Record, list[Tensor]] = {}
        for tensor in outs:
            served.setdefault(Record.of(tensor), []).append(tensor)
        if not any(each.requires_grad for each in losses):
            raise RuntimeError(
                "nothing after the last block asks for a gradient: leave the output layer out of the blocks, it learns "
                "by ordinary backprop"
            )
        roots: list[Tensor] = losses
        gradients: list[Tensor | None] = [None] * len(losses)
        errors: list[Tensor] = []
        untaught = {record: found for record, found in served.items() if record.taps}
        if untaught and self.error_at == "hidden":
            errors = self._hidden_errors(losses, untaught)
            roots, gradients = [], []
        elif untaught:
            # The loss is walked once more with the taps, unless this output is all it depends on: then from there on.
            alone = len(outs) == 1 and next(leaves(losses, outs), None) is None
            errors = self._output_errors(losses, untaught, keep=not alone)
            if alone:
                roots, gradients = outs, list(errors)
        for record, error in zip(untaught, errors, strict=True):
            roots, gradients = [*roots, *record.taps], [*gradients, *self._signals(record, error)]
        torch.autograd.backward(roots, gradients)
        for record in served:
            record.clear()

    @contextmanager
    def exact(self) -> Iterator[None]:
        """Within, the model is whole: forward passes record nothing and `loss.backward()` is backpropagation."""
        whole, self._cut.whole = self._cut.whole, True
        try:
            yield
        finally:
            self._cut.whole = whole

    @contextmanager
    def targets(self, target: Tensor) -> Iterator[None]:
        """Within, each block learns from B t as soon as it has run, and its graph is freed at once: direct random
        target projection (Frenkel et al. 2021, arXiv 1909.01311). `backward` then trains what follows the last block.

        Not under `DistributedDataParallel`, which awaits gradients only after the forward pass.

        Args:
            target: t, what stands for the error, of shape (*lead, K): -one_hot(y) / batch for a mean cross-entropy.

        Raises:
            ValueError: the engine has a `through`, whose input is not known before the forward pass.

        >>> from opu_dfa.dfa.feedback import GaussianFeedback
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        >>> dfa = DirectFeedback(model, blocks=["1"], feedback=GaussianFeedback(n_features=3, n_components=8))
        >>> with dfa.targets(-torch.eye(3) / 3):
        ...     out = model(torch.ones(3, 4))
        >>> model[0].weight.grad is None, model[2].weight.grad is None
        (False, True)
        >>> dfa.backward(nn.functional.cross_entropy(out, torch.arange(3)), out)
        """
        if self._through is not None:
            raise ValueError(
                "with targets a block learns before the module of `through` has run, so its derivative is not known: "
                "leave `through` out"
            )
        (signal,) = self._projected(target, [self.feedback.n_components])
        self._cut.teach = partial(self._teach, signal)
        try:
            yield
        finally:
            self._cut.teach = None

    def align(self, x: Any, generator: torch.Generator) -> None:
        """Show the feedback operator a random product of the model's Jacobian at the batch x (`jacobian_products`)."""
        self.feedback.align(*self.jacobian_products(x, generator))

    def jacobian_products(self, x: Any, generator: torch.Generator) -> tuple[list[Tensor], Tensor]:
        """Random tangents at the blocks' outputs and what they do to the output: see `probe.jacobian_products`."""
        return jacobian_products(self.model, self.blocks, x, generator, self.error_at, self._through)

    def alignment(self, loss_fn: Callable[[Any, Any], Tensor], x: Any, y: Any) -> dict[str, Alignment]:
        """Cosine between the DFA and the backpropagation gradient of each block's parameters, on one batch.

        A block's parameters are those its tap depends on, what stands before it included. Both passes draw the same
        dropout masks. Gradients, running statistics and the global random state are left as they were; the feedback
        is really asked (a device counts the frames, a random encoding draws on).

        Args:
            loss_fn: loss of (output, y); x, y: the batch. The members of a tuple x are the model's arguments; of an
                output that is not a tensor the first floating-point tensor gives the error.

        Returns:
            The cosine by the block's name, in the order the blocks ran.
        """
        parameters = [p for p in (*self.model.parameters(), *self.feedback.parameters()) if p.requires_grad]
        kept = [p.grad for p in parameters]
        try:
            _clear(parameters)
            with torch.enable_grad(), undisturbed(self.model):
                returned = call(self.model, x)
                out = floating(returned, "the model's output")
                record = Record.of(out)
                owned: dict[str, list[Tensor]] = {name: [] for name in record.names}
                for name, tap in zip(record.names, record.taps, strict=True):
                    owned[name] += [p for p in leaves([tap]) if isinstance(p, nn.Parameter)]
                self.backward(loss_fn(returned, y), out)
            ours = {name: flat_gradient(mine) for name, mine in owned.items() if mine}
            _clear(parameters)
            with torch.enable_grad(), undisturbed(self.model), self.exact():
                loss_fn(call(self.model, x), y).backward()
            return {name: Alignment.between(mine, flat_gradient(owned[name])) for name, mine in ours.items()}
        finally:
            for p, grad in zip(parameters, kept, strict=True):
                p.grad = grad

    def check_gradients(self) -> None:
        """Look for the cause of a gradient whose norm is not finite; call it then only, for it reads every gradient.

        Raises:
            DivergedError: names the first block with a gradient that is not finite, or what lies outside the blocks.
        """
        of_blocks = [(f"{name}.{key}", name, p) for name, b in self.blocks.items() for key, p in b.named_parameters()]
        outside = [(key, None, p) for key, p in self.model.named_parameters()]
        for key, block, p in [*of_blocks, *outside]:
            if p.grad is not None and not p.grad.isfinite().all():
                where = f"in the block {block!r}" if block else "outside the blocks"
                raise DivergedError(
                    f"the gradient of {key}, {where}, is not finite: lower the learning rate, clip gradients, or "
                    f"normalise the block's output"
                )

    def detach(self) -> None:
        """Remove every hook: the model is as it was before."""
        self._cut.remove()

    def _teach(self, signal: Tensor, record: Record, name: str, tap: Tensor) -> None:
        """The block's gradient, from its slice of the target's projection."""
        record.taught.append(width(tap.shape, signal.shape[:-1], f"the block {name!r}"))
        mine = signal[..., self.feedback.slices(record.taught)[-1]]
        torch.autograd.backward(tap, mine.reshape(tap.shape).to(tap.dtype))

    def _output_errors(self, losses: list[Tensor], served: Mapping[Record, list[Tensor]], keep: bool) -> list[Tensor]:
        """dL/d(output) of each forward pass; those of its several outputs side by side."""
        outs = [out for each in served.values() for out in each]
        found = iter(torch.autograd.grad(losses, outs, retain_graph=keep, allow_unused=True))
        errors = []
        for each in served.values():
            parts = [next(found) for _ in each]
            if all(part is None for part in parts):
                raise RuntimeError("the loss does not depend on the model's output: no error to project")
            whole = [torch.zeros_like(out) if part is None else part for out, part in zip(each, parts, strict=True)]
            errors.append(whole[0] if len(whole) == 1 else torch.cat(whole, dim=-1))
        return errors

    def _hidden_errors(self, losses: list[Tensor], served: Mapping[Record, list[Tensor]]) -> list[Tensor]:
        """dL/d(output of the last block) of each forward pass, found on the way to the gradients behind it."""
        if any(record.hidden is None for record in served):
            raise RuntimeError(f"the last block, {list(self.blocks)[-1]!r}, did not run in this forward pass")
        torch.autograd.backward(losses, retain_graph=True)  # what stands before a block may reach the head past it
        errors = [
            record.hidden.grad for record in served if record.hidden is not None and record.hidden.grad is not None
        ]
        if len(errors) < len(served):
            raise RuntimeError("the loss does not depend on the model's hidden state: no error to project")
        return errors

    @torch.no_grad()
    def _projected(self, error: Tensor, widths: Sequence[int]) -> list[Tensor]:
        kind = error.device.type
        plain = torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
        with plain:  # signals are float32
            return self.feedback(error, widths)

    @torch.no_grad()
    def _signals(self, record: Record, error: Tensor) -> list[Tensor]:
        """What each tap learns from, in its shape and type."""
        if self._through is not None and record.passed is None:
            raise RuntimeError("the `through` module did not run in this forward pass")
        read = record.read()
        widths = [width(each.shape, error.shape[:-1], whose) for whose, each in read]
        signals = self._projected(error, widths)
        rows = error.shape[:-1].numel()
        self.feedback.learn(
            error.reshape(rows, -1).float(),
            [each.detach().reshape(rows, size) for (_, each), size in zip(read, widths, strict=True)],
        )
        if self._through is not None:
            signals = record.pull(signals)
        return [s.reshape(tap.shape).to(tap.dtype) for s, tap in zip(signals, record.taps, strict=True)]


def _several(tensor: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [tensor] if isinstance(tensor, Tensor) else list(tensor)


def _clear(parameters: Sequence[Tensor]) -> None:
    for p in parameters:
        p.grad = None
