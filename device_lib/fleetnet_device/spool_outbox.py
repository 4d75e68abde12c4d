"""The outbox of a device that has a spool: the flash takes what RAM should not hold alone.

Drops count when RAM and flash are both full. See outbox.py for the calls, spool.py for what
goes to the flash when.

Memory: as Outbox; and what the spool's files say.
"""

from fleetnet_device.limits import OUTBOX_BYTES, OUTBOX_MESSAGES
from fleetnet_device.outbox import Outbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fleetnet.session import Session
    from fleetnet_device.outbox import Entry
    from fleetnet_device.spool import Spool


class SpooledOutbox(Outbox):
    """Messages in RAM and, from ``spool`` on, on the flash.

    Args:
        max_bytes, max_messages: ceilings of what is in RAM.
        policy: what is dropped when both are full, "oldest" or "newest".

    Raises:
        LimitError: no such policy.
    """

    spool: "Spool"

    def __init__(
        self,
        spool: "Spool",
        max_bytes: int = OUTBOX_BYTES,
        max_messages: int = OUTBOX_MESSAGES,
        policy: str = "oldest",
    ):
        super().__init__(max_bytes, max_messages, policy)
        self.spool = spool
        self.recovered_readings = spool.recovered_readings
        self._session: "Session | None" = None

    def __len__(self) -> int:
        return super().__len__() + len(self.spool)

    def epoch(self) -> "bytes | None":
        """As Outbox.epoch: the one that the flash names."""
        return None if self.can_begin_epoch() else self.spool.epoch

    def restore(self, session: "Session") -> None:
        """As Outbox.restore."""
        self._session = session
        self.spool.restore(session)

    def _is_over(self) -> bool:
        # Without one that waits, is_open_for keeps the rest small.
        return bool(self.waiting) and super()._is_over()

    def _make_room(self, session: "Session") -> None:
        if not self.spool.write(self, session):
            super()._make_room(session)

    def feed(self, session: "Session") -> int:
        """As Outbox.feed; what is on the flash goes first."""
        self._session = session
        if self.is_epoch_over:
            return 0
        readings = self.spool.replay(self, session)
        super().feed(session)
        return readings

    def _first_number(self, session: "Session", entry: "Entry") -> int:
        if not self.spool.is_open_for(self, session, entry):
            return -1
        return entry.skip + self.spool.next_number(session, entry.stream)

    def begin_epoch(self, session: "Session") -> None:
        """As Outbox.begin_epoch."""
        if self._session is not None:
            self.spool.begin_epoch(self._session, session)
        super().begin_epoch(session)

    def delivered(self, stream: int, seq: int) -> int:
        """As Outbox.delivered."""
        for entry in self.handed:
            if entry.stream == stream and entry.seq <= seq and entry.segment is not None:
                self.spool.log.delivered(entry.segment, entry.readings)
        return super().delivered(stream, seq)

    def poll(self, now: int) -> None:
        """As Outbox.poll. A link that ended writes nothing yet: most are back soon."""
        if self._session is not None:
            self.spool.poll(self, self._session, now)

    def close(self) -> None:
        """As Outbox.close."""
        if self._session is not None:
            self.spool.close(self, self._session)
