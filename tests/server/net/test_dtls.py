"""DtlsListener on real sockets."""

import asyncio
import itertools
import random
import socket
from contextlib import ExitStack

import pytest
import structlog

from dtls_world import World
from fleetnet.errors import FleetError, HandshakeTimeout, LinkClosed, Rejected, TrustError
from fleetnet.ports.cpython import Datagrams
from fleetnet.ports.openssl_compact import MOST_RECORDS, Session
from listening import HOST, REFUSALS, TRIES, Server, device, serving, until
from loop_clock import put_forward
from pki import Pki


async def talk(link: Datagrams, data: bytes) -> bytes | None:
    link.send(data)
    return await link.receive(30_000)


async def test_a_device_gets_in(pki: Pki) -> None:
    async with serving(pki, "dtls") as server:
        link = await server.open(device(pki, datagram=True))
        assert await talk(link, b"hi") == b"echo hi"
        [handler] = server.handlers
        assert handler.certificate == pki.device.certificate
        assert handler.transport.kind == "dtls" and handler.transport.datagram
        link.close()
        await until(lambda: handler.lost)
        assert handler.lost == [None]
        assert not server.listener.acceptor.associations


async def refused_alert(server: Server, context: object) -> int | None:
    try:
        link = await server.open(context)  # type: ignore[arg-type]
        link.close()
    except Rejected as error:
        return error.alert
    except FleetError:
        return None
    return None


@pytest.mark.parametrize(("name", "alerts"), REFUSALS)
async def test_a_refused_device_is_told_every_time(
    pki: Pki, name: str | None, alerts: tuple[int, int]
) -> None:
    async with serving(pki, "dtls") as server:
        context = device(pki, name, datagram=True)
        heard = [await refused_alert(server, context) for _ in range(TRIES)]
        assert heard == [alerts[0]] * TRIES
        assert not server.handlers and not server.listener.acceptor.half_open
        assert server.listener.acceptor.refused == len(server.refused) == TRIES
        assert all(isinstance(error, TrustError) for _, _, error in server.refused)


async def test_a_stalled_handshake_is_forgotten_by_the_deadline(pki: Pki) -> None:
    async with serving(pki, "dtls", handshake_timeout_s=60.0, max_handshakes=8) as server:
        with ExitStack() as socks:
            for _ in range(12):
                sock = socks.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                sock.connect((HOST, server.listener.port))
                sock.setblocking(False)
                client = World(pki).client()
                sock.send(client.hello())
                client.ssl.feed(await receive(sock))
                client.ssl.handshake()
                sock.send(client.ssl.output())
            acceptor = server.listener.acceptor
            await until(lambda: acceptor.overloaded == 4)
            assert len(acceptor.half_open) == 8
            put_forward(61)
            await until(lambda: not acceptor.half_open)
        assert len(server.refused) == 8
        assert all(isinstance(error, HandshakeTimeout) for _, _, error in server.refused)
        link = await server.open(device(pki, datagram=True))
        assert await talk(link, b"honest") == b"echo honest"
        link.close()


async def receive(sock: socket.socket) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 2048), 30)


async def test_junk_does_not_stop_the_loop(pki: Pki) -> None:
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, what: problems.append(what))
    async with serving(pki, "dtls") as server:
        link = await server.open(device(pki, datagram=True))
        chance = random.Random(2)
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.connect((HOST, server.listener.port))
            for number in range(400):
                sock.send(chance.randbytes(number % 30))
                sock.send(b"\x16\xfe\xfd\0\0" + chance.randbytes(60))
                if number % 40 == 0:
                    assert await talk(link, b"x") == b"echo x"
            sock.setblocking(False)
            await until(lambda: server.listener.acceptor.junk == 800)
            with pytest.raises(BlockingIOError):
                sock.recv(100)
        link.close()
    assert not problems


