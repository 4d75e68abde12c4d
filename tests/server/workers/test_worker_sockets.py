"""Which worker gets a flow: always the same one, whatever becomes of the others."""

import asyncio
import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from fleetnet_server.config import Settings
from fleetnet_server.errors import ConfigError
from fleetnet_server.workers.sockets import Sockets

WORKERS, FLOWS = 3, 60
PATIENCE_S = 20.0


def made(workers: int = WORKERS, dtls_port: int = 0) -> Sockets:
    return Sockets(
        Settings.model_construct(bind="127.0.0.1", tls_port=0, dtls_port=dtls_port), workers
    )


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    opened = made()
    yield opened
    opened.close()


@contextlib.contextmanager
def clients(port: int) -> Iterator[list[socket.socket]]:
    """Sockets of as many devices."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(FLOWS):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.connect(("127.0.0.1", port))
            found.append(sock)
        yield found


def who_gets(devices: list[socket.socket], workers: list[socket.socket]) -> list[int]:
    """The worker that gets each device's datagram; on the loopback it is there at once."""
    for sock in workers:
        with contextlib.suppress(BlockingIOError):
            while sock.recv(99):
                pass
    for number, device in enumerate(devices):
        with contextlib.suppress(ConnectionRefusedError):  # of the datagram before
            device.send(b"")
        device.send(str(number).encode())
    found = [-1] * len(devices)
    for worker, sock in enumerate(workers):
        with contextlib.suppress(BlockingIOError):
            while True:
                if data := sock.recv(99):
                    found[int(data)] = worker
    return found


def test_a_flow_stays_with_its_socket(sockets: Sockets) -> None:
    udp = [sockets.of(worker)["dtls_port"] for worker in range(WORKERS)]
    with clients(sockets.ports["dtls_port"]) as devices:
        before = who_gets(devices, udp)
        assert set(before) == {0, 1, 2}
        # A worker has its own copies; that they are closed changes nothing for the kernel.
        for sock in sockets.of(1).values():
            sock.dup().close()
        assert who_gets(devices, udp) == before


def test_control_without_a_supervisor_flows_of_the_living_move() -> None:
    """Sockets that each worker opens itself: one that dies takes flows of the others along."""
    opened = made()
    udp = [opened.of(worker)["dtls_port"] for worker in range(WORKERS)]
    try:
        with clients(opened.ports["dtls_port"]) as devices:
            before = who_gets(devices, udp)
            udp[0].close()
            after = who_gets(devices, udp[1:])
    finally:
        opened.close()
    moved = [
        number
        for number, worker in enumerate(before)
        if worker != 0 and worker != after[number] + 1
    ]
    assert moved, "the kernel moved no flow: is the supervisor still needed?"


def test_what_comes_while_nobody_reads_waits() -> None:
    """A child with a socket is killed: its datagrams are there for the one that follows."""
    alone = made(1)
    mine = alone.of(0)["dtls_port"]
    pid = os.fork()
    if not pid:
        try:
            select.select([mine], [], [])
            signal.pause()
        finally:
            os._exit(1)
    try:
        with clients(alone.ports["dtls_port"]) as devices:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            assert who_gets(devices, [mine]) == [0] * FLOWS
    finally:
        alone.close()


def test_a_port_that_another_server_shares_is_not_shared(sockets: Sockets) -> None:
    with pytest.raises(ConfigError, match=r"UDP port \d+ .* cannot be had"):
        made(dtls_port=sockets.ports["dtls_port"])


async def test_connections_wait_for_their_worker(sockets: Sockets) -> None:
    """Nobody accepts yet, and nobody is refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sockets.ports["tls_port"])
    deadline = time.monotonic() + PATIENCE_S
    listening = [sockets.of(worker)["tls_port"] for worker in range(WORKERS)]
    while time.monotonic() < deadline:
        if ready := select.select(listening, [], [], 0.1)[0]:
            accepted, _ = ready[0].accept()
            accepted.sendall(b"late")
            accepted.close()
            break
    assert await reader.read() == b"late"
    writer.close()
