"""Runs one session over one link: the shell around the five verbs.

One task reads, the caller's task writes and keeps the timers. Ends when the session has
ended, and leaves neither a task nor an open link behind.
"""

import asyncio

from fleetnet.errors import (
    DISABLED,
    IDLE,
    NO_IDENTITY,
    REVOKED,
    UNKNOWN_DEVICE,
    HandshakeTimeout,
    LinkClosed,
    ProtocolError,
    Rejected,
)
from fleetnet.events import Closed, Refused
from fleetnet.ports import port
from fleetnet.session import GREETING
from fleetnet.ticks import ticks_add, ticks_diff

# BYE reasons that mean "we do not want this device", as REFUSE would.
_REFUSALS = (UNKNOWN_DEVICE, DISABLED, REVOKED, NO_IDENTITY)

# After our last frame the peer gets so long to read it before the link is closed.
_LAST_WORDS_MS = 20

_LONG_MS = 60_000


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fleetnet.links import DatagramLink, StreamLink
    from fleetnet.session import Session


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
        ending = event.ending
        if isinstance(event, Closed) and not event.by_peer and not ending.reason:
            return
        # Only now: a board that is never refused does not load the words.
        from fleetnet.reasons import reason_text

        text = reason_text(ending.reason)
        if ending.detail:
            text = "%s: %s" % (text, ending.detail)
        if isinstance(event, Refused) or (event.by_peer and ending.reason in _REFUSALS):
            raise Rejected(
                "rejected by %s: %s" % (self._link.what, text),
                ending.reason,
                None,
                ending.retry_after_ms,
            )
        if event.by_peer:
            raise LinkClosed("%s ended the session: %s" % (self._link.what, text))
        if ending.reason == IDLE:
            raise LinkClosed("%s fell silent: %s" % (self._link.what, ending.detail))
        if ending.reason and ending.detail:
            raise ProtocolError("%s: %s" % (self._link.what, ending.detail), ending.reason)
