"""open_stream and listen of the CPython port over real sockets; errors of open_datagram too."""

import asyncio
import contextlib
import gc
import hashlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fleetnet import streams
from fleetnet.errors import (
    CertificateExpired,
    CertificateNotYetValid,
    CredentialError,
    FleetError,
    HandshakeTimeout,
    LinkClosed,
    TrustError,
    Unreachable,
    Unsupported,
    WrongCA,
    WrongName,
)
from fleetnet.ports import cpython
from fleetnet.ports.cpython import (
    Listener,
    Stream,
    client_context,
    open_datagram,
    server_context,
)
from fleetnet.ports.openssl_object import SslObject
from fleetnet_server.identity.pki import Credential
from listening import HOST, device, echoing
from pki import Pki

_ended: list[Stream | Listener] = []


@pytest.fixture(autouse=True)
async def _no_leftovers() -> AsyncIterator[None]:
    """Close what a test left open: a forgotten socket is an error of the whole run."""
    yield
    for each in _ended:
        each.close() if isinstance(each, Listener) else each.abort()
    for each in _ended:
        if isinstance(each, Listener) or each._transport is not None:
            await each.wait_closed()
    _ended.clear()
    await asyncio.sleep(0.01)


async def open_stream(*arguments: Any, **options: Any) -> Stream:
    stream = await cpython.open_stream(*arguments, **options)
    _ended.append(stream)
    return stream


async def listen(*arguments: Any, **options: Any) -> Listener:
    listener = await cpython.listen(*arguments, **options)
    _ended.append(listener)
    return listener


async def echo(stream: Stream) -> None:
    with contextlib.suppress(FleetError):
        while data := await stream.read(4096):
            stream.write(data)
            await stream.drain()
    stream.close()
    await stream.wait_closed()


async def start(pki: Pki, server: Credential | None = None, callback=echo) -> Listener:  # type: ignore[no-untyped-def]
    return await listen(callback, HOST, 0, server_context(*(server or pki.server)))


async def test_tls_and_plain_streams_echo(pki: Pki) -> None:
    secure = await start(pki)
    plain = await listen(echo, HOST, 0)
    for listener, context in ((secure, client_context(pki.ca.certificate)), (plain, None)):
        stream = await open_stream(HOST, listener.port, context)
        stream.write(b"abcdef")
        assert await stream.read(4) == b"abcd"
        assert await stream.read(99) == b"ef"
        assert stream.verified == (context is not None)
        assert stream.cipher() == (context and ("TLS1-3-AES-128-GCM-SHA256", "TLSv1.3"))
        assert stream.peer_certificate() == (context and pki.server.certificate)
        stream.close()
        await asyncio.wait_for(stream.wait_closed(), 30)
        assert await stream.read(1) == b""
        with pytest.raises(LinkClosed):
            stream.write(b"x")


@pytest.mark.parametrize("datagram", [False, True])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("server_expired", CertificateExpired),
        ("server_future", CertificateNotYetValid),
        ("server_elsewhere", WrongName),
        ("server_of_other_ca", WrongCA),
        ("device", TrustError),
    ],
)
async def test_no_byte_goes_to_a_server_that_is_not_trusted(
    pki: Pki, datagram: bool, name: str, expected: type[FleetError]
) -> None:
    async with echoing(pki, getattr(pki, name)) as port:
        listener = await start(pki, getattr(pki, name))
        with pytest.raises(expected):
            if datagram:
                await open_datagram(HOST, port, device(pki, datagram=True), "localhost")
            else:
                await open_stream(HOST, listener.port, device(pki), "localhost")


async def test_insecure_says_so(pki: Pki) -> None:
    listener = await start(pki, pki.server_expired)
    stream = await open_stream(HOST, listener.port, client_context(insecure=True))
    assert not stream.verified and stream.cipher()
    stream.abort()


async def test_nobody_there(pki: Pki) -> None:
    with socket.socket() as closed:
        closed.bind((HOST, 0))
        port = closed.getsockname()[1]
    for host in (HOST, "localhost"):
        words = f"^{host}:{port} refused the connection: is a server running"
        with pytest.raises(Unreachable, match=words):
            await open_stream(host, port, device(pki))
    with pytest.raises(Unreachable, match="nobody listens there: is the server running"):
        await open_datagram(HOST, port, device(pki, datagram=True))
    for host in ("no-such-host.invalid", "a..b"):
        with pytest.raises(Unreachable):
            await open_stream(host, port, device(pki), timeout_ms=5000)
        with pytest.raises(Unreachable):
            await open_datagram(host, port, device(pki, datagram=True), timeout_ms=5000)


