"""DTLS associations on MicroPython.

- mbedTLS keeps its retransmission timer inside calls and no poll wakes for it: a handshake
  is driven by reading every 20 ms, or a lost flight would be waited for without end.
- recv() and nothing else: read() and readinto() join records.
- A write above 4096 B ends the association for good, so send() refuses it before.

Source: extmod/modtls_mbedtls.c.
"""

import asyncio
import gc
import socket

from fleetnet.errors import HandshakeTimeout, LinkClosed, Unsupported
from fleetnet.limits import DATAGRAM_PAYLOAD
from fleetnet.ports.micropython import DRIVE_MS, readable, resolve, ticks, wait
from fleetnet.ports.micropython_channel import Channel, map_late
from fleetnet.ticks import ticks_add, ticks_diff

# Large enough for any datagram of ours; recv() hands out one record a call.
_RECEIVE_BYTES = 1500


class Datagrams:
    """A DTLS association with one peer. send() and recv() never block.

    Args:
        arrival: function that returns an awaitable for the next datagram of this peer.
    """

    max_payload = DATAGRAM_PAYLOAD

    def __init__(self, channel, arrival, verified, what):
        self._channel = channel
        self._arrival = arrival
        self._what = what
        self.verified = verified

    def send(self, data):
        """Send one datagram; False when the stack has no room now.

        Raises:
            ValueError: above max_payload. LinkClosed and its kin: the association is over.
        """
        if len(data) > self.max_payload:
            raise ValueError("datagram of %d B, limit %d B" % (len(data), self.max_payload))
        return self._channel.write(data) is not None

    def recv(self):
        """Return one datagram's payload, or None when there is none now.

        Raises:
            LinkClosed and its kin: the association is over.
        """
        data = self._channel.recv(_RECEIVE_BYTES)
        if data == b"":  # close_notify, which mbedTLS tells of once
            raise self._channel.broken(LinkClosed("%s closed the association" % self._what))
        return data

    async def receive(self, timeout_ms=None):
        """Wait for one datagram; None after ``timeout_ms``."""
        deadline = None if timeout_ms is None else ticks_add(ticks(), timeout_ms)
        while True:
            data = self.recv()
            if data is not None:
                return data
            try:
                await wait(self._arrival(), deadline)
            except asyncio.TimeoutError:
                return None

    async def handshake(self, deadline):
        """Drive the handshake by reading until the peer's Finished has been taken."""
        while True:
            self._channel.recv(_RECEIVE_BYTES)
            if self._channel.is_over():
                return
            if ticks_diff(deadline, ticks()) <= 0:
                raise HandshakeTimeout("%s: no DTLS handshake in time" % self._what)
            try:
                await asyncio.wait_for_ms(self._arrival(), DRIVE_MS)
            except asyncio.TimeoutError:
                pass

    def cipher(self):
        """Return (name, version) of the association."""
        return self._channel.cipher()

    def peer_certificate(self):
        """Return the peer's certificate as DER; None when it showed none."""
        return self._channel.peer_certificate()

    def close(self):
        """Close both layers; harmless when repeated. DTLS here sends no close_notify."""
        self._channel.close()


async def open_datagram(host, port, context, server_hostname=None, timeout_ms=10_000):
    """Open a DTLS association; the handshake never blocks the loop.

    Raises:
        Unreachable, HandshakeTimeout, the TrustError family, Rejected.
    """
    if not context.datagram:
        raise Unsupported("open_dtls needs a context made with datagram=True")
    deadline = ticks_add(ticks(), timeout_ms)
    info = resolve(host, port, socket.SOCK_DGRAM)
    raw = socket.socket(info[0], socket.SOCK_DGRAM)
    raw.setblocking(False)
    what = "%s:%d" % (host, port)
    datagrams = None
    gc.collect()  # an association needs a contiguous block of 17 KB
    try:
        raw.connect(info[-1])
        channel = Channel(context, raw, server_hostname or host, what)
        datagrams = Datagrams(channel, lambda: readable(raw), context.verified, what)
        await datagrams.handshake(deadline)
    except BaseException as error:
        if datagrams is not None:
            datagrams.close()
        raw.close()
        if isinstance(error, (OSError, ValueError, MemoryError)):
            raise map_late(error, None, what)
        raise
    return datagrams
