"""asyncio on MicroPython: clock, TCP and TLS streams, DTLS associations.

What keeps these right, each measured on 1.25 and newer:
- Own connect: asyncio.open_connection returns before TCP is connected, hides the error
  until the first write, and leaks the socket of a failed handshake.
- The handshake never blocks the loop (do_handshake_on_connect=False) and runs inside the
  first write, so a client speaks first.
- A write that would block is tried again with the very same bytes: mbedTLS insists, and
  asyncio's Stream.drain loses data here. drain() is locked, so one task writes at a time.
- Waiting is on the raw socket, after a read or write said "nothing now": mbedTLS may hold
  bytes that no poll on the raw socket announces, and polling the TLS object would call
  into the Recorder every millisecond.
- Any exception but "nothing now" ends the connection: mbedTLS repeats it for ever. Both
  the TLS object and the raw socket are closed, and neither is touched afterwards.
- cipher() before the handshake's end, and setblocking() after close, crash the process.

Source: extmod/asyncio/stream.py, extmod/modtls_mbedtls.c.
"""

import asyncio
import errno
import gc
import os
import select
import socket
import sys
import time
from asyncio import core

from fleetnet.errors import HandshakeTimeout, LinkClosed, Unreachable, Unsupported
from fleetnet.limits import DATAGRAM_PAYLOAD
from fleetnet.ports.micropython_tls import Recorder, client_context, map_error, server_context
from fleetnet.ticks import PERIOD, ticks_add, ticks_diff

__all__ = ("client_context", "server_context")

# Large enough for any datagram of ours; recv() hands out one record a call.
_RECEIVE_BYTES = 1500

# How often a DTLS handshake is driven: its retransmission timer runs only inside calls.
_DRIVE_MS = 20

HAS_SYSTEM_STORE = False

_BUSY = (errno.EAGAIN, errno.EINPROGRESS)

sleep_ms = asyncio.sleep_ms
wait_for_ms = asyncio.wait_for_ms
random_bytes = os.urandom


def ticks():
    """Return ms since some point, wrapping at 2**30."""
    return time.ticks_ms() & (PERIOD - 1)


def unix_ms():
    """Return ms since 1970, or 0 when the clock has never been set.

    Ports count from 1970 or from 2000; a year before 2024 is a clock that was not set.
    """
    if time.gmtime()[0] < 2024:
        return 0
    offset = 946_684_800 if time.gmtime(0)[0] == 2000 else 0
    return (int(time.time()) + offset) * 1000


def platform_text():
    """Return a short name of the firmware for HELLO."""
    return "micropython/%d.%d.%d %s" % (sys.implementation[1][:3] + (sys.platform,))


def _readable(sock):
    yield core._io_queue.queue_read(sock)


def _writable(sock):
    yield core._io_queue.queue_write(sock)


async def _wait(waiter, deadline):
    """Wait for a socket; TimeoutError when ``deadline`` (a tick, or None) comes first."""
    if deadline is None:
        await waiter
        return
    left = ticks_diff(deadline, ticks())
    if left <= 0:
        raise asyncio.TimeoutError
    await asyncio.wait_for_ms(waiter, left)


def _resolve(host, port, kind):
    try:
        return socket.getaddrinfo(host, port, 0, kind)[0]
    except OSError as error:
        raise Unreachable("cannot resolve %s (%r)" % (host, error))


async def _connect(host, port, deadline):
    """Return a connected non-blocking TCP socket, or raise Unreachable."""
    info = _resolve(host, port, socket.SOCK_STREAM)
    sock = socket.socket(info[0], socket.SOCK_STREAM)
    sock.setblocking(False)
    what = "%s:%d" % (host, port)
    try:
        try:
            sock.connect(info[-1])
        except OSError as error:
            if error.args[0] not in _BUSY:
                raise map_error(error, None, what)
        try:
            await _wait(_writable(sock), deadline)
        except asyncio.TimeoutError:
            raise Unreachable("%s does not answer" % what)
        poller = select.poll()
        poller.register(sock, select.POLLOUT)
        for entry in poller.poll(0):
            if entry[1] & (select.POLLERR | select.POLLHUP):
                raise Unreachable("%s refused the connection" % what)
    except BaseException:
        sock.close()
        raise
    return sock


