"""TCP and TLS streams of asyncio on MicroPython; loaded by the first one.

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
- When one task that waits for a socket is cancelled, or gives up after a timeout, asyncio forgets
  the other one of that socket as well (IOQueue.remove): it is woken here, and looks again.
- cipher() before the handshake's end, and setblocking() after close, crash the process.
- Own connect: asyncio.open_connection returns before TCP is connected and hides the error
  until the first write.

Source: extmod/asyncio/core.py, extmod/asyncio/stream.py, extmod/modtls_mbedtls.c.
"""

import asyncio
import errno
import gc
import select
import socket
from asyncio import core

from fleetnet.errors import HandshakeTimeout, LinkClosed, Unreachable
from fleetnet.ports.micropython import DRIVE_MS, resolve, ticks, wait
from fleetnet.ports.micropython_channel import Channel, map_late
from fleetnet.ticks import ticks_add, ticks_diff

BUSY = (errno.EAGAIN, errno.EINPROGRESS)


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
        self._waiting = [None, None]  # tasks that wait to read, and to write
        self._has_ended = False  # a peer that said close_notify may leave its socket open
        self.verified = context is not None and context.verified
        if context is None:
            from fleetnet.ports.micropython_plain import Plain

            self._channel = Plain(raw, what)
            return
        gc.collect()  # a connection needs a contiguous block of 17 KB
        try:
            self._channel = Channel(context, raw, server_hostname, what)
        except BaseException:
            raw.close()
            raise

    async def read(self, n):
        """Return 1 to ``n`` bytes, or b"" at the end of file, which close() is, too."""
        while self._channel is not None and not self._has_ended:
            data = self._call(self._channel.recv, n)
            if data is not None:
                self._has_ended = not data
                return data
            if self._channel.is_over():
                await self._wait(0)
            else:
                await self._pause_in_handshake()
        return b""

    def _call(self, call, argument):
        try:
            return call(argument)
        except Exception:
            self.close()
            raise

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
            if self._channel is None:
                raise LinkClosed("%s: connection is closed" % self._what)
            count = self._call(self._channel.write, view)
            if count is not None:
                return count
            if self._channel.is_over():
                await self._wait(1)
            else:
                await self._pause_in_handshake()

    async def _pause_in_handshake(self):
        """Wait for the peer's bytes, 20 ms at most: a write may also wait for room."""
        async with self._turn:
            # The task whose turn it was may have finished the handshake, or closed.
            if self._channel is None or self._channel.is_over():
                return
            left = ticks_diff(self._deadline, ticks())
            if left <= 0:
                self.close()
                raise HandshakeTimeout("%s: no TLS handshake in time" % self._what)
            try:
                await asyncio.wait_for_ms(self._wait(0), min(left, DRIVE_MS))
            except asyncio.TimeoutError:
                pass

    def _wait(self, index):
        """Wait until the socket can be read (0), or written (1), or is closed."""
        self._waiting[index] = core.cur_task
        queue = core._io_queue
        try:
            yield queue.queue_write(self._raw) if index else queue.queue_read(self._raw)
        except core.CancelledError:
            self._wake(1 - index)
            raise
        finally:
            self._waiting[index] = None

    def _wake(self, index):
        task = self._waiting[index]
        if task is not None and task.data is core._io_queue:  # else it is about to run
            task.data.remove(task)
            core._task_queue.push(task)

    def cipher(self):
        """Return (name, version); None before the handshake's end."""
        return None if self._channel is None else self._channel.cipher()

    def peer_certificate(self):
        """Return the peer's certificate as DER; None when it showed none."""
        return None if self._channel is None else self._channel.peer_certificate()

    def close(self):
        """Close both layers; harmless when repeated."""
        channel = self._channel
        self._channel = None
        self._raw = None
        if channel is not None:
            channel.close()

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


def writable(sock):
    yield core._io_queue.queue_write(sock)


async def connect(host, port, deadline):
    """Return a connected non-blocking TCP socket, or raise Unreachable."""
    info = resolve(host, port, socket.SOCK_STREAM)
    sock = socket.socket(info[0], socket.SOCK_STREAM)
    sock.setblocking(False)
    what = "%s:%d" % (host, port)
    try:
        try:
            sock.connect(info[-1])
        except OSError as error:
            if error.args[0] not in BUSY:
                raise map_late(error, None, what)
        try:
            await wait(writable(sock), deadline)
        except asyncio.TimeoutError:
            raise Unreachable("%s does not answer: a firewall, or away?" % what)
        poller = select.poll()
        poller.register(sock, select.POLLOUT)
        for entry in poller.poll(0):
            if entry[1] & (select.POLLERR | select.POLLHUP):
                raise Unreachable("%s refused the connection: is a server running there?" % what)
    except BaseException:
        sock.close()
        raise
    return sock
