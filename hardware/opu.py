"""The contract every optical processing unit meets, its input checks, its typed errors and its usage ledger.

A device multiplies a binary pattern on its mirrors by a fixed random complex matrix R, the transmission matrix of a
scattering medium, and a camera reads the intensity |Rx|². A backend supplies two measurements of binary patterns
(`_counts`, `_in_phase`); everything else, the checks, conversions, encodings of real inputs and the ledger, is here.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from hardware.encoding import exact_or_bit_planes

_NOISE_STREAM = 0x0B5E
Array = TypeVar("Array", np.ndarray, Tensor)


class DeviceError(Exception):
    """Base of every error a device raises."""


class DeviceUnavailable(DeviceError, RuntimeError):
    """No device of the requested kind answers; the message says what is missing and how to simulate instead."""


class DeviceInputError(DeviceError, ValueError):
    """The input cannot be shown on the device: non-binary, not finite, of the wrong width, or empty."""


class DeviceFault(DeviceError, RuntimeError):
    """The device answered wrongly or stopped answering; what was asked can be asked again."""


@dataclass(frozen=True)
class Usage:
    """What the physical device would have spent on everything asked so far.

    frames: camera frames; seconds: frames times the frame time; joules: seconds times the power drawn.
    """

    frames: int
    seconds: float
    joules: float


class OPU(ABC):
    """A fixed random projection of `n_features` inputs to `n_components` outputs, computed by light.

    Args:
        n_features: width of an input, at least 1.
        n_components: number of outputs, at least 1.
        frame_time: seconds a camera frame takes.
        power: watts the device draws.
        noise_seed: seeds whatever the host draws at random (the dither of real inputs, simulated camera noise).

    `transform` gives camera counts of |Rx|², `linear_transform` an unbiased estimate of Re(R)x. Inputs are one row a
    sample, `(batch, n_features)`; torch tensors give torch tensors on the same device, NumPy arrays NumPy arrays.
    """

    def __init__(self, n_features: int, n_components: int, *, frame_time: float, power: float, noise_seed: int) -> None:
        for name, value in (("n_features", n_features), ("n_components", n_components)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise DeviceInputError(f"{name} must be an integer of at least 1, got {value!r}")
        self.n_features = int(n_features)
        self.n_components = int(n_components)
        self.frame_time = frame_time
        self.power = power
        self._frames = 0
        self._noise_seed = int(noise_seed)
        self._generators: dict[str, torch.Generator] = {}

    @property
    @abstractmethod
    def identity(self) -> str:
        """What fixes the matrix: two devices with the same identity compute the same projection."""

    @property
    @abstractmethod
    def frames_per_projection(self) -> int:
        """Camera frames one binary pattern costs in `linear_transform`."""

    @abstractmethod
    def _counts(self, patterns: Tensor) -> Tensor:
        """Binary uint8 `(batch, n_features)` -> uint8 camera counts of the intensity `(batch, n_components)`."""

    @abstractmethod
    def _in_phase(self, patterns: Tensor) -> Tensor:
        """Binary uint8 `(batch, n_features)` -> float32 measurement of Re(R)x `(batch, n_components)`."""

    def transform(self, x: Array) -> Array:
        """Camera counts of |Rx|² for binary rows.

        Args:
            x: `(batch, n_features)`, every entry 0 or 1.

        Returns:
            uint8 counts `(batch, n_components)`; one frame a row.

        Raises:
            DeviceInputError: an entry is not 0 or 1, or the shape is wrong.
        """
        rows = self._rows(x)
        bad = rows[(rows != 0) & (rows != 1)]
        if bad.numel():
            raise DeviceInputError(
                f"transform shows binary patterns, every entry 0 or 1; got {bad[0].item():g}. "
                "Encode real values first (hardware.encoding), or use linear_transform."
            )
        counts = self._counts(rows.to(torch.uint8))
        self._frames += len(rows)
        return _like(x, counts)

    def linear_transform(self, x: Array) -> Array:
        """An unbiased estimate of Re(R)x for real rows; the rows of Re(R) have variance 1/n_features.

        A row of {0, s} is one pattern, of {-s, 0, s} two, anything else is shown as signed bit planes with a random
        dither (`hardware.encoding.BitPlanes`), which keeps the estimate unbiased. The ledger counts every pattern.

        Args:
            x: `(batch, n_features)`, finite real numbers.

        Returns:
            float32 `(batch, n_components)`.

        Raises:
            DeviceInputError: an entry is NaN or infinite, or the shape is wrong.
        """
        rows = self._rows(x)
        encoded = exact_or_bit_planes(rows.float(), self.generator(rows.device))
        projected = torch.stack([self._in_phase(bits) for bits in encoded.bits])
        self._frames += encoded.bits.shape[0] * len(rows) * self.frames_per_projection
        return _like(x, encoded.decode(projected))

    @property
    def usage(self) -> Usage:
        """Frames, seconds and joules of the physical device for what was asked so far."""
        seconds = self._frames * self.frame_time
        return Usage(self._frames, seconds, seconds * self.power)

    def generator(self, device: torch.device) -> torch.Generator:
        """The host's random stream on a torch device; measurement noise never touches the global one."""
        key = str(device)
        if key not in self._generators:
            # Hashed, so that a model drawn with torch.manual_seed(noise_seed) shares no numbers with the noise.
            hashed = np.random.SeedSequence([self._noise_seed, _NOISE_STREAM]).generate_state(1)[0]
            self._generators[key] = torch.Generator(device).manual_seed(int(hashed))
        return self._generators[key]

    def state(self) -> Tensor:
        """Identity, ledger and random streams as one uint8 tensor, for checkpoints."""
        streams = {k: bytes(g.get_state().tolist()).hex() for k, g in self._generators.items()}
        record = {"identity": self.identity, "frames": self._frames, "generators": streams}
        return torch.tensor(list(json.dumps(record).encode()), dtype=torch.uint8)

    def load_state(self, state: Tensor) -> None:
        """Continue from `state`.

        Raises:
            DeviceFault: the state belongs to a device with another matrix.
        """
        record = json.loads(bytes(state.tolist()).decode())
        if record["identity"] != self.identity:
            raise DeviceFault(
                f"this state was saved from the device [{record['identity']}], but the open device is "
                f"[{self.identity}]: another matrix would undo the training. Open the device it names."
            )
        self._frames = record["frames"]
        for key, saved in record["generators"].items():
            stream = torch.tensor(list(bytes.fromhex(saved)), dtype=torch.uint8)
            self.generator(torch.device(key)).set_state(stream)

    def close(self) -> None:  # noqa: B027
        """Release the device; closing twice is harmless."""

    def __enter__(self) -> OPU:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rows(self, x: np.ndarray | Tensor) -> Tensor:
        """The input as a checked tensor `(batch, n_features)`."""
        if not isinstance(x, (np.ndarray, Tensor)):
            raise DeviceInputError(f"a device takes a NumPy array or a torch tensor, got {type(x).__name__}")
        if isinstance(x, np.ndarray) and (x.dtype.kind not in "bif" and x.dtype.kind != "u"):
            raise DeviceInputError(f"a device takes real numbers, got an array of dtype {x.dtype}")
        rows = torch.as_tensor(x).detach()
        if rows.is_complex():
            raise DeviceInputError(f"a device takes real numbers, got a tensor of dtype {rows.dtype}")
        if rows.ndim != 2 or rows.shape[1] != self.n_features or len(rows) == 0:
            raise DeviceInputError(
                f"a device takes rows of shape (batch, {self.n_features}) with batch >= 1, got {tuple(rows.shape)}"
            )
        if rows.is_floating_point() and not torch.isfinite(rows).all():
            value = rows[~torch.isfinite(rows)][0].item()
            raise DeviceInputError(f"a device takes finite numbers, got {value}; check the computation before it")
        return rows


def _like(x: np.ndarray | Tensor, result: Tensor):  # type: ignore[no-untyped-def]
    """The result in the array library of the input."""
    return result.cpu().numpy() if isinstance(x, np.ndarray) else result
