"""The door: who comes too often, and who has the places, on real sockets."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from fleetnet.errors import FleetError, LinkClosed
from fleetnet.ports.cpython import open_datagram, open_stream
from fleetnet.ports.openssl_context import Context
from fleetnet.ports.openssl_object import SslObject
from fleetnet_server.net.admission import Admission, Door, network_of
from listening import HOST, device, serving, until
from pki import Pki

# All of 127.0.0.0/8 is this machine: addresses enough for a crowd.
ATTACKER, NEIGHBOUR = "127.0.0.66", "127.0.0.77"


def test_what_counts_as_one_address() -> None:
    assert network_of("192.0.2.7") == "192.0.2.7"
    assert network_of("::ffff:192.0.2.7") == "192.0.2.7"
    household = "2001:db8:1:2::/64"
    assert network_of("2001:db8:1:2:3:4:5:6") == network_of("2001:db8:1:2::9") == household
    assert network_of("2001:db8:1:3::9") != network_of("2001:db8:1:2::9")
    assert network_of("fe80::1%eth0") == "fe80::/64"
    assert network_of("?") == "?" and network_of("no:address") == "no:address"


def test_places_go_to_whoever_has_fewer() -> None:
    ended: list[int] = []
    door = Door(10)
    assert all(door.enter(n, "a", lambda n=n: ended.append(n)) for n in range(10))
    assert not door.enter(10, "a", lambda: None) and door.overloaded == 1
    for number in range(20, 25):
        assert door.enter(number, "b", lambda n=number: ended.append(n))
    assert ended == [0, 1, 2, 3, 4] and door.displaced == 5
    # Five each: nobody has more than its share, and nobody else's is taken.
    assert not door.enter(25, "b", lambda: None) and not door.enter(11, "a", lambda: None)
    assert door.enter(30, "c", lambda: None) and len(door) == 10
    for token in list(door._network):
        door.leave(token)
    door.leave("unknown")
    assert len(door) == 0 and not door._held and not door._by_count and not door._top


def test_an_address_is_named_once_a_minute() -> None:
    now = [0.0]
    named: list[str] = []
    admission = Admission(1.0, 1, named.append, lambda: now[0])
    for _ in range(5):
        admission.take("a")
        admission.take("b")
    assert named == ["a", "b"]
    now[0] += 61.0
    assert [admission.take("a"), admission.take("a")] == [True, False]
    assert named == ["a", "b", "a"]


def silent(address: str, port: int, count: int, first: bytes = b"") -> list[socket.socket]:
    """Connections from one address that say ``first`` and nothing more."""
    socks = []
    for _ in range(count):
        sock = socket.socket()
        sock.bind((address, 0))
        sock.connect((HOST, port))
        if first:
            sock.sendall(first)
        socks.append(sock)
    return socks


@contextlib.asynccontextmanager
async def closing(socks: list[socket.socket]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for sock in socks:
            sock.close()


async def test_a_thousand_silent_connections_do_not_hold_the_door(pki: Pki) -> None:
    async with serving(pki, "tls", max_handshakes=1000, handshake_timeout_s=60.0) as server:
        door = server.listener.door
        socks: list[socket.socket] = []
        for _ in range(10):  # the backlog of a small machine is 128
            socks += await asyncio.to_thread(silent, ATTACKER, server.listener.port, 100)
        async with closing(socks):
            await until(lambda: len(door) == 1000)
            for number in range(50):
                stream = await server.open(device(pki))
                stream.write(b"hi")
                assert await stream.read(100) == b"echo hi", number
                stream.close()
                await stream.wait_closed()
            assert door.displaced >= 1 and not door.overloaded
            # Each of the others took the place of one silent connection, and gave it back.
            assert len(door) >= 1000 - 50
            assert all("waited for its place" in str(error) for _, _, error in server.refused)
            assert {address[0] for _, address, _ in server.refused} == {ATTACKER}


async def test_an_address_that_comes_too_often_is_cut_off_before_a_handshake(pki: Pki) -> None:
    named: list[str] = []
    admission = Admission(0.001, 3, named.append)
    async with serving(pki, "tls", admission=admission) as server:
        for _ in range(3):
            (await server.open(device(pki))).close()
        for _ in range(3):
            with pytest.raises(LinkClosed):
                await server.open(device(pki))
        assert server.listener.door.limited == 3 and server.listener.handshakes == 3
        assert named == [HOST] and not server.refused
        assert len(server.listener.connections) <= 3
        # Another address has tokens of its own.
        async with closing(silent(NEIGHBOUR, server.listener.port, 1)):
            await until(lambda: len(server.listener.door) == 1)


async def dtls_hello(context: Context, address: str, port: int) -> socket.socket:
    """A client that proves its address and then falls silent."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 0))
    sock.setblocking(False)
    sock.connect((HOST, port))
    loop = asyncio.get_running_loop()
    ssl = SslObject(context, "localhost", "test", mtu=1200)
    ssl.handshake()
    await loop.sock_sendall(sock, ssl.output())
    async with asyncio.timeout(30):
        ssl.feed(await loop.sock_recv(sock, 2048))
    ssl.handshake()
    await loop.sock_sendall(sock, ssl.output())
    ssl.free()
    return sock


