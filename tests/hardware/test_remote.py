"""One device, many users: real sockets, real processes."""

import os
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from hardware import (
    PRESETS,
    DeviceFault,
    DeviceInputError,
    DeviceServer,
    DeviceUnavailable,
    RemoteOPU,
    SimulatedOPU,
    open_opu,
)
from hardware.remote import SERVICE, channel_options, pack_message, unpack_message

CLIENT = """
import sys, torch
from hardware import open_opu
with open_opu(sys.argv[1]) as opu:
    draw = torch.Generator().manual_seed(int(sys.argv[2]))
    for k in range(10**6 if sys.argv[3] == "forever" else int(sys.argv[3])):
        x = torch.randint(0, 2, (5, opu.n_features), generator=draw, dtype=torch.uint8)
        y = opu.linear_transform(x)
        print(k, int(opu.transform(x).sum()), y.double().sum().item(), flush=True)
"""

SERVER = """
import sys
from hardware import DeviceServer, SimulatedOPU
server = DeviceServer(SimulatedOPU(64, 32, seed=int(sys.argv[2])), port=int(sys.argv[1]))
print(server.address, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def served():
    with DeviceServer(SimulatedOPU(64, 32, seed=5)) as server:
        yield server


def client(address, seed, rounds):
    command = [sys.executable, "-c", CLIENT, f"remote://{address}", str(seed), str(rounds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def expected(seed, rounds):
    opu, draw = SimulatedOPU(64, 32, seed=5), torch.Generator().manual_seed(seed)
    lines = []
    for k in range(rounds):
        x = torch.randint(0, 2, (5, 64), generator=draw, dtype=torch.uint8)
        y = opu.linear_transform(x)
        lines.append(f"{k} {int(opu.transform(x).sum())} {y.double().sum().item()}")
    return lines


def test_a_remote_device_meets_the_contract_with_the_same_numbers(served, patterns):
    here = SimulatedOPU(64, 32, seed=5)
    with open_opu(f"remote://{served.address}", n_features=64, n_components=32, seed=9) as there:
        x = patterns(7, 64)
        assert torch.equal(there.transform(x), here.transform(x))
        # Signs are two patterns there and one exact product here: each rounds to 2^-24 of numbers up to 5.
        assert torch.allclose(there.linear_transform(x * 2 - 1), here.linear_transform(x * 2 - 1), rtol=0, atol=2e-6)
        counts = there.transform(x.numpy())
        assert isinstance(counts, np.ndarray)
        assert there.usage == here.usage.__class__(14 + 28, 42 * 500e-6, 42 * 500e-6 * 30)
        assert there.identity == here.identity
        assert there.intensity_per_count == here.intensity_per_count
        assert "seed" in there.describe()


def test_fewer_components_are_the_first(served, patterns):
    with open_opu(f"remote://{served.address}", n_components=10) as there:
        assert torch.equal(there.transform(patterns(3, 64)), SimulatedOPU(64, 10, seed=5).transform(patterns(3, 64)))


def test_two_processes_share_a_device_and_one_may_be_killed(served):
    survivor, victim = client(served.address, 1, 60), client(served.address, 2, "forever")
    seen = [victim.stdout.readline().strip() for _ in range(3)]
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    out, problems = survivor.communicate(timeout=120)
    assert survivor.returncode == 0, problems
    assert seen == expected(2, 3)
    assert out.split("\n")[:-1] == expected(1, 60)


def test_requests_that_wait_are_shown_together(patterns):
    """While the device is busy with the first request, those of seven clients queue, and are one measurement."""
    opu = SimulatedOPU(64, 32, seed=5)
    busy, asked, batches = threading.Event(), threading.Event(), []
    measure = opu._counts

    def slow(rows, first_frame):
        batches.append(len(rows))
        if len(batches) == 1:
            asked.set()
            busy.wait(30)
        return measure(rows, first_frame)

    opu._counts = slow
    with DeviceServer(opu) as server:
        clients = [open_opu(f"remote://{server.address}") for _ in range(8)]
        answers = {}

        def ask(k):
            answers[k] = clients[k].transform(patterns(k + 1, 64, seed=k))

        threads = [threading.Thread(target=ask, args=(k,)) for k in range(8)]
        threads[0].start()
        assert asked.wait(30)
        for thread in threads[1:]:
            thread.start()
        while server._queue.qsize() < 7:
            threads[1].join(0.01)
        busy.set()
        for thread in threads:
            thread.join()
    assert batches == [1, sum(range(2, 9))]
    for k in range(8):
        assert torch.equal(answers[k], SimulatedOPU(64, 32, seed=5).transform(patterns(k + 1, 64, seed=k)))


def test_a_request_whose_client_is_gone_is_not_measured(served, patterns):
    from concurrent.futures import Future

    from hardware.server import _Request

    served._answer([_Request("Counts", patterns(3, 64).to(torch.uint8), 32, lambda: True, Future())])
    used = served.opu.usage
    gone = _Request("Counts", patterns(3, 64).to(torch.uint8), 32, lambda: False, Future())
    served._queue.put(gone)
    with open_opu(f"remote://{served.address}") as opu:
        opu.transform(patterns(2, 64))
    assert served.opu.usage.frames == used.frames + 2
    with pytest.raises(DeviceFault, match="the client is gone"):
        gone.answer.result(timeout=10)


def start_server(port, seed):
    command = [sys.executable, "-c", SERVER, str(port), str(seed)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def test_a_dead_server_is_a_fault_and_the_next_call_reconnects(patterns):
    x = patterns(3, 64)
    first, address = start_server(0, 5)
    with open_opu(f"remote://{address}") as opu:
        opu.backoff = 0.001
        before = opu.transform(x)
        used = opu.usage
        first.kill()
        first.wait()
        with pytest.raises(DeviceFault, match="does not answer"):
            opu.transform(x)
        assert opu.usage.frames == used.frames
        second, _ = start_server(address.rpartition(":")[2], 5)
        assert torch.equal(opu.transform(x), before)
        second.kill()
        second.wait()
        third, _ = start_server(address.rpartition(":")[2], 6)
        with pytest.raises(DeviceFault, match=r"another device answers at .*seed 6.*seed 5"):
            opu.transform(x)
        third.kill()
        third.wait()


def test_a_fault_of_the_served_device_reaches_the_client_and_only_then_passes(patterns):
    from dataclasses import replace

    from hardware import Faults

    opu = SimulatedOPU(64, 32, preset=replace(PRESETS["noisy-8bit"], faults=Faults(lasting_after=1)))
    opu.backoff = 0
    with DeviceServer(opu) as server, open_opu(f"remote://{server.address}") as there:
        there.transform(patterns(1, 64))
        with pytest.raises(DeviceFault, match="injected: the camera does not answer"):
            there.transform(patterns(1, 64))
        opu.preset = PRESETS["noisy-8bit"]
        assert there.transform(patterns(1, 64)).shape == (1, 32)


def test_nobody_there_says_how_to_start_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DeviceUnavailable, match=r"no device answers at 127.0.0.1:\d+.*opu-dfa device serve"):
        open_opu(f"remote://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("sizes", "says"),
    [({"n_features": 65}, "has n_features = 64, got 65"), ({"n_components": 33}, "has n_components = 32, got 33")],
)
def test_sizes_the_device_does_not_have_are_refused(served, sizes, says):
    with pytest.raises(DeviceInputError, match=says):
        open_opu(f"remote://{served.address}", **sizes)


def test_a_token_is_asked_for_and_only_the_right_one_accepted(monkeypatch, patterns):
    with DeviceServer(SimulatedOPU(64, 32), token="sesame") as server:
        for wrong in ("", "Sesame", "sesame!"):
            with pytest.raises(DeviceUnavailable, match="asks for a token: set OPU_DFA_TOKEN"):
                RemoteOPU(server.address, token=wrong)
        assert RemoteOPU(server.address, token="sesame").transform(patterns(1, 64)).shape == (1, 32)
        monkeypatch.setenv("OPU_DFA_TOKEN", "sesame")
        open_opu(f"remote://{server.address}").close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_a_public_address_needs_a_token(host):
    with pytest.raises(DeviceInputError, match="can be reached from other machines: set a token"):
        DeviceServer(SimulatedOPU(4, 4), host=host)


def test_a_port_in_use_is_refused(served):
    with pytest.raises(DeviceUnavailable, match=r"cannot listen on 127\.0\.0\.1"):
        DeviceServer(SimulatedOPU(4, 4), port=int(served.address.rpartition(":")[2]))


BITS, WIDTH = np.zeros((2, 8), np.uint8), np.array(32)
ME = SimulatedOPU(64, 32, seed=5).identity


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (b"", "malformed message of 0 bytes"),
        (b"\xff" * 100, "malformed message"),
        (pack_message(bits=BITS), "holds bits, identity and n_components, got bits"),
        (pack_message(bits=BITS, n_components=WIDTH, identity=ME, more=BITS), "got bits, identity, more, n_components"),
        (pack_message(bits=BITS[:, :7], n_components=WIDTH, identity=ME), r"\(batch, 8\) with .*got uint8 \(2, 7\)"),
        (pack_message(bits=BITS[:0], n_components=WIDTH, identity=ME), r"got uint8 \(0, 8\)"),
        (pack_message(bits=BITS * 1.0, n_components=WIDTH, identity=ME), "got float64"),
        (pack_message(bits=BITS, n_components=np.array(0), identity=ME), "from 1 to 32, got 0"),
        (pack_message(bits=BITS, n_components=np.array(10**9), identity=ME), "from 1 to 32, got 1000000000"),
        (pack_message(bits=BITS, n_components=np.array([1.5]), identity=ME), "an integer from 1 to 32"),
    ],
)
def test_malformed_requests_are_refused_and_hurt_nobody(served, message, says, patterns):
    with open_opu(f"remote://{served.address}") as opu:
        with pytest.raises(DeviceInputError, match=says):
            opu._call("Counts", message)
        assert opu.transform(patterns(1, 64)).shape == (1, 32)


def test_an_oversized_request_is_refused(patterns):
    import grpc

    with DeviceServer(SimulatedOPU(64, 32), largest_message=10_000) as server:
        with grpc.insecure_channel(server.address, options=channel_options()) as channel:
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(f"/{SERVICE}/Counts")(b"x" * 20_000, timeout=30)
            assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        with open_opu(f"remote://{server.address}") as opu:
            with pytest.raises(DeviceInputError, match=r"refused: .*20000 vs\. 10000"):
                opu._call("Counts", b"x" * 20_000)
            assert opu.transform(patterns(2, 64)).shape == (2, 32)


def test_a_large_batch_is_sent_in_messages_that_the_server_takes(patterns):
    x = patterns(500, 64)
    with DeviceServer(SimulatedOPU(64, 32, seed=5), largest_message=5_000) as server, RemoteOPU(server.address) as opu:
        assert torch.equal(opu.transform(x), SimulatedOPU(64, 32, seed=5).transform(x))
        assert server.opu.usage.frames == 500


def test_messages_carry_what_they_were_given():
    arrays = {"a": np.arange(6, dtype=np.int64).reshape(2, 3)[:, ::-1], "b": np.float32(2.5).reshape(())}
    back = unpack_message(pack_message(**arrays, text="µ"))
    assert all(np.array_equal(back[k], v) for k, v in arrays.items())
    assert back["text"].tobytes().decode() == "µ"


def test_a_closed_connection_says_so(served, patterns):
    opu = open_opu(f"remote://{served.address}")
    opu.close()
    opu.close()
    with pytest.raises(DeviceInputError, match="connection is closed"):
        opu.transform(patterns(1, 64))


def test_loopback_is_where_it_listens_by_default(served):
    assert served.address.startswith("127.0.0.1:")
    assert os.environ.get("OPU_DFA_TOKEN") is None


BUSY = """
import threading
from hardware import DeviceFault, DeviceServer, RemoteOPU, SimulatedOPU
import torch
opu, go = SimulatedOPU(64, 32), threading.Event()
measure = opu._counts
opu._counts = lambda rows, first: (go.wait(30), measure(rows, first))[1]
server = DeviceServer(opu)
clients, gave_up = [RemoteOPU(server.address) for _ in range(4)], []

