"""Readings out of a store file, beside a running server.

Everything streams: memory holds what overlaps in time, not the answer. An answer that is
read slowly keeps its snapshot, and the server's WAL file grows meanwhile.
"""

import heapq
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import apsw
import msgspec

from fleetnet.frame import READINGS
from fleetnet_server.core.bodies import decode_readings
from fleetnet_server.errors import unknown_device
from fleetnet_server.store import schema
from fleetnet_server.store.chunks import SPANS, decode_untrusted
from fleetnet_server.store.ordering import Reading as Reading
from fleetnet_server.store.ordering import Timed, by_order, in_order
from fleetnet_server.store.trouble import unavailable
from fleetnet_server.store_place import PostgresPlace, StorePlace

# Beyond every date in ms, and still integers of SQLite's.
FAR_PAST = -(1 << 62)
FAR_FUTURE = 1 << 62
CHUNKS_SINCE = 4  # layout


def select_rows(index: str) -> str:
    """Begin a search; its index is named, because the planner cannot know the bounds."""
    return (  # constants of this module only
        "SELECT m.t0, m.epoch, d.name, m.stream, lower(hex(e.epoch)), m.seq, m.body, m.id"  # noqa: S608
        f" FROM messages AS m {index}"
        " JOIN devices AS d ON d.id = m.device JOIN epochs AS e ON e.id = m.epoch WHERE"
    )


# A quarantined device's readings are kept back until it is enabled.
GOOD = f" AND d.state != 'quarantined' AND m.kind & 127 = {READINGS} AND m.problem IS NULL"
# What is in a chunk is taken from there. A store of an older layout has no chunks.
_SHOWN = " AND (m.id > ?4 OR EXISTS (SELECT 1 FROM held AS h WHERE h.id = m.id))"
_ORDER = " ORDER BY m.t0, m.id"
# Rows of one device that are read at once, at first and in the end. Statements that stay open pin
# pages: those of some thousand devices are more than SQLite's cache has, and each further one
# searched them all (4,000 devices: 50 s). Small at first: of 10,000 devices they are in memory.
_FIRST_ROWS = 8
_MOST_ROWS = 1024
# The same of chunks, from one on: each has up to some thousand readings.
_MOST_CHUNKS = 32
_NARROW = (
    f"{select_rows('INDEXED BY messages_time')} m.device = ?1"
    " AND m.t0 >= ?5 AND m.t0 <= ?3 AND (m.t0 > ?5 OR m.id > ?6)"
    f" AND m.t1 >= ?2 AND m.t1 - m.t0 <= {schema.WIDE_MS}{GOOD}"
)
_WIDE = (
    f"{select_rows('INDEXED BY messages_wide')} m.device = ?1 AND m.t1 - m.t0 > {schema.WIDE_MS}"
    f" AND m.t1 >= ?2 AND m.t0 <= ?3{GOOD}"
)
_UNDATED = (
    f"{select_rows('INDEXED BY messages_undated')} m.device = ?1 AND m.t0 IS NULL{GOOD}"
    " ORDER BY m.id"
)
_SERIES = (
    "SELECT s.id, s.channel, s.spans, d.name FROM series AS s JOIN devices AS d ON d.id = s.device"
    " WHERE s.device = ?1 AND (?2 IS NULL OR s.channel = ?2) AND d.state != 'quarantined'"
    " ORDER BY s.id"
)
_CHUNKS = (
    "SELECT c.t0, c.epoch, c.stream, lower(hex(e.epoch)), c.n, c.step, c.times, c.vals, c.runs"
    " FROM chunks AS c JOIN epochs AS e ON e.id = c.epoch WHERE c.series = ?1 AND c.span = ?2"
    " AND c.t0 >= ?5 AND c.t0 <= ?4 AND c.t1 >= ?3"
    " ORDER BY c.t0, c.epoch, c.stream, c.seq, c.place LIMIT ?6 OFFSET ?7"
)


