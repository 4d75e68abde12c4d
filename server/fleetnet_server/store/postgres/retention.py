"""Ends readings by policy in PostgreSQL: raw to minutes to hours to nothing (store/lifetimes.py).

As store/retention.py: what a step sums up is deleted in the same commit, so that no reading counts
twice or not at all; what comes late for a minute that was summed up is added to it. A step takes
some series and a window of time, as wide as a step can carry, and is one short statement: an open
transaction holds back every reader in order of commit. Weeks that are empty then are dropped; and
without steps those in which nothing is summed up and nothing kept.
"""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleetnet_server.errors import ConfigError
from fleetnet_server.store.lifetimes import Lifetimes, Rule, load_lifetimes
from fleetnet_server.store.postgres.lazy_connection import LazyConnection
from fleetnet_server.store.postgres.partitions import firsts
from fleetnet_server.store.postgres.schema_readings import WEEK_MS
from fleetnet_server.store.postgres.timescale import DROP_CHUNKS, IS_HYPERTABLE
from fleetnet_server.store.retention import HOUR_MS, MINUTE_MS
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    import psycopg

    PgRawConnection = psycopg.Connection[tuple[Any, ...]]

_log = logging.getLogger("fleetnet.store")

# Between two passes over all series; ages are in minutes at least.
_PASS_S = 300.0
# Series of one step, and the readings that it should have: some 100 ms.
_SERIES_A_STEP = 100
_ROWS_A_STEP = 20_000
# Sums of one step.
_SUMS_A_STEP = 2000

_SERIES = (
    "SELECT s.id, d.grp, s.channel FROM series AS s JOIN devices AS d ON d.id = s.device"
    " ORDER BY s.id"
)
_OLDEST = (
    "SELECT min(first.t) FROM unnest(%s::int[]) AS wanted(series) CROSS JOIN LATERAL"
    " (SELECT t FROM readings WHERE series = wanted.series AND t < %s ORDER BY t LIMIT 1) AS first"
)
_ADD = (
    " INSERT INTO rollups AS r(series, step, t, n, other, low, high, total)"
    " SELECT series, %(step)s, t, n, other, low, high, total FROM sums"
    " ON CONFLICT (series, step, t) DO UPDATE SET n = r.n + excluded.n,"
    " other = r.other + excluded.other, low = least(r.low, excluded.low),"
    " high = greatest(r.high, excluded.high), total = fleetnet_add(r.total, excluded.total)"
)
_END_READINGS = (
    "DELETE FROM readings WHERE series = ANY(%(series)s::int[]) AND t >= %(low)s AND t < %(high)s"
)
# Times before 1970 are rounded down as well: % has the sign of its left side there.
_BUCKET = "{t} - ({t} %% %(step)s + %(step)s) %% %(step)s"
_SUM_READINGS = (
    f"WITH gone AS ({_END_READINGS} RETURNING series, t, number), sums AS ("  # noqa: S608
    f" SELECT series, {_BUCKET.format(t='t')} AS t, count(number) AS n,"
    " count(*) - count(number) AS other, min(number) AS low, max(number) AS high,"
    " fleetnet_sum(number) AS total FROM gone GROUP BY 1, 2), added AS ("
    f"{_ADD}) SELECT count(*) FROM gone"
)
_OLD_SUMS = (
    "(SELECT series, step, t FROM rollups WHERE series = ANY(%(series)s::int[])"  # noqa: S608
    f" AND step = %(from_step)s AND t < %(high)s LIMIT {_SUMS_A_STEP})"
)
_END_SUMS = f"DELETE FROM rollups WHERE (series, step, t) IN {_OLD_SUMS}"  # noqa: S608
_SUM_SUMS = (
    f"WITH gone AS ({_END_SUMS} RETURNING *), sums AS ("  # noqa: S608
    f" SELECT series, {_BUCKET.format(t='t')} AS t, sum(n)::BIGINT AS n,"
    " sum(other)::BIGINT AS other, min(low) AS low, max(high) AS high,"
    " fleetnet_sum(total) AS total FROM gone GROUP BY 1, 2), added AS ("
    f"{_ADD}) SELECT count(*) FROM gone"
)
_DROP = "SELECT fleetnet_drop_partition('readings', %s, %s::INT = 1)"


