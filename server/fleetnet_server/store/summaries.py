"""Lowest, highest, mean and count of channels by the hour or minute, whatever is kept of them.

    for one in summarize_all(place, Selection(("cam-*",), ("temp",)), 3_600_000):
        print(one.unix_ms, one.device, one.channel, one.low, one.mean, one.high, one.count)

Joins what retention summed up already with readings that are still there; ``stored`` gives both
as they are, for curves.
"""

import heapq
from collections.abc import Iterator
from typing import Any, NamedTuple

import apsw

from fleetnet_server.store.ordering import Reading
from fleetnet_server.store.query import FAR_FUTURE, snapshot
from fleetnet_server.store.retention import HOUR_MS, MINUTE_MS, add_numbers, as_number
from fleetnet_server.store.selection import Selection, bounds, is_pattern, matches, select_in
from fleetnet_server.store_place import PostgresPlace, StorePlace

# A series that was never summed up needs no cursor of its own.
_SERIES = (
    "SELECT s.id, d.name, s.channel FROM series AS s JOIN devices AS d ON d.id = s.device"
    " WHERE d.state != 'quarantined' AND EXISTS (SELECT 1 FROM rollups WHERE series = s.id)"
)
_SERIES_OF = f"{_SERIES} AND d.name = ?"
_ROLLUPS = (
    "SELECT t, n, low, high, total FROM rollups WHERE series = ? AND step = ?"
    " AND t BETWEEN ? AND ? ORDER BY t LIMIT ?"
)
# Rows of one series that are read at once, at first and in the end. Statements that stay open pin
# pages (store/query.py): with those of 6,000 series an hour's summaries took 35 s.
_FIRST_ROWS = 8
_MOST_ROWS = 1024
_HAS_ROLLUPS = "SELECT 1 FROM rollups WHERE series = ? AND step = ? AND t BETWEEN ? AND ? LIMIT 1"
# A store of an older layout has none.
_HAS_TABLE = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'rollups'"


class Summary(NamedTuple):
    """Numbers of one channel from ``unix_ms`` on, for one step; other values do not count."""

    unix_ms: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls here
    low: float
    high: float
    mean: float


class SeriesSummary(NamedTuple):
    """A Summary of a channel of a device."""

    unix_ms: int
    device: str
    channel: str
    count: int  # type: ignore[assignment]  # as above
    low: float
    high: float
    mean: float


class StoredSum(NamedTuple):
    """What retention kept of a channel's numbers from ``unix_ms`` on, for ``length_ms``."""

    unix_ms: int
    device: str
    channel: str
    count: int  # type: ignore[assignment]  # as above
    low: float
    high: float
    mean: float
    length_ms: int


# unix ms, device, channel, count, low, high, total
_Part = tuple[int, str, str, int, float, float, float]
_Sum = list[float]  # count, low, high, total


def summarize(
    place: StorePlace | str, device: str, channel: str, start_ms: int, end_ms: int, step_ms: int
) -> list[Summary]:
    """Return a summary for each step that has numbers, in order.

    Args:
        start_ms, end_ms: unix ms, both included; steps are multiples of ``step_ms``, so the
            first one may begin before. step_ms: below an hour, times of which only the
            hours are kept stand at the begin of the hour.

    Memory holds the answer, not the readings.

    Raises:
        StoreError: no store there, or no such device. StoreUnavailable: it cannot be read.
    """
    wanted = Selection((device,), (channel,), start_ms, end_ms + 1)
    return [
        Summary(one.unix_ms, one.count, one.low, one.high, one.mean)
        for one in summarize_all(place, wanted, step_ms)
        if one.device == device and one.channel == channel
    ]


def summarize_all(
    place: StorePlace | str, wanted: Selection, step_ms: int
) -> Iterator[SeriesSummary]:
    """Yield a summary for each step and series that has numbers, by time, device and channel.

    It streams: memory holds one step of every series. Undated readings do not count.

    Args and Raises: as ``summarize`` and ``select``.
    """
    if isinstance(place, PostgresPlace):
        from fleetnet_server.store.postgres import summarizing

        yield from summarizing.summarize_all(place, wanted, step_ms)
        return
    with snapshot(place) as connection:
        yield from _by_step(
            heapq.merge(
                _readings(connection, wanted), *_rollups(connection, wanted, step_ms), key=_time
            ),
            step_ms,
        )


def stored(place: StorePlace | str, wanted: Selection) -> Iterator[Reading | StoredSum]:
    """Yield readings, and the sums of those that retention ended, by time; the undated last.

    A sum that began before ``start_ms`` and reaches into the range is among them. Streams, and
    Raises, as ``select``.
    """
    if isinstance(place, PostgresPlace):
        from fleetnet_server.store.postgres import summarizing

        yield from summarizing.stored(place, wanted)
        return
    with snapshot(place) as connection:
        sources: list[Iterator[Reading | StoredSum]] = [select_in(connection, wanted)]
        sources += _sums(connection, wanted)
        yield from heapq.merge(*sources, key=_moment)