def query(
    place: StorePlace | str,
    device: str | None = None,
    channel: str | None = None,
    start_ms: int | None = None,
    end_ms: int | None = None,
    limit: int | None = None,
) -> Iterator[Reading]:
    """Yield readings in order of time; those without a date last, and only without bounds.

    Args:
        start_ms, end_ms: unix ms, both included.
        limit: at most this many, the oldest.

    Raises:
        StoreError: no store there, or no such device.
        StoreUnavailable: it cannot be read.
    """
    start = FAR_PAST if start_ms is None else start_ms
    end = FAR_FUTURE if end_ms is None else end_ms
    undated = start_ms is None and end_ms is None
    if isinstance(place, PostgresPlace):
        from fleetnet_server.store.postgres import selecting

        found = selecting.query(place, device, channel, start, end, undated, limit)
    else:
        found = _query(Path(place), device, channel, start, end, undated)
    return found if limit is None else islice(found, limit)


def _query(
    path: Path, device: str | None, channel: str | None, start: int, end: int, undated: bool
) -> Iterator[Reading]:
    with snapshot(path) as connection:
        yield from search(connection, device, channel, start, end, undated)


@contextmanager
def snapshot(path: str | Path) -> Iterator[apsw.Connection]:
    """Open a store for reading, as it is at this moment, whatever is committed meanwhile.

    Chunks and messages have to be of one moment, as what is summed up and what is not.

    Raises:
        StoreError: no store there. StoreUnavailable, also from within: it cannot be read.
    """
    connection = schema.open_readable(path)
    try:
        connection.execute("BEGIN")
        yield connection
    except (apsw.Error, msgspec.MsgspecError, ValueError) as error:
        raise unavailable(path, "read", error) from error
    finally:
        connection.close()


def search(
    connection: apsw.Connection,
    device: str | None,
    channel: str | None,
    start: int = FAR_PAST,
    end: int = FAR_FUTURE,
    undated: bool = False,
) -> Iterator[Reading]:
    """Yield readings of a snapshot as ``query`` does. Raises StoreError: no such device."""
    numbers = _device_numbers(connection, device)
    found = _Search(connection, channel, start, end)
    devices = [source for number in numbers for source in found.of_device(number)]
    # Equal times: in the order of devices, then of messages.
    for item in devices[0] if len(devices) == 1 else heapq.merge(*devices, key=by_order):
        yield item[2]
    for number in numbers if undated else []:
        for row in connection.execute(_UNDATED, (number,)):
            for item in readings_of(row, channel):
                yield item[2]


def _device_numbers(connection: apsw.Connection, device: str | None) -> list[int]:
    if device is None:
        found: list[tuple[Any, ...]] = connection.execute(
            "SELECT id FROM devices ORDER BY id"
        ).fetchall()
    else:
        found = connection.execute("SELECT id FROM devices WHERE name = ?", (device,)).fetchall()
    if device is not None and not found:
        raise unknown_device(device)
    return [number for (number,) in found]


