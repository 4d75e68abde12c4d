"""Which sequence number a record of the spool has, over reboots and epochs.

The rule behind it: a number of an epoch means one message for ever. After a reboot the
device does not know which numbers it used from RAM alone; the server does, and says so in
WELCOME (docs/protocol.md section 6.5). Until then nothing is numbered for good:

    run 0        number = index + base of (0, stream), which is 0 but for what is left
                 over from an older epoch
    other runs   written before WELCOME was heard: index counts from 0 in each stream, the
                 base is found at WELCOME and kept in the head before the first of them is sent

At most one run has no base yet: reboots without WELCOME go on with it.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fleetnet_device.spool_head import Head
    from fleetnet_device.spool_records import Record


class Numbers:
    """Numbers of one spool.

    Attributes:
        last: stream -> highest number that a record of a numbered run has.
        run: the run without base, 0 when there is none.
        ahead: stream -> next index of that run.
        is_confirmed: WELCOME was heard since the device started, or the epoch is new.
    """

    def __init__(self, head: "Head"):
        self.head = head
        self.last: "dict[int, int]" = {}
        self.run = 0
        self.ahead: "dict[int, int]" = {}
        self.is_confirmed = False

    def number(self, record: "Record") -> "int | None":
        """Return the number of a record's first frame; None: known after WELCOME."""
        base = self.head.bases.get(record.run << 4 | record.stream)
        if base is None and record.run:
            return None
        return record.index + (base or 0)

    def note(self, record: "Record", frames: int) -> None:
        """Take a record that was found at the start into account."""
        number = self.number(record)
        if number is None:
            self.run = record.run
            self.ahead[record.stream] = record.index + frames
        else:
            last = number + frames - 1
            self.last[record.stream] = max(last, self.last.get(record.stream, 0))

    def begin_run(self, used: "set[int]") -> None:
        """Make sure that records can be written before WELCOME; ``used``: runs of records."""
        if self.run or self.is_confirmed:
            return
        taken = used | {key >> 4 for key in self.head.bases}
        self.run = 1
        while self.run in taken:
            self.run += 1

    def index(self, stream: int, number: int) -> int:
        """Return the index that gives ``number`` in run 0."""
        return number - self.head.bases.get(stream, 0)

    def anchor(self, next_of: "Callable[[int], int]") -> "dict[int, int]":
        """Return the head's bases with one for each stream of the run that has none.

        Args:
            next_of: stream -> the session's next sequence number, behind WELCOME.
        """
        bases = self.head.bases.copy()
        for stream in self.ahead:
            bases[self.run << 4 | stream] = max(next_of(stream), self.last.get(stream, 0) + 1)
        return bases

    def anchored(self, bases: "dict[int, int]") -> None:
        """The bases of ``anchor`` are in the head: the run is numbered like any other."""
        for stream, ahead in self.ahead.items():
            self.last[stream] = bases[self.run << 4 | stream] + ahead - 1
        self.run = 0
        self.ahead = {}

    def shifted(self, used: "set[int]", handed: "dict[int, int]") -> "dict[int, int]":
        """Return bases for a new epoch, in which what was not handed over begins at 1.

        Args:
            used: runs of records.
            handed: stream -> last number handed over in the old epoch.
        """
        bases = {}
        for run in used:
            for stream, last in handed.items():
                key = run << 4 | stream
                base = self.head.bases.get(key)
                if base is not None or not run:
                    bases[key] = (base or 0) - last
        return bases

    def shift(self, handed: "dict[int, int]") -> None:
        """The bases of ``shifted`` are in the head: begin the epoch."""
        for stream, last in handed.items():
            self.last[stream] = max(0, self.last.get(stream, 0) - last)
        self.is_confirmed = True
