"""Readings as they become durable, beside a running server; and what compaction leaves for it.

Who follows reads rows of messages, which compaction takes away. In the server's own process it
says how far it is (``Followers``), and rows behind that stay. A program beside the server cannot:
when it is so slow that rows are gone, it is told, and never goes on as if nothing was missing.
"""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec

from fleetnet_server.errors import StoreError
from fleetnet_server.store import schema
from fleetnet_server.store.query import (
    CHUNKS_SINCE,
    GOOD,
    Reading,
    readings_of,
    search,
    select_rows,
    snapshot,
)
from fleetnet_server.store.trouble import unavailable
from fleetnet_server.store_place import PostgresPlace, StorePlace

# A look: 1 MB at most of usual messages.
_POLL_ROWS = 1000
_NEWER = f"{select_rows('')} m.id > ?1{GOOD} ORDER BY m.id LIMIT {_POLL_ROWS}"

# Messages that wait for one who follows: some 500 MB of usual ones. A program that forgot its
# reader must not keep a store from being compacted for ever.
MOST_BEHIND = 2_000_000


class Followers:
    """Who follows a store from within its process; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at: dict[int, int] = {}
        self._next = 0

    def add(self, at: int) -> int:
        """Keep messages behind ``at``; return a key for the other functions."""
        with self._lock:
            self._next += 1
            self._at[self._next] = at
            return self._next

    def move(self, key: int, at: int) -> None:
        """One of them has all messages up to ``at``."""
        with self._lock:
            if key in self._at:
                self._at[key] = at

    def remove(self, key: int) -> None:
        """One of them follows no more."""
        with self._lock:
            self._at.pop(key, None)

    def last_free(self, newest: int) -> int:
        """Return up to which message nobody needs the rows; ``newest``: there is."""
        with self._lock:
            near = [at for at in self._at.values() if at >= newest - MOST_BEHIND]
        return min(near, default=newest)


def follow(
    place: StorePlace | str,
    after_id: int | None = None,
    *,
    device: str | None = None,
    channel: str | None = None,
    poll_s: float = 0.2,
    sleep: Callable[[float], None] = time.sleep,
    reached: Callable[[int], None] = lambda at: None,
) -> Iterator[Reading]:
    """Yield readings for ever, in the order in which they become durable.

    Args:
        after_id: begin behind this message (of PostgreSQL: from ``newest``); None: behind the
            newest; 0: with all that is stored, in order of time where it was compacted.
        poll_s: pause after a look that found nothing.
        reached: hears up to which message rows are needed no more.

    Raises:
        StoreError: no store there, or rows behind the last look were compacted.
        StoreUnavailable: it cannot be read.
    """
    if isinstance(place, PostgresPlace):
        from fleetnet_server.store.postgres import following

        return following.follow(place, after_id, device, channel, poll_s, sleep, reached)
    return _follow(place, after_id, device, channel, poll_s, sleep, reached)


def _follow(
    place: Path | str, at: int | None, device: str | None, channel: str | None, poll_s: float,
    sleep: Callable[[float], None], reached: Callable[[int], None],
) -> Iterator[Reading]:  # fmt: skip
    if at == 0:
        with snapshot(place) as connection:
            if _removed(connection):
                at = _newest_id(connection)
                yield from search(connection, device, channel, undated=True)
    connection = schema.open_readable(place)
    try:
        at = _newest_id(connection) if at is None else at
        while True:
            reached(at)
            if _newest_id(connection) <= at:
                sleep(poll_s)
                continue
            at, rows = _look(connection, at)
            for row in rows:
                if device is None or row[2] == device:
                    for item in readings_of(row, channel):
                        yield item[2]
    except (apsw.Error, msgspec.MsgspecError) as error:
        raise unavailable(place, "read", error) from error
    finally:
        connection.close()


def _look(connection: apsw.Connection, at: int) -> tuple[int, list[tuple[Any, ...]]]:
    """Return rows behind a message, and the last message that was looked at."""
    # Of one moment: what is removed behind the rows' own look is not missed.
    with connection:
        removed = _removed(connection)
        if at < removed:
            raise StoreError(
                f"too slow: {removed - at} messages were compacted before they were read; "
                "`fleetnet query` has their readings"
            )
        newest = _newest_id(connection)
        rows: list[tuple[Any, ...]] = connection.execute(_NEWER, (at,)).fetchall()
    # Messages of other kinds move the position as well.
    return (int(rows[-1][-1]) if len(rows) == _POLL_ROWS else max(at, newest)), rows


def _removed(connection: apsw.Connection) -> int:
    """Return up to which message rows may be gone."""
    if int(connection.pragma("user_version")) < CHUNKS_SINCE:
        return 0
    return int(connection.execute("SELECT removed FROM compacting").get)


def _newest_id(connection: apsw.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(id), 0) FROM messages").get)
