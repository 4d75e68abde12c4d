"""The numbers of a device's channels by time, out of PostgreSQL: store/history.py's curves for it.

The database sums up; what is asked for in one statement is a part of the time, so that there is an
end when it takes too long.
"""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from fleetnet_server.store.postgres.reading import snapshot
from fleetnet_server.store.postgres.selecting import Series, value_of, wanted_series
from fleetnet_server.store.postgres.summarizing import REACHING, reach
from fleetnet_server.store.selection import Selection
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    from fleetnet_server.store.postgres.reading import PgReader

Row = dict[str, Any]

# Parts of the time that is shown, one statement each.
_PARTS = 8

_FIRSTS = f"""
SELECT s.id, least(
    (SELECT t FROM readings WHERE series = s.id AND t BETWEEN %(start)s AND %(last)s
     ORDER BY t LIMIT 1),
    (SELECT min(t) FROM rollups WHERE series = s.id AND {REACHING}))
FROM unnest(%(series)s::int[]) AS s(id)
"""  # noqa: S608  # constants of this program only
# Truth values are drawn as 1 and 0.
_STEPS = """
SELECT series, (t - %(start)s) / %(step)s, count(*), count(x), min(x), max(x), sum(x)
FROM (
    SELECT series, t, CASE WHEN abs(number) <= %(most)s THEN number WHEN value = 'true' THEN 1
        WHEN value = 'false' THEN 0 END AS x
    FROM readings WHERE series = ANY(%(series)s::int[]) AND t BETWEEN %(at)s AND %(until)s
) AS numbers
GROUP BY 1, 2
"""
# A sum is at its middle, and may have begun before what is shown, or end behind it.
_MIDDLE = "greatest(%(start)s, least(t + step / 2, %(last)s))"
_SUMS = f"""
SELECT series, (middle - %(start)s) / %(step)s, sum(n)::bigint,
    coalesce(sum(n) FILTER (WHERE fits), 0)::bigint, min(low) FILTER (WHERE fits),
    max(high) FILTER (WHERE fits), sum(total) FILTER (WHERE fits)
FROM (
    SELECT series, {_MIDDLE} AS middle, n, low, high, total,
        abs(low) <= %(most)s AND abs(high) <= %(most)s AS fits
    FROM rollups WHERE series = ANY(%(series)s::int[]) AND {REACHING}
) AS sums
GROUP BY 1, 2
"""  # noqa: S608
_NEWEST = f"""
SELECT s.id, r.t, r.number, r.value, m.middle, m.mean
FROM unnest(%(series)s::int[]) AS s(id)
LEFT JOIN LATERAL (
    SELECT t, number, value FROM readings WHERE series = s.id AND t BETWEEN %(start)s AND %(last)s
    ORDER BY t DESC, epoch DESC, stream DESC, seq DESC, place DESC LIMIT 1
) AS r ON TRUE
LEFT JOIN LATERAL (
    SELECT {_MIDDLE} AS middle, total / n AS mean FROM rollups
    WHERE series = s.id AND {REACHING} AND t >= coalesce(r.t, t) ORDER BY 1 DESC, t, step LIMIT 1
) AS m ON TRUE
"""  # noqa: S608


class _Curve(NamedTuple):
    """Of one channel: count, lowest, highest number and their sum by step."""

    steps: dict[int, list[Any]]
    counts: list[int]


class Asked(NamedTuple):
    """What is asked of curves; times are unix ms.

    Attributes:
        last: included. channels: of these at most. most: larger numbers are left out.
        seconds: when so much time went by no further part is asked for.
    """

    start_ms: int
    last_ms: int
    step_ms: int
    channels: int
    most: float
    seconds: float


def curves(place: PostgresPlace, device: str, asked: Asked) -> tuple[list[Row], int, bool]:
    """Return the channels, how many were left out, and whether it is all of the time.

    Raises: StoreUnavailable; StoreError: no such device.
    """
    deadline = time.monotonic() + asked.seconds
    with snapshot(place) as connection:
        _devices, series = wanted_series(connection, Selection((device,)))
        ends = (asked.start_ms, asked.last_ms)
        values = reach(list(series), ends) | {
            "start": asked.start_ms, "step": asked.step_ms, "most": asked.most,
        }  # fmt: skip
        rows = connection.execute(_FIRSTS, values).fetchall()
        there = sorted((first, number) for number, first in rows if first is not None)
        numbers = [number for _first, number in there[: asked.channels]]
        values["series"] = numbers
        found = {number: _Curve({}, []) for number in numbers}
        _add(found, connection.execute(_SUMS, values, binary=True))
        is_complete = True
        for at, until in _parts(asked):
            if time.monotonic() > deadline:
                is_complete = False
                break
            part = values | {"at": at, "until": until}
            _add(found, connection.execute(_STEPS, part, binary=True))
        channels = _shown(connection, values, series, found, asked)
    left_out = min(asked.channels, len(there) - len(numbers))
    return sorted(channels, key=lambda one: str(one["name"])), left_out, is_complete


def _parts(asked: Asked) -> Iterator[tuple[int, int]]:
    steps = (asked.last_ms - asked.start_ms) // asked.step_ms + 1
    width = max(1, -(-steps // _PARTS)) * asked.step_ms
    for at in range(asked.start_ms, asked.last_ms + 1, width):
        yield at, min(at + width - 1, asked.last_ms)


def _add(found: dict[int, _Curve], rows: Any) -> None:
    for number, step, count, numbers, low, high, total in rows:
        curve = found[number]
        curve.counts.append(count)
        if not numbers:
            continue
        known = curve.steps.get(step)
        if known is None:
            curve.steps[step] = [numbers, low, high, total]
        else:
            known[0] += numbers
            known[1], known[2] = min(known[1], low), max(known[2], high)
            known[3] += total


def _shown(
    connection: "PgReader", values: dict[str, Any], series: dict[int, Series],
    found: dict[int, _Curve], asked: Asked,
) -> Iterator[Row]:  # fmt: skip
    for number, t, decimal, text, middle, mean in connection.execute(
        _NEWEST, values, binary=True
    ).fetchall():
        curve = found[number]
        # A reading is exact, whatever the middle of the sum that it is in.
        is_sum = middle is not None and (t is None or middle > t)
        half = asked.step_ms // 2
        yield {
            "name": series[number].channel, "count": sum(curve.counts),
            "unix_ms": middle if is_sum else t or 0,
            "value": mean if is_sum else None if t is None else value_of(decimal, text),
            "points": [
                [asked.start_ms + step * asked.step_ms + half, low, total / count, high]
                for step, (count, low, high, total) in sorted(curve.steps.items())
            ],
        }  # fmt: skip
