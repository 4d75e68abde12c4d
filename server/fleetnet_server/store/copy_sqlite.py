"""A store file as one side of a copy, and what of it another layout needs to know."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import msgspec

from fleetnet.frame import OPTIONAL, READINGS
from fleetnet_server.core.bodies import decode_readings
from fleetnet_server.store import schema
from fleetnet_server.store.chunks import Decoded, decode_untrusted
from fleetnet_server.store.copy_steps import (
    SUMMED_BELOW,
    AllSums,
    Mark,
    Place,
    Row,
    SeriesSums,
)
from fleetnet_server.store.query import decode_value
from fleetnet_server.store.retention import as_number
from fleetnet_server.store.trouble import unavailable

# Its readings are in chunks as well when it is hidden: store/compaction.py.
SHOWN = (
    "(m.id > (SELECT CASE WHEN m.device <= c.device THEN c.last ELSE c.before END"
    " FROM compacting AS c) OR EXISTS (SELECT 1 FROM held AS h WHERE h.id = m.id))"
)
GOOD = f"m.kind & 127 = {READINGS} AND m.problem IS NULL"
CHUNK_KEY = ("series", "span", "t0", "epoch", "stream", "seq", "place")
_CHUNKS = f"SELECT {', '.join(CHUNK_KEY)}, n, step, times, vals, runs FROM chunks"  # noqa: S608
_MESSAGES = (
    "SELECT epoch, stream, seq, device, kind, t0, t1, received, CAST(body AS BLOB), problem"
    " FROM messages"
)
_SHOWN_READINGS = (  # constants of this module only
    "SELECT m.device, m.epoch, m.stream, m.seq, m.t0, m.body FROM messages AS m"  # noqa: S608
    f" WHERE {GOOD} AND m.t0 IS NOT NULL AND {SHOWN}"
)
# What a stream has: rows, what was compacted, what its device dropped; ranges by their begin.
_RANGES = (
    "SELECT epoch, stream, seq, seq, received FROM messages"
    " UNION ALL SELECT epoch, stream, first, last, received FROM known"
    " UNION ALL SELECT epoch, stream, first, last, 0 FROM gaps ORDER BY 1, 2, 3"
)
_FINGERPRINT = (
    "SELECT (SELECT max(id) FROM devices), (SELECT max(id) FROM epochs),"
    " (SELECT max(id) FROM messages), (SELECT max(id) FROM audit),"
    " (SELECT max(number) FROM commands), (SELECT max(edit) FROM configs),"
    " (SELECT max(id) FROM blobs), (SELECT max(id) FROM series), (SELECT count(*) FROM gaps),"
    " before, last, device, removed FROM compacting"
)

# Of which something may come late; what others left out are numbers of fragments
# (postgres/watermarks.py).
_OF_HUBS = "SELECT id FROM epochs WHERE device IN (SELECT device FROM hubs)"

# Numbers of a series that are added up together.
_AT_ONCE = 1024


class Found(NamedTuple):
    """One reading: which series, when (unix ms), where it came; ``raw`` is its value as JSON."""

    device: int
    channel: str
    unix_ms: int
    epoch: int
    stream: int
    seq: int
    place: int
    raw: bytes


class SqliteSide:
    """One store file. Between ``freeze`` and ``thaw`` it is of one moment.

    Attributes:
        has_every_hole: what ``marks`` finds missing may come, of whichever device.
    """

    has_every_hole = False

    def __init__(self, path: Path, connection: apsw.Connection):
        self.path = path
        self.connection = connection

    @contextmanager
    def explained(self, done: str) -> Iterator[None]:
        """Raise StoreUnavailable for what SQLite raises inside."""
        try:
            yield
        except (apsw.Error, msgspec.MsgspecError, ValueError) as error:
            raise unavailable(self.path, done, error) from error

    def freeze(self) -> None:
        """See copy_steps.Store."""
        with self.explained("read"):
            self.connection.execute("BEGIN")

    def thaw(self) -> None:
        """See copy_steps.Store."""
        with self.explained("read"):
            self.connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def fingerprint(self) -> str:
        """See copy_steps.Store."""
        return f"sqlite {list(next(self.rows(_FINGERPRINT)))}"

    def rows(self, sql: str, values: Sequence[Any] = ()) -> Iterator[Row]:
        """See copy_steps.Store."""
        with self.explained("read"):
            yield from self.connection.execute(sql, tuple(values))

    def messages(self) -> Iterator[Row]:
        """See copy_steps.Store."""
        return self.rows(_MESSAGES)

    def chunks(self, after: Place | None) -> Iterator[Row]:
        """Yield chunks behind a key: CHUNK_KEY, n, step, times, vals, runs."""
        key = ", ".join(CHUNK_KEY)
        where = f"WHERE ({key}) > (?, ?, ?, ?, ?, ?, ?)" if after else ""
        return self.rows(f"{_CHUNKS} {where} ORDER BY {key}", after or ())

    def marks(self) -> Iterator[tuple[int, int, Mark]]:
        """See copy_steps.Store. Carried messages are in a table of their own."""
        of_hubs = {epoch for (epoch,) in self.rows(_OF_HUBS)}
        for (epoch, stream), ranges in groupby(self.rows(_RANGES), key=lambda row: row[:2]):
            last = newest = 0
            holes = []
            has_holes = self.has_every_hole or epoch in of_hubs
            for _epoch, _stream, first, end, received in ranges:
                if first > last + 1 and has_holes:
                    holes.append((last + 1, first - 1))
                last, newest = max(last, end), max(newest, received)
            yield epoch, stream, Mark(last, newest, tuple(holes))

    def shown_readings(self) -> Iterator[Found]:
        """Yield the dated readings of rows that are in no chunk."""
        for row in self.rows(_SHOWN_READINGS):
            yield from readings_of(*row)

    def sums(self, progress: Callable[[int], None]) -> AllSums:
        """See copy_steps.Store."""
        found: dict[tuple[int, str], _Adding] = defaultdict(_Adding)
        series = {number: (device, channel) for number, device, channel in
                  self.rows("SELECT id, device, channel FROM series")}  # fmt: skip
        count = 0
        for row in self.chunks(None):
            found[series[row[0]]].add(decode_chunk(row))
            count += row[7]
            progress(count)
        for one in self.shown_readings():
            found[one.device, one.channel].add_one(one)
        names: dict[int, str] = dict(self.rows("SELECT id, name FROM devices"))
        return {(names[device], channel): one.sums() for (device, channel), one in found.items()}


def is_shown_readings(kind: int, problem: str | None, t0: int | None, shown: int) -> bool:
    """Say whether the readings of a row of ``messages`` are to be taken from it."""
    return kind & ~OPTIONAL == READINGS and problem is None and t0 is not None and bool(shown)


def readings_of(
    device: int, epoch: int, stream: int, seq: int, t0: int, body: str | bytes
) -> Iterator[Found]:
    """Yield the readings of one good and dated message."""
    base_ms, boot, channels, items = decode_readings(body)
    if boot:
        # The offset that it was dated with, as in store/query.py.
        base_ms = t0 - min((item[1] for item in items), default=0)
    for place, (index, dt_ms, raw) in enumerate(items):
        yield Found(device, channels[index], base_ms + dt_ms, epoch, stream, seq, place, bytes(raw))


def decode_chunk(row: Row) -> Decoded:
    """Decode a row of ``chunks``; every value is there, whatever its size."""
    _series, _span, t0, _epoch, _stream, _seq, _place, n, step, times, vals, runs = row
    decoded = decode_untrusted(t0, n, step, times, vals, runs)
    if not decoded.raws:
        return decoded
    return decoded._replace(values=[decode_value(raw) for raw in decoded.raws])


class _Adding:
    """Sums of one series under way."""

    def __init__(self) -> None:
        self.n = self.t = self.seq = self.place = self.numbers = 0
        self._small: list[float] = []
        self._totals: list[float] = []
        self._sizes: list[float] = []

    def add(self, decoded: Decoded) -> None:
        self.n += len(decoded.times)
        self.t += sum(decoded.times)
        for seq, place in decoded.keys:
            self.seq += seq
            self.place += place
        self._add(decoded.values)

    def add_one(self, one: Found) -> None:
        self.n += 1
        self.t += one.unix_ms
        self.seq += one.seq
        self.place += one.place
        self._add((decode_value(one.raw),))

    def _add(self, values: Sequence[Any]) -> None:
        small = self._small
        for value in values:
            number = value if type(value) is float else as_number(value)
            if number is not None:
                self.numbers += 1
                if -SUMMED_BELOW < number < SUMMED_BELOW:
                    small.append(number)
        if len(small) > _AT_ONCE:
            self._add_up()

    def _add_up(self) -> None:
        self._totals.append(math.fsum(self._small))
        self._sizes.append(math.fsum(map(abs, self._small)))
        self._small.clear()

    def sums(self) -> SeriesSums:
        self._add_up()
        total, size = math.fsum(self._totals), math.fsum(self._sizes)
        return SeriesSums(self.n, self.t, self.seq, self.place, self.numbers, total, size)


def open_source(path: Path) -> SqliteSide:
    """Open a store file for reading, as it is now. Raises as schema.open_readable."""
    connection = schema.open_readable(path)
    version = int(connection.pragma("user_version"))
    if version < schema.SCHEMA_VERSION:
        connection.close()
        # Opening it for writing brings it to the newest layout.
        schema.open_writable(path).close()
        connection = schema.open_readable(path)
    side = SqliteSide(path, connection)
    side.freeze()
    return side
