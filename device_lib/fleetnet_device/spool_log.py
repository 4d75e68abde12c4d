"""The spool on the flash: segment files with records, and the head.

    %08x.spl   segments; the number is the sequence of the first record, so that it is never
               used again; a segment is only ever appended to
    spool.h0, spool.h1   the head's two slots

Appending and deleting whole files suits both file systems of MicroPython: littlefs
rewrites a file from the first changed byte to its end, FAT erases a block for each write.
The oldest segment is deleted when all its messages are delivered; nothing is written then.

What a write that failed left behind (a full disk) is cut off by an entry in the head,
before anything else is written: such bytes could turn into records after a reboot.
Numbers of segments and sequences of records: see spool_records.py and spool_head.py.
"""

from fleetnet_device.limits import MAX_SEGMENTS
from fleetnet_device.spool_files import Files
from fleetnet_device.spool_head import Slots
from fleetnet_device.spool_numbers import Numbers
from fleetnet_device.spool_records import HEADER_BYTES, Reader, Record, encode_header
from fleetnet_device.spool_segment import Segment, segment_number

# Sequences reserved by one write of the head: one such write for each 4096 records, and
# one for each start of the device after which the spool is used.
_RESERVED = 4096


class Log:
    """Records in order: appended at the end, read once, deleted from the beginning.

    Attributes:
        segments: oldest first.
        size: bytes of all segments.
        unread: stream -> messages that are still to be handed over.
        lost_messages, lost_readings: what damage cost, and what an unusable head cost.
        error: of the last operation that failed; None when it worked.
        born: records of this sequence and above were written since the start.
        fragment: size of a message's frames, bytes.
    """

    reader = Reader

    def __init__(self, files: Files, max_bytes: int, fragment: int):
        self.files = files
        self.max_bytes = max_bytes
        self.fragment = fragment
        self.slots = Slots(files, fragment)
        self.head = self.slots.head
        self.numbers = Numbers(self.head)
        self.segments: "list[Segment]" = []
        self.size = 0
        self.unread: "dict[int, int]" = {}
        self.lost_messages = 0
        self.lost_readings = 0
        self._written = 0
        self._writes = 0
        self.error: "OSError | None" = None
        self._segment_bytes = max(1024, max_bytes // 16)
        self._reading: "Segment | None" = None
        self._reader: "Reader | None" = None
        self._read_number = 0
        self._read_sequence = 0
        self._peeked: "Record | None" = None
        # Segments that could not be deleted: cut to nothing in the head.
        self._stuck: "set[int]" = set()
        self._floor = self.head.floor
        self.born = max(self.head.reserved, self._recover() + 1)
        self._sequence = self.born
        if not self.head.epoch or self.head.fragment != fragment:
            self._discard()
        self._remove_done()

    # -- the start ---------------------------------------------------------------------

    def _recover(self) -> int:
        """Find all good records; return the last sequence."""
        sequence = 0
        for number in sorted([segment_number(name) for name in self.files.names()]):
            if number < 0:
                continue
            segment = Segment(number)
            try:
                sequence = self._scan(segment, sequence)
            except OSError as error:
                self.error = error
                segment.sealed = True
            self.segments.append(segment)
            self.size += segment.size
        return sequence

    def _scan(self, segment: Segment, sequence: int) -> int:
        segment.size = self.files.size(segment.name)
        end = min(segment.size, self.head.cuts.get(segment.number, segment.size))
        sequence = max(sequence, segment.number - 1)
        reader = self.reader(self.files.open(segment.name), end, sequence)
        try:
            while True:
                record = reader.next(False)
                if record is None:
                    break
                if record.sequence >= self._floor:
                    self._add(segment, record, False)
                    self.numbers.note(record, self.frames_of(record.length))
        finally:
            reader.close()
            segment.end = reader.offset
            # Nothing is written behind a torn tail: it could go on there with old records.
            segment.sealed = segment.end < segment.size
        return reader.sequence

    def _discard(self) -> None:
        """Without a head, or with another fragment size, the records mean nothing."""
        while self.segments:
            segment = self.segments[0]
            self.lost_messages += segment.left
            self.lost_readings += segment.readings
            self.remove(segment)
        self.head.epoch = b""
        self.head.fragment = self.fragment
        self.head.bases = {}
        self.head.cuts = {}
        self.numbers = Numbers(self.head)

    @property
    def bytes_written(self) -> int:
        """What the flash had to take since the start, bytes."""
        return self._written + self.slots.bytes_written

    @property
    def writes(self) -> int:
        """How often it had to take something."""
        return self._writes + self.slots.writes

    def frames_of(self, length: int) -> int:
        """Return how many sequence numbers a payload takes; as Sender.frames_of."""
        return (length + self.fragment - 1) // self.fragment or 1

    # -- the head ------------------------------------------------------------------------

    def runs(self) -> "set[int]":
        """Return the runs of the records that are here."""
        used = set()
        for segment in self.segments:
            used |= segment.runs
        return used

    def save(self, bases: "dict[int, int] | None" = None) -> bool:
        """Write the head, with other bases where given; False: it failed, all is as before."""
        present = self._stuck | {segment.number for segment in self.segments}
        return self._tried(self.slots.save(self.runs(), present, bases))

    def _tried(self, error: "OSError | None") -> bool:
        self.error = error
        return error is None

    def is_begun(self) -> bool:
        """Say whether the flash knows the epoch; write it when it does not."""
        return self.slots.is_begun or self.save()

    def begin(self, epoch: bytes, bases: "dict[int, int]") -> None:
        """Make ``epoch`` the head's; when it cannot be written now, is_begun does so later."""
        self.slots.begin(epoch, bases)
        self.save()

    def _reserve(self, count: int) -> bool:
        """Make sure that ``count`` sequences are reserved on the flash."""
        before = self.head.reserved
        if self._sequence + count > before:
            self.head.reserved = self._sequence + count + _RESERVED
            if not self.save():
                self.head.reserved = before
                return False
        return True

    def _add(self, segment: Segment, record: Record, is_handed: bool) -> None:
        """Count a record; ``is_handed``: the session has it already."""
        segment.left += 1
        segment.readings += record.readings
        segment.runs.add(record.run)
        if not is_handed:
            for unread in (segment.unread, self.unread):
                unread[record.stream] = unread.get(record.stream, 0) + 1
            segment.unread_readings += record.readings

    def _forget_unread(self, segment: Segment) -> int:
        for stream, count in segment.unread.items():
            self.unread[stream] -= count
        return segment.lose_unread()

    # -- writing -------------------------------------------------------------------------

    def has_room(self, size: int) -> bool:
        """Say whether records of ``size`` bytes, headers included, keep the ceilings."""
        return self.size + size <= self.max_bytes and len(self.segments) < MAX_SEGMENTS

    def append(self, records: "list[tuple[Record, bool]]") -> "list[tuple[Segment, int]] | None":
        """Write records, in one piece; ``bool``: the session has it already.

        Returns:
            segment and sequence of each; None: it failed, see ``error``, and none is kept.
        """
        if self.slots.is_dirty and not self.save():
            return None
        if not self._reserve(len(records)) or not self._tried(self.slots.fill()):
            return None
        size = sum([HEADER_BYTES + record.length for record, _ in records])
        segment = self._segment_for(size)
        if segment is None:
            return None
        parts = []
        for record, _ in records:
            record.sequence = self._sequence
            self._sequence += 1
            parts.append(
                encode_header(
                    record.stream,
                    record.run,
                    record.kind,
                    record.sequence,
                    record.index,
                    record.readings,
                    record.payload,
                )
            )
            parts.append(record.payload)
        self._writes += 1
        self._written += size
        try:
            self.files.append(segment.name, parts)
        except OSError as error:
            self._cut(segment, error)
            return None
        segment.size += size
        segment.end += size
        self.size += size
        self.error = None
        for record, is_handed in records:
            self._add(segment, record, is_handed)
        return [(segment, record.sequence) for record, _ in records]

    def _segment_for(self, size: int) -> "Segment | None":
        """Return the segment that takes ``size`` bytes; None: the disk is full."""
        try:
            if self.files.free() < size:
                raise OSError(28)  # ENOSPC, before a part is written and must be cut off
        except OSError as error:
            self.error = error
            return None
        segment = self.segments[-1] if self.segments else None
        if segment is None or segment.sealed or segment.size >= self._segment_bytes:
            segment = Segment(self._sequence)
            self.segments.append(segment)
        return segment

    def _cut(self, segment: Segment, error: OSError) -> None:
        """Nobody knows what a write that failed left in the file."""
        self.error = error
        segment.sealed = True
        self.slots.is_dirty = True
        self.head.cuts[segment.number] = segment.end
        try:
            self.size -= segment.size
            segment.size = self.files.size(segment.name)
        except OSError:
            pass
        self.size += segment.size
        self._remove_done()

    # -- reading, once ---------------------------------------------------------------------

    def peek(self) -> "Record | None":
        """Return the next record, with its payload, until ``taken`` or ``passed``."""
        while self._peeked is None:
            if self._reader is None and not self._open_next():
                return None
            record = None
            try:
                if self._reader is not None:
                    record = self._reader.next()
            except OSError as error:
                self.error = error
            if record is None:
                self._end_segment()
            elif record.sequence >= self._floor:
                self._peeked = record
        return self._peeked

    def _open_next(self) -> bool:
        for segment in self.segments:
            if segment.number > self._read_number:
                break
        else:
            return False
        self._read_number = segment.number
        self._reading = segment
        segment.sealed = True  # no file is written while it is read
        try:
            file = self.files.open(segment.name)
            sequence = max(self._read_sequence, segment.number - 1)
            self._reader = self.reader(file, segment.end, sequence)
        except OSError as error:
            self.error = error
            self._end_segment()
        return True

    def _end_segment(self) -> None:
        """The segment that is read is at its end; what it still should hold is damaged."""
        segment = self._reading
        self._stop_reading()
        if segment is not None:
            self.lost_readings += segment.unread_readings
            self.lost_messages += self._forget_unread(segment)
            self._remove_done()

    def _stop_reading(self) -> None:
        if self._reader is not None:
            self._read_sequence = self._reader.sequence
            self._reader.close()
        self._reader = self._reading = self._peeked = None

    def taken(self) -> "Segment":
        """The record of ``peek`` was handed over, or need not be; return its segment."""
        segment, record = self._reading, self._peeked
        assert segment is not None and record is not None
        segment.unread[record.stream] -= 1
        self.unread[record.stream] -= 1
        segment.unread_readings -= record.readings
        self._peeked = None
        return segment

    def passed(self) -> None:
        """The record of ``peek`` was handed over before it was written."""
        self._peeked = None

    # -- deleting --------------------------------------------------------------------------

    def delivered(self, segment: Segment, readings: int) -> None:
        """One message of a segment need not be kept."""
        segment.left -= 1
        segment.readings -= readings
        self._remove_done()

    def _remove_done(self) -> None:
        while self.segments and self.segments[0].left <= 0:
            self.remove(self.segments[0])

    def remove(self, segment: Segment) -> None:
        """Delete a segment, whatever it holds."""
        if segment is self._reading:
            self._stop_reading()
        self._read_number = max(self._read_number, segment.number)
        self._forget_unread(segment)
        self.segments.remove(segment)
        self.size -= segment.size
        try:
            self.files.remove(segment.name)
        except OSError as error:
            if error.args[0] != 2:  # ENOENT
                self.error = error
                self._stuck.add(segment.number)
                self.head.cuts[segment.number] = 0
                self.slots.is_dirty = True

    def finish(self, oldest: int) -> None:
        """Write the read position.

        Args:
            oldest: lowest sequence of those that the session holds undelivered.
        """
        if self._peeked is not None:
            position = self._peeked.sequence
        else:
            position = 1 + (self._reader.sequence if self._reader else self._read_sequence)
        self.head.floor = max(self._floor, min(oldest, position))
        self.save()
