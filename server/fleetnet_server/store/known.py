"""Which messages were stored: ranges of sequences that outlive the rows of their messages.

A range is (epoch, stream, first, last). The ranges of a stream neither overlap nor touch, so
that one seek behind a sequence tells whether it is in one (store/batch.py).
"""

from collections.abc import Sequence
from typing import Protocol

import apsw
import msgspec

# epoch, stream, last, first, received
_Range = tuple[int, int, int, int, int]

_NEAR = (  # ranges that overlap a wanted one or touch it
    "SELECT json_group_array(json_array(k.epoch, k.stream, k.last, k.first, k.received))"
    " FROM json_each(?1) AS j CROSS JOIN known AS k ON k.epoch = json_extract(j.value, '$[0]')"
    " AND k.stream = json_extract(j.value, '$[1]') AND k.last >= json_extract(j.value, '$[3]') - 1"
    " WHERE k.first <= json_extract(j.value, '$[2]') + 1"
)
_DELETE = (
    "DELETE FROM known WHERE (epoch, stream, last) IN (SELECT json_extract(value, '$[0]'),"
    " json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(?1))"
)
_INSERT = (
    "INSERT INTO known(epoch, stream, last, first, received) SELECT json_extract(value, '$[0]'),"
    " json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]'),"
    " json_extract(value, '$[4]') FROM json_each(?1)"
)
_decode = msgspec.json.Decoder(list[_Range]).decode


class StoredRow(Protocol):
    """What is needed of a message's row."""

    @property
    def epoch(self) -> int: ...
    @property
    def stream(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def received(self) -> int: ...


class KnownRanges:
    """Ranges that take the place of others."""

    def __init__(self) -> None:
        self.old: list[_Range] = []
        self.new: list[_Range] = []

    def write(self, connection: apsw.Connection) -> None:
        """Write them inside a transaction of the caller's."""
        if self.old:
            connection.execute(_DELETE, (msgspec.json.encode(self.old).decode(),))
        if self.new:
            connection.execute(_INSERT, (msgspec.json.encode(self.new).decode(),))


def merge_known(reader: apsw.Connection, rows: Sequence[StoredRow]) -> KnownRanges:
    """Merge the keys of rows, ordered by (epoch, stream, seq) within a device, into ranges."""
    wanted: list[_Range] = []
    for row in rows:
        if wanted:
            epoch, stream, last, first, received = wanted[-1]
            if (row.epoch, row.stream) == (epoch, stream) and row.seq - 1 <= last:
                merged = (epoch, stream, row.seq, first, max(received, row.received))
                wanted[-1] = merged
                continue
        wanted.append((row.epoch, row.stream, row.seq, row.seq, row.received))
    found = KnownRanges()
    if not wanted:
        return found
    near = _decode(reader.execute(_NEAR, (msgspec.json.encode(wanted).decode(),)).get)
    found.old = sorted(set(near))
    for one in sorted([*found.old, *wanted], key=lambda each: (each[0], each[1], each[3])):
        if found.new:
            epoch, stream, last, first, received = found.new[-1]
            if one[:2] == (epoch, stream) and one[3] <= last + 1:
                merged = (epoch, stream, max(last, one[2]), first, max(received, one[4]))
                found.new[-1] = merged
                continue
        found.new.append(one)
    return found
