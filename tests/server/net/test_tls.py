"""TlsListener on real sockets: who is refused hears why, and nobody can hold it up."""

import asyncio
import contextlib
import socket
import struct
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.bindings.openssl.binding import Binding
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL

from fleetnet.errors import (
    FleetError,
    HandshakeTimeout,
    LinkClosed,
    Rejected,
    TrustError,
    WrongCA,
)
from fleetnet.ports.cpython import Stream
from fleetnet.ports.openssl_context import client_context
from fleetnet.ports.openssl_object import SslObject
from listening import HOST, REFUSALS, TRIES, Server, device, serving, until
from loop_clock import put_forward
from pki import Pki


async def finish(stream: Stream) -> None:
    stream.close()
    await asyncio.wait_for(stream.wait_closed(), 30)


async def test_a_device_gets_in(pki: Pki) -> None:
    async with serving(pki, "tls") as server:
        stream = await server.open(device(pki))
        stream.write(b"hi")
        assert await stream.read(100) == b"echo hi"
        [handler] = server.handlers
        assert handler.certificate == pki.device.certificate
        assert handler.transport.kind == "tls" and not handler.transport.datagram
        assert handler.transport.address[0] == HOST
        await finish(stream)
        await until(lambda: not server.listener.connections)
        assert handler.lost == [None]
        assert (server.listener.half_open, server.listener.handshakes) == (0, 1)


async def refused_alert(server: Server, context: Any, talk: bool) -> int | None:
    """Connect as a device that is refused; ``talk``: it writes at once, as devices do."""
    try:
        stream = await server.open(context)
        try:
            if talk:
                for _ in range(3):
                    stream.write(bytes(3000))
            await asyncio.wait_for(stream.read(1), 30)
        finally:
            await finish(stream)
    except Rejected as error:
        return error.alert
    except FleetError:
        return None
    return None


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["1.2", "1.3"])
@pytest.mark.parametrize(("name", "alerts"), REFUSALS)
async def test_a_refused_device_is_told_every_time(
    pki: Pki, name: str | None, alerts: tuple[int, int], version: int
) -> None:
    async with serving(pki, "tls") as server:
        context = device(pki, name)
        context.limit_version(version)
        expected = alerts[version == SSL.TLS1_3_VERSION]
        heard = [await refused_alert(server, context, n % 2 == 1) for n in range(TRIES)]
        assert heard == [expected] * TRIES
        await until(lambda: len(server.refused) == TRIES)
        assert not server.handlers
        assert server.listener.refused_count == TRIES and server.listener.half_open == 0
        assert all(isinstance(error, TrustError) for _, _, error in server.refused)


class Raw:
    """A client socket that does TLS by hand, a byte at a time if need be."""

    def __init__(self, sock: socket.socket, ssl: SslObject):
        self.sock = sock
        self.ssl = ssl

    @classmethod
    async def connect(cls, server: Server, context: Any) -> "Raw":
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (HOST, server.listener.port))
        return cls(sock, SslObject(context, "localhost"))

    async def receive(self) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 65536), 30)

    async def send(self) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, self.ssl.output())

    async def shake(self) -> None:
        while not self.ssl.handshake():
            await self.send()
            self.ssl.feed(await self.receive())
        await self.send()


async def test_the_alert_leaves_before_the_end_of_file(pki: Pki) -> None:
    async with serving(pki, "tls") as server:
        context = device(pki, "device_of_other_ca")
        context.limit_version(SSL.TLS1_2_VERSION)
        client = await Raw.connect(server, context)
        with pytest.raises(Rejected):
            await client.shake()
        assert await client.receive() == b""  # half-closed, no reset
        assert len(server.listener.connections) == 1  # before its time to linger is over
        await asyncio.get_running_loop().sock_sendall(client.sock, bytes(10000))  # no reset
        await asyncio.sleep(0.05)
        client.sock.close()
        await until(lambda: not server.listener.connections)


async def test_lingering_ends_although_the_client_stays(pki: Pki) -> None:
    async with serving(pki, "tls") as server:
        client = await Raw.connect(server, device(pki))
        await client.shake()
        await until(lambda: server.handlers)
        server.handlers[0].transport.close(linger_s=0.2)
        assert len(server.listener.connections) == 1
        await until(lambda: not server.listener.connections)
        assert server.handlers[0].lost == []  # it closed it itself
        client.sock.close()


async def test_last_words_arrive_although_the_client_talks_on(pki: Pki) -> None:
    async with serving(pki, "tls") as server:
        for _ in range(TRIES):
            stream = await server.open(device(pki))
            stream.write(b"end")
            await asyncio.sleep(0.001)
            with contextlib.suppress(LinkClosed):
                stream.write(bytes(20000))
            assert await stream.read(100) == b"goodbye"
            assert await stream.read(100) == b""
            await finish(stream)


