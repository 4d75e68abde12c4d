"""When to ping, and when a silent link is dead.

Used by session.py only. The initiator pings after a silence of the agreed keepalive; it
gives the peer time for a slow turn (a device's crypto step takes seconds) before it
calls the link dead. The acceptor only waits. Source: docs/protocol.md section 7.
"""

from fleetnet.ticks import ticks_add, ticks_diff

# No heartbeat timeout under 5 s: a Cortex-M handshake elsewhere on the peer takes that long.
_ANSWER_MS = 5_000
_DATAGRAM_RETRY_MS = 1_500
_TRIES = 4

# The acceptor waits for two pings and this.
_GRACE_MS = 15_000

# How long an acceptor waits for HELLO on an open link.
_GREETING_MS = 15_000

# With frames in flight, so long a silence is worth a question.
_STALL_MS = 2_000


class Keepalive:
    """Timers of one link.

    Attributes:
        due: tick of the next check, or None before the session is open.
        is_dead: nothing was heard for too long.
    """

    def __init__(self, initiator: bool, datagram: bool, now: int):
        self.is_dead = False
        self.due: "int | None" = None if initiator else ticks_add(now, _GREETING_MS)
        self._initiator = initiator
        self._retry_ms = _DATAGRAM_RETRY_MS if datagram else _ANSWER_MS
        self._datagram = datagram
        self._interval_ms = 0
        self._last_heard = now
        self._tries = 0
        self._urgent = False
        self._count = 0

    def start(self, interval_ms: int, now: int) -> None:
        """The session is open; ``interval_ms`` is the agreed keepalive."""
        self._interval_ms = interval_ms
        self._last_heard = now
        self._tries = 0
        self.due = ticks_add(now, self._patience_ms())

    def wait_for_owner(self, now: int) -> None:
        """HELLO is here; the owner has a grace time of its own to decide."""
        self.due = ticks_add(now, _GREETING_MS)

    def _patience_ms(self) -> int:
        if self._initiator:
            return self._interval_ms
        return 2 * self._interval_ms + _GRACE_MS

    def heard(self, now: int) -> None:
        """Something arrived. The timer is moved lazily, in handle_timer."""
        self._last_heard = now
        self._tries = 0
        self._urgent = False

    def silence_ms(self, now: int) -> int:
        return ticks_diff(now, self._last_heard)

    def hurry(self, now: int) -> None:
        """A retransmission timer fired: ask by PING if the peer has been silent."""
        if self._initiator and not self._tries and self.silence_ms(now) >= _STALL_MS:
            self._urgent = True
            self.due = now

    def handle_timer(self, now: int) -> bytes:
        """Return the payload of a PING to send, or b""."""
        if self.due is None or ticks_diff(self.due, now) > 0:
            return b""
        quiet = self.silence_ms(now)
        if not self._initiator:
            # Before the session is open, dribbled bytes buy no time.
            patience = self._patience_ms() if self._interval_ms else 0
            if quiet >= patience:
                self.is_dead = True
            else:
                self.due = ticks_add(self._last_heard, patience)
            return b""
        if quiet < self._interval_ms and not self._tries and not self._urgent:
            self.due = ticks_add(self._last_heard, self._interval_ms)
            return b""
        if self._tries >= (_TRIES if self._datagram else 1):
            self.is_dead = True
            return b""
        self._tries += 1
        self._count = (self._count + 1) & 0xFFFF
        self.due = ticks_add(now, self._retry_ms)
        return bytes((self._count >> 8, self._count & 0xFF))
