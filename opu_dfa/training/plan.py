"""What a run will take, before it runs: memory, FLOPs, and the device's frames, seconds and joules.

The model is made of PyTorch's fake tensors, which know shapes and no numbers, and one step is traced with them: what
each block saves for its gradient, how many FLOPs it takes. From these the peak of a step's memory follows:

    peak = weights + optimizer state + feedback + max over blocks l, backward, of
           (what blocks before l hold + what l holds and works with + gradients of l and of the blocks behind it)

where `memory.recompute` leaves the blocks before l their inputs alone, `memory.step_in_backward` the gradients of l
alone, and `memory.offload` nothing of what is held. Frozen blocks save nothing. What PyTorch and Python take comes on
top.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_map

from opu_dfa.config import parse
from opu_dfa.dfa import DirectFeedback, Feedback
from opu_dfa.dfa.blocks import call, resolve_blocks, tensors
from opu_dfa.dfa.feedback import signal_width
from opu_dfa.dfa.probe import measure
from opu_dfa.errors import ConfigError
from opu_dfa.models import build_model
from opu_dfa.seeds import stream
from opu_dfa.tasks import Task
from opu_dfa.training.learner import freeze_blocks
from opu_dfa.training.operator import ENCODINGS, FeedbackSettings
from opu_dfa.training.settings import MemorySettings, Method, TrainSettings

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

_LARGE = 2**24  # parameters of a model that is planned before it is made
_STATE = {"adamw": 2, "sgd": 1, "adafactor": 0}  # numbers of optimiser state a weight


@dataclass(frozen=True)
class Held:
    """Bytes of a block, or of what follows all blocks: given to it, saved within it, its largest tensor, and its
    trained weights."""

    inputs: int = 0
    saved: int = 0
    largest: int = 0
    trained: int = 0


@dataclass(frozen=True)
class Plan:
    """What one method's training takes.

    Attributes:
        parameters: how many numbers; weights, state, feedback: bytes held all the time.
        parts: the blocks in order, then what follows them.
        forward_flops, flops: matrix products of a forward pass, and of a whole step without recomputation.
        patterns: binary patterns that a step shows the device, 0 without one.
        memory: the settings by which `peak` is reckoned.
    """

    method: str
    parameters: int
    weights: int
    state: int
    feedback: int
    parts: tuple[Held, ...]
    forward_flops: int
    flops: int
    patterns: int
    memory: MemorySettings

    @property
    def peak(self) -> int:
        """Bytes of tensors at the fullest moment of a step."""
        memory, full = self.memory, 0
        for at, part in enumerate(self.parts):
            before = [0 if memory.offload else p.inputs if memory.recompute else p.saved for p in self.parts[:at]]
            behind = 0 if memory.step_in_backward else sum(p.trained for p in self.parts[at + 1 :])
            within = part.saved + 2 * part.largest  # a gradient comes in and one goes out of what is largest
            full = max(full, sum(before) + within + part.trained + behind)
        return self.weights + self.state + self.feedback + full

    def sparing(self, **switches: bool) -> Plan:
        """The same with these memory settings, by name."""
        return replace(self, memory=MemorySettings(**{**vars(self.memory), **switches}))

    def within(self, free: int) -> MemorySettings | None:
        """The memory settings with as few switches on as fit `free` bytes, in the order of what they cost: no time, a
        forward pass, the disk's time. None where nothing helps."""
        wanted = self
        for switch in ("", "step_in_backward", "recompute", "offload"):
            wanted = wanted.sparing(**({switch: True} if switch else {}))
            if wanted.peak <= free:
                return wanted.memory
        return None

    @property
    def flops_per_step(self) -> int:
        """Of matrix products, recomputation included."""
        return self.flops + (self.forward_flops if self.memory.recompute else 0)


