"""Readings out of a store file, beside a running server.

Everything streams: memory holds what overlaps in time, not the answer. An answer that is
read slowly keeps its snapshot, and the server's WAL file grows meanwhile.
"""

import heapq
import json
import math
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import msgspec

from fleetnet.frame import READINGS
from fleetnet_server.core.bodies import decode_readings
from fleetnet_server.errors import StoreError, StoreUnavailable
from fleetnet_server.store import schema

_FAR_PAST = -(1 << 62)
_FAR_FUTURE = 1 << 62
_POLL_ROWS = 1000


def _select(index: str) -> str:
    """Begin a search; its index is named, because the planner cannot know the bounds."""
    return (  # constants of this module only
        "SELECT m.t0, m.id, d.name, m.stream, lower(hex(e.epoch)), m.seq, m.body"  # noqa: S608
        f" FROM messages AS m {index}"
        " JOIN devices AS d ON d.id = m.device JOIN epochs AS e ON e.id = m.epoch WHERE"
    )


# A quarantined device's readings are kept back until it is enabled.
_GOOD = f" AND d.state != 'quarantined' AND m.kind & 127 = {READINGS} AND m.problem IS NULL"
_NARROW = (
    f"{_select('INDEXED BY messages_time')} m.device = ?1"
    f" AND m.t0 >= ?2 - {schema.WIDE_MS} AND m.t0 <= ?3"
    f" AND m.t1 >= ?2 AND m.t1 - m.t0 <= {schema.WIDE_MS}{_GOOD} ORDER BY m.t0, m.id"
)
_WIDE = (
    f"{_select('INDEXED BY messages_wide')} m.device = ?1 AND m.t1 - m.t0 > {schema.WIDE_MS}"
    f" AND m.t1 >= ?2 AND m.t0 <= ?3{_GOOD} ORDER BY m.t0, m.id"
)
_UNDATED = (
    f"{_select('INDEXED BY messages_undated')} m.device = ?1 AND m.t0 IS NULL{_GOOD} ORDER BY m.id"
)
_NEWER = f"{_select('')} m.id > ?1{_GOOD} ORDER BY m.id LIMIT {_POLL_ROWS}"


class Reading(NamedTuple):
    """One reading.

    Attributes:
        unix_ms: None while nobody knows when its device's boot began.
        value: as JSON decodes it; a number beyond Python's reach stays its text.
        epoch: 16 hexadecimal digits; with stream and seq the key of its message.
    """

    device: str
    channel: str
    unix_ms: int | None
    value: Any
    stream: int
    epoch: str
    seq: int


def query(
    path: str | Path,
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
    found = _query(
        Path(path),
        device,
        channel,
        _FAR_PAST if start_ms is None else start_ms,
        _FAR_FUTURE if end_ms is None else end_ms,
        undated=start_ms is None and end_ms is None,
    )
    return found if limit is None else islice(found, limit)


def follow(
    path: str | Path,
    after_id: int | None = None,
    *,
    device: str | None = None,
    channel: str | None = None,
    poll_s: float = 0.2,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Reading]:
    """Yield readings for ever, in the order in which they become durable.

    Args:
        after_id: begin behind this message; None: behind the newest.
        poll_s: pause after a look that found nothing.

    Raises:
        StoreError: no store there. StoreUnavailable: it cannot be read.
    """
    connection = schema.open_readable(path)
    try:
        at = _newest_id(connection) if after_id is None else after_id
        while True:
            newest = _newest_id(connection)
            if newest <= at:
                sleep(poll_s)
                continue
            rows: list[tuple[Any, ...]] = connection.execute(_NEWER, (at,)).fetchall()
            # Messages of other kinds move the position as well; those behind `newest` are
            # found by the next look.
            last = int(rows[-1][1]) if rows else 0
            at = last if len(rows) == _POLL_ROWS else max(newest, last)
            for row in rows:
                if device is None or row[2] == device:
                    for _time, _order, reading in _readings_of(row, channel):
                        yield reading
    except apsw.Error as error:
        raise StoreUnavailable(f"{path} cannot be read: {error}") from error
    finally:
        connection.close()


def _newest_id(connection: apsw.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(id), 0) FROM messages").get)


def _query(
    path: Path, device: str | None, channel: str | None, start: int, end: int, undated: bool
) -> Iterator[Reading]:
    connection = schema.open_readable(path)
    try:
        numbers = _device_numbers(connection, device)
        series = (_of_device(connection, number, channel, start, end) for number in numbers)
        for _time, _order, reading in heapq.merge(*series, key=_by_time):
            yield reading
        for number in numbers if undated else []:
            for row in connection.execute(_UNDATED, (number,)):
                for _time, _order, reading in _readings_of(row, channel):
                    yield reading
    except apsw.Error as error:
        raise StoreUnavailable(f"{path} cannot be read: {error}") from error
    finally:
        connection.close()


def _device_numbers(connection: apsw.Connection, device: str | None) -> list[int]:
    if device is None:
        found: list[tuple[Any, ...]] = connection.execute(
            "SELECT id FROM devices ORDER BY id"
        ).fetchall()
    else:
        found = connection.execute("SELECT id FROM devices WHERE name = ?", (device,)).fetchall()
    if device is not None and not found:
        raise StoreError(f"device {device!r} is not registered: see `fleetnet device list`")
    return [number for (number,) in found]


_Timed = tuple[int, tuple[int, int], Reading]


def _by_time(item: _Timed) -> int:
    return item[0]


def _of_device(
    connection: apsw.Connection, number: int, channel: str | None, start: int, end: int
) -> Iterator[_Timed]:
    """Yield one device's readings in order of time.

    Messages come in the order of their first time and may overlap: a reading leaves when no
    later message can be before it.
    """
    values = (number, start, end)
    messages = heapq.merge(
        connection.execute(_NARROW, values), connection.execute(_WIDE, values), key=_first_time
    )
    waiting: list[_Timed] = []
    for row in messages:
        while waiting and waiting[0][0] <= row[0]:
            yield heapq.heappop(waiting)
        for item in _readings_of(row, channel):
            if start <= item[0] <= end:
                heapq.heappush(waiting, item)
    while waiting:
        yield heapq.heappop(waiting)


def _first_time(row: tuple[Any, ...]) -> int:
    return int(row[0])


def _readings_of(row: tuple[Any, ...], channel: str | None) -> Iterator[_Timed]:
    """Yield (unix ms or 0, order for equal times, reading) of one message."""
    t0, number, device, stream, epoch, seq, body = row
    base_ms, boot, channels, items = decode_readings(body)
    if boot and t0 is not None:
        # The offset that this message was dated with (the table boots may know a later one).
        base_ms = t0 - min((item[1] for item in items), default=0)
    is_dated = t0 is not None
    for position, (index, dt_ms, raw) in enumerate(items):
        name = channels[index]
        if channel is None or name == channel:
            unix_ms = base_ms + dt_ms if is_dated else None
            reading = Reading(device, name, unix_ms, decode_value(raw), stream, epoch, seq)
            yield unix_ms or 0, (number, position), reading


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
