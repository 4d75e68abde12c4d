"""Clock, waiting and connecting on MicroPython; used by the other files of this room.

- Waiting is on the raw socket, after a read or write said "nothing now": mbedTLS may hold
  bytes that no poll on the raw socket announces, and polling the TLS object would call
  into the Recorder every millisecond.
- Own connect: asyncio.open_connection returns before TCP is connected and hides the error
  until the first write.

Source: extmod/asyncio/core.py, extmod/asyncio/stream.py.
"""

import asyncio
import errno
import select
import socket
import sys
import time
from asyncio import core

from fleetnet.errors import Unreachable
from fleetnet.ports.micropython_channel import map_late
from fleetnet.ticks import PERIOD, ticks_diff

# How often a handshake is driven: mbedTLS's retransmission timer runs only inside calls.
DRIVE_MS = 20

BUSY = (errno.EAGAIN, errno.EINPROGRESS)


def ticks():
    """Return ms since some point, wrapping at 2**30."""
    return time.ticks_ms() & (PERIOD - 1)


def unix_ms():
    """Return ms since 1970, or 0 when the clock has never been set.

    Ports count from 1970 or from 2000; a year before 2024 is a clock that was not set.
    Not time(): that counts whole seconds, and all readings of a second would share one.
    """
    if time.gmtime()[0] < 2024:
        return 0
    offset = 946_684_800_000 if time.gmtime(0)[0] == 2000 else 0
    return time.time_ns() // 1_000_000 + offset


def platform_text():
    """Return a short name of the firmware for HELLO."""
    return "micropython/%d.%d.%d %s" % (sys.implementation[1][:3] + (sys.platform,))


def readable(sock):
    yield core._io_queue.queue_read(sock)


def writable(sock):
    yield core._io_queue.queue_write(sock)


async def wait(waiter, deadline):
    """Wait for a socket; TimeoutError when ``deadline`` (a tick, or None) comes first."""
    if deadline is None:
        await waiter
        return
    left = ticks_diff(deadline, ticks())
    if left <= 0:
        raise asyncio.TimeoutError
    await asyncio.wait_for_ms(waiter, left)


def resolve(host, port, kind):
    try:
        return socket.getaddrinfo(host, port, 0, kind)[0]
    except OSError as error:
        raise Unreachable("cannot resolve %s (%r)" % (host, error))


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
