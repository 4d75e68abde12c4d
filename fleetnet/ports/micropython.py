"""MicroPython's half of this room: clock, waiting, and the doors to the rest of it.

- Waiting is on the raw socket, after a read or write said "nothing now": mbedTLS may hold
  bytes that no poll on the raw socket announces, and polling the TLS object would call
  into the Recorder every millisecond.
- A device uses one transport for days: each is loaded by the first link over it.

Source: extmod/asyncio/core.py, extmod/asyncio/stream.py.
"""

import asyncio
import os
import socket
import sys
import time
from asyncio import core

from fleetnet.errors import Unreachable
from fleetnet.ports.micropython_tls import client_context
from fleetnet.ticks import PERIOD, ticks_diff

__all__ = ("client_context",)

# Ports count from 1970 or from 2000. No gmtime() for each reading: it makes a tuple of 9.
_EPOCH_MS = 946_684_800_000 if time.gmtime(0)[0] == 2000 else 0
_YEAR_2024_MS = 1_704_067_200_000

# How often a handshake is driven: mbedTLS's retransmission timer runs only inside calls.
DRIVE_MS = 20

sleep_ms = asyncio.sleep_ms
wait_for_ms = asyncio.wait_for_ms
random_bytes = os.urandom


def ticks():
    """Return ms since some point, wrapping at 2**30."""
    return time.ticks_ms() & (PERIOD - 1)


def unix_ms():
    """Return ms since 1970, or 0 when the clock has never been set.

    A year before 2024 is a clock that was not set.
    Not time(): that counts whole seconds, and all readings of a second would share one.
    """
    now = time.time_ns() // 1_000_000 + _EPOCH_MS
    return now if now >= _YEAR_2024_MS else 0


def platform_text():
    """Return a short name of the firmware for HELLO."""
    return "micropython/%d.%d.%d %s" % (sys.implementation[1][:3] + (sys.platform,))


def event_loop():
    """Return an object of the running event loop that no other one has."""
    return core._io_queue


def readable(sock):
    yield core._io_queue.queue_read(sock)


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


def __getattr__(name):
    if name == "open_stream":
        from fleetnet.ports.micropython_streams import open_stream as found
    elif name == "open_datagram":
        from fleetnet.ports.micropython_dtls import open_datagram as found
    # What telemetry never asks for: contexts that can do more, and all that serves.
    elif name == "full_client_context":
        from fleetnet.ports.micropython_context import full_client_context as found
    elif name in ("listen", "serve_datagrams", "server_context"):
        from fleetnet.ports import micropython_listen

        found = getattr(micropython_listen, name)
    else:
        raise AttributeError(name)
    return found
