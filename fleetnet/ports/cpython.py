"""asyncio on CPython: clock, TCP and TLS streams, DTLS associations.

The same names as ports/micropython.py. Connections stand on openssl_protocol.py and
openssl_object.py; no StreamReader, no task of their own.
"""

import asyncio
import os
import platform
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from fleetnet.errors import FleetError, HandshakeTimeout, LinkClosed, Unreachable, Unsupported
from fleetnet.limits import DATAGRAM_PAYLOAD
from fleetnet.ports.openssl_context import Context, client_context, server_context
from fleetnet.ports.openssl_object import SslObject
from fleetnet.ports.openssl_protocol import SecureProtocol
from fleetnet.ticks import PERIOD

__all__ = ("Context", "client_context", "server_context")

_T = TypeVar("_T")

# What a slow reader may leave in memory before the socket is read no further.
_READ_AHEAD = 65536
_DATAGRAM_BYTES = 2048


def ticks() -> int:
    """Return ms since some point, wrapping at 2**30."""
    return int(time.monotonic() * 1000) & (PERIOD - 1)


def unix_ms() -> int:
    """Return ms since 1970."""
    return int(time.time() * 1000)


def random_bytes(n: int) -> bytes:
    """Return ``n`` unpredictable bytes."""
    return os.urandom(n)


def platform_text() -> str:
    """Return a short name of the interpreter for HELLO."""
    return f"cpython/{platform.python_version()} {sys.platform}"


async def sleep_ms(ms: int) -> None:
    """Sleep for ``ms`` milliseconds."""
    await asyncio.sleep(ms / 1000)


async def wait_for_ms(awaitable: Awaitable[_T], ms: int) -> _T:
    """Wait at most ``ms`` milliseconds. Raises asyncio.TimeoutError."""
    return await asyncio.wait_for(awaitable, ms / 1000)