def ask(client):
    client._timeout = 0.5
    try:
        client.transform(torch.ones(1, 64))
    except DeviceFault as fault:
        gave_up.append("did not answer" in str(fault))

threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
for thread in threads: thread.start()
for thread in threads: thread.join()
END
server.close(grace=1.0)
print(sum(gave_up), "gave up, closed", flush=True)
"""


@pytest.mark.parametrize("end", ["go.set()", "pass"])
def test_clients_that_gave_up_keep_no_server_from_closing(end):
    """Whether the device answers at last or never: the process ends by itself."""
    command = [sys.executable, "-c", BUSY.replace("END", end)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "4 gave up, closed\n"


def test_a_request_for_more_than_a_message_may_stand_for_is_refused():
    with DeviceServer(SimulatedOPU(8, 3_000), largest_message=10_000) as server, RemoteOPU(server.address) as opu:
        bits = np.zeros((100, 1), np.uint8)
        message = pack_message(bits=bits, n_components=np.array(3_000), identity=opu.identity)
        with pytest.raises(DeviceInputError, match=r"100 rows of 8 mirrors and 3000 outputs .* send fewer rows"):
            opu._call("Counts", message)


def test_a_calibration_is_not_for_a_remote_device(served):
    with pytest.raises(DeviceInputError, match="calibrated where it is served"):
        open_opu(f"remote://{served.address}", calibration=SimulatedOPU(64, 32, preset="anchor").calibrate())


@pytest.mark.parametrize("token", ["sésame", "two\nlines"])
def test_a_token_that_cannot_be_sent_is_refused(served, token):
    with pytest.raises(DeviceInputError, match="printable ASCII"):
        RemoteOPU(served.address, token=token)
    with pytest.raises(DeviceInputError, match="printable ASCII"):
        DeviceServer(SimulatedOPU(4, 4), token=token)
