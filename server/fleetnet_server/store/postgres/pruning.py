"""Ends messages that nobody needs any more as they came; their readings are stored.

A message with readings is kept for KEEP_MS as it came, for bridges and followers, and longer where
a bridge has not read it; its readings are in ``readings``. Days go as a whole: what else is in one
(events, logs, what has no date) moves to DEFAULT, and the table is dropped. Where that is too much
for one transaction its readings are deleted in steps, and so are those that lie in DEFAULT: they
came while nobody had made their day, or got their date later. Everything else of messages ends by
retention.toml, [messages].

Transactions are short: one that is open holds back every reader in order of commit.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleetnet_server.errors import ConfigError
from fleetnet_server.store.lifetimes import load_lifetimes
from fleetnet_server.store.postgres.lazy_connection import LazyConnection
from fleetnet_server.store.postgres.partitions import MOST_MOVED, firsts
from fleetnet_server.store.postgres.schema_messages import DAY_MS
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    import psycopg

    PgRawConnection = psycopg.Connection[tuple[Any, ...]]

KEEP_MS = 7 * DAY_MS
# Between two looks; ages are in minutes at least.
_LOOK_S = 60.0
# Between two walks over what is old in DEFAULT, events that are kept for ever among it.
_WALK_S = 6 * 3600.0
# One step is one short transaction.
_ROWS_A_STEP = 5000

_GOOD = "m.kind & 127 = 16 AND m.problem IS NULL AND m.t0 IS NOT NULL"
_IS_NEEDED = (
    "SELECT EXISTS (SELECT 1 FROM bridges AS b CROSS JOIN LATERAL (SELECT 1 FROM messages AS m"
    " WHERE m.received >= %s AND m.received < %s"
    " AND (m.xid, m.id) > (b.xid::text::xid8, b.message) LIMIT 1) AS behind WHERE b.until_ms > %s)"
)
_RETIRE = "SELECT fleetnet_retire_messages(%s, %s)"
_DROP = "SELECT fleetnet_drop_partition('messages', %s, TRUE)"
_PRUNE_DAY = (
    "WITH page AS MATERIALIZED (SELECT xid, id, received FROM messages"  # noqa: S608
    " WHERE received >= %s AND received < %s AND (xid, id) > (%s::xid8, %s)"
    f" ORDER BY xid, id LIMIT {_ROWS_A_STEP}),"
    " gone AS (DELETE FROM messages AS m USING page AS p WHERE m.received = p.received"
    f" AND m.xid = p.xid AND m.id = p.id AND {_GOOD}),"
    " last AS (SELECT xid, id FROM page ORDER BY xid DESC, id DESC LIMIT 1),"
    " told AS (UPDATE dropped AS d SET xid = l.xid, id = l.id FROM last AS l"
    " WHERE (l.xid, l.id) > (d.xid, d.id))"
    " SELECT xid, id FROM last"
)
# Days that are gone have no other old rows than those of DEFAULT. A page has all kinds of rows, so
# that each step is short.
_PRUNE_DEFAULT = (
    "WITH page AS MATERIALIZED (SELECT xid, id, received FROM messages"  # noqa: S608
    " WHERE received < %s AND (xid, id) > (%s::xid8, %s)"
    f" ORDER BY xid, id LIMIT {_ROWS_A_STEP}),"
    " gone AS (DELETE FROM messages AS m USING page AS p WHERE m.received = p.received"
    f" AND m.xid = p.xid AND m.id = p.id AND {_GOOD} AND m.received < %s"
    " AND NOT EXISTS (SELECT 1 FROM bridges AS b WHERE b.until_ms > %s"
    " AND (m.xid, m.id) > (b.xid::text::xid8, b.message)) RETURNING m.xid, m.id),"
    " told AS (UPDATE dropped AS d SET xid = g.xid, id = g.id"
    " FROM (SELECT xid, id FROM gone ORDER BY xid DESC, id DESC LIMIT 1) AS g"
    " WHERE (g.xid, g.id) > (d.xid, d.id))"
    " SELECT xid, id FROM page ORDER BY xid DESC, id DESC LIMIT 1"
)
# Rows are in order of arrival: behind young ones there are no old ones.
_PRUNE_OTHERS = (
    "WITH page AS MATERIALIZED (SELECT id, received FROM messages WHERE {which} AND id > %s"  # noqa: S608
    f" ORDER BY id LIMIT {_ROWS_A_STEP}),"
    " gone AS (DELETE FROM messages AS m USING page AS p WHERE m.received = p.received"
    " AND m.id = p.id AND m.received < %s)"
    " SELECT max(id), min(received) FROM page"
)
_OTHERS = ("kind & 127 <> 16", "problem IS NOT NULL")


class Pruning:
    """Ends what is too old in messages, a step at a time, on one thread.

    Args:
        folder: of the fleet, for retention.toml. clock_ms: unix ms that is believed
            (store/ageing.py).
    """

    name = "pruning"

    def __init__(
        self, place: PostgresPlace, folder: Path,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ):  # fmt: skip
        self._folder = folder
        self._clock_ms = clock_ms
        self._connection = LazyConnection(place)
        self._due = 0.0
        self._work: list[Callable[[PgRawConnection], int]] = []
        self._next_walk = 0.0
        self._walked: dict[int, tuple[str, int] | None] = {}  # first of a day -> up to where

    def close(self) -> None:
        """End the connection; the next step makes another."""
        self._connection.close()

    def step(self) -> int:
        """Do one piece of work; return some bytes, 0 when none is due.

        Raises:
            StoreUnavailable, StoreError.
        """
        if not self._work and time.monotonic() < self._due:
            return 0
        try:
            with self._connection.use("pruned") as connection:
                if not self._work:
                    self._due = time.monotonic() + _LOOK_S
                    self._work = self._plan(connection)
                while self._work:
                    if moved := self._work[-1](connection):
                        return moved
                    self._work.pop()
        except BaseException:
            self._work = []
            raise
        return 0

    def _plan(self, connection: "PgRawConnection") -> list[Callable[["PgRawConnection"], int]]:
        now = self._clock_ms()
        work: list[Callable[[PgRawConnection], int]] = []
        if time.monotonic() >= self._next_walk:  # behind the days, which end as a whole
            work.append(_Default(now).step)
            work.append(self._walk_begins)
        for first in reversed(firsts(connection, "messages")):
            if first + DAY_MS <= now - KEEP_MS:
                work.append(lambda connection, first=first: self._day(connection, first))  # type: ignore[misc]
        try:
            keep = load_lifetimes(self._folder).messages_ms
        except ConfigError:
            keep = None  # Retention says so
        if keep is not None:
            for which in _OTHERS:
                work.append(_Others(which, now - keep).step)
        return work

    def _walk_begins(self, _connection: "PgRawConnection") -> int:
        self._next_walk = time.monotonic() + _WALK_S
        return 0

    def _day(self, connection: "PgRawConnection", first: int) -> int:
        """End the readings of one day; 0: nothing is left to do."""
        if first in self._walked:
            return self._walk(connection, first)
        row = connection.execute(_IS_NEEDED, (first, first + DAY_MS, self._clock_ms())).fetchone()
        if row is None or row[0]:
            return 0
        retired = connection.execute(_RETIRE, (first, MOST_MOVED)).fetchone()
        if retired is not None and retired[0] < 0:
            self._walked[first] = ("0", 0)
            return 1
        return 0

    def _walk(self, connection: "PgRawConnection", first: int) -> int:
        place = self._walked[first]
        if place is not None:
            values = (first, first + DAY_MS, *place)
            row = connection.execute(_PRUNE_DAY, values).fetchone()
            self._walked[first] = row
            return _ROWS_A_STEP * 100
        # What is left of it ends by [messages].
        row = connection.execute(_DROP, (first,)).fetchone()
        if row is not None and row[0]:
            del self._walked[first]
        return 0


class _Default:
    """Ends old readings in DEFAULT that no bridge needs, a page at a time."""

    def __init__(self, now_ms: int):
        self._now_ms = now_ms
        # Days that are not over yet stay closed to the search.
        self._before_ms = (now_ms - KEEP_MS) // DAY_MS * DAY_MS
        self._at: tuple[Any, ...] = ("0", 0)

    def step(self, connection: "PgRawConnection") -> int:
        """End a page; 0: it was the last one."""
        values = (self._before_ms, *self._at, self._before_ms, self._now_ms)
        row = connection.execute(_PRUNE_DEFAULT, values).fetchone()
        if row is None:
            return 0
        self._at = row
        return _ROWS_A_STEP * 100


class _Others:
    """Ends old messages that are no readings, a page at a time."""

    def __init__(self, which: str, before_ms: int):
        self._sql = _PRUNE_OTHERS.format(which=which)
        self._before_ms = before_ms
        self._at = 0

    def step(self, connection: "PgRawConnection") -> int:
        """End a page; 0: there are no older ones."""
        row = connection.execute(self._sql, (self._at, self._before_ms)).fetchone()
        if row is None or row[0] is None or row[1] >= self._before_ms:
            return 0
        self._at = row[0]
        return _ROWS_A_STEP * 100