async def test_close_notify_is_answered(pki: Pki) -> None:
    async with serving(pki, "tls") as server:
        client = await Raw.connect(server, device(pki))
        await client.shake()
        client.ssl.close_notify()
        await client.send()
        answer = b""
        while data := await client.receive():
            answer += data
        client.ssl.feed(answer)
        assert client.ssl.read() == b""
        client.sock.close()


async def test_a_vanished_device_is_reported_once(pki: Pki) -> None:
    async with serving(pki, "tls") as server:
        client = await Raw.connect(server, device(pki))
        await client.shake()
        await until(lambda: server.handlers)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sock.close()
        [handler] = server.handlers
        await until(lambda: handler.lost)
        await asyncio.sleep(0.02)
        [error] = handler.lost
        assert isinstance(error, LinkClosed)


async def test_stalled_handshakes_are_closed_by_the_deadline(pki: Pki) -> None:
    """No byte, half a ClientHello, and a whole one, all silent afterwards."""
    async with serving(pki, "tls", handshake_timeout_s=60.0) as server:
        clients = [await Raw.connect(server, device(pki)) for _ in range(30)]
        for number, client in enumerate(clients):
            client.ssl.handshake()
            hello = client.ssl.output()
            client.sock.send(hello[: (0, 50, len(hello))[number % 3]])
        await until(lambda: server.listener.half_open == 30)
        stream = await server.open(device(pki))
        stream.write(b"honest")
        assert await stream.read(99) == b"echo honest"
        put_forward(61)
        await until(lambda: len(server.listener.connections) == 1)
        assert server.listener.half_open == 0
        assert len(server.refused) == 30
        assert all(isinstance(error, HandshakeTimeout) for _, _, error in server.refused)
        stream.write(b"still here")  # the deadline was the handshake's only
        assert await stream.read(99) == b"echo still here"
        for client in clients:
            client.sock.close()
        await finish(stream)


async def test_a_byte_now_and_then_buys_no_time(pki: Pki) -> None:
    async with serving(pki, "tls", handshake_timeout_s=0.3) as server:
        client = await Raw.connect(server, device(pki))
        client.ssl.handshake()
        with contextlib.suppress(OSError):
            async with asyncio.timeout(30):
                for byte in client.ssl.output():
                    client.sock.send(bytes((byte,)))
                    await asyncio.sleep(0.02)
                    if server.refused:
                        break
        assert isinstance(server.refused[0][2], HandshakeTimeout)
        client.sock.close()


async def test_handshakes_under_way_are_capped(pki: Pki) -> None:
    async with serving(pki, "tls", handshake_timeout_s=60.0, max_handshakes=5) as server:
        clients = [await Raw.connect(server, device(pki)) for _ in range(12)]
        await until(lambda: server.listener.overloaded == 7)
        assert server.listener.half_open == 5
        put_forward(61)
        await until(lambda: server.listener.half_open == 0)
        stream = await server.open(device(pki))
        await finish(stream)
        for client in clients:
            client.sock.close()


@pytest.mark.parametrize("resets", [False, True], ids=["closes", "resets"])
async def test_a_probe_that_says_nothing_is_not_refused(pki: Pki, resets: bool) -> None:
    """A balancer's health check, a look whether the port is open."""
    async with serving(pki, "tls", max_handshakes=1) as server:
        for count in range(1, 4):
            client = await Raw.connect(server, device(pki))
            await until(lambda: server.listener.half_open)
            if resets:
                option = struct.pack("ii", 1, 0)
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
            client.sock.close()
            await until(lambda count=count: server.listener.probe_count == count)
        await until(lambda: not server.listener.connections)
        assert (server.refused, server.listener.refused_count) == ([], 0)
        client = await Raw.connect(server, device(pki))
        client.sock.send(b"\x16")
        await asyncio.sleep(0)
        client.sock.close()
        await until(lambda: server.refused)


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\x16\x03\x01\xff\xff"])
async def test_what_is_not_tls_is_refused(pki: Pki, junk: bytes) -> None:
    async with serving(pki, "tls", handshake_timeout_s=0.3) as server:
        client = await Raw.connect(server, device(pki))
        client.sock.send(junk)
        await until(lambda: server.refused)
        client.sock.close()
        await until(lambda: not server.listener.connections)
        assert server.listener.half_open == 0


