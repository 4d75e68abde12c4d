"""asyncio on CPython: clock, TCP and TLS streams; DTLS comes from cpython_datagrams.py.

The same names as ports/micropython.py. Streams stand on openssl_protocol.py; no
StreamReader, no task of their own.
"""

import asyncio
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from errno import ECONNREFUSED
from typing import Any, TypeVar

from fleetnet.errors import FleetError, HandshakeTimeout, LinkClosed, Unreachable, Unsupported
from fleetnet.ports.cpython_datagrams import Datagrams, open_datagram
from fleetnet.ports.cpython_dtls_server import (
    AcceptedDatagrams,
    DatagramListener,
    serve_datagrams,
)
from fleetnet.ports.openssl_context import Context, client_context, server_context
from fleetnet.ports.openssl_protocol import SecureProtocol
from fleetnet.ticks import PERIOD

__all__ = (
    "AcceptedDatagrams",
    "Context",
    "DatagramListener",
    "Datagrams",
    "client_context",
    "open_datagram",
    "serve_datagrams",
    "server_context",
)

# open_stream(ssl=True) verifies against the system's certificate store.
HAS_SYSTEM_STORE = True

_T = TypeVar("_T")

# What a slow reader may leave in memory before the socket is read no further.
_READ_AHEAD = 65536


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


def event_loop() -> object:
    """Return an object of the running event loop that no other one has."""
    return asyncio.get_running_loop()


async def sleep_ms(ms: int) -> None:
    """Sleep for ``ms`` milliseconds."""
    await asyncio.sleep(ms / 1000)


async def wait_for_ms(awaitable: Awaitable[_T], ms: int) -> _T:
    """Wait at most ``ms`` milliseconds. Raises asyncio.TimeoutError."""
    # Not asyncio.wait_for: in CPython 3.11 it loses a cancellation that comes in the moment in
    # which the awaitable is done (https://github.com/python/cpython/issues/86296).
    async with asyncio.timeout(ms / 1000):
        return await awaitable


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
        self.verified = context is not None and context.verified  # a server may ask only
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._accepted = accepted
        self._buffer = bytearray()
        self._error: FleetError | None = None
        self._is_eof = False
        self._is_half = False  # the peer has sent all that it will
        self._is_paused = False
        self._reader: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._gone = asyncio.Event()

    def on_established(self) -> None:
        if self._ssl is not None:
            self.verified = self._ssl.verified
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
                # Who waited for it may have been cancelled: nobody asks then, and that is no fault.
                self.opened.exception()
            else:
                self.opened.cancel()
        self._room.set()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._gone.set()

    def eof_received(self) -> bool:
        if self._context is None and not self._is_discarding:
            # Half of a TCP connection, as asyncio's and MicroPython's streams have it.
            self._is_eof = self._is_half = True
            self._wake()
            return True
        # An end without close_notify is the normal end of MicroPython's TLS streams; what
        # it cut off is missed by the session, which ends with BYE.
        if self.opened.done() and not self._is_discarding:
            self._finish(None)
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
        if self._is_paused and len(self._buffer) <= _READ_AHEAD and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        return data

    def write(self, data: bytes) -> None:
        """Send ``data``; drain() waits for room."""
        if self._transport is None or self._is_over:
            raise self._error or LinkClosed("connection is closed")
        self.send(data)

    async def drain(self) -> None:
        """Wait until the transport has room again. Raises what ended the connection."""
        await self._room.wait()
        if self._error is not None:
            raise self._error

    def cipher(self) -> tuple[str, str] | None:
        """Return (name, version); None on plain TCP."""
        return self._ssl.cipher() if self._ssl is not None else None

    def peer_certificate(self) -> bytes | None:
        """Return the peer's certificate as DER, or None."""
        return self._ssl.peer_certificate() if self._ssl is not None else None

    @property
    def psk_identity(self) -> bytes | None:
        """By which the client named itself in a handshake with a pre-shared key, or None."""
        return self._ssl.psk_identity if self._ssl is not None else None

    def close(self) -> None:
        """Begin to close: close_notify, half-close, a bounded wait for the peer."""
        self._is_eof = True
        if self._is_half:
            self._peer_closed()  # nothing that it would have to be waited for
        else:
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
    if context is not None and context.datagram:
        raise Unsupported("a TLS stream needs a context made without datagram=True")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_ms / 1000
    name = server_hostname or host
    try:
        async with asyncio.timeout_at(deadline):
            _, stream = await loop.create_connection(
                lambda: Stream(context, name, timeout_ms / 1000), host, port
            )
    except TimeoutError:
        raise Unreachable(f"{host}:{port} does not answer: a firewall, or away?") from None
    except (OSError, UnicodeError) as error:
        # With several addresses, as of localhost, asyncio puts the sentences of all into one.
        if f"[Errno {ECONNREFUSED}]" in str(error):
            raise Unreachable(
                f"{host}:{port} refused the connection: is a server running there?"
            ) from error
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
