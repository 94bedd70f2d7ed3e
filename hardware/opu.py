"""The contract every optical processing unit meets, its input checks, its retries and its usage ledger.

A device multiplies a binary pattern on its mirrors by a fixed random complex matrix R, the transmission matrix of a
scattering medium, and a camera reads the intensity |Rx|². A backend supplies two measurements of binary patterns
(`_counts`, `_in_phase`); everything else, the checks, conversions, encodings of real inputs, repeated attempts and the
ledger, is here.
"""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from hardware.checks import binary_patterns, checked_rows, is_binary, like
from hardware.encoding import Encoding, Patterns, exact_or_bit_planes
from hardware.errors import DeviceError, DeviceFault, DeviceInputError, DeviceUnavailable, TransientFault

if TYPE_CHECKING:
    from hardware.calibration import Calibration, Fidelity

__all__ = ["OPU", "DeviceError", "DeviceFault", "DeviceInputError", "DeviceUnavailable", "TransientFault", "Usage"]

_log = logging.getLogger(__name__)
_NOISE_STREAM = 0x0B5E
_LARGEST_SIZE = 2**31 - 1
_LARGEST = 1e30  # of a real input: its projections stay within float32
_AT_ONCE = 2**25  # projected numbers of one linear_transform held before decoding
Array = TypeVar("Array", np.ndarray, Tensor)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Usage:
    """What the physical device would have spent on everything asked so far.

    frames: camera frames; seconds: frames times the frame time; joules: seconds times the power drawn; retries:
    measurements asked again after a transient fault.
    """

    frames: int
    seconds: float
    joules: float
    retries: int = 0


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
    A transient fault is retried `retries` times, first after `backoff` seconds and then each time after twice as long.
    """

    retries = 5
    backoff = 0.02

    def __init__(self, n_features: int, n_components: int, *, frame_time: float, power: float, noise_seed: int) -> None:
        for name, value in (("n_features", n_features), ("n_components", n_components)):
            whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
            if not whole or not 1 <= value <= _LARGEST_SIZE:
                raise DeviceInputError(f"{name} must be an integer from 1 to {_LARGEST_SIZE}, got {value!r}")
        if isinstance(noise_seed, bool) or not isinstance(noise_seed, (int, np.integer)) or not 0 <= noise_seed < 2**63:
            raise DeviceInputError(f"a seed is an integer from 0 to 2^63 - 1, got {noise_seed!r}")
        self.n_features = int(n_features)
        self.n_components = int(n_components)
        self.frame_time = frame_time
        self.power = power
        self._frames = 0
        self._retries = 0
        self._noise_seed = int(noise_seed)
        self._generators: dict[str, torch.Generator] = {}
        self._saved_streams: dict[str, np.ndarray] = {}
        self._one_at_a_time = threading.RLock()  # threads may share a device: it has one camera

    @property
    @abstractmethod
    def identity(self) -> str:
        """What fixes the matrix: two devices with the same identity compute the same projection."""

    @property
    @abstractmethod
    def frames_per_projection(self) -> int:
        """Camera frames one binary pattern costs in `linear_transform`."""

    @property
    @abstractmethod
    def intensity_per_count(self) -> float:
        """|Rx|² that one count of `transform` stands for, in the units in which Re(R) has variance 1/n_features."""

    @abstractmethod
    def _counts(self, patterns: Tensor, first_frame: int) -> Tensor:
        """Binary uint8 `(batch, n_features)` -> camera counts of the intensity `(batch, n_components)`."""

    @abstractmethod
    def _in_phase(self, patterns: Tensor, first_frame: int) -> Tensor:
        """Binary uint8 `(batch, n_features)` -> float32 measurement of Re(R)x `(batch, n_components)`."""

    largest_count = 255

    @property
    def calibration(self) -> Calibration | None:
        """The calibration in use, where there is one."""
        return None

    def ideal(self, x: Tensor) -> Tensor | None:
        """Re(R)x exactly, from a device that knows its R; None from one that does not."""
        return None

    def transform(self, x: Array) -> Array:
        """Camera counts of |Rx|² for binary rows.

        Args:
            x: `(batch, n_features)`, every entry 0 or 1.

        Returns:
            counts `(batch, n_components)`, uint8 (int32 from a camera of more than 8 bits); one frame a row.
            `intensity_per_count` turns them into |Rx|².

        Raises:
            DeviceInputError: an entry is not 0 or 1, or the shape is wrong.
            DeviceFault: the device fails and goes on failing.
        """
        patterns = binary_patterns(checked_rows(x, self.n_features))
        with self._one_at_a_time:
            counts = self._measure(lambda: self._counts(patterns, self._frames))
            self._frames += len(patterns)
        return like(x, counts)

    def linear_transform(self, x: Array, encoding: Encoding | None = None) -> Array:
        """An unbiased estimate of Re(R)x for real rows; the rows of Re(R) have variance 1/n_features.

        Rows of {0, s} are shown as one pattern each, of {-s, 0, s} as two, anything else as signed bit planes of
        8 bits with a random dither (`hardware.encoding.BitPlanes`), which keeps the estimate unbiased. The ledger
        counts every pattern.

        Args:
            x: `(batch, n_features)`, finite real numbers.
            encoding: how to show the rows, for instance `BitPlanes(n_bits=6)`; None chooses as above.

        Returns:
            float32 `(batch, n_components)`.

        Raises:
            DeviceInputError: an entry is NaN or infinite, or the shape is wrong.
            DeviceFault: the device fails and goes on failing.
        """
        rows = checked_rows(x, self.n_features)
        largest = rows.abs().amax().item() if rows.is_floating_point() else 0.0
        if largest > _LARGEST:
            raise DeviceInputError(
                f"linear_transform computes in float32: entries must be below {_LARGEST:g}, got {largest:g}; rescale"
            )
        with self._one_at_a_time:
            generator = self.generator(rows.device)
            before, frames = generator.get_state(), self._frames
            try:
                exact = self._measure(lambda: self._shown(rows)) if encoding is None else None
                if exact is not None:
                    return like(x, exact)
                encoded = encoding(rows.float(), generator) if encoding else _encoded(rows, generator)
                return like(x, self._project(encoded))
            except DeviceFault:
                # What is asked again is shown again with the same dither and the same noise.
                generator.set_state(before)
                self._frames = frames
                raise

    def _shown(self, rows: Tensor) -> Tensor | None:
        """Re(R)x of real rows without an encoding, from a device that can; it counts their frames itself."""
        return None

    def _project(self, encoded: Patterns) -> Tensor:
        """Measure every pattern, a row's patterns one after the other, and add them up by their weights."""
        bits = encoded.bits.transpose(0, 1)  # frames of a row in a row: their noise does not depend on the batch
        n_rows, n_patterns = bits.shape[:2]
        at_once = max(1, _AT_ONCE // (n_patterns * self.n_components))
        parts = []
        for start in range(0, n_rows, at_once):
            some = bits[start : start + at_once]
            flat = some.reshape(-1, self.n_features)
            seen = self._measure(lambda flat=flat: self._in_phase(flat, self._frames))  # type: ignore[misc]
            self._frames += len(flat) * self.frames_per_projection
            weights = encoded.weights[:, start : start + at_once].T
            if n_patterns == 1:
                parts.append(seen if (weights == 1).all() else seen.mul_(weights))
            else:
                parts.append(torch.einsum("bk,bkm->bm", weights, seen.view(len(some), n_patterns, -1)))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def calibrate(self) -> Calibration:
        """Measure exposure, scale and bad pixels anew, and use them from now on.

        Raises:
            DeviceUnavailable: this kind of device has nothing that can be calibrated from here.
        """
        raise DeviceUnavailable(f"{self.identity} calibrates itself; there is nothing to set from here")

    def fidelity(self, n_probes: int = 64) -> Fidelity:
        """How well the device does what it says, measured on random patterns (`hardware.calibration.fidelity`)."""
        from hardware.calibration import fidelity

        return fidelity(self, n_probes)

    def describe(self) -> dict[str, object]:
        """What a person would ask of the device: names and values, for `opu-dfa device info`."""
        return {
            "device": self.identity,
            "n_features": self.n_features,
            "n_components": self.n_components,
            "frame time [s]": self.frame_time,
            "power [W]": self.power,
            "frames per pattern, transform": 1,
            "frames per pattern, linear_transform": self.frames_per_projection,
        }

    @property
    def usage(self) -> Usage:
        """Frames, seconds and joules of the physical device for what was asked so far."""
        seconds = self._frames * self.frame_time
        return Usage(self._frames, seconds, seconds * self.power, self._retries)

    def generator(self, device: torch.device) -> torch.Generator:
        """The host's random stream on a torch device; measurement noise never touches the global one."""
        key = str(device)
        if key not in self._generators:
            # Hashed, so that a model drawn with torch.manual_seed(noise_seed) shares no numbers with the noise.
            hashed = np.random.SeedSequence([self._noise_seed, _NOISE_STREAM]).generate_state(1)[0]
            self._generators[key] = torch.Generator(device).manual_seed(int(hashed))
            if key in self._saved_streams:
                self._generators[key].set_state(torch.from_numpy(self._saved_streams.pop(key)))
        return self._generators[key]

    def state(self) -> Tensor:
        """Identity, ledger, random streams and calibration as one uint8 tensor, for checkpoints."""
        record = {
            "identity": self.identity,
            "frames": self._frames,
            "retries": self._retries,
            "noise_seed": self._noise_seed,
        }
        arrays = {f"calibration/{name}": array for name, array in self._calibration_arrays().items()}
        streams = self._saved_streams | {k: stream.get_state().numpy() for k, stream in self._generators.items()}
        arrays |= {f"generator/{device}": stream for device, stream in streams.items()}
        packed = io.BytesIO()
        arrays["record"] = np.frombuffer(json.dumps(record).encode(), np.uint8)
        np.savez(packed, **arrays)  # type: ignore[arg-type]
        return torch.frombuffer(bytearray(packed.getvalue()), dtype=torch.uint8)

    def load_state(self, state: Tensor) -> None:
        """Continue from `state`.

        Raises:
            DeviceFault: the state belongs to a device with another matrix.
        """
        try:
            with np.load(io.BytesIO(state.cpu().numpy().tobytes()), allow_pickle=False) as packed:
                arrays = dict(packed)
            record = json.loads(arrays.pop("record").tobytes().decode())
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise DeviceFault(f"this is not the state of a device, or it is damaged: {error}") from error
        if record["identity"] != self.identity:
            raise DeviceFault(
                f"this state was saved from the device [{record['identity']}], but the open device is "
                f"[{self.identity}]: another matrix would undo the training. Open the device it names."
            )
        self._frames, self._retries, self._noise_seed = record["frames"], record["retries"], record["noise_seed"]
        self._generators.clear()
        groups: dict[str, dict[str, np.ndarray]] = {"calibration": {}, "generator": {}}
        for name, array in arrays.items():
            group, _, key = name.partition("/")
            groups[group][key] = array
        self._saved_streams = groups["generator"]  # of a device that may not be here: used when it is asked for
        self._load_calibration_arrays(groups["calibration"])

    def _calibration_arrays(self) -> dict[str, np.ndarray]:
        """What a calibration has measured, by name."""
        return {}

    def _load_calibration_arrays(self, arrays: dict[str, np.ndarray]) -> None:  # noqa: B027
        """Use the arrays of `_calibration_arrays`."""

    def _arguments(self) -> dict[str, object]:
        """What the constructor must be given to open this device again."""
        raise DeviceUnavailable(f"a {type(self).__name__} cannot be opened again from a pickle; keep it open instead")

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled without its matrix: opened again where it is read, with the same ledger, noise and calibration."""
        return _open_again, (type(self), self._arguments(), self.state().numpy().tobytes())

    def __sklearn_clone__(self) -> OPU:
        """Clones of an estimator that was given a device share it, as there is only one."""
        return self

    def close(self) -> None:  # noqa: B027
        """Release the device; closing twice is harmless."""

    def __enter__(self) -> OPU:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _measure(self, ask: Callable[[], Answer]) -> Answer:
        """The answer, after as many attempts as it takes and the device is worth."""
        for attempt in range(self.retries + 1):
            try:
                return ask()
            except TransientFault as fault:
                if attempt == self.retries:
                    raise DeviceFault(
                        f"the device failed {self.retries + 1} times in a row, last with: {fault}. "
                        "Nothing was changed; ask again when it answers."
                    ) from fault
                wait = self.backoff * 2**attempt
                self._retries += 1
                _log.warning("transient device fault, asking again in %.2f s: %s", wait, fault)
                time.sleep(wait)
        raise AssertionError("unreachable")


def _open_again(kind: type[OPU], arguments: dict[str, object], state: bytes) -> OPU:
    opu = kind(**arguments)  # type: ignore[arg-type]
    opu.load_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    return opu


def _encoded(rows: Tensor, generator: torch.Generator) -> Patterns:
    """The cheapest exact patterns of the rows, or dithered bit planes."""
    if is_binary(rows):
        return Patterns(rows.to(torch.uint8)[None], torch.ones(1, len(rows), device=rows.device))
    return exact_or_bit_planes(rows.float(), generator)
