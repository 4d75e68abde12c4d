"""Spool: the part of the outbox that is on the flash.

    SpooledOutbox(Spool("/spool", 262_144), 65536, 256)

Nothing is written while the server acknowledges promptly. When a message has waited in
RAM for ``hold_ms`` without a session, or ``late_ms`` with one, or RAM is filling, all that is
not on the flash goes there, oldest first, in blocks. What is on the flash is handed to
the session in order as its window opens. A stream with messages on the flash that were not
handed over has its newer ones behind them; other streams do not wait for it.

What survives a power cut: every message whose block was written. What does not: those
younger than ``hold_ms`` (``late_ms``), and they were never acknowledged.

Files: spool_log.py (segments), spool_records.py (one message), spool_head.py (two slots),
spool_numbers.py (sequence numbers), spool_files.py (the file system). docs/spool.md.
"""

from fleetnet import limits
from fleetnet.errors import FleetError, LimitError
from fleetnet.session import OPEN
from fleetnet.ticks import ticks_diff
from fleetnet_device import spool_ram
from fleetnet_device.limits import MAX_SPOOL_RETRY_MS, SPOOL_BLOCK, SPOOL_BYTES
from fleetnet_device.spool_files import Files
from fleetnet_device.spool_log import Log
from fleetnet_device.spool_outbox import SpooledOutbox
from fleetnet_device.spool_records import HEADER_BYTES, MAX_READINGS, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fleetnet.session import Session
    from fleetnet_device.outbox import Entry, Outbox

# A flash that failed, or is full, is asked again after this time, then after twice as long.
_RETRY_MS = 30_000


