"""Messages that wait to be acknowledged: in RAM, bounded.

Two parts in one order: those handed to the session (it keeps them, too, until they are
delivered) and those that still wait for room in its window. When the ceiling is met the
oldest goes, or with policy "newest" the one that comes, and is counted; the server learns
of it by a gap in the sequence numbers. With a spool (spool_outbox.py) the flash takes what
RAM should not hold.

    outbox = Outbox(65536, 256, "oldest")
    session = Session(random_bytes, epoch=outbox.epoch())      # None: draws one
    outbox.restore(session)                                    # once, before anything else
    outbox.put(session, stream, kind, payload, readings)
    readings = outbox.feed(session)                            # at Opened and Delivered
    readings = outbox.delivered(stream, seq)                   # at Delivered
    outbox.poll(ticks)                                         # once a second
    if outbox.can_begin_epoch():                               # and again at an end of epoch:
        session = Session(random_bytes, epoch=outbox.epoch())
        outbox.begin_epoch(session)
    outbox.close()                                             # at a clean stop

Memory: at most ``max_bytes`` of payloads (fragments of a message in flight: twice) and
``max_messages`` entries of eight words.
"""

from fleetnet import limits
from fleetnet.errors import LimitError
from fleetnet_device.limits import OUTBOX_BYTES, OUTBOX_MESSAGES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fleetnet.session import Session
    from fleetnet_device.spool import Spool
    from fleetnet_device.spool_segment import Segment

# The sequence of an entry that is in RAM only: above all others.
_NO_SEQUENCE = 1 << 40


class Entry:
    """One message in RAM.

    Attributes:
        seq: number of its last frame once it is handed over, before that 0.
        skip: numbers in front of it that belong to dropped messages.
        payload: None once the session holds it.
        segment, sequence: its place on the flash, when it is there as well.
    """

    __slots__ = (
        "kind", "payload", "readings", "segment", "seq", "sequence", "size", "skip", "stream"
    )  # fmt: skip

    def __init__(self, stream: int, kind: int, payload: "bytes | None", size: int, readings: int):
        self.stream = stream
        self.kind = kind
        self.payload = payload
        self.size = size
        self.readings = readings
        self.seq = 0
        self.skip = 0
        self.segment: "Segment | None" = None
        self.sequence = _NO_SEQUENCE