def plan(run: TrainSettings, task: Task, method: Method) -> Plan:
    """Trace one step of a method without its numbers.

    Raises:
        ConfigError: settings that do not fit each other.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    x, y = task.batch(run.batch_size, stream(run.seed, "probe"))
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            return _traced(run, task, method, *tree_map(fake.from_tensor, (x, y)))
    except (NotImplementedError, RuntimeError):  # shapes that depend on numbers: such models are small
        return _traced(run, task, method, x, y)


def _traced(run: TrainSettings, task: Task, method: Method, x: Any, y: Any) -> Plan:
    model, layout = build_model(run.model, task, run.seed)
    if run.memory.weights == "bfloat16":
        model.to(torch.bfloat16)
    blocks = resolve_blocks(model, layout.taps)
    if method == "frozen":
        freeze_blocks(model, layout)
    engine, feedback, projection, patterns = None, 0, 0, 0
    with run.precision():
        if method == "dfa":
            chosen = parse(FeedbackSettings, run.feedback, "feedback")
            error_at, through = chosen.route(layout)
            sizes = measure(model, layout.taps, x, error_at, through)
            n_components = signal_width(sizes.widths, chosen.layout)
            n_shown, rows = chosen.sketch or sizes.n_features, math.prod(sizes.lead)
            engine = DirectFeedback(model, layout.taps, _Shapes(sizes.n_features, n_components), error_at, through)
            if chosen.name == "optical":
                feedback = 8 * n_shown * n_components  # of the simulated medium, whose entries are complex
                patterns = rows * ENCODINGS[str(chosen.encoding)].n_patterns
            else:
                feedback = 4 * n_shown * n_components
                projection = 2 * rows * n_shown * n_components
        parts, forward, flops = _step(model, blocks, engine, task, x, y)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Plan(
        method,
        sum(p.numel() for p in model.parameters()),
        sum(t.nbytes for t in (*model.parameters(), *model.buffers())),
        _STATE[run.optimizer.name] * 4 * trained,
        feedback,
        parts,
        forward,
        flops + projection,
        patterns,
        run.memory,
    )


def _step(
    model: nn.Module, blocks: Mapping[str, nn.Module], engine: DirectFeedback | None, task: Task, x: Any, y: Any
) -> tuple[tuple[Held, ...], int, int]:
    """What the blocks, and what follows them, hold; FLOPs of the forward pass, and of the whole step."""
    with _flop_counter() as counter:
        with _watched(model, blocks) as parts:
            out = call(model, x)
            loss = task.loss(out, y)
        forward = counter.get_total_flops()
        if engine is not None:
            engine.backward(loss, out)
        elif loss.requires_grad:
            loss.backward()
    return tuple(parts), forward, counter.get_total_flops()


def _flop_counter() -> FlopCounterMode:
    """PyTorch's counter, which does not know the processor's kernel of attention by itself."""
    # Imported here, since it takes long: runs of small models are not planned.
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    aten = torch.ops.aten
    attention = {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: (
            sdpa_backward_flop_count(g, q, k, v)
        ),
    }
    counter = FlopCounterMode(display=False, custom_mapping=attention)
    counter.mod_tracker = _OneModule()  # type: ignore[assignment]
    return counter


class _OneModule:
    """In place of PyTorch's tracker of modules, whose gradient hooks break in a block's backward pass by itself: only
    the sum over modules is wanted."""

    parents = ("Global",)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@contextmanager
def _watched(model: nn.Module, blocks: Mapping[str, nn.Module]) -> Iterator[list[Held]]:
    """Notes what forward passes save: in one part for each block, what stands before it included, and one behind."""
    parts: list[Held] = []
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    seen: dict[int, torch.UntypedStorage] = {}  # kept, so that no other takes its place
    under_way = Held()

    def pack(tensor: Tensor) -> Tensor:
        nonlocal under_way
        storage = tensor.untyped_storage()
        if storage._cdata not in weights and storage._cdata not in seen:
            seen[storage._cdata] = storage
            size = storage.nbytes()
            under_way = replace(under_way, saved=under_way.saved + size, largest=max(under_way.largest, tensor.nbytes))
        return tensor

    def enter(block: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal under_way
        under_way = replace(under_way, inputs=sum(t.nbytes for t in tensors((*args, *kwargs.values()))))

    def leave(block: nn.Module, args: Any, output: Any) -> None:
        nonlocal under_way
        parts.append(replace(under_way, trained=_trained(block)))
        under_way = Held()

    hooks = [b.register_forward_pre_hook(enter, with_kwargs=True) for b in blocks.values()]
    hooks += [b.register_forward_hook(leave) for b in blocks.values()]
    try:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            yield parts
    finally:
        for hook in hooks:
            hook.remove()
    parts.append(replace(under_way, trained=_trained(model) - sum(part.trained for part in parts)))


class _Shapes(Feedback):
    """An operator of which only the shapes are known."""

    def project(self, shown: Tensor) -> Tensor:
        return shown.new_empty(len(shown), self.n_components)


def _trained(module: nn.Module) -> int:
    return sum(p.nbytes for p in module.parameters() if p.requires_grad)


def available_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip() if (group / "memory.max").exists() else "max"
        if limit != "max":
            free = min(free, int(limit) - int((group / "memory.current").read_text()))
        return free
    except (OSError, StopIteration, ValueError):
        return None


def is_large(run: TrainSettings, task: Task) -> bool:
    """Whether the model is one to plan before it is made; it is counted on the meta device, where it has no numbers."""
    try:
        with torch.device("meta"):
            model, _ = build_model(run.model, task, run.seed)
    except (NotImplementedError, RuntimeError):
        return False
    return sum(p.numel() for p in model.parameters()) >= _LARGE


def refuse_what_cannot_fit(run: TrainSettings, task: Task, method: Method) -> None:
    """Look ahead, before anything of a large model is made.

    Raises:
        ConfigError: a step's peak is more than the memory that is free; it says what would fit.
    """
    free = available_memory(run.torch_device)
    if free is None:
        return
    planned = plan(run, task, method)
    if planned.peak > free:
        raise ConfigError(f"{method} {lack(planned, free)}")


def lack(planned: Plan, free: int) -> str:
    """Why a plan does not fit, and what would, as the rest of a sentence that begins with the method."""
    fitting = planned.within(free)
    needs = f"needs {planned.peak / 1e9:.1f} GB a step, and {free / 1e9:.1f} GB are free"
    if fitting is None:
        return (
            f"{needs}; no memory setting helps enough. Take a smaller model or batch_size, optimizer.name=adafactor "
            f"({planned.state / 1e9:.1f} GB are the optimiser's), or memory.weights=bfloat16"
        )
    words = [
        f"memory.{name}=true" for name, on in vars(fitting).items() if on is True and not vars(planned.memory)[name]
    ]
    return f"{needs}. It fits with {' '.join(words)} ({replace(planned, memory=fitting).peak / 1e9:.1f} GB)"