def has_sums(place: StorePlace | str, wanted: Selection) -> bool:
    """Say whether retention summed up some of what is wanted. Raises as ``select``."""
    if isinstance(place, PostgresPlace):
        from fleetnet_server.store.postgres import summarizing

        return summarizing.has_sums(place, wanted)
    with snapshot(place) as connection:
        return any(
            connection.execute(_HAS_ROLLUPS, (series, step, start, end)).fetchone() is not None
            for series, _device, _channel in _wanted_series(connection, wanted)
            for step, start, end in _bounds(wanted, None)
        )


def _by_step(parts: Iterator[_Part], step_ms: int) -> Iterator[SeriesSummary]:
    sums: dict[tuple[str, str], _Sum] = {}
    at = 0
    for unix_ms, device, channel, count, low, high, total in parts:
        bucket = unix_ms - unix_ms % step_ms
        if bucket != at:
            yield from _summaries(at, sums)
            sums = {}
            at = bucket
        found = sums.get((device, channel))
        if found is None:
            sums[device, channel] = [count, low, high, total]
        else:
            found[0] += count
            found[1], found[2] = min(found[1], low), max(found[2], high)
            found[3] = add_numbers(found[3], total)
    yield from _summaries(at, sums)


def _summaries(at: int, sums: dict[tuple[str, str], _Sum]) -> Iterator[SeriesSummary]:
    for (device, channel), (count, low, high, total) in sorted(sums.items()):
        yield SeriesSummary(at, device, channel, int(count), low, high, total / count)


def _readings(connection: apsw.Connection, wanted: Selection) -> Iterator[_Part]:
    for one in select_in(connection, wanted):
        number = as_number(one.value)
        if number is not None and one.unix_ms is not None:
            yield one.unix_ms, one.device, one.channel, 1, number, number, number


def _rollups(
    connection: apsw.Connection, wanted: Selection, step_ms: int
) -> Iterator[Iterator[_Part]]:
    for series, device, channel in _wanted_series(connection, wanted):
        for step, start, end in _bounds(wanted, step_ms):
            yield _parts(connection, (series, step), start, end, device, channel)


def _sums(connection: apsw.Connection, wanted: Selection) -> Iterator[Iterator[StoredSum]]:
    for series, device, channel in _wanted_series(connection, wanted):
        for step, start, end in _bounds(wanted, None):
            parts = _parts(connection, (series, step), start, end, device, channel)
            yield _stored_sums(parts, step)


def _stored_sums(parts: Iterator[_Part], step: int) -> Iterator[StoredSum]:
    for t, device, channel, count, low, high, total in parts:
        yield StoredSum(t, device, channel, count, low, high, total / count, step)


def _wanted_series(
    connection: apsw.Connection, wanted: Selection
) -> Iterator[tuple[int, str, str]]:
    """Yield number, device and channel of the series that were summed up."""
    if connection.execute(_HAS_TABLE).fetchone() is None:
        return
    if len(wanted.devices) == 1 and not is_pattern(wanted.devices[0]):
        found = connection.execute(_SERIES_OF, wanted.devices)
    else:
        found = connection.execute(_SERIES)
    every: list[tuple[Any, ...]] = found.fetchall()
    for series, device, channel in every:
        if matches(device, wanted.devices) and matches(channel, wanted.channels):
            yield series, device, channel


def _bounds(wanted: Selection, step_ms: int | None) -> Iterator[tuple[int, int, int]]:
    """Yield of minutes and hours: the length, and the first and last begin that is wanted.

    ``step_ms``: of the answer, whose first step is wanted whole; None: what reaches into it.
    """
    first, end = bounds(wanted)
    for length in (MINUTE_MS, HOUR_MS):
        yield length, first - first % (step_ms or length), end


def _parts(
    connection: apsw.Connection, key: tuple[int, int], start: int, end: int, device: str,
    channel: str,
) -> Iterator[_Part]:  # fmt: skip
    limit = _FIRST_ROWS
    while True:
        rows: list[tuple[Any, ...]] = connection.execute(
            _ROLLUPS, (*key, start, end, limit)
        ).fetchall()
        for t, count, low, high, total in rows:
            if count:
                yield t, device, channel, count, low, high, total
        if len(rows) < limit:
            return
        start = rows[-1][0] + 1
        limit = min(2 * limit, _MOST_ROWS)


def _time(part: _Part) -> int:
    return part[0]


def _moment(one: Reading | StoredSum) -> int:
    return FAR_FUTURE if one.unix_ms is None else one.unix_ms