class _Search:
    """Readings of a range of time, from messages and from chunks."""

    def __init__(self, connection: apsw.Connection, channel: str | None, start: int, end: int):
        self._connection = connection
        self._channel = channel
        self._start = start
        self._end = end
        self._is_compacted = int(connection.pragma("user_version")) >= CHUNKS_SINCE
        self._compacting = (0, 0, 0)
        if self._is_compacted:
            self._compacting = next(
                connection.execute("SELECT before, last, device FROM compacting")
            )

    def of_device(self, number: int) -> Iterator[Iterator[Timed]]:
        """Yield sources of one device's readings, each in order of time."""
        yield in_order(self._messages(number), self._start, self._end)
        if not self._is_compacted:
            return
        found: list[tuple[Any, ...]] = self._connection.execute(
            _SERIES, (number, self._channel)
        ).fetchall()
        for series, channel, spans, name in found:
            for span, width in enumerate(SPANS):
                if spans >> span & 1:
                    chunks = self._chunks(series, span, width, name, channel)
                    yield in_order(chunks, self._start, self._end)

    def _messages(self, number: int) -> Iterator[tuple[int, list[Timed]]]:
        values: tuple[int, ...] = (number, self._start, self._end)
        shown, compacted = _ORDER, 0
        if self._is_compacted:
            before, last, device = self._compacting
            shown, compacted = _SHOWN + _ORDER, last if number <= device else before
            values = (*values, compacted)
        for row in heapq.merge(
            self._narrow(_NARROW + shown, (number, self._start, self._end, compacted)),
            self._connection.execute(_WIDE + shown, values),
            key=_first_time,
        ):
            yield row[0], readings_of(row, self._channel)

    def _narrow(self, sql: str, values: tuple[int, ...]) -> Iterator[tuple[Any, ...]]:
        """Yield rows in order, a page at a time: no statement stays open between them."""
        at, last, limit = self._start - schema.WIDE_MS, FAR_PAST, _FIRST_ROWS
        while True:
            rows: list[tuple[Any, ...]] = self._connection.execute(
                f"{sql} LIMIT {limit}", (*values, at, last)
            ).fetchall()
            yield from rows
            if len(rows) < limit:
                return
            at, last = rows[-1][0], rows[-1][-1]
            limit = min(2 * limit, _MOST_ROWS)

    def _chunks(
        self, series: int, span: int, width: int, device: str, channel: str
    ) -> Iterator[tuple[int, list[Timed]]]:
        for row in self._chunk_rows(series, span, width):
            t0, number, stream, epoch, n, step, times, vals, runs = row
            at, values, raws, keys = decode_untrusted(t0, n, step, times, vals, runs)
            if raws:
                values = [decode_value(raw) for raw in raws]
            yield (
                t0,
                [
                    (
                        unix_ms,
                        (number, stream, seq, place),
                        Reading(device, channel, unix_ms, value, stream, epoch, seq),
                    )
                    for unix_ms, value, (seq, place) in zip(at, values, keys, strict=True)
                ],
            )

    def _chunk_rows(self, series: int, span: int, width: int) -> Iterator[tuple[Any, ...]]:
        """Yield rows in order of time, a page at a time, as ``_narrow`` does."""
        at, given, limit = self._start - width, 0, 1
        while True:
            values = (series, span, self._start, self._end, at, limit, given)
            rows: list[tuple[Any, ...]] = self._connection.execute(_CHUNKS, values).fetchall()
            yield from rows
            if len(rows) < limit:
                return
            last = rows[-1][0]
            behind = sum(row[0] == last for row in rows)
            at, given = last, behind + (given if last == at else 0)
            limit = min(2 * limit, _MOST_CHUNKS)


def _first_time(row: tuple[Any, ...]) -> int:
    return int(row[0])


def readings_of(row: tuple[Any, ...], channel: str | None) -> list[Timed]:
    """Return the readings of one message."""
    t0, number, device, stream, epoch, seq, body, _id = row
    base_ms, boot, channels, items = decode_readings(body)
    if boot and t0 is not None:
        # The offset that this message was dated with (the table boots may know a later one).
        base_ms = t0 - min((item[1] for item in items), default=0)
    is_dated = t0 is not None
    found: list[Timed] = []
    for place, (index, dt_ms, raw) in enumerate(items):
        name = channels[index]
        if channel is None or name == channel:
            unix_ms = base_ms + dt_ms if is_dated else None
            reading = Reading(device, name, unix_ms, decode_value(raw), stream, epoch, seq)
            found.append((unix_ms or 0, (number, stream, seq, place), reading))
    return found


def decode_value(raw: Any) -> Any:
    """Return a JSON value of a device (text, bytes or msgspec.Raw) as JSON can print it again."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, ValueError):
        pass
    text = raw if isinstance(raw, str) else bytes(raw).decode()
    try:
        return json.loads(text, parse_float=_finite)
    except ValueError:
        return text


def _finite(text: str) -> float | str:
    """Turn 1e999 into its text: infinity would not be JSON any more on the way out."""
    number = float(text)
    return number if math.isfinite(number) else text