async def test_a_bad_handler_costs_only_its_own_link(pki: Pki) -> None:
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, what: problems.append(what))
    async with serving(pki, "dtls") as server:
        accept = server.listener._accept

        def fail(*_arguments: object) -> None:
            raise RuntimeError("a mistake in core")

        server.listener._accept = fail
        with pytest.raises(LinkClosed):
            await (await server.open(device(pki, datagram=True))).receive(30_000)
        assert problems and not server.listener.acceptor.associations
        server.listener._accept = accept
        link = await server.open(device(pki, datagram=True))
        assert await talk(link, b"x") == b"echo x"
        link.close()


async def test_closing_from_the_server(pki: Pki) -> None:
    async with serving(pki, "dtls") as server:
        link = await server.open(device(pki, datagram=True))
        assert await talk(link, b"end") == b"goodbye"
        with pytest.raises(LinkClosed):
            await link.receive(30_000)
        server.handlers[0].transport.send(b"into the void")
        server.handlers[0].transport.close()
        assert server.handlers[0].lost == []


async def test_stopping_lets_live_links_go_on(pki: Pki) -> None:
    async with serving(pki, "dtls") as server:
        link = await server.open(device(pki, datagram=True))
        server.listener.stop_accepting()
        with pytest.raises(HandshakeTimeout):
            await _open_briefly(server, pki)
        assert await talk(link, b"x") == b"echo x"
        server.listener.close()
        with pytest.raises(LinkClosed):
            await link.receive(30_000)


async def _open_briefly(server: Server, pki: Pki) -> None:
    from fleetnet.ports.cpython import open_datagram

    context = device(pki, datagram=True)
    await open_datagram(HOST, server.listener.port, context, timeout_ms=300)


async def test_two_hundred_devices_at_once(pki: Pki) -> None:
    async with serving(pki, "dtls") as server:
        context = device(pki, datagram=True)
        links = await asyncio.gather(*(server.open(context) for _ in range(200)))
        answers = await asyncio.gather(*(talk(link, b"%d" % n) for n, link in enumerate(links)))
        assert answers == [b"echo %d" % n for n in range(200)]
        for link in links:
            link.close()
        await until(lambda: not server.listener.acceptor.associations)
        assert all(handler.lost == [None] for handler in server.handlers)


async def test_keys_that_are_used_up_end_the_link_behind_the_senders_back(pki: Pki) -> None:
    """Whoever sends is in the middle of its work: it hears of the end in a turn of its own."""
    async with serving(pki, "dtls") as server:
        link = await server.open(device(pki, datagram=True))
        assert await talk(link, b"hi") == b"echo hi"
        [handler] = server.handlers
        [association] = server.listener.acceptor.associations.values()
        session = association.ssl
        assert isinstance(session, Session)
        session._numbers = itertools.count(MOST_RECORDS)
        handler.transport.send(b"one more")
        assert not handler.lost
        await until(lambda: handler.lost)
        assert isinstance(handler.lost[0], LinkClosed) and "connect again" in str(handler.lost[0])
        with pytest.raises(LinkClosed):  # close_notify
            await link.receive(30_000)


@pytest.mark.parametrize("compact", [True, False])
async def test_sessions_are_keys_or_objects(pki: Pki, compact: bool) -> None:
    async with serving(pki, "dtls", compact=compact) as server:
        link = await server.open(device(pki, datagram=True))
        assert await talk(link, b"hi") == b"echo hi"
        [association] = server.listener.acceptor.associations.values()
        assert isinstance(association.ssl, Session) is compact
        assert server.handlers[0].certificate == pki.device.certificate
        if compact:
            assert association.ssl.peer_certificate() is None  # 500 B that nobody asks for again
        link.close()


async def test_a_fallback_is_logged(pki: Pki) -> None:
    async with serving(pki, "dtls") as server:
        with structlog.testing.capture_logs() as logs:
            server.listener.acceptor.on_fallback("it lacks something")
    assert [(line["log_level"], line["reason"]) for line in logs] == [
        ("warning", "it lacks something")
    ]
