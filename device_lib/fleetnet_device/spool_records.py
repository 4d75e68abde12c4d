"""Records of the spool: one message each, behind one another in a segment file.

    magic 0xF1                      u8   also says the version
    stream                          u8   1 to 15
    run                             u8   see spool_log.py
    kind                            u8   frame kind of the message
    sequence                        u32  of the spool: higher in each later record, never reused
    index                           u32  of the message's first frame, see spool_log.py
    readings                        u16  what the message counts for
    length                          u32  of the payload, bytes
    CRC-32 of all before + payload  u32
    payload

Integers are big-endian. A record is taken when its CRC is right and its sequence is
above the one before, of the first not below the file's number: flash pages that were written
in an earlier lap of the spool hold records with a good CRC, whose sequence is lower. What
follows a bad record is not read.
"""

import binascii
import struct

from fleetnet import limits
from fleetnet_device.limits import SPOOL_PIECE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

HEADER_BYTES = 22
MAX_READINGS = 65535

_MAGIC = 0xF1
_FIELDS = ">BBBBIIHI"


def crc32(data: "bytes | memoryview", value: int = 0) -> int:
    """CRC-32 of IEEE 802.3, continued from ``value``."""
    return binascii.crc32(data, value) & 0xFFFFFFFF


def encode_header(
    stream: int, run: int, kind: int, sequence: int, index: int, readings: int, payload: bytes
) -> bytes:
    """Return the 22 bytes that stand before ``payload``."""
    fields = struct.pack(
        _FIELDS, _MAGIC, stream, run, kind, sequence, index, readings, len(payload)
    )
    return fields + struct.pack(">I", crc32(payload, crc32(fields)))


class Record:
    """The fields above."""

    __slots__ = ("index", "kind", "length", "payload", "readings", "run", "sequence", "stream")

    def __init__(self, fields: "tuple[int, ...]"):
        _, self.stream, self.run, self.kind = fields[:4]
        self.sequence, self.index, self.readings, self.length = fields[4:]
        self.payload = b""


class Reader:
    """Reads a segment from its beginning.

    Args:
        file: opened for reading; ``close`` closes it.
        end: bytes of it that may be read.
        sequence: that of the record before.

    Attributes:
        offset: behind the last good record, bytes.
        sequence: of the last good record.
    """

    def __init__(self, file: "BinaryIO", end: int, sequence: int):
        self.offset = 0
        self.sequence = sequence
        self._file = file
        self._end = end

    def close(self) -> None:
        self._file.close()

    def next(self, keep: bool = True) -> "Record | None":
        """Return the next record, None at the end or where no good record follows.

        Args:
            keep: with its payload; else that is only checked, in pieces.

        Raises:
            OSError: the file cannot be read.
        """
        if self.offset + HEADER_BYTES > self._end:
            return None
        header = self._file.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES or header[0] != _MAGIC:
            return None
        record = Record(struct.unpack_from(_FIELDS, header, 0))
        if not 0 < record.stream <= limits.MAX_STREAM or not self.follows(record.sequence):
            return None
        length = record.length
        if length > min(limits.MAX_MESSAGE, self._end - self.offset - HEADER_BYTES):
            return None
        if keep:
            record.payload = self._file.read(length)  # bounded: at most MAX_MESSAGE, see above
            crc = crc32(record.payload, crc32(header[:-4]))
        else:
            crc = self._check(length, crc32(header[:-4]))
        if crc != struct.unpack_from(">I", header, HEADER_BYTES - 4)[0]:
            return None
        self.offset += HEADER_BYTES + length
        self.sequence = record.sequence
        return record

    def follows(self, sequence: int) -> bool:
        """Say whether a record of this sequence may stand here."""
        return sequence > self.sequence

    def _check(self, left: int, crc: int) -> int:
        while left > 0:
            piece = self._file.read(min(left, SPOOL_PIECE))
            if not piece:
                return -1
            crc = crc32(piece, crc)
            left -= len(piece)
        return crc