async def test_somebody_there_who_says_nothing(pki: Pki) -> None:
    tcp = socket.create_server((HOST, 0))
    udp = socket.socket(type=socket.SOCK_DGRAM)
    udp.bind((HOST, 0))
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(HandshakeTimeout):
        await open_stream(HOST, tcp.getsockname()[1], device(pki), timeout_ms=150)
    with pytest.raises(HandshakeTimeout):
        await open_datagram(HOST, udp.getsockname()[1], device(pki, datagram=True), timeout_ms=150)
    assert 0.29 < loop.time() - began < 10
    tcp.close()
    udp.close()


async def test_misuse_is_explained(pki: Pki) -> None:
    with pytest.raises(Unsupported, match="datagram=True"):
        await open_datagram(HOST, 1, device(pki))
    with pytest.raises(Unsupported, match="datagram=True"):
        await open_stream(HOST, 1, device(pki, datagram=True))
    listener = await start(pki)
    with pytest.raises(CredentialError, match="server_hostname"):
        await open_stream(HOST, listener.port, device(pki), "a..b")
    with pytest.raises(CredentialError, match="server_hostname"):
        await open_datagram(HOST, listener.port, device(pki, datagram=True), "a..b")


@pytest.mark.parametrize("secure", [True, False])
async def test_a_big_transfer_waits_for_a_slow_reader_and_is_exact(pki: Pki, secure: bool) -> None:
    size = 6_000_000
    payload = bytes(range(250)) * (size // 250)
    most = 0
    result: list[bytes] = []

    async def slow(stream: Stream) -> None:
        nonlocal most
        digest = hashlib.sha256()
        while data := await stream.read(65536):
            digest.update(data)
            most = max(most, len(stream._buffer))
            await asyncio.sleep(0.001)
        result.append(digest.digest())
        stream.close()

    listener = await listen(slow, HOST, 0, server_context(*pki.server) if secure else None)
    context = client_context(pki.ca.certificate) if secure else None
    stream = await open_stream(HOST, listener.port, context)
    waited = 0
    for start_at in range(0, size, 100_000):
        stream.write(payload[start_at : start_at + 100_000])
        waited += not stream._room.is_set()
        await stream.drain()
    stream.close()
    await stream.wait_closed()
    await listener.wait_closed()
    assert result == [hashlib.sha256(payload).digest()]
    assert waited > 0  # there was pressure
    assert most < 700_000  # and memory stayed bounded


async def test_what_a_big_transfer_carried(pki: Pki) -> None:
    payload = bytes(range(251)) * 8000

    async def send(stream: Stream) -> None:
        stream.write(payload)
        await stream.drain()
        stream.close()
        await stream.wait_closed()

    listener = await start(pki, callback=send)
    stream = await open_stream(HOST, listener.port, client_context(pki.ca.certificate))
    got = bytearray()
    while data := await stream.read(7001):
        got += data
    assert bytes(got) == payload
    stream.close()


async def test_reading_byte_by_byte_does_not_fill_memory(pki: Pki) -> None:
    async def flood(stream: Stream) -> None:
        with contextlib.suppress(FleetError):
            while True:
                stream.write(bytes(65536))
                await stream.drain()

    listener = await start(pki, callback=flood)
    stream = await open_stream(HOST, listener.port, client_context(pki.ca.certificate))
    for _ in range(60):
        assert await stream.read(1) == b"\0"
        await asyncio.sleep(0.002)
    assert len(stream._buffer) < 700_000
    stream.abort()


async def test_a_cancelled_read_loses_nothing(pki: Pki) -> None:
    listener = await start(pki)
    stream = await open_stream(HOST, listener.port, client_context(pki.ca.certificate))
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.read(10), 0.02)
    stream.write(b"after")
    assert await stream.read(10) == b"after"
    stream.close()


async def test_a_cancelled_connect_leaves_no_socket(pki: Pki) -> None:
    tcp = socket.create_server((HOST, 0))
    tcp.setblocking(False)
    port = tcp.getsockname()[1]
    task = asyncio.create_task(open_stream(HOST, port, device(pki)))
    loop = asyncio.get_running_loop()
    accepted, _ = await asyncio.wait_for(loop.sock_accept(tcp), 30)
    assert await asyncio.wait_for(loop.sock_recv(accepted, 1), 30) == b"\x16"  # its ClientHello
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    accepted.settimeout(30)
    with contextlib.suppress(ConnectionError):
        while accepted.recv(4096):
            pass
    accepted.close()
    tcp.close()


async def test_a_reset_is_an_error_for_reader_and_writer(pki: Pki) -> None:
    async def reset(stream: Stream) -> None:
        stream.abort()

    listener = await start(pki, callback=reset)
    stream = await open_stream(HOST, listener.port, client_context(pki.ca.certificate))
    with contextlib.suppress(LinkClosed):  # a reset, or an end of file, as the kernel likes
        assert await stream.read(1) == b""
    with pytest.raises(LinkClosed):
        stream.write(b"x")
    await asyncio.wait_for(stream.wait_closed(), 30)


