"""Readings of chunks as rows of COPY BINARY, and back; about 1 us a reading (CPython 3.11).

The columns ``number`` and ``value`` are as expanding.py fills them.
"""

from collections.abc import Iterable
from struct import Struct
from typing import NamedTuple

import msgspec

from fleetnet_server.store.chunks import Decoded
from fleetnet_server.store.postgres.expanding import HEADER, TRAILER
from fleetnet_server.store.retention import as_number

# Each field is its length and its bytes; a length of -1 is NULL.
_NULL = -1
_number = Struct("!hiqiqiqidiiihihi").pack
_other = Struct("!hiqiqiqiiiihihi").pack

# Above this a double has no place for every integer.
_EXACT = 1 << 53


class ChunkReadings(NamedTuple):
    """The readings of one chunk. ``decoded.raws`` are there where values do not decode together."""

    series: int
    epoch: int
    stream: int
    decoded: Decoded


def chunk_rows(chunks: Iterable[ChunkReadings]) -> bytes:
    """Return rows for expanding.COPY_READINGS."""
    parts = [HEADER]
    append = parts.append
    for series, epoch, stream, (times, values, raws, keys) in chunks:
        for index, (t, value, (seq, place)) in enumerate(zip(times, values, keys, strict=True)):
            if (type(value) is float and not value.is_integer()) or (
                type(value) is int and -_EXACT <= value <= _EXACT
            ):
                append(_number(8, 8, t, 8, epoch, 8, seq, 8, value, 4, series,
                               2, stream, 2, place, _NULL))  # fmt: skip
                continue
            number = as_number(value)
            text = bytes(raws[index]) if raws else msgspec.json.encode(value)
            if number is None:
                append(_other(8, 8, t, 8, epoch, 8, seq, _NULL, 4, series,
                              2, stream, 2, place, len(text)))  # fmt: skip
            else:
                append(_number(8, 8, t, 8, epoch, 8, seq, 8, number, 4, series,
                               2, stream, 2, place, len(text)))  # fmt: skip
            append(text)
    append(TRAILER)
    return b"".join(parts)


def as_json(number: float | None, value: str | None) -> bytes:
    """Return a reading's value as JSON: see schema_readings.py."""
    if value is not None:
        return value.encode()
    assert number is not None
    return (str(int(number)) if number.is_integer() else repr(number)).encode()
