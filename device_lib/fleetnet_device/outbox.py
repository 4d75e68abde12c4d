"""Messages that wait to be acknowledged, in RAM, bounded.

Two parts in one order: those handed to the session (it keeps them, too, until they are
delivered) and those that still wait for room in its window. When the ceiling is met the
oldest goes, and is counted: a camera's newest readings matter most.

Memory: at most ``max_bytes`` of payloads and ``max_messages`` tuples.
"""

from fleetnet import limits
from fleetnet.errors import LimitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fleetnet.session import Session


class Outbox:
    """A ring of messages.

    Attributes:
        dropped_messages, dropped_readings: what the ceiling cost.
        is_epoch_over: the session's sequence numbers are used up; what waits needs another
            session, which may begin when everything handed over is delivered.
    """

    def __init__(self, max_bytes: int = 65536, max_messages: int = 256):
        self._max_bytes = max_bytes
        self._max_messages = max_messages
        # (stream, kind, payload, readings)
        self._waiting: "list[tuple[int, int, bytes, int]]" = []
        # (stream, seq, size, readings)
        self._handed: "list[tuple[int, int, int, int]]" = []
        self._size = 0
        self.dropped_messages = 0
        self.dropped_readings = 0
        self.is_epoch_over = False

    def __len__(self) -> int:
        return len(self._waiting) + len(self._handed)

    def put(
        self, session: "Session", stream: int, kind: int, payload: bytes, readings: int
    ) -> None:
        """Keep a message for ``session``; ``readings``: how many it counts for.

        Raises:
            LimitError: it is larger than a message may be, and was not kept.
        """
        if len(payload) > limits.MAX_MESSAGE:
            raise LimitError("message of %d B, limit %d B" % (len(payload), limits.MAX_MESSAGE))
        self._waiting.append((stream, kind, payload, readings))
        self._size += len(payload)
        while self._size > self._max_bytes or len(self) > self._max_messages:
            self._drop_oldest(session)
        self.feed(session)

    def feed(self, session: "Session") -> None:
        """Hand over as much as the session's window takes, in order of each stream."""
        full = set()
        kept = []
        for entry in self._waiting:
            stream, kind, payload, readings = entry
            if stream in full or not session.has_room(stream, len(payload)):
                full.add(stream)
                kept.append(entry)
                continue
            try:
                seq = session.send(stream, kind, payload)
            except LimitError:
                # There is room and the size is right: the last sequence number is reached.
                self.is_epoch_over = True
                full.add(stream)
                kept.append(entry)
                continue
            self._handed.append((stream, seq, len(payload), readings))
        self._waiting = kept

    def can_begin_epoch(self) -> bool:
        """Say whether an epoch is over and none of its messages is on its way."""
        return self.is_epoch_over and not self._handed

    def begin_epoch(self, session: "Session") -> None:
        """Go on with a session of a new epoch."""
        self.is_epoch_over = False
        self.feed(session)

    def delivered(self, stream: int, seq: int) -> int:
        """Forget what the server holds; return how many readings that were."""
        readings = 0
        kept = []
        for entry in self._handed:
            if entry[0] == stream and entry[1] <= seq:
                self._size -= entry[2]
                readings += entry[3]
            else:
                kept.append(entry)
        self._handed = kept
        return readings

    def _drop_oldest(self, session: "Session") -> None:
        if self._handed:
            stream, seq, size, readings = self._handed.pop(0)
            session.give_up(stream, seq + 1)
        else:
            _, _, payload, readings = self._waiting.pop(0)
            size = len(payload)
        self._size -= size
        self.dropped_messages += 1
        self.dropped_readings += readings