async def test_waiting_for_room_ends_when_the_connection_does(pki: Pki) -> None:
    streams: list[Stream] = []

    async def hold(stream: Stream) -> None:
        streams.append(stream)
        stream._transport.pause_reading()  # type: ignore[union-attr]
        await asyncio.sleep(0.1)
        stream.abort()

    listener = await start(pki, callback=hold)
    stream = await open_stream(HOST, listener.port, client_context(pki.ca.certificate))
    stream.write(bytes(12_000_000))
    with pytest.raises(LinkClosed):
        await asyncio.wait_for(stream.drain(), 30)


async def test_an_end_without_close_notify_is_an_end(pki: Pki) -> None:
    """MicroPython closes the socket only."""

    async def rude(stream: Stream) -> None:
        stream.write(b"last")
        assert stream._transport is not None
        stream._transport.close()

    listener = await start(pki, callback=rude)
    stream = await open_stream(HOST, listener.port, client_context(pki.ca.certificate))
    assert await stream.read(10) == b"last"
    assert await stream.read(10) == b""
    await asyncio.wait_for(stream.wait_closed(), 30)


@pytest.mark.parametrize("secure", [True, False])
async def test_who_has_nothing_more_to_say(pki: Pki, secure: bool) -> None:
    """Over TLS that ends both directions, over plain TCP only the peer's."""
    heard: list[bytes] = []

    async def shut(stream: Stream) -> None:
        stream.write(b"last")
        await stream.drain()
        assert stream._transport is not None
        if secure:
            assert stream._ssl is not None
            stream._transport.write(stream._ssl.goodbye())
        else:
            stream._transport.write_eof()
        while data := await stream.read(100):
            heard.append(data)
        stream.close()

    listener = await listen(shut, HOST, 0, server_context(*pki.server) if secure else None)
    context = client_context(pki.ca.certificate) if secure else None
    stream = await open_stream(HOST, listener.port, context)
    assert await stream.read(10) == b"last"
    assert await stream.read(10) == b""
    if secure:
        with pytest.raises(LinkClosed):
            stream.write(b"still here")
    else:
        stream.write(b"still")
        await stream.drain()
        stream.write(b" here")
        assert await stream.read(10) == b""
    stream.close()
    assert stream._timer is None  # nobody is waited for
    await asyncio.wait_for(stream.wait_closed(), 30)
    await asyncio.wait_for(listener.wait_closed(), 30)
    assert b"".join(heard) == (b"" if secure else b"still here")


async def test_a_cancellation_is_not_lost_where_the_wait_ends_at_the_same_moment() -> None:
    """CPython 3.11's asyncio.wait_for returns the result then, and the task lives on."""
    event = asyncio.Event()
    lived_on = []

    async def waits() -> None:
        await cpython.wait_for_ms(event.wait(), 60_000)
        lived_on.append(True)

    task = asyncio.create_task(waits())
    for _ in range(3):
        await asyncio.sleep(0)
    event.set()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert not lived_on


async def test_a_wait_ends_in_time_with_its_value_or_with_a_timeout() -> None:
    async def value() -> int:
        await asyncio.sleep(0)
        return 5

    assert await cpython.wait_for_ms(value(), 60_000) == 5
    with pytest.raises(TimeoutError):
        await cpython.wait_for_ms(asyncio.Event().wait(), 10)


async def test_an_opener_that_was_cancelled_leaves_no_complaint(pki: Pki) -> None:
    """Its connection fails behind it, and nobody asks for the reason."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, found: told.append(found))
    Stream(client_context(pki.ca.certificate)).on_end(LinkClosed("the connection broke"))
    gc.collect()
    assert told == []


async def test_a_callback_that_raises_leaves_nobody_waiting(pki: Pki) -> None:
    async def callback(_reader: streams.Stream, _writer: streams.Stream) -> None:
        raise RuntimeError("a mistake of the program")

    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, found: told.append(found))
    server = await streams.start_server(callback, HOST, 0)
    _ended.append(server)
    reader, writer = await streams.open_connection(HOST, server.port)
    async with asyncio.timeout(20), writer:
        assert await reader.read(1) == b""
    gc.collect()
    assert ["a mistake of the program"] == [str(found["exception"]) for found in told]


async def test_who_says_goodbye_and_reads_no_more_is_not_kept(pki: Pki) -> None:
    accepted: list[Stream] = []

    async def callback(stream: Stream) -> None:
        stream.write(bytes(8_000_000))
        accepted.append(stream)

    listener = await start(pki, callback=callback)
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, (HOST, listener.port))
        ssl = SslObject(client_context(pki.ca.certificate), "localhost")
        while not ssl.handshake():
            await loop.sock_sendall(sock, ssl.output())
            ssl.feed(await loop.sock_recv(sock, 65536))
        await loop.sock_sendall(sock, ssl.output())
        async with asyncio.timeout(30):
            while not accepted:
                await asyncio.sleep(0.01)
            ssl.close_notify()
            await loop.sock_sendall(sock, ssl.output())
            await accepted[0].wait_closed()
