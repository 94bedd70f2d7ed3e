"""The optimiser of a run: one step for all parameters, or one for each block as soon as its gradient is there.

A local gradient needs no other block's, so a block may step and drop its gradient while the others still wait for
theirs: gradients then take the memory of one block instead of the model's (for backpropagation: Lv et al. 2023, arXiv
2306.09782). Weights may be kept in bfloat16, rounded stochastically after a step taken in float32, so that steps
smaller than a weight's last bit still count on average.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from opu_dfa.config import BelowOne, NonNegative, Positive, settings


@settings
class LearningRates:
    """The peak learning rate of each method, chosen for each by the same sweep (scripts/results.py)."""

    dfa: Positive
    bp: Positive
    frozen: Positive


@settings
class OptimizerSettings:
    """An optimiser with linear warm-up, and then a schedule.

    name: "adamw", with two numbers of state a weight; "sgd", with one, its momentum beta1; "adafactor", with a row and
    a column for each matrix (Shazeer and Stern 2018; rates are relative to a weight's size). schedule: "cosine" decays
    to `final` of the peak rate; "noam" with the inverse root of the step (Vaswani et al. 2017); "plateau" to a fifth
    whenever the validation loss did not fall; "constant" does not. warmup: fraction of the steps; clip_norm: largest
    gradient norm, 0 for none.
    """

    name: Literal["adamw", "sgd", "adafactor"]
    lr: LearningRates
    schedule: Literal["cosine", "noam", "plateau", "constant"]
    beta1: BelowOne
    beta2: BelowOne
    weight_decay: NonNegative
    warmup: BelowOne
    final: BelowOne
    clip_norm: NonNegative


class NotFinite(ArithmeticError):
    """A gradient that is no number; its message says whose."""


class Stepper:
    """Steps the parameters of a model from their gradients.

    Args:
        groups: parameters by name, of the blocks and of what is around them.
        chosen: the optimiser's settings; lr: its first rate.
        in_backward: each group steps within the backward pass, when all its gradients are there, and drops them. Norms
            are then clipped group by group, each at its equal share of `clip_norm`, so that the whole's is still below.
        generator: draws the rounding of parameters in bfloat16.
    """

    def __init__(
        self,
        groups: Mapping[str, Sequence[nn.Parameter]],
        chosen: OptimizerSettings,
        lr: float,
        in_backward: bool,
        generator: torch.Generator,
    ) -> None:
        self.groups = {name: list(own) for name, own in groups.items() if own}
        self._in_backward = in_backward
        self._clip = chosen.clip_norm or math.inf
        self._generator = generator
        if in_backward:
            self._clip /= math.sqrt(len(self.groups))
            parts = self.groups
        else:
            parts = {"all": [p for own in self.groups.values() for p in own]}
        self._parts = {name: _Part(own, chosen, lr, generator) for name, own in parts.items()}
        self._norms: list[float] | None = None
        if in_backward:
            for name, part in self._parts.items():
                for p in part.parameters:
                    p.register_post_accumulate_grad_hook(partial(self._arrived, name))

    def begin(self, lr: float) -> None:
        """Drop the gradients of the last step and set the rate of this one."""
        for part in self._parts.values():
            part.begin(lr)
        self._norms = []

    def finish(self) -> float:
        """Step what has not stepped yet, and return the gradient's norm before clipping.

        Raises:
            NotFinite: the gradient is not (in the backward pass, it is raised there).
        """
        for name, part in self._parts.items():
            if not part.stepped:
                self._step(name)
        norms, self._norms = self._norms or [], None
        return math.hypot(*norms)

    def state(self) -> dict[str, Any]:
        """Everything the next step depends on, beside the parameters."""
        return {name: part.state() for name, part in self._parts.items()} | {"generator": self._generator.get_state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for name, part in self._parts.items():
            part.load_state(state[name])
        self._generator.set_state(state["generator"])

    def _arrived(self, name: str, parameter: Tensor) -> None:
        """A parameter's gradient is complete; the alignment's passes, outside of steps, are left alone."""
        if self._norms is not None and self._parts[name].complete(parameter):
            self._step(name)
            self._parts[name].drop()

    def _step(self, name: str) -> None:
        part = self._parts[name]
        norm = nn.utils.clip_grad_norm_(part.parameters, self._clip).item()
        if not math.isfinite(norm):
            broken = [
                group
                for group, own in self.groups.items()
                if any(p.grad is not None and not p.grad.isfinite().all() for p in own)
            ]
            raise NotFinite(f"of {broken[0]}" if broken else "as a whole (its norm overflows)")
        part.step()
        assert self._norms is not None
        self._norms.append(norm)


class _Part:
    """Parameters that step together, and their optimiser."""

    def __init__(
        self, parameters: list[nn.Parameter], chosen: OptimizerSettings, lr: float, generator: torch.Generator
    ) -> None:
        self.parameters = parameters
        self.stepped = False
        self._waiting: set[Tensor] = set()
        self._generator = generator
        # Parameters of half precision step as float32 copies that live as long as the step.
        self._copies = [nn.Parameter(p.detach().float()) if p.dtype == torch.bfloat16 else None for p in parameters]
        stepping = [p if copy is None else copy for p, copy in zip(parameters, self._copies, strict=True)]
        self._optimizer = build_optimizer(stepping, chosen, lr)
        self._release()

    def begin(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self.drop()
        self.stepped = False
        self._waiting = set(self.parameters)

    def complete(self, parameter: Tensor) -> bool:
        self._waiting.discard(parameter)
        return not self._waiting

    def drop(self) -> None:
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        pairs = [(p, copy) for p, copy in zip(self.parameters, self._copies, strict=True) if copy is not None]
        for p, copy in pairs:
            copy.data = p.float()
            copy.grad = None if p.grad is None else p.grad.float()
        with torch.autocast(self.parameters[0].device.type, enabled=False):
            self._optimizer.step()
        for p, copy in pairs:
            p.copy_(stochastically_rounded(copy, self._generator))
        self._release()
        self.stepped = True

    def state(self) -> dict[str, Any]:
        return self._optimizer.state_dict()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._optimizer.load_state_dict(dict(state))

    def _release(self) -> None:
        for copy in self._copies:
            if copy is not None:
                copy.data, copy.grad = torch.empty(0, device=copy.device), None


def build_optimizer(parameters: Sequence[nn.Parameter], chosen: OptimizerSettings, lr: float) -> torch.optim.Optimizer:
    """Matrices decay; norms and biases do not."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": chosen.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if chosen.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=chosen.beta1, fused=True)
    if chosen.name == "adafactor":
        return torch.optim.Adafactor(groups, lr=lr)
    return torch.optim.AdamW(groups, lr=lr, betas=(chosen.beta1, chosen.beta2), fused=True)


def stochastically_rounded(x: Tensor, generator: torch.Generator) -> Tensor:
    """float32 -> bfloat16, up or down at random so that the expectation is x.

    Random bits are added below bfloat16's last and the sum is cut there. (Zamirai et al. 2020, arXiv 2010.06192.)

    >>> x = torch.full((10_000,), 1 + 2**-9)  # between 1 and 1 + 2**-7
    >>> rounded = stochastically_rounded(x, torch.Generator().manual_seed(0))
    >>> rounded.dtype, sorted(set(rounded.tolist())), round(float(rounded.float().mean() - 1) * 2**9, 1)
    (torch.bfloat16, [1.0, 1.0078125], 1.0)
    """
    noise = torch.randint(0, 2**16, x.shape, generator=generator, device=generator.device, dtype=torch.int32)
    bits = x.contiguous().view(torch.int32) + noise.to(x.device)
    return (bits & -(2**16)).view(torch.float32).to(torch.bfloat16)
