"""The spool's head: what must be known before its records mean anything.

Two slots, written in turn: a power cut while one is written leaves the other. Of two
whole slots the one with the higher counter is the newer.

    magic 0xE1, version 1           u8 u8
    counter                         u32  one more with each write
    fragment                        u16  bytes; sequence numbers count frames of this size
    reserved                        u32  spool sequences below it may have been used
    floor                           u32  spool sequences below it are done with: read position
    number of bases, of cuts        u8 u8
    epoch                           8 bytes
    bases                           each: run << 4 | stream u16, base i32
    cuts                            each: segment u32, valid bytes u32
    CRC-32 of all before            u32

Integers are big-endian. See spool_log.py for runs, bases and cuts.
"""

import binascii
import struct

from fleetnet_device.limits import MAX_BASES, MAX_CUTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fleetnet_device.spool_files import Files

SLOTS = ("spool.h0", "spool.h1")

# littlefs needs a free block to replace even the smallest file.
_FILLER = "spool.gap"
_FILLER_BYTES = 4096
_PART = bytes(512)

_MAGIC = 0xE1
_VERSION = 1
_FIXED = ">BBIHIIBB8s"
_FIXED_BYTES = 26
_MAX_BYTES = _FIXED_BYTES + 6 * MAX_BASES + 8 * MAX_CUTS + 4


class Head:
    """The fields above; ``bases``: run << 4 | stream -> base; ``cuts``: segment -> bytes."""

    def __init__(self, epoch: bytes, fragment: int):
        self.counter = 0
        self.epoch = epoch
        self.fragment = fragment
        self.reserved = 1
        self.floor = 0
        self.bases: "dict[int, int]" = {}
        self.cuts: "dict[int, int]" = {}

    def to_bytes(self) -> bytes:
        parts = [
            struct.pack(
                _FIXED,
                _MAGIC,
                _VERSION,
                self.counter,
                self.fragment,
                self.reserved,
                self.floor,
                len(self.bases),
                len(self.cuts),
                self.epoch,
            )
        ]
        for key in sorted(self.bases):
            parts.append(struct.pack(">Hi", key, self.bases[key]))
        for key in sorted(self.cuts):
            parts.append(struct.pack(">II", key, self.cuts[key]))
        data = b"".join(parts)
        return data + struct.pack(">I", binascii.crc32(data) & 0xFFFFFFFF)


def decode(data: bytes) -> "Head | None":
    """Return the head that a slot holds; None when it holds none."""
    if len(data) < _FIXED_BYTES + 4:
        return None
    magic, version, counter, fragment, reserved, floor, bases, cuts, epoch = struct.unpack_from(
        _FIXED, data, 0
    )
    end = _FIXED_BYTES + 6 * bases + 8 * cuts
    if (magic, version) != (_MAGIC, _VERSION) or bases > MAX_BASES or cuts > MAX_CUTS:
        return None
    # What an overwritten longer head left behind the end is no part of this one.
    if len(data) < end + 4:
        return None
    if struct.unpack_from(">I", data, end)[0] != binascii.crc32(data[:end]) & 0xFFFFFFFF:
        return None
    head = Head(epoch if epoch != bytes(8) else b"", fragment)
    head.counter, head.reserved, head.floor = counter, reserved, floor
    at = _FIXED_BYTES
    for _ in range(bases):
        key, base = struct.unpack_from(">Hi", data, at)
        head.bases[key] = base
        at += 6
    for _ in range(cuts):
        key, size = struct.unpack_from(">II", data, at)
        head.cuts[key] = size
        at += 8
    return head


def load(files: "Files") -> "Head | None":
    """Return the newer whole head of the two slots; None when there is none.

    Raises:
        OSError: a slot that is there cannot be read.
    """
    newest = None
    names = files.names()
    for name in SLOTS:
        if name not in names:
            continue
        file = files.open(name)
        try:
            head = decode(file.read(_MAX_BYTES))
        finally:
            file.close()
        if head is not None and (newest is None or head.counter > newest.counter):
            newest = head
    return newest


class Slots:
    """The head on the flash, and what keeps it writable.

    A third file, spool.gap, is filler: it is deleted when a full disk has no room for the
    head, and records are written only while it is there.

    Attributes:
        head: as found, or a new one without epoch.
        is_dirty: it must be written before any record is.
        is_begun: the flash knows the epoch: messages of it may be sent.
        bytes_written, writes: since the start.
    """

    def __init__(self, files: "Files", fragment: int):
        self.head = load(files) or Head(b"", fragment)
        self.is_dirty = False
        self.is_begun = True
        self.bytes_written = 0
        self.writes = 0
        self._files = files
        self._has_filler = _FILLER in files.names() and files.size(_FILLER) == _FILLER_BYTES
        if not self._has_filler:
            self._remove_filler()

    def begin(self, epoch: bytes, bases: "dict[int, int]") -> None:
        """Make ``epoch`` the head's, in RAM."""
        self.head.epoch = epoch
        self.head.bases = bases
        self.is_begun = False
        self.is_dirty = True

    def save(
        self, runs: "set[int]", segments: "set[int]", bases: "dict[int, int] | None" = None
    ) -> "OSError | None":
        """Write the head without what concerns no record any more.

        Args:
            runs, segments: those that there are.
            bases: instead of the head's.

        Returns:
            why it failed; the head is as before, in RAM and on the flash.
        """
        head = self.head
        before = head.bases, head.cuts
        bases = head.bases if bases is None else bases
        head.bases = {key: base for key, base in bases.items() if key >> 4 in runs}
        head.cuts = {key: size for key, size in head.cuts.items() if key in segments}
        try:
            if len(head.cuts) > MAX_CUTS or len(head.bases) > MAX_BASES:
                raise OSError(28)  # ENOSPC
            self._write()
        except OSError as error:
            head.bases, head.cuts = before
            return error
        self.is_dirty = False
        self.is_begun = True
        return None

    def _write(self) -> None:
        try:
            self._write_slot()
        except OSError:
            if not self._has_filler:
                raise
            self._remove_filler()
            self._write_slot()

    def _remove_filler(self) -> None:
        """Give its room back; also of a part that a full disk left."""
        self._has_filler = False
        try:
            self._files.remove(_FILLER)
        except OSError:
            return  # there was none

    def _write_slot(self) -> None:
        """Write the slot that does not hold the last whole head."""
        self.head.counter += 1
        try:
            data = self.head.to_bytes()
            self._files.write(SLOTS[self.head.counter & 1], data)
        except OSError:
            self.head.counter -= 1  # the next try goes to the same slot
            raise
        self.bytes_written += len(data)
        self.writes += 1

    def fill(self) -> "OSError | None":
        """Keep room for the head; the error says that there is none."""
        if not self._has_filler:
            try:
                self._files.append(_FILLER, [_PART] * (_FILLER_BYTES // len(_PART)))
            except OSError as error:
                self._remove_filler()
                return error
            self._has_filler = True
            self.bytes_written += _FILLER_BYTES
            self.writes += 1
        return None
