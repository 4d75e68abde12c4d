"""Partitions are made ahead: messages by the day, readings by the week. The leader's work.

What comes for a range that has no partition goes to DEFAULT: a reading of last year, a message
while nobody was there to make its day. Nothing is lost, and a search finds it there.

A device may tell any time, and fill DEFAULT for a range that has no partition yet; with too many
rows there it is not made, and everybody's readings of that time go to DEFAULT, too. So weeks are
made a year ahead: readings of a clock that is a little wrong have their partition, and the weeks
behind that are found to be too full a year before anybody needs them.
"""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fleetnet_server.store.postgres.lazy_connection import LazyConnection
from fleetnet_server.store.postgres.schema_messages import DAY_MS
from fleetnet_server.store.postgres.schema_readings import WEEK_MS
from fleetnet_server.store.postgres.timescale import IS_HYPERTABLE
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    import psycopg

    PgRawConnection = psycopg.Connection[tuple[Any, ...]]

_log = logging.getLogger("fleetnet.store")

# A leader may be away for a night before tomorrow's partition is missing.
_LOOK_S = 300.0
# Rows that move out of DEFAULT when their partition is made: a second or two, in which commits to
# DEFAULT wait. With more the range stays in DEFAULT.
MOST_MOVED = 200_000
# The same for weeks that have not begun, a year before they are needed: some 4 s of the same wait.
MOST_AHEAD = 1_000_000
# Weeks of readings ahead: more than 366 days, whichever day of the week it is. Planning a search
# without an end takes 1 ms longer for them; a commit no longer.
WEEKS_AHEAD = 53
# Partitions of one step: some 100 ms.
_MADE_A_STEP = 10
# Whoever makes it by hand can wait.
_ANY_NUMBER = 1_000_000_000_000

_MAKE = "SELECT fleetnet_make_partition(%s, %s, %s, %s)"
_IS_THERE = "SELECT to_regclass(%s) IS NOT NULL"
_NAMES = (
    "SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid"
    " WHERE inhparent = to_regclass(%s) ORDER BY relname"
)


def make_partitions(
    connection: "PgRawConnection", parent: str, start_ms: int, end_ms: int,
    now_ms: int | None = None, most: int = 1_000, refused: list[int] | None = None,
) -> int:  # fmt: skip
    """Make what is missing of the partitions that have times from ``start_ms`` to ``end_ms``.

    Args:
        parent: "messages" or "readings". start_ms, end_ms: unix ms, both included.
        now_ms: more rows may move to what begins behind it. most: how many to make.
        refused: gets the times (unix ms) at which those begin that too many rows forbid.

    Returns:
        How many were made; 0 for a hypertable, which makes its own.
    """
    width = WEEK_MS if parent == "readings" else DAY_MS
    if parent == "readings" and _value(connection, IS_HYPERTABLE):
        return 0
    there = firsts(connection, parent)
    made = 0
    for first in range(start_ms - start_ms % width, end_ms + 1, width):
        if first in there:
            continue
        if made >= most:
            break
        allowed = MOST_MOVED if now_ms is None or first <= now_ms else MOST_AHEAD
        if _value(connection, _MAKE, (parent, first, first + width, allowed)):
            made += 1
        elif refused is not None and not _value(connection, _IS_THERE, (f"{parent}_{first}",)):
            refused.append(first)
    return made


def firsts(connection: "PgRawConnection", parent: str) -> list[int]:
    """Return where the partitions of a table begin, unix ms, in order; DEFAULT has none."""
    names = [name for (name,) in connection.execute(_NAMES, (parent,)).fetchall()]
    ends = [name.removeprefix(f"{parent}_") for name in names]
    return sorted(int(end) for end in ends if end.isdigit())


def _value(connection: "PgRawConnection", sql: str, values: tuple[Any, ...] = ()) -> Any:
    row = connection.execute(sql, values).fetchone()
    return None if row is None else row[0]


class Partitions:
    """Makes partitions of one database ahead, a look every five minutes, on one thread."""

    name = "partitions"

    def __init__(
        self, place: PostgresPlace,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ):  # fmt: skip
        self._clock_ms = clock_ms
        self._connection = LazyConnection(place)
        self._due = 0.0
        self._told: set[int] = set()

    def close(self) -> None:
        """End the connection; the next step makes another."""
        self._connection.close()

    def step(self) -> int:
        """Make what is missing: messages of today and tomorrow, readings of a year and a week.

        Returns:
            How many were made; 0: there are no others.

        Raises:
            StoreUnavailable, StoreError.
        """
        if time.monotonic() < self._due:
            return 0
        refused: list[int] = []
        with self._connection.use("given partitions") as connection:
            made = make_ahead(connection, self._clock_ms(), _MADE_A_STEP, refused)
        self._tell(refused)
        if not made:
            self._due = time.monotonic() + _LOOK_S
        return made

    def _tell(self, refused: list[int]) -> None:
        """Log each range once that is not made, and what to do."""
        for first in refused:
            if first not in self._told:
                self._told.add(first)
                _log.error(
                    "the partition of readings of the 7 days from %s (UTC) is not made: too many "
                    "lie in the DEFAULT partition, where those of these days stay, and searches "
                    "find them, more slowly. Some device tells a wrong time, perhaps. At a quiet "
                    "hour run in psql, as the servers' role: "
                    "SELECT fleetnet_make_partition('readings', %d, %d, %d)",
                    _day(first), first, first + WEEK_MS, _ANY_NUMBER,
                )  # fmt: skip


def _day(t: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(t // 1000))


def make_ahead(
    connection: "PgRawConnection", now_ms: int, most: int = 1_000,
    refused: list[int] | None = None,
) -> int:  # fmt: skip
    """Make the partitions of what comes at this time, and in a year; return how many.

    Args:
        most: of readings. refused: as make_partitions.
    """
    days = make_partitions(connection, "messages", now_ms, now_ms + DAY_MS)
    start, end = now_ms - WEEK_MS, now_ms + WEEKS_AHEAD * WEEK_MS
    return days + make_partitions(connection, "readings", start, end, now_ms, most, refused)