class Spool:
    """Messages on the flash, and when they go there.

    Args:
        folder: made when it is missing; other files in it are left alone.
        max_bytes: ceiling of what is kept, record headers included.
        fragment: the session's fragment size; records of another size are given up.
        hold_ms: how long a message waits in RAM while there is no session.
        late_ms: the same while there is one and it does not acknowledge.
        files: another Files, for tests.

    Attributes:
        recovered_messages, recovered_readings: found on the flash at the start.

    Raises:
        FleetError: the folder cannot be made or read; go on without a spool.
    """

    def __init__(
        self,
        folder: str,
        max_bytes: int = SPOOL_BYTES,
        fragment: int = limits.FRAGMENT_PAYLOAD,
        hold_ms: int = 10_000,
        late_ms: int = 20_000,
        files: "Files | None" = None,
    ):
        try:
            self.log = Log(files or Files(folder), max_bytes, fragment)
        except OSError as error:
            raise FleetError(
                "spool %s cannot be used (%s): is the file system mounted and writable?"
                % (folder, error)
            )
        self.recovered_messages = sum([segment.left for segment in self.log.segments])
        self.recovered_readings = sum([segment.readings for segment in self.log.segments])
        self._hold_ms = hold_ms
        self._late_ms = late_ms
        self._oldest: "object | None" = None
        self._since = 0
        self._now = 0
        self._failed_at: "int | None" = None
        self._retry_ms = _RETRY_MS

    def __len__(self) -> int:
        """How many messages wait here to be handed over."""
        return sum(self.log.unread.values())

    # -- epochs and numbers --------------------------------------------------------------

    @property
    def epoch(self) -> "bytes | None":
        """The epoch of what is kept; None: the next session draws one."""
        return self.log.head.epoch or None

    def restore(self, session: "Session") -> None:
        """Take the session that was made with ``epoch``.

        Raises:
            FleetError: it was not, or it has another fragment size than the spool.
        """
        fragment = self.log.fragment
        if self.epoch not in (None, session.epoch):
            raise FleetError("make the session with the outbox's epoch: numbers must go on")
        if (session.sender.frames_of(fragment), session.sender.frames_of(fragment + 1)) != (1, 2):
            raise FleetError("session and spool have another fragment size than %d B" % fragment)
        if self.epoch is None:
            self.log.begin(session.epoch, {})
            self.log.numbers.is_confirmed = True  # no number of it was ever used

    def begin_epoch(self, old: "Session", session: "Session") -> None:
        """Go on in a new epoch; everything handed over in the old one is delivered."""
        handed = {n: stream.next_seq - 1 for n, stream in old.sender.streams.items()}
        numbers = self.log.numbers
        self.log.begin(session.epoch, numbers.shifted(self.log.runs(), handed))
        numbers.shift(handed)

    def is_open_for(self, outbox: "Outbox", session: "Session", entry: "Entry") -> bool:
        """Say whether a message may go from RAM to the session."""
        if not self.log.numbers.is_confirmed or self.log.unread.get(entry.stream, 0):
            return False
        return spool_ram.may_hold(outbox, entry.size, 3 if session.state == OPEN else 2)

    def next_number(self, session: "Session", stream: int) -> int:
        """Return the number of the next message of a stream with none on the flash."""
        known = session.sender.streams.get(stream)
        return max(known.next_seq if known else 1, self.log.numbers.last.get(stream, 0) + 1)

    def _confirm(self, session: "Session") -> None:
        """WELCOME was heard: messages that were written before it get their numbers."""
        numbers = self.log.numbers
        numbers.is_confirmed = True
        if numbers.run:
            streams = session.sender.streams
            bases = numbers.anchor(lambda n: streams[n].next_seq if n in streams else 1)
            if self.log.save(bases):
                numbers.anchored(bases)

    # -- from the flash to the session ---------------------------------------------------

    def replay(self, outbox: "Outbox", session: "Session") -> int:
        """Hand over what the window takes; return readings that the server had already."""
        if session.state != OPEN:
            return 0
        if not self.log.numbers.is_confirmed or self.log.numbers.run:
            self._confirm(session)
        readings = 0
        while self.log.is_begun():
            record = self.log.peek()
            if record is None:
                break
            number = self.log.numbers.number(record)
            if number is None:
                break
            if number < session.sender.open_stream(record.stream).next_seq:
                readings += self._settle(record)
            elif not self._hand_over(outbox, session, record, number):
                break
        self._count_damage(outbox)
        return readings

    def _settle(self, record: Record) -> int:
        """Go past a record below the next number; return its readings when they count now."""
        if record.sequence >= self.log.born:
            self.log.passed()  # the session had it before it was written
            return 0
        self.log.delivered(self.log.taken(), record.readings)
        return record.readings

    def _hand_over(self, outbox: "Outbox", session: "Session", record: Record, number: int) -> bool:
        # Half of RAM for what comes from the flash; streams with nothing there may pass it.
        if not spool_ram.may_hold(outbox, record.length, 2):
            return False
        try:
            if not session.sender.skip(record.stream, number):
                return False
            if not session.has_room(record.stream, record.length):
                return False
            last = session.send(record.stream, record.kind, record.payload)
        except LimitError:
            outbox.is_epoch_over = True
            return False
        entry = spool_ram.hand(outbox, record.stream, last, record.length, record.readings)
        entry.sequence = record.sequence
        entry.segment = self.log.taken()
        return True

    def _count_damage(self, outbox: "Outbox") -> None:
        log = self.log
        outbox.dropped_messages += log.lost_messages
        outbox.dropped_readings += log.lost_readings
        log.lost_messages = log.lost_readings = 0

    # -- from RAM to the flash -----------------------------------------------------------

    def poll(self, outbox: "Outbox", session: "Session", now: int) -> None:
        """Write when messages have waited too long; ``now``: ticks."""
        self._now = now
        self._count_damage(outbox)
        oldest = spool_ram.oldest(outbox)
        if oldest is not self._oldest:
            self._oldest = oldest
            self._since = now
            return
        if oldest is None:
            return
        waited_ms = ticks_diff(now, self._since)
        is_open = session.state == OPEN
        if waited_ms >= (self._late_ms if is_open else self._hold_ms) or spool_ram.is_filling(
            outbox, None if is_open else SPOOL_BLOCK
        ):
            self.write(outbox, session)

    def write(self, outbox: "Outbox", session: "Session", limit: int = SPOOL_BLOCK) -> bool:
        """Write the oldest messages that are in RAM only, about ``limit`` bytes of them.

        Returns:
            False: there was none, there is no room (policy "newest"), or the flash failed.
        """
        if self._failed_at is not None and ticks_diff(self._now, self._failed_at) < self._retry_ms:
            return False
        records: "list[tuple[Record, bool]]" = []
        entries: "list[Entry]" = []
        numbers = self.log.numbers
        numbers.begin_run(self.log.runs())
        ahead, last = numbers.ahead.copy(), numbers.last.copy()
        size = 0
        for entry in spool_ram.only_in_ram(outbox):
            if size and size + entry.size > limit:
                break
            record = self._record(session, entry, ahead, last)
            if record is not None:
                records.append((record, entry.seq > 0))
                entries.append(entry)
                size += entry.size + HEADER_BYTES
        if not records or not self._make_room(outbox, session, size):
            return False
        places = self.log.append(records)
        while places is None and outbox.policy == "oldest" and self.log.segments:
            self._drop_oldest(outbox, session)  # the disk is full below our own ceiling
            places = self.log.append(records)
        if places is None:
            if self._failed_at is not None:
                self._retry_ms = min(2 * self._retry_ms, MAX_SPOOL_RETRY_MS)
            self._failed_at = self._now
            return False
        self._failed_at = None
        self._retry_ms = _RETRY_MS
        numbers.ahead, numbers.last = ahead, last
        for entry, (segment, sequence) in zip(entries, places):
            entry.segment, entry.sequence, entry.payload = segment, sequence, None
        spool_ram.leave_to_flash(outbox)
        return True

    def _record(
        self,
        session: "Session",
        entry: "Entry",
        ahead: "dict[int, int]",
        last: "dict[int, int]",
    ) -> "Record | None":
        """Return the record of an entry, and move the numbers on behind it."""
        stream, frames = entry.stream, self.log.frames_of(entry.size)
        payload = spool_ram.payload_of(session, entry, frames)
        if len(payload) != entry.size:
            return None  # a part of it is acknowledged: the rest follows at once
        run = 0 if entry.seq else self.log.numbers.run
        if run:
            index = ahead.get(stream, 0) + entry.skip
            ahead[stream] = index + frames
        else:
            number = entry.seq - frames + 1
            if not entry.seq:
                known = session.sender.streams.get(stream)
                number = max(known.next_seq if known else 1, last.get(stream, 0) + 1) + entry.skip
            last[stream] = number + frames - 1
            index = self.log.numbers.index(stream, number)
        readings = min(entry.readings, MAX_READINGS)
        record = Record((0, stream, run, entry.kind, 0, index, readings, entry.size))
        record.payload = payload
        return record

    # -- ceilings ------------------------------------------------------------------------

    def _make_room(self, outbox: "Outbox", session: "Session", size: int) -> bool:
        while not self.log.has_room(size):
            if outbox.policy != "oldest" or not self.log.segments or size > self.log.max_bytes:
                return False
            self._drop_oldest(outbox, session)
        return True

    def _drop_oldest(self, outbox: "Outbox", session: "Session") -> None:
        """Give up the oldest segment: one deletion makes room for many messages."""
        segment = self.log.segments[0]
        outbox.dropped_messages += segment.left
        outbox.dropped_readings += segment.readings
        spool_ram.give_up_segment(outbox, session, segment)
        self.log.remove(segment)

    def close(self, outbox: "Outbox", session: "Session") -> None:
        """Write everything and the read position: a clean stop."""
        self._failed_at = None
        while self.write(outbox, session):
            pass
        self.log.finish(spool_ram.oldest_sequence(outbox))


def open_outbox(
    folder: str, spool_bytes: int, fragment: int, max_bytes: int, policy: str
) -> SpooledOutbox:
    """Return an outbox with a spool in ``folder``. Raises FleetError as Spool."""
    return SpooledOutbox(Spool(folder, spool_bytes, fragment), max_bytes, policy=policy)