async def test_silent_dtls_handshakes_do_not_hold_the_door(pki: Pki) -> None:
    async with serving(pki, "dtls", max_handshakes=30, handshake_timeout_s=60.0) as server:
        context = device(pki, datagram=True)
        door, acceptor = server.listener.door, server.listener.acceptor
        socks = [await dtls_hello(context, ATTACKER, server.listener.port) for _ in range(30)]
        async with closing(socks):
            await until(lambda: len(acceptor.half_open) == 30 == len(door))
            for _ in range(5):
                link = await server.open(context)
                link.send(b"hi")
                assert await link.receive(30_000) == b"echo hi"
                link.close()
            assert door.displaced >= 1 and len(acceptor.half_open) == len(door)
            socks.append(await dtls_hello(context, ATTACKER, server.listener.port))
            await until(lambda: len(acceptor.half_open) == len(door) == 30)


async def test_a_datagram_without_the_cookie_takes_no_token(pki: Pki) -> None:
    admission = Admission(0.001, 2)
    async with serving(pki, "dtls", admission=admission) as server:
        context = device(pki, datagram=True)
        acceptor = server.listener.acceptor
        for _ in range(20):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            ssl = SslObject(context, "localhost", "test", mtu=1200)
            ssl.handshake()
            sock.sendto(ssl.output(), (HOST, server.listener.port))
            ssl.free()
            sock.close()
        await until(lambda: acceptor.hellos == 20)
        assert not len(admission.table)
        for _ in range(2):
            (await server.open(context)).close()
        with pytest.raises(FleetError):
            await open_datagram(HOST, server.listener.port, context, timeout_ms=300)
        assert server.listener.door.limited >= 1 and acceptor.handshakes == 2
        assert not acceptor.half_open


async def test_every_end_of_a_handshake_gives_its_place_back(pki: Pki) -> None:
    for kind in ("tls", "dtls"):
        async with serving(pki, kind, handshake_timeout_s=0.3) as server:
            datagram = kind == "dtls"
            for name in ("device", "device_of_other_ca", None):
                with contextlib.suppress(FleetError):
                    link = await server.open(device(pki, name, datagram=datagram))
                    link.close()
            if datagram:
                socks = [await dtls_hello(device(pki, datagram=True), HOST, server.listener.port)]
            else:
                socks = silent(HOST, server.listener.port, 2)
                socks += silent(HOST, server.listener.port, 2, b"GET / HTTP/1.1\r\n\r\n")
            async with closing(socks):
                await until(lambda server=server: not len(server.listener.door))
            assert not server.listener.door._network


async def test_one_bucket_for_two_ports(pki: Pki) -> None:
    admission = Admission(0.001, 2)
    async with (
        serving(pki, "tls", admission=admission) as one,
        serving(pki, "tls", admission=admission) as other,
    ):
        (await open_stream(HOST, one.listener.port, device(pki), timeout_ms=30_000)).close()
        (await open_stream(HOST, other.listener.port, device(pki), timeout_ms=30_000)).close()
        for server in (one, other):
            with pytest.raises(LinkClosed):
                await server.open(device(pki))