class Stream(SecureProtocol):
    """A TCP or TLS connection; one task may read and one may write."""

    def __init__(
        self,
        context: Context | None,
        server_hostname: str | None = None,
        handshake_timeout_s: float = 10.0,
        accepted: "Callable[[Stream], None] | None" = None,
    ):
        super().__init__(context, server_hostname, handshake_timeout_s)
        self.verified = context is not None and context.verified
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._accepted = accepted
        self._buffer = bytearray()
        self._error: FleetError | None = None
        self._is_eof = False
        self._is_paused = False
        self._reader: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._gone = asyncio.Event()

    def on_established(self) -> None:
        if not self.opened.done():
            self.opened.set_result(None)
        if self._accepted is not None:
            self._accepted(self)

    def on_data(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > _READ_AHEAD and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def on_end(self, error: FleetError | None) -> None:
        self._is_eof = True
        self._error = error
        if not self.opened.done():
            if self._accepted is None and error is not None:
                self.opened.set_exception(error)
            else:
                self.opened.cancel()
        self._room.set()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._gone.set()

    def eof_received(self) -> bool:
        # An end without close_notify is the normal end of MicroPython's TLS streams.
        if self.opened.done() and not self._is_discarding:
            self._finish(None)
            return True
        return super().eof_received()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def read(self, n: int) -> bytes:
        """Return 1 to ``n`` bytes, or b"" at the end of file."""
        while not self._buffer:
            if self._is_eof:
                if self._error is not None:
                    raise self._error
                return b""
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        data = bytes(self._buffer[:n])
        del self._buffer[:n]
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        return data

    def write(self, data: bytes) -> None:
        """Send ``data``; drain() waits for room."""
        if self._transport is None or self._is_over:
            raise self._error or LinkClosed("connection is closed")
        self.send(data)

    async def drain(self) -> None:
        """Wait until the transport has room again."""
        if self._error is not None:
            raise self._error
        await self._room.wait()

    def cipher(self) -> tuple[str, str] | None:
        """Return (name, version); None on plain TCP."""
        return self._ssl.cipher() if self._ssl is not None else None

    def peer_certificate(self) -> bytes | None:
        """Return the peer's certificate as DER, or None."""
        return self._ssl.peer_certificate() if self._ssl is not None else None

    def close(self) -> None:
        """Begin to close: close_notify, half-close, a bounded wait for the peer."""
        self._is_eof = True
        self.shut()
        self._wake()

    async def wait_closed(self) -> None:
        """Wait until the socket is closed, about a second at most."""
        await self._gone.wait()


async def open_stream(
    host: str,
    port: int,
    context: Context | None = None,
    server_hostname: str | None = None,
    timeout_ms: int = 10_000,
) -> Stream:
    """Connect, and complete the TLS handshake when ``context`` is given.

    Raises:
        Unreachable, HandshakeTimeout, the TrustError family, Rejected.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_ms / 1000
    name = server_hostname or host
    try:
        async with asyncio.timeout_at(deadline):
            _, stream = await loop.create_connection(
                lambda: Stream(context, name, timeout_ms / 1000), host, port
            )
    except TimeoutError:
        raise Unreachable(f"{host}:{port} does not answer") from None
    except OSError as error:
        raise Unreachable(f"{host}:{port} cannot be reached: {error}") from error
    try:
        async with asyncio.timeout_at(deadline):
            await stream.opened
    except TimeoutError:
        stream.abort()
        raise HandshakeTimeout(f"{host}:{port}: no TLS handshake in time") from None
    except BaseException:
        if not stream._is_discarding:
            stream.abort()
        raise
    return stream


class Listener:
    """A listening socket; ``port`` is the real one when 0 was asked for."""

    def __init__(self, server: asyncio.Server, tasks: set[asyncio.Task[None]]):
        self._server = server
        self._tasks = tasks
        self.port: int = server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Stop accepting; connections that run go on."""
        self._server.close()

    async def wait_closed(self) -> None:
        """Wait for the callbacks that still run."""
        if self._tasks:
            await asyncio.wait(self._tasks)


async def listen(
    callback: Callable[[Stream], Coroutine[Any, Any, None]],
    host: str,
    port: int,
    context: Context | None = None,
    backlog: int = 2048,
) -> Listener:
    """Accept TCP or TLS connections; ``callback(stream)`` runs as a task for each."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def accepted(stream: Stream) -> None:
        task = loop.create_task(callback(stream))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await loop.create_server(
        lambda: Stream(context, accepted=accepted), host, port, backlog=backlog
    )
    return Listener(server, tasks)


class Datagrams:
    """A DTLS association with one server. send() and recv() never block."""

    max_payload = DATAGRAM_PAYLOAD

    def __init__(self, sock: socket.socket, context: Context, server_hostname: str, what: str):
        self.verified = context.verified
        self._sock: socket.socket | None = sock
        self._what = what
        self._ssl = SslObject(context, server_hostname, what)
        self._ready: asyncio.Future[None] | None = None

    def send(self, data: bytes) -> bool:
        """Send one datagram; False when the socket has no room now.

        Raises:
            ValueError: above max_payload. LinkClosed and its kin: the association is over.
        """
        if len(data) > self.max_payload:
            raise ValueError(f"datagram of {len(data)} B, limit {self.max_payload} B")
        if self._sock is None:
            raise LinkClosed(f"{self._what}: association is closed")
        self._ssl.write(data)
        return self._transmit()

    def _transmit(self) -> bool:
        assert self._sock is not None
        sent = True
        for datagram in self._ssl.datagrams():
            try:
                self._sock.send(datagram)
            except (BlockingIOError, InterruptedError):
                sent = False
            except ConnectionRefusedError:
                raise self._broken(Unreachable(f"{self._what}: nobody listens there")) from None
            except OSError as error:
                raise self._broken(LinkClosed(f"{self._what}: {error}")) from error
        return sent

    def recv(self) -> bytes | None:
        """Return one datagram's payload, or None when there is none now."""
        while True:
            if self._sock is None:
                raise LinkClosed(f"{self._what}: association is closed")
            try:
                payload = self._ssl.read() if self._ssl.is_established else None
                if payload is None:
                    if not self._fetch():
                        return None
                    continue
            except FleetError as error:
                raise self._broken(error) from None
            if not payload:
                raise self._broken(LinkClosed(f"{self._what} closed the association"))
            return payload

    def _fetch(self) -> bool:
        """Take one datagram from the socket; False when there is none."""
        assert self._sock is not None
        try:
            datagram = self._sock.recv(_DATAGRAM_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionRefusedError:
            raise Unreachable(f"{self._what}: nobody listens there") from None
        except OSError as error:
            raise LinkClosed(f"{self._what}: {error}") from error
        self._ssl.feed(datagram)
        if not self._ssl.is_established:
            try:
                self._ssl.handshake()
            finally:
                self._transmit()
            return self._ssl.is_established
        if datagram[:1] == b"\x16":
            # The server repeats its last flight: OpenSSL answers while it reads.
            self._ssl.handle_timeout()
        return True

    async def receive(self, timeout_ms: int | None = None) -> bytes | None:
        """Wait for one datagram; None after ``timeout_ms``."""
        deadline = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
        while True:
            data = self.recv()
            if data is not None:
                return data
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            await self._readable(left)

    async def _readable(self, timeout_s: float | None) -> None:
        """Wait until the socket has something, or ``timeout_s`` has passed."""
        if self._sock is None:
            raise LinkClosed(f"{self._what}: association is closed")
        loop = asyncio.get_running_loop()
        ready = self._ready = loop.create_future()
        number = self._sock.fileno()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        loop.add_reader(number, wake)
        timer = loop.call_later(timeout_s, wake) if timeout_s is not None else None
        try:
            await ready
        finally:
            if timer is not None:
                timer.cancel()
            if self._sock is not None:
                loop.remove_reader(number)

    async def handshake(self, timeout_ms: int) -> None:
        """Complete the handshake; flights are repeated by OpenSSL's timer."""
        deadline = time.monotonic() + timeout_ms / 1000
        self._ssl.handshake()
        self._transmit()
        while not self._ssl.is_established:
            left = deadline - time.monotonic()
            if left <= 0:
                raise HandshakeTimeout(f"{self._what}: no DTLS handshake in time")
            wait_s = self._ssl.timeout()
            await self._readable(left if wait_s is None else min(left, wait_s + 0.001))
            while self._fetch():
                if self._ssl.is_established:
                    return
            self._ssl.handle_timeout()
            self._transmit()

    def _broken(self, error: FleetError) -> FleetError:
        self.close()
        return error

    def cipher(self) -> tuple[str, str]:
        """Return (name, version) of the association."""
        return self._ssl.cipher()

    def peer_certificate(self) -> bytes | None:
        """Return the server's certificate as DER."""
        return self._ssl.peer_certificate()

    def close(self) -> None:
        """Send close_notify and close the socket; harmless when repeated."""
        sock = self._sock
        if sock is None:
            return
        self._sock = None
        self._ssl.close_notify()
        try:
            for datagram in self._ssl.datagrams():
                sock.send(datagram)
        except OSError:
            pass  # the peer is gone; there is nobody left to tell
        if self._ready is not None and not self._ready.done():
            # A task waits for this socket: take its number out of the loop, and wake it.
            self._ready.get_loop().remove_reader(sock.fileno())
            self._ready.set_result(None)
        sock.close()


async def open_datagram(
    host: str,
    port: int,
    context: Context,
    server_hostname: str | None = None,
    timeout_ms: int = 10_000,
) -> Datagrams:
    """Open a DTLS association; the handshake never blocks the loop.

    Raises:
        Unreachable, HandshakeTimeout, the TrustError family, Rejected.
    """
    if not context.datagram:
        raise Unsupported("open_dtls needs a context made with datagram=True")
    loop = asyncio.get_running_loop()
    what = f"{host}:{port}"
    try:
        infos = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise Unreachable(f"cannot resolve {host} ({error})") from error
    sock = socket.socket(infos[0][0], socket.SOCK_DGRAM)
    sock.setblocking(False)
    try:
        sock.connect(infos[0][4])
    except OSError as error:
        sock.close()
        raise Unreachable(f"{what} cannot be reached: {error}") from error
    datagrams = Datagrams(sock, context, server_hostname or host, what)
    try:
        await datagrams.handshake(timeout_ms)
    except BaseException:
        datagrams.close()
        raise
    return datagrams
