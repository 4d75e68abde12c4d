"""DTLS associations on MicroPython.

- mbedTLS keeps its retransmission timer inside calls and no poll wakes for it: a handshake
  is driven by reading every 20 ms, or a lost flight would be waited for without end.
- recv() and nothing else: read() and readinto() join records.
- A write above 4096 B ends the association for good, so send() refuses it before.

Source: extmod/modtls_mbedtls.c.
"""

import asyncio
import socket

from fleetnet.errors import HandshakeTimeout, LinkClosed, Unsupported
from fleetnet.limits import DATAGRAM_PAYLOAD
from fleetnet.ports.micropython_io import DRIVE_MS, readable, resolve, ticks, wait, wrap
from fleetnet.ports.micropython_tls import map_error
from fleetnet.ticks import ticks_add, ticks_diff

# Large enough for any datagram of ours; recv() hands out one record a call.
_RECEIVE_BYTES = 1500


class Datagrams:
    """A DTLS association with one peer. send() and recv() never block."""

    max_payload = DATAGRAM_PAYLOAD

    def __init__(self, raw, context, server_hostname, what):
        self._raw = raw
        self._what = what
        self.verified = context.verified
        self._io, self._recorder = wrap(context, raw, server_hostname)

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
                await wait(readable(self._raw), deadline)
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
                await asyncio.wait_for_ms(readable(self._raw), DRIVE_MS)
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
    info = resolve(host, port, socket.SOCK_DGRAM)
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