def _wrap(context, raw, server_hostname):
    """Return (SSLSocket, Recorder) over ``raw``."""
    gc.collect()  # a connection needs a contiguous block of 17 KB
    recorder = Recorder(raw, context.datagram)
    if context.server_side:
        return (
            context.native.wrap_socket(recorder, server_side=True, do_handshake_on_connect=False),
            recorder,
        )
    wrapped = context.native.wrap_socket(
        recorder, server_hostname=server_hostname, do_handshake_on_connect=False
    )
    return wrapped, recorder


class Stream:
    """A TCP or TLS connection; one task may read and one may write."""

    def __init__(self, raw, context, server_hostname, what, deadline):
        self._raw = raw
        self._what = what
        self._deadline = deadline
        self._out = []
        self._lock = asyncio.Lock()
        self._recorder = None
        self._io = raw
        self._established = context is None
        self.verified = context is not None and context.verified
        if context is not None:
            try:
                self._io, self._recorder = _wrap(context, raw, server_hostname)
            except BaseException as error:
                raw.close()
                raise map_error(error, None, what)

    async def read(self, n):
        """Return 1 to ``n`` bytes, or b"" at the end of file."""
        while True:
            try:
                data = self._io.recv(n)
            except (OSError, ValueError, MemoryError) as error:
                if self._recorder is None and error.args[0] in _BUSY:
                    data = None
                else:
                    raise self._broken(error)
            if data is None:
                await self._pause(_readable)
                continue
            self._established = True
            return data

    async def _pause(self, waiter):
        """Wait for the socket; during the handshake under its deadline."""
        try:
            await _wait(waiter(self._raw), None if self._established else self._deadline)
        except asyncio.TimeoutError:
            self.close()
            raise HandshakeTimeout("%s: no TLS handshake in time" % self._what)

    def write(self, data):
        """Keep ``data`` for drain(); it is not copied."""
        self._out.append(data)

    async def drain(self):
        """Send what write() kept; the first time, that includes the handshake."""
        async with self._lock:
            while self._out:
                view = memoryview(self._out[0])
                at = 0
                while at < len(view):
                    at += await self._write_some(view[at:])
                self._out.pop(0)

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
            # The handshake waits for the peer's bytes, data for room: a client that
            # cannot write yet wakes for either, within 20 ms.
            if self._established:
                await self._pause(_writable)
            else:
                await self._pause_in_handshake()

    async def _pause_in_handshake(self):
        left = ticks_diff(self._deadline, ticks())
        if left <= 0:
            self.close()
            raise HandshakeTimeout("%s: no TLS handshake in time" % self._what)
        try:
            await asyncio.wait_for_ms(_readable(self._raw), min(left, _DRIVE_MS))
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
    raw = await _connect(host, port, deadline)
    name = server_hostname or host
    return Stream(raw, context, name, "%s:%d" % (host, port), deadline)


class Listener:
    """A listening socket and the task that accepts on it."""

    def __init__(self, sock, port, context, callback):
        self._sock = sock
        self.port = port
        self._task = asyncio.create_task(self._accept(context, callback))

    async def _accept(self, context, callback):
        while True:
            await _readable(self._sock)
            try:
                raw, address = self._sock.accept()
            except OSError:
                continue
            raw.setblocking(False)
            try:
                deadline = ticks_add(ticks(), 10_000)
                stream = Stream(raw, context, None, "client", deadline)
            except Exception as error:
                sys.print_exception(error)
                continue
            asyncio.create_task(callback(stream))

    def close(self):
        self._task.cancel()
        self._sock.close()

    async def wait_closed(self):
        """MicroPython's sockets close at once."""


