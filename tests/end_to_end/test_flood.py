"""A crowd at the door of a real server: silence, trickles and half-open handshakes.

All of 127.0.0.0/8 is this machine: the crowd has addresses of its own, and the devices that come
meanwhile have another one. Everything is bounded in number, and ends when the test does.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from end_to_end.device_process import until
from end_to_end.fleet import Fleet, free_port
from fleetnet.ports.openssl_object import SslObject
from fleetnet_server.sim.device import SimDevice
from fleetnet_server.sim.meter import Meter
from listening import device as context_of
from pki import Pki

SILENT, SLOW, HALF = "127.0.0.66", "127.0.0.67", "127.0.0.68"
CONNECTIONS = 1000

# A record header that promises 200 bytes of a ClientHello.
HELLO_BEGINS = b"\x16\x03\x01\x00\xc8\x01"


def connect(address: str, port: int) -> socket.socket:
    sock = socket.socket()
    sock.settimeout(30.0)
    sock.bind((address, 0))
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    return sock


def half_open(address: str, port: int, pki: Pki) -> socket.socket:
    """A DTLS client that proves its address by the cookie, and says no more."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(30.0)
    sock.bind((address, 0))
    sock.connect(("127.0.0.1", port))
    ssl = SslObject(context_of(pki, datagram=True), "localhost", "test", mtu=1200)
    ssl.handshake()
    sock.send(ssl.output())
    ssl.feed(sock.recv(2048))
    ssl.handshake()
    sock.send(ssl.output())
    ssl.free()
    return sock


class Crowd:
    """Clients that never finish what they began.

    Attributes:
        slow: those that send a byte now and then.
    """

    def __init__(self, fleet: Fleet, enrol_port: int, pki: Pki):
        self._fleet, self._enrol_port, self._pki = fleet, enrol_port, pki
        self._all: list[socket.socket] = []
        self.slow: list[socket.socket] = []

    def come(self) -> None:
        """Connect them all; blocks."""
        tls, dtls = self._fleet.tls[1], self._fleet.dtls[1]
        for _ in range(CONNECTIONS):
            self._all.append(connect(SILENT, tls))
        for _ in range(CONNECTIONS):
            self._all.append(connect(SILENT, self._enrol_port))
        self.slow += [connect(SLOW, tls) for _ in range(100)]
        for sock in self.slow:
            sock.send(HELLO_BEGINS)
        self._all += [half_open(HALF, dtls, self._pki) for _ in range(300)]

    async def trickle(self) -> None:
        """One byte of each slow one, a few times a second."""
        while True:
            for sock in self.slow:
                with contextlib.suppress(OSError):
                    sock.send(b"\x00")
            await asyncio.sleep(0.3)

    def ended(self) -> int:
        """How many of the slow ones the server has put out."""
        return sum(is_over(sock) for sock in self.slow)

    def close(self) -> None:
        for sock in (*self._all, *self.slow):
            sock.close()


def is_over(sock: socket.socket) -> bool:
    """Whether the far end has closed a connection."""
    try:
        return not sock.recv(16, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


@pytest.fixture
def flooded(tmp_path: Path) -> Iterator[tuple[Fleet, int]]:
    """A fleet whose server gives handshakes four seconds, and takes claims."""
    fleet, enrol_port = Fleet(tmp_path / "fleet"), free_port()
    path = fleet.folder / "fleetnet.toml"
    path.write_text(f"handshake_timeout_s = 4.0\nenrol_port = {enrol_port}\n")
    yield fleet, enrol_port


async def send_one(bundle: Path) -> None:
    """A device connects at its first attempt, sends, is acknowledged and goes."""
    one = SimDevice(str(bundle), Meter())
    await one.start()
    try:
        await one.send("count", 1)
        assert await one.flush(10_000), one.last_error
        assert one.attempts == one.connects == 1
    finally:
        await one.stop()


async def test_a_crowd_keeps_nobody_out(flooded: tuple[Fleet, int], pki: Pki) -> None:
    fleet, enrol_port = flooded
    bundles = [fleet.add_device(f"cam-{n}", ("tls", "dtls")[n % 2]) for n in range(6)]
    crowd = Crowd(fleet, enrol_port, pki)
    trickle: asyncio.Task[None] | None = None
    try:
        await fleet.start_server()
        await asyncio.to_thread(crowd.come)
        trickle = asyncio.create_task(crowd.trickle())
        # While every place is taken, devices of another address come and go as ever.
        for bundle in bundles:
            await send_one(bundle)
        # A byte now and then bought no time.
        await until(lambda: crowd.ended() == len(crowd.slow), "the slow ones are out", 20)
        assert "Traceback" not in fleet.log(), fleet.log()
        assert "comes too often" not in fleet.log(), "the places were taken, not the tokens"
    finally:
        if trickle is not None:
            trickle.cancel()
        crowd.close()
        await fleet.close()


async def test_an_address_that_never_stops_is_cut_off_and_named(
    flooded: tuple[Fleet, int],
) -> None:
    fleet, _ = flooded
    path = fleet.folder / "fleetnet.toml"
    # None of them ends because its handshake takes too long.
    path.write_text(path.read_text().replace("timeout_s = 4.0", "timeout_s = 120.0") +
                    "address_handshakes_per_s = 1.0\naddress_handshakes_burst = 50\n")  # fmt: skip
    bundle = fleet.add_device("cam-1", "tls")
    socks: list[socket.socket] = []
    try:
        await fleet.start_server()
        for _ in range(200):
            socks.append(await asyncio.to_thread(connect, SILENT, fleet.tls[1]))
        # At most the burst and a token for each second that this took are let in.
        await until(lambda: sum(map(is_over, socks)) >= 120, "the others were cut off at once")
        await until(lambda: fleet.log().count("comes too often") == 1, "the log names it, once")
        assert SILENT in fleet.log()
        await send_one(bundle)
    finally:
        for sock in socks:
            sock.close()
        await fleet.close()
