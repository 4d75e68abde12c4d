"""Readings of PostgreSQL as they become durable: store/following.py for it.

Any node may have stored them. A transaction that is open for long, of whatever program in the
same cluster, holds back all that began after it: readings come late then, and none is left out.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING

from fleetnet.frame import READINGS
from fleetnet_server.errors import StoreError, StoreUnavailable
from fleetnet_server.store.ordering import Reading
from fleetnet_server.store.postgres.positions import OLDEST, pack, unpack
from fleetnet_server.store.postgres.reading import Reader, Row, snapshot
from fleetnet_server.store.postgres.selecting import search
from fleetnet_server.store.query import FAR_FUTURE, FAR_PAST, readings_of
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    from fleetnet_server.store.postgres.reading import PgReader

_log = logging.getLogger("fleetnet.store")

# Between two tries to reach a database that is away: a failover takes some seconds.
_AWAY_S = 1.0

# A database that takes longer is away, and devices wait for the loop.
_PATIENCE_S = 1.0

# As store/following.py.
_POLL_ROWS = 1000

_NOW = (
    "SELECT pg_current_snapshot()::text, (SELECT coalesce(max(id), 0) FROM"
    " (SELECT id FROM messages ORDER BY xid DESC, id DESC LIMIT 1) AS newest)"
)
_OLDEST = f"SELECT {OLDEST}::text"
# What was there when the follower began was given otherwise, or is not wanted.
_NEWER = (
    "SELECT m.t0, m.epoch, d.name, m.stream, encode(e.epoch, 'hex'), m.seq, m.body, m.id,"  # noqa: S608
    " m.xid::text FROM messages AS m JOIN devices AS d ON d.id = m.device"
    " JOIN epochs AS e ON e.id = m.epoch"
    " WHERE (m.xid, m.id) > (%s::xid8, %s) AND m.xid < %s::xid8"
    " AND (%s::text IS NULL OR NOT pg_visible_in_snapshot(m.xid, %s::pg_snapshot))"
    f" AND d.state <> 'quarantined' AND (m.kind & 127) = {READINGS} AND m.problem IS NULL"
    f" ORDER BY m.xid, m.id LIMIT {_POLL_ROWS}"
)


def newest(place: PostgresPlace) -> int:
    """Return a place that all messages are behind that are committed from now on.

    Raises: StoreUnavailable, StoreError.
    """
    with Reader(place) as reader:
        return _place_of(*reader.run(_now))


def newest_soon(place: PostgresPlace) -> int:
    """Return ``newest``, from an event loop: what is stored behind the call has to be behind it.

    Takes some ms; the loop stands still for _PATIENCE_S at most, once for each feed.

    Raises: StoreUnavailable, StoreError.
    """
    found: Future[int] = Future()

    def ask() -> None:
        try:
            found.set_result(newest(place))
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=ask, name="fleetnet-newest", daemon=True).start()
    try:
        return found.result(_PATIENCE_S)
    except FutureTimeout:
        raise StoreUnavailable(
            f"{place} does not answer within {_PATIENCE_S} s: is the database server overloaded?"
        ) from None


def follow(
    place: PostgresPlace,
    after_id: int | None,
    device: str | None,
    channel: str | None,
    poll_s: float,
    sleep: Callable[[float], None],
    reached: Callable[[int], None],
) -> Iterator[Reading]:
    """Yield readings for ever, as store/following.py does.

    A database that is away is waited for once the first look succeeded: it goes on where it was.
    """
    began: str | None = None
    if after_id == 0:
        with snapshot(place) as connection:
            began, row = _now(connection)
            yield from search(connection, device, channel, FAR_PAST, FAR_FUTURE, undated=True)
        after_id = _place_of(began, row)
    with Reader(place) as reader:
        if after_id is None:
            began, row = reader.run(_now)
            after_id = _place_of(began, row)
        behind = _Behind(reader, after_id, began)
        reader.run(behind.look_at)
        while True:
            reached(behind.at)
            rows = behind.look(sleep)
            if not rows:
                sleep(poll_s)
            for message in rows:
                if device is None or message[2] == device:
                    for _time, _key, one in readings_of(message[:-1], channel):
                        yield one


class _Behind:
    """A look after another at what was committed behind a place.

    Attributes:
        at: the place; everything up to it was given.
    """

    def __init__(self, reader: Reader, at: int, began: str | None):
        self._reader = reader
        self._began = began
        self._is_away = False
        self.at = at

    def look(self, sleep: Callable[[float], None]) -> list[Row]:
        """Return the next rows. Raises StoreError: some are gone before they were read."""
        while True:
            try:
                at, rows = self._reader.run(self.look_at)
            except StoreUnavailable as error:
                if not self._is_away:
                    _log.warning("no readings for now: %s", error)
                self._is_away = True
                sleep(_AWAY_S)
            else:
                self._is_away = False
                self.at = at
                return rows

    def look_at(self, connection: "PgReader") -> tuple[int, list[Row]]:
        """Return up to where it was looked, and the rows."""
        ((text,),) = connection.execute(_OLDEST).fetchall()
        oldest = int(text)
        transaction, row = unpack(self.at)
        if transaction >= oldest - 1:
            # Behind it only where a standby took over that lacks the last transactions.
            return pack(oldest - 1, row), []
        values = (str(transaction), row, text, self._began, self._began)
        rows = connection.execute(_NEWER, values).fetchall()
        if read_gone(connection) > self.at:
            raise StoreError(
                "too slow: messages were removed before they were read; "
                "`fleetnet query` has their readings"
            )
        if len(rows) == _POLL_ROWS:
            return pack(int(rows[-1][-1]), rows[-1][-2]), rows
        # Messages of other kinds move the place as well.
        return pack(oldest - 1, rows[-1][-2] if rows else row), rows


def _now(connection: "PgReader") -> tuple[str, int]:
    """Return the snapshot, and the number of about the newest row."""
    ((text, row),) = connection.execute(_NOW).fetchall()
    return text, row


def read_gone(connection: "PgReader") -> int:
    """Return up to which place messages may have been removed."""
    ((transaction, row),) = connection.execute("SELECT xid::text, id FROM dropped").fetchall()
    return pack(int(transaction), row)


def _place_of(snapshot_text: str, row: int) -> int:
    return pack(int(snapshot_text.partition(":")[0]) - 1, row)