async def listen(callback, host, port, context=None, backlog=4):
    """Accept TCP or TLS connections; ``callback(stream)`` runs as a task for each."""
    info = _resolve(host, port, socket.SOCK_STREAM)
    sock = socket.socket(info[0], socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(info[-1])
    sock.listen(backlog)
    sock.setblocking(False)
    return Listener(sock, port, context, callback)


class Datagrams:
    """A DTLS association with one peer. send() and recv() never block."""

    max_payload = DATAGRAM_PAYLOAD

    def __init__(self, raw, context, server_hostname, what):
        self._raw = raw
        self._what = what
        self.verified = context.verified
        self._io, self._recorder = _wrap(context, raw, server_hostname)

    def send(self, data):
        """Send one datagram; False when the stack has no room now.

        Raises:
            LinkClosed and its kin; LimitError is not needed: above 4096 B mbedTLS would
            end the association for good, so such data is refused here.
        """
        if len(data) > self.max_payload:
            raise ValueError("datagram of %d B, limit %d B" % (len(data), self.max_payload))
        try:
            return self._open().write(data) is not None
        except (OSError, ValueError) as error:
            raise self._broken(error)

    def recv(self):
        """Return one datagram's payload, or None when there is none now."""
        try:
            # recv(), as read() and readinto() would join records.
            return self._open().recv(_RECEIVE_BYTES) or None
        except (OSError, ValueError, MemoryError) as error:
            raise self._broken(error)

    async def receive(self, timeout_ms=None):
        """Wait for one datagram; None after ``timeout_ms``."""
        deadline = None if timeout_ms is None else ticks_add(ticks(), timeout_ms)
        while True:
            data = self.recv()
            if data is not None:
                return data
            try:
                await _wait(_readable(self._raw), deadline)
            except asyncio.TimeoutError:
                return None

    async def _handshake(self, deadline):
        """Drive the handshake by reading until the server's Finished has been taken."""
        while True:
            self.recv()
            if self._recorder.sealed:
                return
            if ticks_diff(deadline, ticks()) <= 0:
                raise HandshakeTimeout("%s: no DTLS handshake in time" % self._what)
            try:
                await asyncio.wait_for_ms(_readable(self._raw), _DRIVE_MS)
            except asyncio.TimeoutError:
                pass

    def _open(self):
        if self._io is None:
            raise LinkClosed("%s: association is closed" % self._what)
        return self._io

    def _broken(self, error):
        mapped = map_error(error, self._recorder, self._what)
        self.close()
        return mapped

    def cipher(self):
        """Return (name, version) of the association."""
        return self._open().cipher()

    def peer_certificate(self):
        """Return the peer's certificate as DER; None where the firmware keeps none."""
        io = self._open()
        return io.getpeercert(True) if hasattr(io, "getpeercert") else None

    def close(self):
        """Close both layers; harmless when repeated. DTLS here sends no close_notify."""
        io, raw = self._io, self._raw
        self._io = None
        self._raw = None
        if io is not None:
            io.close()
            raw.close()


async def open_datagram(host, port, context, server_hostname=None, timeout_ms=10_000):
    """Open a DTLS association; the handshake never blocks the loop.

    Raises:
        Unreachable, HandshakeTimeout, the TrustError family, Rejected.
    """
    if not context.datagram:
        raise Unsupported("open_dtls needs a context made with datagram=True")
    deadline = ticks_add(ticks(), timeout_ms)
    info = _resolve(host, port, socket.SOCK_DGRAM)
    raw = socket.socket(info[0], socket.SOCK_DGRAM)
    raw.setblocking(False)
    what = "%s:%d" % (host, port)
    datagrams = None
    try:
        raw.connect(info[-1])
        datagrams = Datagrams(raw, context, server_hostname or host, what)
        await datagrams._handshake(deadline)
    except BaseException as error:
        if datagrams is not None:
            datagrams.close()
        raw.close()
        if isinstance(error, (OSError, ValueError, MemoryError)):
            raise map_error(error, None, what)
        raise
    return datagrams
