"""asyncio on MicroPython: TCP and TLS streams, and the door to the rest of this room.

What keeps these right, each measured on 1.25 and newer:
- The handshake never blocks the loop (do_handshake_on_connect=False) and runs inside the
  first write, so a client speaks first.
- A write that would block is tried again with the very same bytes: mbedTLS insists, and
  asyncio's Stream.drain loses data here. drain() is locked, so one task writes at a time.
- Any exception but "nothing now" ends the connection: mbedTLS repeats it for ever. Both
  the TLS object and the raw socket are closed, and neither is touched afterwards:
  asyncio.open_connection leaks the socket of a failed handshake.
- A second task that waits for the same socket replaces the first without a word, and in a
  handshake the writer, too, waits to read: there they take turns.
- cipher() before the handshake's end, and setblocking() after close, crash the process.

Source: extmod/asyncio/stream.py, extmod/modtls_mbedtls.c.
"""

import asyncio
import os
import socket
import sys

from fleetnet.errors import HandshakeTimeout, LinkClosed
from fleetnet.ports.micropython_dtls import Datagrams, open_datagram
from fleetnet.ports.micropython_io import (
    BUSY,
    DRIVE_MS,
    connect,
    platform_text,
    readable,
    resolve,
    ticks,
    unix_ms,
    wrap,
    writable,
)
from fleetnet.ports.micropython_tls import client_context, map_error, server_context
from fleetnet.ticks import ticks_add, ticks_diff

__all__ = (
    "Datagrams",
    "client_context",
    "open_datagram",
    "platform_text",
    "server_context",
    "unix_ms",
)

HAS_SYSTEM_STORE = False

sleep_ms = asyncio.sleep_ms
wait_for_ms = asyncio.wait_for_ms
random_bytes = os.urandom


class Stream:
    """A TCP or TLS connection; one task may read and one may write."""

    def __init__(self, raw, context, server_hostname, what, deadline):
        self._raw = raw
        self._what = what
        self._deadline = deadline
        self._out = []
        self._sent = 0  # bytes of _out[0]; kept here, as a caller of drain() may give up
        self._lock = asyncio.Lock()
        self._turn = asyncio.Lock()
        self._recorder = None
        self._io = raw
        self._established = context is None
        # A client's Recorder sees the handshake end; a server waits for the first data.
        self._is_client = context is not None and not context.server_side
        self.verified = context is not None and context.verified
        if context is not None:
            try:
                self._io, self._recorder = wrap(context, raw, server_hostname)
            except BaseException as error:
                raw.close()
                raise map_error(error, None, what)

    async def read(self, n):
        """Return 1 to ``n`` bytes, or b"" at the end of file, which close() is, too."""
        while self._io is not None:
            try:
                data = self._io.recv(n)
            except (OSError, ValueError, MemoryError) as error:
                if self._recorder is None and error.args[0] in BUSY:
                    data = None
                else:
                    raise self._broken(error)
            if data is not None:
                self._established = True
                return data
            if self._is_shaken():
                await readable(self._raw)
            else:
                await self._pause_in_handshake()
        return b""

    def _is_shaken(self):
        """Say whether the handshake is over; the deadline counts no further."""
        return self._established or (self._is_client and self._recorder.sealed)

    def write(self, data):
        """Keep ``data`` for drain(); it is not copied."""
        self._out.append(data)

    async def drain(self):
        """Send what write() kept; the first time, that includes the handshake."""
        async with self._lock:
            while self._out:
                view = memoryview(self._out[0])
                while self._sent < len(view):
                    self._sent += await self._write_some(view[self._sent :])
                self._out.pop(0)
                self._sent = 0

    async def _write_some(self, view):
        while True:
            if self._io is None:
                raise LinkClosed("%s: connection is closed" % self._what)
            try:
                count = self._io.write(view)
            except (OSError, ValueError, MemoryError) as error:
                raise self._broken(error)
            if count is not None:
                self._established = True
                return count
            if self._is_shaken():
                await writable(self._raw)
            else:
                await self._pause_in_handshake()

    async def _pause_in_handshake(self):
        """Wait for the peer's bytes, 20 ms at most: a write may also wait for room."""
        async with self._turn:
            # The task whose turn it was may have finished the handshake, or closed.
            if self._io is None or self._is_shaken():
                return
            left = ticks_diff(self._deadline, ticks())
            if left <= 0:
                self.close()
                raise HandshakeTimeout("%s: no TLS handshake in time" % self._what)
            try:
                await asyncio.wait_for_ms(readable(self._raw), min(left, DRIVE_MS))
            except asyncio.TimeoutError:
                pass

    def _broken(self, error):
        mapped = map_error(error, self._recorder, self._what)
        self.close()
        return mapped

    def cipher(self):
        """Return (name, version); None before the handshake's end."""
        if self._recorder is None or not self._established or self._io is None:
            return None
        return self._io.cipher()

    def peer_certificate(self):
        """Return the peer's certificate as DER; None where the firmware keeps none."""
        if not self._established or not hasattr(self._io, "getpeercert"):
            return None
        return self._io.getpeercert(True)

    def close(self):
        """Close both layers; harmless when repeated."""
        io, raw = self._io, self._raw
        self._io = None
        self._raw = None
        if io is not None and io is not raw:
            io.close()
        if raw is not None:
            raw.close()

    async def wait_closed(self):
        """MicroPython's sockets close at once."""


async def open_stream(host, port, context=None, server_hostname=None, timeout_ms=10_000):
    """Connect, and wrap in TLS when ``context`` is given.

    TLS's own handshake runs inside the first drain() or read(), under the same deadline.

    Raises:
        Unreachable, CredentialError.
    """
    deadline = ticks_add(ticks(), timeout_ms)
    raw = await connect(host, port, deadline)
    name = server_hostname or host
    return Stream(raw, context, name, "%s:%d" % (host, port), deadline)


class Listener:
    """A listening socket and the task that accepts on it."""

    def __init__(self, sock, port, context, callback):
        self._sock = sock
        self.port = port
        self._callbacks = []
        self._task = asyncio.create_task(self._accept(context, callback))

    async def _accept(self, context, callback):
        while True:
            await readable(self._sock)
            try:
                raw = self._sock.accept()[0]
            except OSError:
                continue
            raw.setblocking(False)
            try:
                deadline = ticks_add(ticks(), 10_000)
                stream = Stream(raw, context, None, "client", deadline)
            except Exception as error:
                sys.print_exception(error)
                continue
            self._callbacks.append(asyncio.create_task(callback(stream)))
            self._callbacks = [task for task in self._callbacks if not task.done()]

    def close(self):
        self._task.cancel()
        self._sock.close()

    async def wait_closed(self):
        """MicroPython's sockets close at once."""


async def listen(callback, host, port, context=None, backlog=4):
    """Accept TCP or TLS connections; ``callback(stream)`` runs as a task for each."""
    info = resolve(host, port, socket.SOCK_STREAM)
    sock = socket.socket(info[0], socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(info[-1])
    sock.listen(backlog)
    sock.setblocking(False)
    return Listener(sock, port, context, callback)
