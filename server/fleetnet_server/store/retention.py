"""Ends readings by policy: raw to minutes to hours to nothing (store/lifetimes.py).

Works on chunks, behind compaction, in steps of one transaction: what a step sums up is deleted
in the same commit, so that no reading counts twice or not at all, whenever the power goes. What
arrives late for a minute that was summed up is added to it.
"""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec

from fleetnet.frame import READINGS
from fleetnet_server.errors import ConfigError, StoreUnavailable
from fleetnet_server.store.chunks import SPANS, decode_untrusted
from fleetnet_server.store.lazy_reader import LazyReader
from fleetnet_server.store.lifetimes import Lifetimes, Rule, load_lifetimes
from fleetnet_server.store.query import decode_value
from fleetnet_server.store.sqlite import SqliteStore

_log = logging.getLogger("fleetnet.store")

# The two steps of what is summed up (column rollups.step).
MINUTE_MS = 60_000
HOUR_MS = 3_600_000

# Between two passes over all series; ages are in minutes at least.
_PASS_S = 300.0
# One step holds the commit lock for some ms: 25,600 readings at most, or as many rows.
_CHUNKS_A_STEP = 200
_ROWS_A_STEP = 2000

_OLD_CHUNKS = (
    "SELECT t0, epoch, stream, seq, place, n, step, times, vals, runs FROM chunks"
    " WHERE series = ? AND span = ? AND t0 < ?3 AND t1 < ?3 ORDER BY t0 LIMIT ?"
)
_DELETE_CHUNK = (
    "DELETE FROM chunks WHERE series = ? AND span = ? AND t0 = ? AND epoch = ? AND stream = ?"
    " AND seq = ? AND place = ?"
)
# The largest number: sums end there.
_MOST = sys.float_info.max

_ADD = (
    "INSERT INTO rollups(series, step, t, n, other, low, high, total) VALUES(?,?,?,?,?,?,?,?)"
    " ON CONFLICT DO UPDATE SET n = n + excluded.n, other = other + excluded.other,"
    " low = coalesce(min(low, excluded.low), low, excluded.low),"
    " high = coalesce(max(high, excluded.high), high, excluded.high),"
    # The sum of two finite numbers may be infinite, that of two infinite ones no number, which
    # SQLite keeps as NULL.
    f" total = max(-{_MOST!r}, min({_MOST!r}, total + excluded.total))"
)
_OLD_ROLLUPS = (
    "SELECT t, n, other, low, high, total FROM rollups WHERE series = ? AND step = ?"
    " AND t < ? ORDER BY t LIMIT ?"
)
_OLD_MESSAGES = (
    "SELECT max(id), max(CASE WHEN received <= ?3 THEN received ELSE 0 END)"
    " FROM (SELECT id, received FROM messages"
    " WHERE id > ?1 AND id <= (SELECT removed FROM compacting) ORDER BY id LIMIT ?2)"
)
# Good readings that still have a row wait for their date.
_DELETE_MESSAGES = (
    "DELETE FROM messages AS m WHERE m.id > ?1 AND m.id <= ?2 AND m.received < ?3"  # noqa: S608
    f" AND NOT (m.kind & 127 = {READINGS} AND m.problem IS NULL)"
)

# n, other, low, high, total
_Sum = list[Any]


