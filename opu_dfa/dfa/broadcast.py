"""An error on the wire: rows of real numbers as one message of bytes, the same on every rank that reads it.

An error of K numbers is sent as it is, rounded to bfloat16, or as the patterns that a device would show: each entry
-, 0 or + in two bits, and a scale for each sign. What the sender itself learns from is read back from its message, so
that all ranks learn from the same error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from hardware import StochasticTernary

_A_BYTE = 4  # codes of two bits


class Wire(ABC):
    """How rows `(rows, width)` of float32 travel."""

    @abstractmethod
    def size(self, rows: int, width: int) -> int:
        """Bytes of a message."""

    @abstractmethod
    def pack(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The message, uint8 `(size,)`; random encodings draw from `generator`."""

    @abstractmethod
    def unpack(self, message: Tensor, rows: int, width: int) -> Tensor:
        """The rows that a message stands for, float32 `(rows, width)`."""


@dataclass(frozen=True)
class FloatWire(Wire):
    """Each entry in a floating-point type of PyTorch: 4 bytes exactly, 2 rounded to nearest.

    >>> wire, draw = FloatWire(torch.bfloat16), torch.Generator()
    >>> wire.unpack(wire.pack(torch.tensor([[1.0, 1 / 3]]), draw), 1, 2)
    tensor([[1.0000, 0.3340]])
    """

    dtype: torch.dtype = torch.float32

    def size(self, rows: int, width: int) -> int:
        return rows * width * self.dtype.itemsize

    def pack(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x.to(self.dtype).contiguous().view(torch.uint8).flatten()

    def unpack(self, message: Tensor, rows: int, width: int) -> Tensor:
        return message.view(self.dtype).view(rows, width).float()


@dataclass(frozen=True)
class TernaryWire(Wire):
    """The patterns of `hardware.StochasticTernary`: two bits an entry, two scales a row. Unbiased.

    Rows that are ternary already, as an operator with that encoding shows them, arrive as they are.

    >>> wire, draw = TernaryWire(), torch.Generator().manual_seed(0)
    >>> message = wire.pack(torch.tensor([[0.5, -0.25, 0.0, 0.5, -0.25]]), draw)
    >>> len(message), wire.unpack(message, rows=1, width=5)
    (10, tensor([[ 0.5000, -0.2500,  0.0000,  0.5000, -0.2500]]))
    """

    def size(self, rows: int, width: int) -> int:
        return rows * (8 + -(-width // _A_BYTE))

    def pack(self, x: Tensor, generator: torch.Generator) -> Tensor:
        patterns = StochasticTernary()(x.to(generator.device), generator)
        codes = patterns.bits[0] + 2 * patterns.bits[1]
        codes = torch.nn.functional.pad(codes, (0, -codes.shape[1] % _A_BYTE)).view(len(codes), -1, _A_BYTE)
        packed = (codes << _shifts(codes.device)).sum(dim=2, dtype=torch.uint8)
        scales = patterns.weights.T.contiguous().view(torch.uint8)
        return torch.cat((scales.flatten(), packed.flatten())).to(x.device)

    def unpack(self, message: Tensor, rows: int, width: int) -> Tensor:
        scales = message[: 8 * rows].view(torch.float32).view(rows, 2)
        packed = message[8 * rows :].view(rows, -1, 1)
        codes = ((packed >> _shifts(packed.device)) & 3).flatten(1)[:, :width].long()
        values = torch.nn.functional.pad(scales, (1, 0))  # of the codes 0, 1, 2: nothing, the positive, the negative
        return values.gather(1, codes)


WIRES: dict[str, Wire] = {
    "float32": FloatWire(),
    "bfloat16": FloatWire(torch.bfloat16),
    "ternary": TernaryWire(),
}


def _shifts(device: torch.device) -> Tensor:
    return torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=device)
