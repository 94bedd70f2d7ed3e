"""The processes of a pipeline: which stage and which replica each holds, and what they send each other.

Of `world` ranks, `world / replicas` in a row hold the stages of one pipeline; ranks that hold the same stage of several
replicas sum their gradients. Works on any backend of `torch.distributed`: gloo between CPUs, NCCL between GPUs.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from opu_dfa.errors import ConfigError, RankLostError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_ROLL_CALL = 2.0  # seconds that survivors of a failed collective have to say that they are alive
_OURS = ("gloo", "nccl", "timed out", "connection", "socket", "process group")


@dataclass(frozen=True)
class Arriving:
    """A tensor on its way here."""

    tensor: Tensor
    work: dist.Work
    ranks: Ranks
    source: int

    def wait(self) -> Tensor:
        """The tensor, when it is here.

        Raises:
            RankLostError: it does not come.
        """
        with self.ranks.watched(self.source):
            self.work.wait()
        return self.tensor


class Ranks:
    """This process among those of a run. Collective: every rank makes one, after `init_process_group`.

    Args:
        replicas: pipelines side by side, each with its share of the batch.
        timeout: seconds that a rank waits for another.
        store: where survivors of a lost rank find out which it was.

    Attributes:
        stage, n_stages; replica, n_replicas: where this process stands.
        group, group_of_errors: its pipeline's ranks, twice: activations and errors cross each other between two ranks,
            and an NCCL communicator runs its transfers in order.
        twins: the ranks that hold the same stage.
        bytes_sent: to other stages, by this process.
    """

    def __init__(self, replicas: int = 1, timeout: float = 60.0, store: Store | None = None) -> None:
        self.rank, world = dist.get_rank(), dist.get_world_size()
        if world % replicas:
            raise ConfigError(f"{world} ranks cannot hold {replicas} replicas of a pipeline: start a multiple of them")
        self.n_replicas, self.n_stages = replicas, world // replicas
        self.replica, self.stage = divmod(self.rank, self.n_stages)
        self.bytes_sent = 0
        self._store = store
        self._sending: list[tuple[dist.Work, int, Tensor]] = []
        grid = torch.arange(world).view(replicas, self.n_stages)
        limit = timedelta(seconds=timeout)
        with self.watched(None):
            rows = [[_group(row, limit) for _ in range(2)] for row in grid]
            columns = [_group(column, limit) for column in grid.T]
        self.group, self.group_of_errors = rows[self.replica]
        self.twins = columns[self.stage]
        self._members = grid[self.replica].tolist()

    @property
    def first(self) -> bool:
        return self.stage == 0

    @property
    def last(self) -> bool:
        return self.stage == self.n_stages - 1

    def send(self, tensor: Tensor, stage: int, error: bool = False) -> None:
        """Start a transfer to another stage; `flush` waits for it."""
        tensor = tensor.detach().contiguous()
        target = self._members[stage]
        with self.watched(target):
            work = dist.isend(tensor, target, group=self.group_of_errors if error else self.group)
        if work is not None:
            self._sending.append((work, target, tensor))
        self.bytes_sent += tensor.nbytes

    def receive(self, buffer: Tensor, stage: int, error: bool = False) -> Arriving:
        """Take the next transfer from another stage into a buffer; other work may go on until `wait`."""
        source = self._members[stage]
        with self.watched(source):
            work = dist.irecv(buffer, source, group=self.group_of_errors if error else self.group)
        assert work is not None
        return Arriving(buffer, work, self, source)

    def flush(self) -> None:
        """Wait until what was sent has left."""
        for work, target, _ in self._sending:
            with self.watched(target):
                work.wait()
        self._sending.clear()

    def sum(self, tensor: Tensor, over: Literal["twins", "all"]) -> Tensor:
        """The sum of a tensor over the replicas of this stage, or over all ranks; in place."""
        with self.watched(None):
            dist.all_reduce(tensor, group=self.twins if over == "twins" else None)
        return tensor

    def tell(self, what: Any) -> Any:
        """What the last stage has, on all stages of this pipeline."""
        told = [what]
        with self.watched(None):
            dist.broadcast_object_list(told, self._members[-1], group=self.group)
        return told[0]

    @contextmanager
    def watched(self, peer: int | None) -> Iterator[None]:
        """Within, a transfer that fails is a lost rank: `peer`, or, in a collective, one that does not answer.

        Raises:
            RankLostError: names it.
        """
        try:
            yield
        except RuntimeError as error:
            text = str(error)
            ours = peer is not None or isinstance(error, dist.DistError)
            if isinstance(error, RankLostError) or not (ours or any(word in text.lower() for word in _OURS)):
                raise
            found = self._lost(peer)
            who = f"rank {found}" if found is not None else "another rank"
            raise RankLostError(
                f"{who} has died or does not answer (rank {self.rank} of {dist.get_world_size()} waited for it: "
                f"{text.splitlines()[0][:200]}). Look at what that rank printed last, and start the run again; a "
                "rank that is only slow needs a larger pipeline.timeout."
            ) from error

    def _lost(self, peer: int | None) -> int | None:
        """The rank that failed first: survivors note whom they waited for, and a note is followed to its end."""
        if self._store is None:
            return peer
        store = self._store
        with suppress(RuntimeError):  # the store may be gone too
            store.set(f"lost/{self.rank}", str(peer))
            if peer is None:
                others = [rank for rank in range(dist.get_world_size()) if rank != self.rank]
                until = time.monotonic() + _ROLL_CALL
                while time.monotonic() < until:
                    others = [rank for rank in others if not store.check([f"lost/{rank}"])]
                    time.sleep(0.05)
                return others[0] if len(others) == 1 else None
            seen = {self.rank}
            while peer not in seen and store.check([f"lost/{peer}"]):
                seen.add(peer)
                note = store.get(f"lost/{peer}").decode()
                if note == "None":
                    return None
                peer = int(note)
        return peer


def attempt() -> int:
    """How often torchrun has restarted this run."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def joined(device: torch.device, timeout: float) -> Iterator[Store]:
    """Within, this process is one of those that `torchrun` started, or the only one; gives the store that they share,
    which under an elastic restart remembers what earlier attempts wrote.

    Raises:
        RankLostError: the others do not appear.
    """
    if "WORLD_SIZE" not in os.environ:
        alone = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=alone, rank=0, world_size=1)
        yield alone
        return dist.destroy_process_group()
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:  # all on this machine: nothing leaves it
        loopback = "lo0" if sys.platform == "darwin" else "lo"
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
    limit = timedelta(seconds=timeout)
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    try:
        store, rank, world = next(dist.rendezvous("env://", timeout=limit))  # type: ignore[attr-defined]
        backend = "nccl" if device.type == "cuda" else "gloo"
        # torchrun's store outlives its processes: what those of an earlier attempt left there is not for these.
        fresh = dist.PrefixStore(f"attempt {attempt()}", store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, timeout=limit, store=fresh, rank=rank, world_size=world)
    except dist.DistError as error:
        raise RankLostError(
            f"rank {os.environ.get('RANK')} of {os.environ['WORLD_SIZE']} did not meet the others at "
            f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')} within {timeout:g} s: {error}. Start all "
            "of them, by torchrun"
        ) from error
    try:
        yield store
    finally:
        dist.destroy_process_group()


def _group(ranks: Tensor, timeout: timedelta) -> dist.ProcessGroup | None:
    group = dist.new_group(ranks.tolist(), timeout=timeout)
    return group if isinstance(group, dist.ProcessGroup) else None  # None to those who are not in it
