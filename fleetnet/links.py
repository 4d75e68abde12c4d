"""Links: what an endpoint needs of a TLS stream or a DTLS association, in one shape.

    datagram            True for DTLS
    await send(chunk)   a piece of the stream, or one datagram's payload
    await receive()     the next bytes; raises LinkClosed at the end
    close()
"""

from fleetnet.errors import LinkClosed
from fleetnet.ports import port

# A socket without room for a datagram has some after so long; after that it counts as
# lost, and the session sends it again.
_ROOM_MS = 5
_ROOM_TRIES = 20

_READ_BYTES = 4096


class StreamLink:
    """Frames over TLS (or plain TCP)."""

    datagram = False

    def __init__(self, stream, what):
        self._stream = stream
        self.what = what

    async def send(self, chunk):
        """Send ``chunk`` whole. Raises the errors of the stream."""
        self._stream.write(chunk)
        await self._stream.drain()

    async def receive(self):
        """Return the next bytes."""
        data = await self._stream.read(_READ_BYTES)
        if not data:
            raise LinkClosed("%s closed the connection" % self.what)
        return data

    def close(self):
        self._stream.close()


class DatagramLink:
    """Frames over DTLS."""

    datagram = True

    def __init__(self, datagrams, what):
        self._datagrams = datagrams
        self.what = what

    async def send(self, chunk):
        """Send one datagram; it is lost when the stack has no room for 100 ms."""
        for _ in range(_ROOM_TRIES):
            if self._datagrams.send(chunk):
                return
            await port.sleep_ms(_ROOM_MS)

    async def receive(self):
        """Return the next datagram's payload."""
        return await self._datagrams.receive()

    def close(self):
        self._datagrams.close()


async def open_link(host, port_number, context, server_hostname=None, timeout_ms=10_000):
    """Connect to a server; ``context`` says whether over TLS or DTLS.

    Raises:
        Unreachable, HandshakeTimeout, the TrustError family, Rejected, CredentialError.
    """
    what = "%s:%d" % (host, port_number)
    if context.datagram:
        datagrams = await port.open_datagram(
            host, port_number, context, server_hostname, timeout_ms
        )
        return DatagramLink(datagrams, what)
    stream = await port.open_stream(host, port_number, context, server_hostname, timeout_ms)
    return StreamLink(stream, what)