class PostgresRetention:
    """Ends what is too old in one database, a step at a time, on one thread.

    Args:
        folder: of the fleet; its retention.toml is read at the start of each pass.
        clock_ms: unix ms that is believed (store/ageing.py).

    Attributes:
        ended: readings that are gone as such. error: why the file was not followed; logged.
    """

    name = "retention"

    def __init__(
        self, place: PostgresPlace, folder: Path,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ):  # fmt: skip
        self._folder = folder
        self._clock_ms = clock_ms
        self._connection = LazyConnection(place)
        self._due = 0.0
        self._pass: Iterator[int] | None = None
        self._width_ms = MINUTE_MS
        self.ended = 0
        self.error: ConfigError | None = None

    def close(self) -> None:
        """End the connection; the next step makes another."""
        self._connection.close()

    def step(self) -> int:
        """Do one piece of work; return some bytes, 0 when none is due.

        Raises:
            StoreUnavailable, StoreError: nothing of this step was changed.
        """
        if self._pass is None and time.monotonic() < self._due:
            return 0
        try:
            with self._connection.use("read or written") as connection:
                if self._pass is None:
                    self._due = time.monotonic() + _PASS_S
                    lifetimes = self._load()
                    if lifetimes is None or not lifetimes.rules:
                        return 0
                    self._pass = self._run(connection, lifetimes)
                moved = next(self._pass, 0)
        except BaseException:
            self._pass = None
            raise
        if not moved:
            self._pass = None
        return moved

    def _load(self) -> Lifetimes | None:
        try:
            found = load_lifetimes(self._folder)
        except ConfigError as error:
            # Half a policy could delete what the other half keeps.
            if str(error) != str(self.error):
                _log.error("%s; nothing is ended until it is corrected", error)
            self.error = error
            return None
        self.error = None
        return found

    def _run(self, connection: "PgRawConnection", lifetimes: Lifetimes) -> Iterator[int]:
        """Do a pass; yields the bytes of each step, never 0."""
        by_rule: dict[Rule, list[int]] = {}
        is_all = True
        for number, group, channel in connection.execute(_SERIES).fetchall():
            rule = lifetimes.rule(group, channel)
            if rule is None:
                is_all = False
            else:
                by_rule.setdefault(rule, []).append(number)
        if is_all and by_rule and not any(rule.minutes_ms or rule.hours_ms for rule in by_rule):
            yield from self._drop_weeks(connection, max(rule.raw_ms for rule in by_rule), False)
        for rule, series in by_rule.items():
            for at in range(0, len(series), _SERIES_A_STEP):
                yield from self._end(connection, rule, series[at : at + _SERIES_A_STEP])
        if by_rule:
            yield from self._drop_weeks(connection, min(rule.raw_ms for rule in by_rule), True)

    def _end(
        self, connection: "PgRawConnection", rule: Rule, series: list[int]
    ) -> Iterator[int]:
        step = (
            MINUTE_MS if rule.minutes_ms is not None
            else HOUR_MS if rule.hours_ms is not None else None
        )  # fmt: skip
        yield from self._end_readings(connection, series, self._clock_ms() - rule.raw_ms, step)
        if rule.minutes_ms is not None:
            # A bucket is over when its last ms is.
            old = self._clock_ms() - rule.minutes_ms - MINUTE_MS
            into = HOUR_MS if rule.hours_ms is not None else None
            yield from self._end_sums(connection, series, MINUTE_MS, old, into)
        if rule.hours_ms is not None:
            old = self._clock_ms() - rule.hours_ms - HOUR_MS
            yield from self._end_sums(connection, series, HOUR_MS, old, None)

    def _end_readings(
        self, connection: "PgRawConnection", series: list[int], old: int, step: int | None
    ) -> Iterator[int]:
        while True:
            row = connection.execute(_OLDEST, (series, old)).fetchone()
            if row is None or row[0] is None:
                return
            high = min(old, row[0] + self._width_ms)
            values = {"series": series, "low": row[0], "high": high, "step": step}
            if step is None:
                count = connection.execute(_END_READINGS, values).rowcount
            else:
                found = connection.execute(_SUM_READINGS, values).fetchone()
                count = int(found[0]) if found else 0
            self.ended += count
            if count > _ROWS_A_STEP:
                self._width_ms = max(1, self._width_ms // 2)
            elif count < _ROWS_A_STEP // 4:
                self._width_ms = min(WEEK_MS, self._width_ms * 2)
            yield count * 64 + 1

    def _end_sums(
        self, connection: "PgRawConnection", series: list[int], step: int, old: int,
        into: int | None,
    ) -> Iterator[int]:  # fmt: skip
        values = {"series": series, "from_step": step, "high": old, "step": into}
        while True:
            if into is None:
                count = connection.execute(_END_SUMS, values).rowcount
            else:
                found = connection.execute(_SUM_SUMS, values).fetchone()
                count = int(found[0]) if found else 0
            if not count:
                return
            yield count * 40

    def _drop_weeks(
        self, connection: "PgRawConnection", age_ms: int, must_be_empty: bool
    ) -> Iterator[int]:
        """Drop what is a week or more behind an age, when nothing is in it or nothing counts."""
        old = self._clock_ms() - age_ms
        hypertable = connection.execute(IS_HYPERTABLE).fetchone()
        if hypertable is not None and hypertable[0]:
            if not must_be_empty:
                connection.execute(DROP_CHUNKS, (old,))
            return
        for first in firsts(connection, "readings"):
            if first + WEEK_MS <= old:
                row = connection.execute(_DROP, (first, must_be_empty)).fetchone()
                if row is not None and row[0]:
                    yield WEEK_MS // 1000
