"""Counts, extremes and means by the step out of PostgreSQL: store/summaries.py for it.

Readings that are there and the sums that retention made of others are joined by the database.
"""

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fleetnet_server.store.ordering import Reading
from fleetnet_server.store.postgres.reading import Row, by_windows, snapshot, stream
from fleetnet_server.store.postgres.selecting import (
    Series,
    first_time,
    select_in,
    wanted_series,
)
from fleetnet_server.store.query import FAR_FUTURE
from fleetnet_server.store.retention import HOUR_MS, MINUTE_MS, add_numbers
from fleetnet_server.store.selection import Selection, bounds
from fleetnet_server.store.summaries import SeriesSummary, StoredSum
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    from fleetnet_server.store.postgres.reading import PgReader

# sum() of PostgreSQL raises an error where it overflows: of large numbers a part is summed up. A
# power of two changes no digit.
_LARGE, _PART = 1e290, 2.0**64
# `%` of PostgreSQL has the sign of what is divided.
_STEP = "t - ((t %% %(step)s) + %(step)s) %% %(step)s"
_STEPS = f"""
SELECT at, series, sum(n)::bigint, min(low), max(high), sum(total), sum(parts)
FROM (
    SELECT {_STEP} AS at, series, count(*) AS n, min(number) AS low, max(number) AS high,
        sum(number) FILTER (WHERE abs(number) < {_LARGE}) AS total,
        sum(number / {_PART}) FILTER (WHERE abs(number) >= {_LARGE}) AS parts
    FROM readings
    WHERE series = ANY(%(series)s::int[]) AND t BETWEEN %(first)s AND %(last)s
        AND number IS NOT NULL
    GROUP BY 1, 2
    UNION ALL
    SELECT {_STEP}, series, n, low, high, CASE WHEN abs(total) < {_LARGE} THEN total END,
        CASE WHEN abs(total) >= {_LARGE} THEN total / {_PART} END
    FROM rollups
    WHERE series = ANY(%(series)s::int[]) AND rollups.step IN ({MINUTE_MS}, {HOUR_MS})
        AND t BETWEEN %(begin)s AND %(last)s AND n > 0
) AS steps
GROUP BY at, series
"""  # noqa: S608  # constants of this program only
# A sum that began before the first time and reaches behind it is wanted.
REACHING = f"""
    n > 0 AND t <= %(last)s AND (
        step = {MINUTE_MS} AND t >= %(minute)s OR step = {HOUR_MS} AND t >= %(hour)s)
"""
_FROM_SUMS = f"FROM rollups WHERE series = ANY(%(series)s::int[]) AND {REACHING}"
_SUMS = f"SELECT t, series, step, n, low, high, total {_FROM_SUMS}"
_HAS_SUMS = f"SELECT EXISTS (SELECT 1 {_FROM_SUMS})"
_FIRST_SUM = (
    "SELECT min(f.t) FROM unnest(%s::int[]) AS s(id) CROSS JOIN (VALUES (%s), (%s)) AS l(step)"
    " CROSS JOIN LATERAL (SELECT t FROM rollups WHERE series = s.id AND step = l.step"
    " AND t BETWEEN %s AND %s ORDER BY t LIMIT 1) AS f"
)


def summarize_all(
    place: PostgresPlace, wanted: Selection, step_ms: int
) -> Iterator[SeriesSummary]:
    """Yield summaries as store/summaries.py does."""
    with snapshot(place) as connection:
        _devices, series = wanted_series(connection, wanted)
        yield from _by_step(connection, series, bounds(wanted), step_ms)


def stored(place: PostgresPlace, wanted: Selection) -> Iterator[Reading | StoredSum]:
    """Yield readings and sums of others as store/summaries.py does."""
    with snapshot(place) as connection:
        _devices, series = wanted_series(connection, wanted)
        sources: list[Iterator[Reading | StoredSum]] = [select_in(connection, wanted)]
        sources.append(_sums(connection, series, bounds(wanted)))
        yield from heapq.merge(*sources, key=_moment)


def has_sums(place: PostgresPlace, wanted: Selection) -> bool:
    """Say whether there are sums, as store/summaries.py does."""
    with snapshot(place) as connection:
        _devices, series = wanted_series(connection, wanted)
        values = reach(list(series), bounds(wanted))
        return bool(connection.execute(_HAS_SUMS, values).fetchall()[0][0])


def _by_step(
    connection: "PgReader", series: dict[int, Series], ends: tuple[int, int], step_ms: int
) -> Iterator[SeriesSummary]:
    first, last = ends
    begin = first - first % step_ms
    numbers = list(series)

    def fetch(at: int, until: int) -> list[Row]:
        values = {
            "series": numbers, "step": step_ms, "begin": at, "first": max(first, at),
            "last": until,
        }  # fmt: skip
        rows = connection.execute(_STEPS, values, binary=True).fetchall()
        rows.sort(key=lambda row: (row[0], *series[row[1]][:2]))
        return rows

    def find(at: int) -> int | None:
        found = first_time(connection, numbers, max(first, at), last)
        summed = _first_sum(connection, numbers, at, last)
        known = [one for one in (found, summed) if one is not None]
        return min(known, default=None)

    for row in by_windows(fetch, find, begin, last, step_ms):
        at, number, count, low, high, total, parts = row
        device, channel, _place = series[number]
        if parts is not None:
            total = add_numbers(total or 0.0, parts * _PART)
        yield SeriesSummary(at, device, channel, count, low, high, total / count)


def _sums(
    connection: "PgReader", series: dict[int, Series], ends: tuple[int, int]
) -> Iterator[StoredSum]:
    numbers = list(series)
    first = ends[0] - ends[0] % HOUR_MS

    def fetch(at: int, until: int) -> Iterator[Row]:
        values = reach(numbers, ends)
        values |= {"at": at, "last": until}
        text = f"{_SUMS} AND t >= %(at)s ORDER BY t, series, step"
        return stream(connection, text, values)

    def find(at: int) -> int | None:
        return _first_sum(connection, numbers, at, ends[1])

    for t, number, step, count, low, high, total in by_windows(fetch, find, first, ends[1]):
        device, channel, _place = series[number]
        yield StoredSum(t, device, channel, count, low, high, total / count, step)


def reach(numbers: list[int], ends: tuple[int, int]) -> dict[str, Any]:
    """Return the values of REACHING; ``ends`` are unix ms, both included."""
    first, last = ends
    minute, hour = first - first % MINUTE_MS, first - first % HOUR_MS
    return {"series": numbers, "minute": minute, "hour": hour, "last": last}


def _first_sum(connection: "PgReader", numbers: list[int], start: int, end: int) -> int | None:
    values = (numbers, MINUTE_MS, HOUR_MS, start, end)
    row = connection.execute(_FIRST_SUM, values).fetchone()
    return None if row is None else row[0]


def _moment(one: Reading | StoredSum) -> int:
    return FAR_FUTURE if one.unix_ms is None else one.unix_ms
