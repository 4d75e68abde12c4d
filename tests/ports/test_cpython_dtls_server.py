"""serve_dtls on asyncio: several clients, ends of both sides, strangers, reboots."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fleetnet.errors import LinkClosed, Rejected, TrustError, Unsupported
from fleetnet.limits import DATAGRAM_PAYLOAD
from fleetnet.ports import cpython_dtls_server
from fleetnet.ports.cpython_dtls_server import AcceptedDatagrams, DatagramListener
from fleetnet.ports.openssl_context import CERT_OPTIONAL, client_context, server_context
from fleetnet.streams import open_dtls, serve_dtls
from listening import HOST, device, until
from pki import Pki


class Hub:
    """Keeps its clients, and echoes."""

    def __init__(self) -> None:
        self.clients: list[AcceptedDatagrams] = []
        self.ends: list[object] = []

    async def __call__(self, link: AcceptedDatagrams) -> None:
        self.clients.append(link)
        try:
            while True:
                data = await link.receive()
                if data == b"leave":
                    return
                if data == b"fail":
                    raise LinkClosed("as a send would")
                assert data is not None
                link.send(b"echo " + data)
        except LinkClosed as error:
            self.ends.append(error)
            raise


@asynccontextmanager
async def serving(context: Any, callback: Any) -> AsyncIterator[DatagramListener]:
    listener = await serve_dtls(callback, HOST, 0, ssl=context)
    try:
        yield listener
    finally:
        listener.close()
        await asyncio.wait_for(listener.wait_closed(), 30)
        await asyncio.sleep(0.01)


def mutual(pki: Pki) -> Any:
    return server_context(*pki.server, pki.ca.certificate, datagram=True)


async def test_several_clients_at_a_time(pki: Pki) -> None:
    hub = Hub()
    async with serving(mutual(pki), hub) as listener:
        links = [await open_dtls(HOST, listener.port, device(pki, datagram=True)) for _ in range(5)]
        for number, link in enumerate(links):
            link.send(b"%d" % number)
        for number, link in enumerate(links):
            assert await link.receive(30_000) == b"echo %d" % number
        ports = {link._sock.getsockname()[1] for link in links if link._sock}
        assert {client.peer for client in hub.clients} == {(HOST, port) for port in ports}
        for client in hub.clients:
            assert client.verified and client.peer_certificate() == pki.device.certificate
            assert client.cipher() == links[0].cipher() and client.psk_identity is None
        for link in links:
            link.close()
        await until(lambda: len(hub.ends) == 5)
        assert not listener.acceptor.associations


async def test_the_association_ends_with_the_callback(pki: Pki) -> None:
    hub = Hub()
    async with serving(mutual(pki), hub) as listener:
        for last in (b"leave", b"fail"):
            link = await open_dtls(HOST, listener.port, device(pki, datagram=True))
            link.send(last)
            with pytest.raises(LinkClosed):
                await link.receive(30_000)
        assert not listener.acceptor.associations and not listener._tasks
        for client in hub.clients:
            with pytest.raises(LinkClosed):
                client.send(b"late")
            with pytest.raises(LinkClosed):
                client.recv()
            assert client.cipher()[1] == "DTLSv1.2"  # what it was
            client.close()


async def test_what_waits_is_bounded(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpython_dtls_server, "_MAX_WAITING", 3)
    clients: list[AcceptedDatagrams] = []

    async def idle(link: AcceptedDatagrams) -> None:
        clients.append(link)
        await asyncio.sleep(60)

    async with serving(mutual(pki), idle) as listener:
        link = await open_dtls(HOST, listener.port, device(pki, datagram=True))
        await until(lambda: clients)
        for number in range(9):
            link.send(b"%d" % number)
        await until(lambda: len(clients[0]._waiting) == 3)
        link.close()
        # What had come before the end can still be read.
        await until(lambda: not listener.acceptor.associations)
        assert [clients[0].recv() for _ in range(3)] == [b"0", b"1", b"2"]
        with pytest.raises(LinkClosed):
            clients[0].recv()
    assert not listener._tasks


async def test_limits_and_timeouts(pki: Pki) -> None:
    met = asyncio.Event()

    async def wait(link: AcceptedDatagrams) -> None:
        assert link.recv() is None
        assert await link.receive(10) is None
        with pytest.raises(ValueError, match="limit"):
            link.send(bytes(DATAGRAM_PAYLOAD + 1))
        assert link.send(bytes(DATAGRAM_PAYLOAD))
        met.set()

    async with serving(mutual(pki), wait) as listener:
        link = await open_dtls(HOST, listener.port, device(pki, datagram=True))
        assert await link.receive(30_000) == bytes(DATAGRAM_PAYLOAD)
        assert met.is_set()
        link.close()


async def test_who_is_refused_is_counted(pki: Pki) -> None:
    hub = Hub()
    async with serving(mutual(pki), hub) as listener:
        with pytest.raises(Rejected):
            await open_dtls(HOST, listener.port, device(pki, None, datagram=True))
        await until(lambda: listener.refused == 1)
        assert isinstance(listener.last_refusal, TrustError) and not hub.clients


async def test_optional_certificates(pki: Pki) -> None:
    hub = Hub()
    context = mutual(pki)
    context.verify_mode = CERT_OPTIONAL
    async with serving(context, hub) as listener:
        for name, verified in ((None, False), ("device", True)):
            link = await open_dtls(HOST, listener.port, device(pki, name, datagram=True))
            link.send(b"x")
            assert await link.receive(30_000) == b"echo x"
            assert hub.clients[-1].verified is verified
            assert (hub.clients[-1].peer_certificate() is not None) is verified
            link.close()


async def test_a_reboot_replaces_after_its_handshake(pki: Pki) -> None:
    hub = Hub()
    async with serving(mutual(pki), hub) as listener:
        first = await open_dtls(HOST, listener.port, device(pki, datagram=True))
        first.send(b"1")
        assert await first.receive(30_000) == b"echo 1"
        assert first._sock is not None
        # Its socket goes without a word, and a new one takes the same port.
        address = first._sock.getsockname()
        first._sock.close()
        first._sock = None
        second = await open_from(address, listener.port, device(pki, datagram=True))
        second.send(b"2")
        assert await second.receive(30_000) == b"echo 2"
        assert [client.peer for client in hub.clients] == [address, address]
        await until(lambda: len(hub.ends) == 1)
        assert len(listener.acceptor.associations) == 1
        second.close()


async def open_from(address: Any, port: int, context: Any) -> Any:
    import socket

    from fleetnet.ports.cpython_datagrams import Datagrams

    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind(address)
    sock.connect((HOST, port))
    sock.setblocking(False)
    link = Datagrams(sock, context, HOST, "server")
    await link.handshake(30_000)
    return link


async def test_close_ends_everything(pki: Pki) -> None:
    hub = Hub()
    listener = await serve_dtls(hub, HOST, 0, ssl=mutual(pki))
    link = await open_dtls(HOST, listener.port, device(pki, datagram=True))
    link.send(b"x")
    assert await link.receive(30_000) == b"echo x"
    listener.close()
    await asyncio.wait_for(listener.wait_closed(), 30)
    with pytest.raises(LinkClosed):
        await link.receive(30_000)
    assert listener._sock is None and not listener._tasks
    again = await serve_dtls(hub, HOST, listener.port, ssl=mutual(pki))  # the port is free
    again.close()


async def test_what_it_needs(pki: Pki) -> None:
    for context in (
        None,
        server_context(*pki.server),
        client_context(insecure=True, datagram=True),
    ):
        with pytest.raises(Unsupported, match="datagram=True"):
            await serve_dtls(Hub(), HOST, 0, ssl=context)