async def test_old_versions_are_refused(pki: Pki) -> None:
    async with serving(pki, "tls") as server:
        client = await Raw.connect(server, device(pki))
        client.ssl.handshake()
        hello = bytearray(client.ssl.output())
        extension = hello.index(b"\0\x2b")  # supported_versions
        hello[extension : extension + 2] = b"\xff\x2b"
        hello[9:11] = b"\x03\x02"
        client.sock.send(bytes(hello))
        answer = await client.receive()
        assert answer[0] == 21 and answer[6] == 70  # alert: protocol_version
        client.sock.close()


async def test_a_client_that_does_not_read_is_dropped(pki: Pki) -> None:
    async with serving(pki, "tls") as server:
        client = await Raw.connect(server, device(pki))
        await client.shake()
        await until(lambda: server.handlers)
        [handler] = server.handlers
        for _ in range(200):
            handler.transport.send(bytes(65536))
            if handler.lost:
                break
            await asyncio.sleep(0)
        assert isinstance(handler.lost[0], LinkClosed) and len(handler.lost) == 1
        assert "does not read" in str(handler.lost[0])
        handler.transport.send(b"more")
        await until(lambda: not server.listener.connections)
        client.sock.close()


async def test_a_handler_may_close_while_it_is_made_or_fed(pki: Pki) -> None:
    async with serving(pki, "tls") as server:
        accept = server.listener.accept

        def refuse(transport: Any, certificate: bytes) -> Any:
            handler = accept(transport, certificate)
            transport.send(b"no")
            transport.close()
            return handler

        server.listener.accept = refuse
        stream = await server.open(device(pki))
        assert await stream.read(10) == b"no"
        assert await stream.read(10) == b""
        await finish(stream)
        await until(lambda: not server.listener.connections)
        assert server.handlers[0].lost == []


async def test_stopping_and_closing(pki: Pki) -> None:
    async with serving(pki, "tls") as server:
        stream = await server.open(device(pki))
        half = await Raw.connect(server, device(pki))
        await until(lambda: server.listener.half_open == 1)
        server.listener.stop_accepting()
        with pytest.raises(FleetError):
            await server.open(device(pki))
        stream.write(b"x")
        assert await stream.read(9) == b"echo x"
        server.listener.close()
        await until(lambda: not server.listener.connections)
        assert server.listener.half_open == 0
        half.sock.close()
        await finish(stream)


async def test_renegotiation_is_refused_at_once(pki: Pki) -> None:
    """And the answer does not pile up in memory until the server has something to say."""
    context = device(pki)
    permissive = SSL.Context(SSL.TLS_METHOD)  # ours refuses to ask for it
    permissive.set_max_proto_version(SSL.TLS1_2_VERSION)
    permissive.use_certificate(x509.load_der_x509_certificate(pki.device.certificate))
    key = serialization.load_der_private_key(pki.device.key, None)
    permissive.use_privatekey(key)  # type: ignore[arg-type]
    context.native, context.mode = permissive, "insecure"
    async with serving(pki, "tls") as server:
        client = await Raw.connect(server, context)
        await client.shake()
        await until(lambda: server.handlers)
        client.ssl.is_established = False
        assert Binding.lib.SSL_renegotiate(client.ssl._ssl) == 1
        assert not client.ssl.handshake()
        await client.send()
        client.ssl.feed(await client.receive())
        with pytest.raises(FleetError):
            client.ssl.handshake()
        client.sock.close()
        await until(lambda: not server.listener.connections)


@pytest.mark.parametrize("kind", ["tls", "dtls"])
async def test_the_log_tells_when_a_device_distrusts_the_server(pki: Pki, kind: str) -> None:
    async with serving(pki, kind) as server:
        context = client_context(pki.other_ca.certificate, *pki.device, datagram=kind == "dtls")
        with pytest.raises(WrongCA):
            await server.open(context)
        await until(lambda: server.refused)
        [(name, address, error)] = server.refused
        assert (name, address[0]) == (kind, HOST)
        assert isinstance(error, Rejected) and error.alert == 48
        assert str(error) == "the device rejected this server: unknown CA (TLS alert 48)"
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("kind", ["tls", "dtls"])
@pytest.mark.parametrize("name", ["device_expired", "device_future", "device_of_other_ca"])
async def test_an_out_of_date_certificate_of_our_ca_is_kept_for_its_name(
    pki: Pki, kind: str, name: str
) -> None:
    async with serving(pki, kind) as server:
        context = client_context(
            pki.ca.certificate, *getattr(pki, name), datagram=kind == "dtls"
        )
        with contextlib.suppress(FleetError):
            stream = await server.open(context)
            await asyncio.wait_for(stream.read(1), 30)
        await until(lambda: server.refused)
        error = server.refused[0][2]
        assert isinstance(error, TrustError)
        # Another CA may write any name into a certificate.
        is_ours = name != "device_of_other_ca"
        assert error.certificate == (getattr(pki, name).certificate if is_ours else b"")
