"""One device, many users: a device offered on a socket, requests of several clients shown together."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardware.errors import DeviceError, DeviceFault, DeviceInputError, DeviceUnavailable
from hardware.opu import OPU
from hardware.remote import LARGEST_MESSAGE, SERVICE, channel_options, pack_message, unpack_message

_log = logging.getLogger(__name__)


class _AnotherDevice(DeviceFault):
    """The request is for a device that was here before."""


@dataclass(eq=False)
class _Request:
    """Patterns to show for one client, who may have gone by the time it is their turn."""

    method: str
    patterns: Tensor
    n_components: int
    wanted: Callable[[], bool]
    answer: Future[bytes]

    def give(self, answer: bytes | DeviceError) -> None:
        """Wake whoever waits; the first answer counts."""
        with contextlib.suppress(InvalidStateError):
            if isinstance(answer, bytes):
                self.answer.set_result(answer)
            else:
                self.answer.set_exception(answer)


class DeviceServer:
    """Offers a device to other processes; `RemoteOPU` is the client.

    Args:
        opu: the device; only the server uses it from now on.
        host: where to listen; an address that is not loopback needs a token.
        port: 0 chooses a free one.
        token: what clients must present. It travels unencrypted: beyond one machine, use a tunnel.
        rows_at_once: rows of different requests that are shown in one go.
        largest_message: bytes of a request or an answer beyond which it is refused.

    Requests queue, one thread asks the device; what waits for the same measurement is asked together. A client that
    is gone is skipped.

    Raises:
        DeviceInputError: a public address without a token.
        DeviceUnavailable: the address cannot be listened on.

    >>> from hardware import SimulatedOPU, open_opu
    >>> with DeviceServer(SimulatedOPU(16, 8)) as server, open_opu(f"remote://{server.address}") as opu:
    ...     opu.transform(torch.ones(2, 16)).shape
    torch.Size([2, 8])
    """

    def __init__(
        self,
        opu: OPU,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str = "",
        rows_at_once: int = 4096,
        largest_message: int = LARGEST_MESSAGE,
    ) -> None:
        import grpc

        if not token.isascii() or not token.isprintable():
            raise DeviceInputError("a token is printable ASCII")
        if not token and not _is_loopback(host):
            raise DeviceInputError(
                f"{host} can be reached from other machines: set a token (OPU_DFA_TOKEN), or listen on 127.0.0.1"
            )
        self.opu, self._token, self._rows_at_once = opu, token, rows_at_once
        self._queue: queue.Queue[_Request | None] = queue.Queue()
        self._held: _Request | None = None
        self._asked: list[_Request] = []
        self._largest_message = largest_message
        options = [*channel_options(largest_message), ("grpc.so_reuseport", 0)]
        self._server = grpc.server(ThreadPoolExecutor(32, thread_name_prefix="opu-client"), options=options)
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(self._guarded(self._queued(name)))
            for name in ("Describe", "Counts", "InPhase")
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = self._server.add_insecure_port(place)
        except RuntimeError as error:
            raise DeviceUnavailable(
                f"cannot listen on {place}: {error}. Choose another port, or 0 for a free one"
            ) from error
        self.address = f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"
        self._worker = threading.Thread(target=self._work, name="opu-device", daemon=True)
        self._worker.start()
        self._server.start()

    def close(self, grace: float = 5.0) -> None:
        """Stop listening, answer what has begun within `grace` seconds, and release the device."""
        stopped = self._server.stop(grace)
        self._queue.put(None)
        self._worker.join(grace)
        self._dismiss()
        stopped.wait()
        self._dismiss()  # who came while it stopped
        self.opu.close()

    def _dismiss(self) -> None:
        """Give everyone who still waits an error, so that no thread waits for ever."""
        left = [*self._asked, self._held]
        with contextlib.suppress(queue.Empty):
            while True:
                left.append(self._queue.get_nowait())
        for request in left:
            if request is not None:
                request.give(DeviceFault("the server is closing"))

    def __enter__(self) -> DeviceServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _guarded(self, handler: Callable[[bytes, Any], bytes]) -> Callable[[bytes, Any], bytes]:
        """The handler, behind the token, its errors as gRPC's status codes."""
        import grpc

        def guarded(message: bytes, context: Any) -> bytes:
            presented = dict(context.invocation_metadata()).get("authorization", "")
            if self._token and not hmac.compare_digest(presented.encode(), f"Bearer {self._token}".encode()):
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "asks for a token: set OPU_DFA_TOKEN to the server's")
            try:
                return handler(message, context)
            except _AnotherDevice as error:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
            except DeviceInputError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            except DeviceError as error:
                context.abort(grpc.StatusCode.ABORTED, str(error))
            raise AssertionError("abort raises")

        return guarded

    def _describe(self) -> bytes:
        opu = self.opu
        facts = {
            "identity": opu.identity,
            "n_features": opu.n_features,
            "n_components": opu.n_components,
            "frame_time": opu.frame_time,
            "power": opu.power,
            "frames_per_projection": opu.frames_per_projection,
            "intensity_per_count": opu.intensity_per_count,
            "largest_count": opu.largest_count,
            "largest_message": self._largest_message,
            "description": {name: str(value) for name, value in opu.describe().items()},
        }
        return pack_message(facts=json.dumps(facts))

    def _queued(self, method: str) -> Callable[[bytes, Any], bytes]:
        def handler(message: bytes, context: Any) -> bytes:
            asks = method != "Describe"
            patterns, n_components = self._checked(unpack_message(message)) if asks else (torch.empty(0), 0)
            request = _Request(method, patterns, n_components, context.is_active, Future())
            self._queue.put(request)
            return request.answer.result()

        return handler

    def _checked(self, arrays: dict[str, np.ndarray]) -> tuple[Tensor, int]:
        """The patterns of a request.

        Raises:
            DeviceInputError: fields missing, of another type or of impossible shape.
        """
        if set(arrays) != {"bits", "n_components", "identity"}:
            held = ", ".join(sorted(arrays)) or "nothing"
            raise DeviceInputError(f"a request holds bits, identity and n_components, got {held}")
        meant = arrays["identity"].tobytes().decode(errors="replace")
        if meant != self.opu.identity:
            raise _AnotherDevice(f"it is [{self.opu.identity}], not [{meant[:200]}], and its matrix is another")
        bits, asked = arrays["bits"], arrays["n_components"]
        width = (self.opu.n_features + 7) // 8
        if bits.dtype != np.uint8 or bits.ndim != 2 or bits.shape[1] != width or len(bits) == 0:
            raise DeviceInputError(
                f"bits are uint8 of shape (batch, {width}) with batch >= 1, got {bits.dtype} {bits.shape}"
            )
        if asked.dtype != np.int64 or asked.size != 1 or not 1 <= asked.item() <= self.opu.n_components:
            raise DeviceInputError(f"n_components is an integer from 1 to {self.opu.n_components}, got {asked}")
        answer = len(bits) * int(asked.item()) * 4
        if max(answer, len(bits) * self.opu.n_features) > 8 * self._largest_message:
            raise DeviceInputError(
                f"{len(bits)} rows of {self.opu.n_features} mirrors and {asked} outputs are more than a message may "
                f"stand for, {8 * self._largest_message} bytes; send fewer rows at a time"
            )
        return torch.from_numpy(np.unpackbits(bits, axis=1, count=self.opu.n_features)), int(asked.item())

    def _work(self) -> None:
        """Ask the device, request after request, those for the same measurement together."""
        while (first := self._held or self._queue.get()) is not None:
            self._held = None
            self._asked = [first]
            rows = len(first.patterns)
            while True:
                try:
                    another = self._queue.get_nowait()
                except queue.Empty:
                    break
                if another is None:
                    self._queue.put(None)  # the end waits until what came before is answered
                    break
                rows += len(another.patterns)
                if another.method != first.method or rows > self._rows_at_once:
                    self._held = another
                    break
                self._asked.append(another)
            self._answer(self._asked)
            self._asked = []

    def _answer(self, requests: list[_Request]) -> None:
        """Measure for those who still wait, together; everyone gets an answer or an error."""
        wanted = [request for request in requests if request.wanted()]
        for request in requests:
            if request not in wanted:
                request.give(DeviceFault("the client is gone"))
        if not wanted:
            return
        try:
            for request, answer in zip(wanted, self._measured(wanted), strict=True):
                request.give(answer)
        except Exception as error:
            _log.warning("a measurement for %d clients failed: %s", len(wanted), error)
            for request in wanted:
                unknown = DeviceFault(f"{type(error).__name__}: {error}")
                request.give(error if isinstance(error, DeviceError) else unknown)

    def _measured(self, requests: list[_Request]) -> list[bytes]:
        if requests[0].method == "Describe":
            return [self._describe()] * len(requests)
        ask = self.opu.transform if requests[0].method == "Counts" else self.opu.linear_transform
        answers = ask(torch.cat([request.patterns for request in requests]))
        parts = answers.split([len(request.patterns) for request in requests])
        return [
            pack_message(values=part[:, : request.n_components].numpy())
            for request, part in zip(requests, parts, strict=True)
        ]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
