"""Opens links and runs a session over one: the shell around the five verbs.

One task reads, the caller's task writes and keeps the timers. Ends when the session has
ended, and leaves neither a task nor an open link behind.

Both kinds of link have the same five members:

    what                "HOST:PORT", for messages
    datagram            True for DTLS
    await send(chunk)   a piece of the stream, or one datagram's payload
    await receive()     the next bytes; raises LinkClosed at the end
    cipher(), close()
"""

import asyncio

from fleetnet.codes import NO_IDENTITY, UNKNOWN_DEVICE
from fleetnet.errors import HandshakeTimeout, LinkClosed, Rejected
from fleetnet.events import Closed, Refused
from fleetnet.ports import port
from fleetnet.session import GREETING
from fleetnet.ticks import ticks_add, ticks_diff

# A socket without room for a datagram has some after so long; after that it counts as
# lost, and the session sends it again.
_ROOM_MS = 5
_ROOM_TRIES = 20

_READ_BYTES = 4096

# After our last frame the peer gets so long to read it before the link is closed.
_LAST_WORDS_MS = 20

_LONG_MS = 60_000


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fleetnet.ports.cpython import Context, Datagrams
    from fleetnet.ports.cpython import Stream as RawStream
    from fleetnet.session import Session


class Link:
    """What both kinds have in common."""

    def __init__(self, raw: "RawStream | Datagrams", what: str):
        self._raw: "Any" = raw
        self.what = what

    def cipher(self) -> "tuple[str, str] | None":
        """Return (cipher suite, protocol version); None on plain TCP."""
        return self._raw.cipher()  # type: ignore[no-any-return]

    def close(self) -> None:
        self._raw.close()


class StreamLink(Link):
    """Frames over TLS (or plain TCP)."""

    datagram = False

    async def send(self, chunk: bytes) -> None:
        """Send ``chunk`` whole. Raises the errors of the stream."""
        self._raw.write(chunk)
        await self._raw.drain()

    async def receive(self) -> bytes:
        """Return the next bytes."""
        data: bytes = await self._raw.read(_READ_BYTES)
        if not data:
            raise LinkClosed("%s closed the connection" % self.what)
        return data


class DatagramLink(Link):
    """Frames over DTLS."""

    datagram = True

    async def send(self, chunk: bytes) -> None:
        """Send one datagram; it is lost when the stack has no room for 100 ms."""
        for _ in range(_ROOM_TRIES):
            if self._raw.send(chunk):
                return
            await port.sleep_ms(_ROOM_MS)

    async def receive(self) -> bytes:
        """Return the next datagram's payload."""
        data: "bytes | None" = None
        while data is None:
            data = await self._raw.receive()
        return data


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


class Endpoint:
    """One session on one link.

    Args:
        session: a Session whose open_link was called for this link.
        link: StreamLink or DatagramLink.
        on_event: function called with each event of the session, in order.
        greeting_ms: how long WELCOME (or HELLO) may take.

    Attributes:
        retry_after_ms: what the peer's ending asked for, else 0.
    """

    def __init__(
        self,
        session: "Session",
        link: "StreamLink | DatagramLink",
        on_event: "Callable[[object], None]",
        greeting_ms: int = 10_000,
    ):
        self._session = session
        self._link = link
        self._on_event = on_event
        self._greeting_ms = greeting_ms
        self._wake = asyncio.Event()
        self._error: "Exception | None" = None
        self._ending: "Closed | Refused | None" = None
        self.retry_after_ms = 0

    def cipher(self) -> "tuple[str, str] | None":
        """Return (cipher suite, protocol version) of the link."""
        return self._link.cipher()

    def wake(self) -> None:
        """The session has something to send: look again."""
        self._wake.set()

    async def run(self) -> None:
        """Run until the session ends; return after a BYE of ours.

        Raises:
            Rejected: REFUSE, or the peer's TLS said no. LinkClosed: the link broke, or the
            peer said BYE. ProtocolError: a rule was broken by either side.
            HandshakeTimeout: no WELCOME in time.
        """
        deadline = ticks_add(port.ticks(), self._greeting_ms)
        reader = None
        try:
            # The first write carries the TLS handshake on MicroPython: read after it.
            await self._send_all()
            reader = asyncio.create_task(self._read())
            while self._error is None:
                await self._turn(deadline)
                if self._ending is not None:
                    await port.sleep_ms(_LAST_WORDS_MS)
                    break
        finally:
            if reader is not None:
                reader.cancel()
            self._session.close_link()
            self._link.close()
        if self._ending is not None:
            self._raise_ending(self._ending)
        elif self._error is not None:
            raise self._error

    async def _turn(self, deadline: int) -> None:
        """Wait for news or a timer, then do what is due."""
        now = port.ticks()
        due = self._session.next_timer()
        wait_ms = _LONG_MS if due is None else ticks_diff(due, now)
        if self._session.state == GREETING:
            left = ticks_diff(deadline, now)
            if left <= 0:
                self._error = HandshakeTimeout("%s: no WELCOME in time" % self._link.what)
                return
            wait_ms = min(wait_ms, left)
        if wait_ms > 0 and not self._wake.is_set():
            try:
                await port.wait_for_ms(self._wake.wait(), wait_ms)
            except asyncio.TimeoutError:
                pass
        self._wake.clear()
        self._session.handle_timer(port.ticks())
        self._dispatch()
        if self._error is None:
            await self._send_all()

    async def _send_all(self) -> None:
        while True:
            chunks = self._session.data_to_send(port.ticks())
            if not chunks:
                return
            for chunk in chunks:
                await self._link.send(chunk)

    async def _read(self) -> None:
        try:
            while True:
                data = await self._link.receive()
                self._session.receive_data(data, port.ticks())
                self._dispatch()
                self._wake.set()
        except Exception as error:
            self._error = error
            self._wake.set()

    def _dispatch(self) -> None:
        for event in self._session.take_events():
            if isinstance(event, (Closed, Refused)):
                self._ending = event
                self.retry_after_ms = event.ending.retry_after_ms
            self._on_event(event)

    def _raise_ending(self, event: "Closed | Refused") -> None:
        reason = event.ending.reason
        if not reason and isinstance(event, Closed) and not event.by_peer:
            return
        try:
            # Only now: a board that is never refused does not load the words.
            from fleetnet.reasons import raise_ending
        except MemoryError:
            text = "%s: ended for reason %d" % (self._link.what, reason)
            if isinstance(event, Refused) or UNKNOWN_DEVICE <= reason <= NO_IDENTITY:
                raise Rejected(text, reason, None, self.retry_after_ms)
            raise LinkClosed(text)
        raise_ending(event, self._link.what)