class Retention:
    """Ends what is too old in one store, a step at a time, on one thread.

    Args:
        folder: of the fleet; its retention.toml is read at the start of each pass.

    Attributes:
        ended: readings that are gone as such. error: why the file was not followed; logged.
    """

    name = "retention"

    def __init__(
        self, store: SqliteStore, folder: Path,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ):  # fmt: skip
        self._store = store
        self._folder = folder
        self._clock_ms = clock_ms
        self._reader = LazyReader(store.path)
        self._due = 0.0
        self._lifetimes = Lifetimes()
        self._series: list[tuple[int, Rule]] | None = None
        self._message = 0
        self.ended = 0
        self.error: ConfigError | None = None

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def step(self) -> int:
        """Do one piece of work; return some bytes, 0 when none is due.

        Raises:
            StoreUnavailable: nothing was changed.
        """
        try:
            if self._series is None:
                return self._begin()
            while self._series:
                number, rule = self._series[-1]
                try:
                    moved = self._retire(number, rule, self._clock_ms())
                except (ValueError, msgspec.MsgspecError):
                    self._series.pop()  # damaged: it waits for the next pass, the others go on
                    raise
                if moved:
                    return moved
                self._series.pop()
            moved = self._retire_messages(self._clock_ms())
            if not moved:
                self._series = None
            return moved
        except apsw.Error as error:
            raise StoreUnavailable(f"{self._store.path} cannot be read: {error}") from error

    def _begin(self) -> int:
        if time.monotonic() < self._due:
            return 0
        self._due = time.monotonic() + _PASS_S
        try:
            self._lifetimes = load_lifetimes(self._folder)
            self.error = None
        except ConfigError as error:
            # Half a policy could delete what the other half keeps.
            if str(error) != str(self.error):
                _log.error("%s; nothing is ended until it is corrected", error)
            self.error = error
            return 0
        if not self._lifetimes.rules and self._lifetimes.messages_ms is None:
            return 0
        rows = self._reader.open().execute(
            "SELECT s.id, d.grp, s.channel FROM series AS s JOIN devices AS d ON d.id = s.device"
        )
        self._series = [
            (number, rule)
            for number, group, channel in rows
            if (rule := self._lifetimes.rule(group, channel)) is not None
        ]
        self._message = 0
        return 1

    def _retire(self, series: int, rule: Rule, now: int) -> int:
        """Do one step for a series."""
        for span in range(len(SPANS)):
            values = (series, span, now - rule.raw_ms, _CHUNKS_A_STEP)
            chunks = self._reader.open().execute(_OLD_CHUNKS, values).fetchall()
            if chunks:
                return self._retire_chunks(series, span, rule, chunks)
        if rule.minutes_ms is not None:
            # A bucket is over when its last ms is.
            old = now - rule.minutes_ms - MINUTE_MS
            step = HOUR_MS if rule.hours_ms is not None else None
            if moved := self._retire_rollups(series, MINUTE_MS, old, step):
                return moved
        if rule.hours_ms is not None:
            return self._retire_rollups(series, HOUR_MS, now - rule.hours_ms - HOUR_MS, None)
        return 0

    def _retire_chunks(
        self, series: int, span: int, rule: Rule, chunks: list[tuple[Any, ...]]
    ) -> int:
        step = (
            MINUTE_MS if rule.minutes_ms is not None
            else HOUR_MS if rule.hours_ms is not None else None
        )  # fmt: skip
        sums: dict[int, _Sum] = {}
        size = count = 0
        for t0, _epoch, _stream, _seq, _place, n, gap, times, vals, runs in chunks:
            size += len(vals)
            count += n
            if step is not None:
                at, values, raws, _keys = decode_untrusted(t0, n, gap, times, vals, runs)
                _sum_up(sums, step, at, values or map(decode_value, raws))

        def work(connection: apsw.Connection) -> None:
            _add(connection, series, step, sums)
            connection.executemany(_DELETE_CHUNK, [(series, span, *row[:5]) for row in chunks])

        self._store.transact(work)
        self.ended += count
        return size + 1

    def _retire_rollups(self, series: int, step: int, old: int, into: int | None) -> int:
        rows: list[tuple[Any, ...]] = (
            self._reader.open().execute(_OLD_ROLLUPS, (series, step, old, _ROWS_A_STEP)).fetchall()
        )
        if not rows:
            return 0
        sums: dict[int, _Sum] = {}
        if into is not None:
            for row in rows:
                _merge(sums.setdefault(row[0] - row[0] % into, [0, 0, None, None, 0.0]), row[1:])

        def work(connection: apsw.Connection) -> None:
            _add(connection, series, into, sums)
            connection.execute(
                "DELETE FROM rollups WHERE series = ? AND step = ? AND t BETWEEN ? AND ?",
                (series, step, rows[0][0], rows[-1][0]),
            )

        self._store.transact(work)
        return len(rows) * 40

    def _retire_messages(self, now: int) -> int:
        keep = self._lifetimes.messages_ms
        if keep is None:
            return 0
        values = (self._message, _ROWS_A_STEP, now)
        last, received = next(self._reader.open().execute(_OLD_MESSAGES, values))
        if last is None:
            return 0
        first, self._message = self._message, last
        self._store.transact(
            lambda connection: connection.execute(_DELETE_MESSAGES, (first, last, now - keep))
        )
        # Rows are in order of arrival: behind young ones there are no old ones. What came while
        # the clock was ahead says nothing.
        return 0 if received >= now - keep else _ROWS_A_STEP * 100


def _sum_up(sums: dict[int, _Sum], step: int, times: Iterable[int], values: Iterable[Any]) -> None:
    for unix_ms, value in zip(times, values, strict=True):
        bucket = unix_ms - unix_ms % step
        found = sums.get(bucket)
        if found is None:
            found = sums[bucket] = [0, 0, None, None, 0.0]
        number = as_number(value)
        if number is None:
            found[1] += 1
        else:
            _merge(found, [1, 0, number, number, number])


def as_number(value: Any) -> float | None:
    """Return what can be summed up: a finite number, and no truth value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def add_numbers(one: float, other: float) -> float:
    """Add finite numbers; the sum is finite, as JSON and SQLite want it."""
    return max(-_MOST, min(_MOST, one + other))


def _merge(into: _Sum, other: Sequence[Any]) -> None:
    into[0] += other[0]
    into[1] += other[1]
    if other[2] is not None:
        into[2] = other[2] if into[2] is None else min(into[2], other[2])
        into[3] = other[3] if into[3] is None else max(into[3], other[3])
    into[4] = add_numbers(into[4], other[4])


def _add(
    connection: apsw.Connection, series: int, step: int | None, sums: dict[int, _Sum]
) -> None:
    if step is not None:
        connection.executemany(_ADD, [(series, step, t, *row) for t, row in sums.items()])
