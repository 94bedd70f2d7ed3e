"""A device that another process serves: the client, and what travels between the two.

Every request and answer is one safetensors message (arrays with names, no code), sent by gRPC. Patterns travel
bit-packed, eight mirrors to a byte. `hardware.server` is the other end.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardware.errors import DeviceFault, DeviceInputError, DeviceUnavailable, TransientFault
from hardware.opu import OPU

SERVICE = "opu.Device"
LARGEST_MESSAGE = 2**26  # bytes
TOKEN_VARIABLE = "OPU_DFA_TOKEN"
_SCHEME = "remote://"


def channel_options(largest_message: int = LARGEST_MESSAGE) -> list[tuple[str, int]]:
    """gRPC's limits on message size, the same at both ends."""
    return [("grpc.max_send_message_length", largest_message), ("grpc.max_receive_message_length", largest_message)]


def pack_message(**arrays: np.ndarray | str) -> bytes:
    """Named arrays and texts as one message."""
    from safetensors.numpy import save

    texts = {k: np.frombuffer(v.encode(), np.uint8) for k, v in arrays.items() if isinstance(v, str)}
    return save({k: np.asarray(v, order="C") for k, v in (arrays | texts).items()})


def unpack_message(message: bytes) -> dict[str, np.ndarray]:
    """The inverse of `pack_message`; texts stay bytes.

    Raises:
        DeviceInputError: the message is malformed.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(message)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DeviceInputError(f"malformed message of {len(message)} bytes: {error}") from error


class RemoteOPU(OPU):
    """The device that `opu-dfa device serve` offers, behind the `OPU` contract.

    Args:
        address: "remote://host:port" or "host:port".
        n_features, n_components: None takes the served device's; n_components may be fewer, its first outputs.
        noise_seed: seeds the dither of real inputs, which are encoded on this side.
        token: what the server asks for, from the environment variable OPU_DFA_TOKEN if None.
        timeout: seconds to wait for an answer.

    The ledger counts what this client asked. A connection that breaks is a `TransientFault`, tried again and then
    raised as `DeviceFault`; the next call connects anew. Every request names the device it is for: another one behind
    the same address refuses it.

    Raises:
        DeviceUnavailable: nothing answers at the address, or it does not accept the token.
        DeviceInputError: sizes that the served device does not have.
    """

    def __init__(
        self,
        address: str,
        n_features: int | None = None,
        n_components: int | None = None,
        noise_seed: int = 0,
        token: str | None = None,
        timeout: float = 600.0,
    ) -> None:
        self._address = address.removeprefix(_SCHEME)
        self._token = os.environ.get(TOKEN_VARIABLE, "") if token is None else token
        if not self._token.isascii() or not self._token.isprintable():
            raise DeviceInputError("a token is printable ASCII")
        self._timeout = timeout
        self._channel: Any = None
        self._closed = False
        try:
            facts = self._ask_facts()
        except DeviceFault as fault:
            raise DeviceUnavailable(
                f"no device answers at {self._address}: {fault}. Start one with `opu-dfa device serve`, or choose "
                'open_opu("simulated", ...) (on the command line: opu=simulated) to run without.'
            ) from fault
        self._facts = facts
        if n_features not in (None, facts["n_features"]):
            self.close()
            raise DeviceInputError(
                f"the device at {self._address} has n_features = {facts['n_features']}, got {n_features}"
            )
        if n_components is not None and n_components > facts["n_components"]:
            self.close()
            raise DeviceInputError(
                f"the device at {self._address} has n_components = {facts['n_components']}, got {n_components}"
            )
        super().__init__(
            facts["n_features"],
            facts["n_components"] if n_components is None else n_components,
            frame_time=facts["frame_time"],
            power=facts["power"],
            noise_seed=noise_seed,
        )

    @property
    def identity(self) -> str:
        whole = self.n_components == self._facts["n_components"]
        return self._facts["identity"] + ("" if whole else f", the first {self.n_components} outputs")

    @property
    def frames_per_projection(self) -> int:
        return self._facts["frames_per_projection"]

    @property
    def intensity_per_count(self) -> float:
        return self._facts["intensity_per_count"]

    @property
    def largest_count(self) -> int:  # type: ignore[override]
        return self._facts["largest_count"]

    def describe(self) -> dict[str, object]:
        return {"address": self._address} | self._facts["description"] | {"n_components": self.n_components}

    def _arguments(self) -> dict[str, object]:
        return {
            "address": self._address,
            "n_features": self.n_features,
            "n_components": self.n_components,
            "noise_seed": self._noise_seed,
            "timeout": self._timeout,
        }

    def _counts(self, patterns: Tensor, first_frame: int) -> Tensor:
        return self._measured("Counts", patterns)

    def _in_phase(self, patterns: Tensor, first_frame: int) -> Tensor:
        return self._measured("InPhase", patterns)

    def _measured(self, method: str, patterns: Tensor) -> Tensor:
        """The answers for all rows, as many at a time as fit a message."""
        if self._closed:
            raise DeviceInputError("this connection is closed; open the device again")
        packed = np.packbits(patterns.cpu().numpy(), axis=1)
        at_once = max(1, self._facts["largest_message"] // 2 // max(4 * self.n_components, packed.shape[1]))
        width, identity = np.array(self.n_components), self._facts["identity"]
        answers = []
        for start in range(0, len(packed), at_once):
            message = pack_message(bits=packed[start : start + at_once], n_components=width, identity=identity)
            answers.append(torch.from_numpy(unpack_message(self._call(method, message))["values"]))
        return torch.cat(answers).to(patterns.device)

    def _ask_facts(self) -> dict[str, Any]:
        return json.loads(unpack_message(self._call("Describe", b""))["facts"].tobytes().decode())

    def _call(self, method: str, message: bytes) -> bytes:
        import grpc

        if self._channel is None:
            self._channel = grpc.insecure_channel(self._address, options=channel_options())
        try:
            return self._channel.unary_unary(f"/{SERVICE}/{method}")(
                message, timeout=self._timeout, metadata=(("authorization", f"Bearer {self._token}"),)
            )
        except grpc.RpcError as error:
            code, reason = error.code(), error.details()
            if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED):
                raise DeviceInputError(f"the device at {self._address} refused: {reason}") from error
            if code == grpc.StatusCode.FAILED_PRECONDITION:
                raise DeviceFault(f"another device answers at {self._address}: {reason}") from error
            self._disconnect()
            if code == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise DeviceFault(f"the device at {self._address} did not answer in {self._timeout} s") from error
            if code == grpc.StatusCode.UNAUTHENTICATED:
                raise DeviceUnavailable(f"the device at {self._address} {reason}") from error
            if code == grpc.StatusCode.ABORTED:
                raise DeviceFault(f"the device at {self._address} failed: {reason}") from error
            raise TransientFault(f"the device at {self._address} does not answer: {code.name}, {reason}") from error

    def _disconnect(self) -> None:
        if self._channel is not None:
            with contextlib.suppress(Exception):
                self._channel.close()
        self._channel = None

    def close(self) -> None:
        self._closed = True
        self._disconnect()