class Outbox:
    """A ring of messages.

    Args:
        max_bytes, max_messages: ceilings of what is in RAM.
        policy: what is dropped when all is full, "oldest" or "newest".

    Attributes:
        dropped_messages, dropped_readings: what the ceilings cost.
        spool, recovered_readings: the flash, and what it held at the start counts for.
        waiting, handed: entries in RAM, in order; size, held: bytes of both, of ``handed``.
        is_epoch_over: the session's sequence numbers are used up; what waits needs another
            session, which may begin when everything handed over is delivered.

    Raises:
        LimitError: no such policy.
    """

    spool: "Spool | None" = None
    recovered_readings = 0

    def __init__(
        self,
        max_bytes: int = OUTBOX_BYTES,
        max_messages: int = OUTBOX_MESSAGES,
        policy: str = "oldest",
    ):
        if policy not in ("oldest", "newest"):
            raise LimitError('policy %r is neither "oldest" nor "newest"' % (policy,))
        self.policy = policy
        self.dropped_messages = 0
        self.dropped_readings = 0
        self.is_epoch_over = False
        self.max_bytes = max_bytes
        self.max_messages = max_messages
        self.waiting: "list[Entry]" = []
        self.handed: "list[Entry]" = []
        self.size = 0
        self.held = 0  # bytes of what is handed over
        self._skips: "dict[int, int]" = {}  # stream -> numbers that the next message leaves out

    def __len__(self) -> int:
        return len(self.waiting) + len(self.handed)

    def epoch(self) -> "bytes | None":
        """Return what the next session must begin with; None: an epoch of its own."""
        return None

    def restore(self, session: "Session") -> None:
        """Take the first session, made with ``epoch``."""

    def put(
        self, session: "Session", stream: int, kind: int, payload: bytes, readings: int
    ) -> Entry:
        """Keep a message for ``session``; ``readings``: how many it counts for.

        Raises:
            LimitError: it is larger than a message may be, and was not kept.
        """
        if len(payload) > limits.MAX_MESSAGE:
            raise LimitError("message of %d B, limit %d B" % (len(payload), limits.MAX_MESSAGE))
        entry = Entry(stream, kind, payload, len(payload), readings)
        entry.skip = self._skips.pop(stream, 0)
        self.waiting.append(entry)
        self.size += entry.size
        try:
            while self._is_over():
                self._make_room(session)
            self.feed(session)
        except MemoryError:
            pass  # kept all the same: the next call of ``feed`` has another try
        return entry

    def _is_over(self) -> bool:
        count = len(self.waiting) + len(self.handed)
        return bool(count) and (self.size > self.max_bytes or count > self.max_messages)

    def feed(self, session: "Session") -> int:
        """Hand over as much as the session's window takes, in order of each stream.

        Returns:
            readings that the flash still had and the server has: count them as acknowledged.
        """
        full = set()
        index = 0
        while index < len(self.waiting):
            entry = self.waiting[index]
            if entry.stream in full or not self._hand_over(session, entry):
                full.add(entry.stream)
                index += 1
            else:
                # At once, as memory may be too short for the next one.
                self.waiting.pop(index)
        return 0

    def _first_number(self, session: "Session", entry: Entry) -> int:
        """Return the number of the first frame, 0: the next one, or -1: it is not its turn."""
        return entry.skip and entry.skip + session.sender.open_stream(entry.stream).next_seq

    def _hand_over(self, session: "Session", entry: Entry) -> bool:
        stream, payload = entry.stream, entry.payload
        if payload is None or self.is_epoch_over:
            return False
        first = self._first_number(session, entry)
        if first < 0:
            return False
        try:
            if first and not session.sender.skip(stream, first):
                return False
            entry.skip = 0
            if not session.has_room(stream, entry.size):
                return False
            self.hold(entry)  # before the session has it, as memory may be too short for that
            try:
                entry.seq = session.send(stream, entry.kind, payload)
            finally:
                if not entry.seq:
                    self.handed.pop()
                    self.held -= entry.size
        except LimitError:
            # There is room and the size is right: the last sequence number is reached.
            self.is_epoch_over = True
            return False
        # The session has the bytes; those of fragments are copies.
        entry.payload = None
        return True

    def hold(self, entry: Entry) -> None:
        """File what the session has now."""
        self.handed.append(entry)
        self.held += entry.size

    def release(self, entry: Entry) -> None:
        """Count bytes of an entry that is taken off ``handed``."""
        self.held -= entry.size
        self.size -= entry.size

    def can_begin_epoch(self) -> bool:
        """Say whether an epoch is over and none of its messages is on its way."""
        return self.is_epoch_over and not self.handed

    def begin_epoch(self, session: "Session") -> None:
        """Go on with a session of a new epoch."""
        self.is_epoch_over = False
        self.feed(session)

    def delivered(self, stream: int, seq: int) -> int:
        """Forget what the server holds; return how many readings that were."""
        readings = 0
        for entry in [each for each in self.handed if each.stream == stream and each.seq <= seq]:
            self.handed.remove(entry)
            self.release(entry)
            readings += entry.readings
        return readings

    def poll(self, now: int) -> None:
        """Decide whether something goes to the flash; ``now``: ticks, about once a second."""

    def close(self) -> None:
        """Put everything on the flash, at a clean stop; ``put`` works again afterwards."""

    # -- drops -------------------------------------------------------------------------

    def _make_room(self, session: "Session") -> None:
        """Give up one message: RAM is full."""
        if self.handed and self.policy == "oldest" and self.handed[0].segment is None:
            entry = self.handed.pop(0)
            session.give_up(entry.stream, entry.seq + 1)
            self.release(entry)
        elif self.waiting:
            entry = self.waiting.pop(0 if self.policy == "oldest" else -1)
            self._leave_out(entry, session.sender.frames_of(entry.size))
            self.size -= entry.size
        else:
            return
        self.dropped_messages += 1
        self.dropped_readings += entry.readings

    def _leave_out(self, entry: Entry, frames: int) -> None:
        """Let the next message of the stream show the server that one is missing."""
        for other in self.waiting if self.policy == "oldest" else ():
            if other.stream == entry.stream:
                other.skip += entry.skip + frames
                return
        self._skips[entry.stream] = self._skips.get(entry.stream, 0) + entry.skip + frames
