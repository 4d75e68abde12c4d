"""What a session owns for one link only: it begins and ends with the connection.

Used by session.py only: the way in (frames out of a stream or of datagrams), the queues
out, the frame that is repeated until something answers, the keepalive. Nothing here is
carried to the next link.

The initiator pings after a silence of the agreed keepalive; it gives the peer time for a
slow turn (a device's crypto step takes seconds) before it calls the link dead. The acceptor
only waits (acceptor.py).

Source: docs/protocol.md sections 2.4, 4.1, 7 and 8.
"""

from fleetnet import limits
from fleetnet.frame import BYE, FrameSplitter, encode_frame, pack_datagrams, split_datagram
from fleetnet.handshake import Ending
from fleetnet.ticks import ticks_add, ticks_diff

# HELLO and BYE are sent again after so long on a datagram link.
_REPEAT_MS = 1_000

# No heartbeat timeout under 5 s: a Cortex-M handshake elsewhere on the peer takes that long.
_ANSWER_MS = 5_000
_DATAGRAM_RETRY_MS = 1_500
_TRIES = 4

# With frames in flight, so long a silence is worth a question.
_STALL_MS = 2_000


class Keepalive:
    """Timers of one link.

    Attributes:
        due: tick of the next check, or None before the session is open.
        is_dead: nothing was heard for too long.
    """

    def __init__(self, datagram: bool, now: int):
        self.is_dead = False
        self.due: "int | None" = None
        self._retry_ms = _DATAGRAM_RETRY_MS if datagram else _ANSWER_MS
        self._datagram = datagram
        self._interval_ms = 0
        self._last_heard = now
        self._tries = self._count = 0
        self._urgent = False

    def start(self, interval_ms: int, now: int) -> None:
        """The session is open; ``interval_ms`` is the agreed keepalive."""
        self._interval_ms = interval_ms
        self._last_heard = now
        self._tries = 0
        self.due = ticks_add(now, interval_ms)

    def heard(self, now: int) -> None:
        """Something arrived. The timer is moved lazily, in handle_timer."""
        self._last_heard = now
        self._tries = 0
        self._urgent = False

    def silence_ms(self, now: int) -> int:
        return ticks_diff(now, self._last_heard)

    def hurry(self, now: int) -> None:
        """A retransmission timer fired: ask by PING if the peer has been silent."""
        if not self._tries and self.silence_ms(now) >= _STALL_MS:
            self._urgent = True
            self.due = now

    def handle_timer(self, now: int) -> bytes:
        """Return the payload of a PING to send, or b""."""
        if self.due is None or ticks_diff(self.due, now) > 0:
            return b""
        quiet = self.silence_ms(now)
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


class Link:
    """One connection, seen by the session.

    Attributes:
        control: encoded control frames to send before everything else.
        live: encoded best-effort frames to send behind everything else.
        nonce: 4 bytes of this link's HELLO, or b"".
        answer: the encoded WELCOME or REFUSE of this link, to be repeated, or b"".
        ending: what our own BYE says, or None.
        repeat_due: tick at which the repeated frame leaves again, or None.
    """

    __slots__ = (
        "_repeat", "_repeats", "_splitter", "answer", "control", "datagram", "ending", "keepalive",
        "live", "max_frame", "nonce", "repeat_due",
    )  # fmt: skip

    def __init__(self, keepalive: "Keepalive", datagram: bool, max_frame: int):
        self.datagram = datagram
        self.max_frame = max_frame
        self.control: "list[bytes]" = []
        self.live: "list[bytes]" = []
        self.nonce = b""
        self.answer = b""
        self.ending: "Ending | None" = None
        self.keepalive = keepalive
        self.repeat_due: "int | None" = None
        self._splitter = None if datagram else FrameSplitter(max_frame)
        self._repeat = b""
        self._repeats = 0

    def split(self, data: bytes) -> "list[tuple[int, int, int, bytes]]":
        """Return the whole frames in a datagram, or those that this piece of the stream ends.

        Raises:
            ProtocolError: as frame.decode_frame.
        """
        if self._splitter is None:
            return split_datagram(data, self.max_frame)
        return self._splitter.split(data)

    def say(self, kind: int, payload: bytes) -> None:
        """Queue a control frame."""
        self.control.append(encode_frame(kind, 0, 0, payload))

    def say_repeatedly(self, kind: int, payload: bytes, now: int, tries: int) -> None:
        """Queue a control frame and, on a datagram link, again until something answers."""
        self._repeat = encode_frame(kind, 0, 0, payload)
        self.control.append(self._repeat)
        self._repeats = tries
        self.repeat_due = None
        if self.datagram or kind == BYE:
            self.repeat_due = ticks_add(now, _REPEAT_MS)

    def repeat(self, now: int) -> bool:
        """Say it again when its time has come; False when that was tried often enough."""
        if self.repeat_due is None or ticks_diff(self.repeat_due, now) > 0:
            return True
        self._repeats -= 1
        if self._repeats <= 0:
            return False
        if self.datagram:
            self.control.append(self._repeat)
        self.repeat_due = ticks_add(now, _REPEAT_MS)
        return True

    def offer_live(self, encoded: bytes) -> int:
        """Queue a best-effort frame; return how many older ones gave way (0 or 1)."""
        self.live.append(encoded)
        if len(self.live) <= limits.LIVE_QUEUE:
            return 0
        self.live.pop(0)
        return 1

    def clear(self) -> None:
        """Forget what was still to be sent."""
        self.control = []
        self.live = []
        self.repeat_due = None

    def pack(self, frames: "list[bytes]") -> "list[bytes]":
        """Lay frames out as this link carries them; [] for none."""
        if not frames:
            return frames
        if self.datagram:
            return pack_datagrams(frames)
        return [b"".join(frames)]
