"""Links: what an endpoint needs of a TLS stream or a DTLS association, in one shape.

    datagram            True for DTLS
    await send(chunk)   a piece of the stream, or one datagram's payload
    await receive()     the next bytes; raises LinkClosed at the end
    cipher(), close()
"""

from fleetnet.errors import LinkClosed
from fleetnet.ports import port

# A socket without room for a datagram has some after so long; after that it counts as
# lost, and the session sends it again.
_ROOM_MS = 5
_ROOM_TRIES = 20

_READ_BYTES = 4096


TYPE_CHECKING = False
if TYPE_CHECKING:
    from fleetnet.ports.cpython import Context, Datagrams
    from fleetnet.ports.cpython import Stream as RawStream


class StreamLink:
    """Frames over TLS (or plain TCP)."""

    datagram = False

    def __init__(self, stream: "RawStream", what: str):
        self._stream = stream
        self.what = what

    async def send(self, chunk: bytes) -> None:
        """Send ``chunk`` whole. Raises the errors of the stream."""
        self._stream.write(chunk)
        await self._stream.drain()

    async def receive(self) -> bytes:
        """Return the next bytes."""
        data = await self._stream.read(_READ_BYTES)
        if not data:
            raise LinkClosed("%s closed the connection" % self.what)
        return data

    def cipher(self) -> "tuple[str, str] | None":
        """Return (cipher suite, protocol version); None on plain TCP."""
        return self._stream.cipher()

    def close(self) -> None:
        self._stream.close()


class DatagramLink:
    """Frames over DTLS."""

    datagram = True

    def __init__(self, datagrams: "Datagrams", what: str):
        self._datagrams = datagrams
        self.what = what

    async def send(self, chunk: bytes) -> None:
        """Send one datagram; it is lost when the stack has no room for 100 ms."""
        for _ in range(_ROOM_TRIES):
            if self._datagrams.send(chunk):
                return
            await port.sleep_ms(_ROOM_MS)

    async def receive(self) -> bytes:
        """Return the next datagram's payload."""
        data = None
        while data is None:
            data = await self._datagrams.receive()
        return data

    def cipher(self) -> "tuple[str, str] | None":
        """Return (cipher suite, protocol version)."""
        return self._datagrams.cipher()

    def close(self) -> None:
        self._datagrams.close()


async def open_link(
    host: str,
    port_number: int,
    context: "Context",
    server_hostname: "str | None" = None,
    timeout_ms: int = 10_000,
) -> "StreamLink | DatagramLink":
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
