"""Messages for a bridge to another system, in order of commit, and its place among them.

The store itself is the outbox: a bridge reads behind the place up to which the other system has
everything, and moves that place when it was answered. What it lacks keeps its row, even where
compaction has made chunks of it, until the bridge has it or its time is over (``keep_ms``).
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import apsw
import msgspec

from fleetnet.frame import EVENT, READINGS
from fleetnet_server.core.bodies import decode_readings
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store.lazy_reader import LazyReader
from fleetnet_server.store.ports import Connection, Database, Store
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    from fleetnet_server.store.postgres.outbox import PostgresOutbox

# One answer is one row, as in compaction.py: a busy event loop costs each row 5 ms.
_PAGE = f"""
WITH page AS MATERIALIZED (
    SELECT id, device, epoch, stream, seq, kind & 127 AS kind, t0, received, problem, body
    FROM messages WHERE id > ?1 ORDER BY id LIMIT ?2)
SELECT (SELECT max(id) FROM page),
    (SELECT json_group_array(json_array(p.id, d.name, d.grp, d.state, p.kind, p.t0, p.received,
        p.stream, lower(hex(e.epoch)), p.seq, CAST(p.body AS TEXT)))
     FROM page AS p CROSS JOIN devices AS d CROSS JOIN epochs AS e
     WHERE d.id = p.device AND e.id = p.epoch
       AND p.problem IS NULL AND p.kind IN ({READINGS}, {EVENT}))
"""  # noqa: S608
# What is older was compacted, or will be soon.
NEWEST = 256
_CHANNELS = (
    "SELECT d.name, json_group_array(s.channel) FROM series AS s JOIN devices AS d"
    " ON d.id = s.device WHERE d.state != 'removed' GROUP BY d.id"
)
_GONE = (
    "SELECT c.removed - ?1 - (SELECT count(*) FROM messages WHERE id > ?1 AND id <= c.removed)"
    " FROM compacting AS c WHERE c.removed > ?1"
)


class OutboxRow(NamedTuple):
    """One good message with readings or an event; times are unix ms.

    Attributes:
        state: of the device. kind: READINGS or EVENT of fleetnet.frame.
        t0: of its first reading; None: its boot is not dated. epoch: hexadecimal.
    """

    id: int
    device: str
    group: str
    state: str
    kind: int
    t0: int | None
    received: int
    stream: int
    epoch: str
    seq: int
    body: str


class Place(NamedTuple):
    """Where a bridge is: the last message that the other system has, and its counters."""

    name: str
    message: int
    moved_ms: int
    until_ms: int
    sent: int
    dropped: int


def with_channels(
    found: dict[str, list[str]], rows: Iterable[OutboxRow]
) -> dict[str, list[str]]:
    """Add the channels of messages to those of each device, in the order in which they came."""
    for row in rows:
        known = found.setdefault(row.device, [])
        names = decode_readings(row.body).channels if row.kind == READINGS else []
        known += [name for name in names if name not in known]
    return found


_decode_page = msgspec.json.Decoder(
    list[tuple[int, str, str, str, int, int | None, int, int, str, int, str]]
).decode


class Outbox:
    """The messages of one store for one bridge. Close it before the store.

    ``read`` and ``channels`` are called on one thread; nothing here on the event loop's.

    Raises, throughout:
        StoreUnavailable: the file cannot be read or written.
    """

    def __init__(
        self, store: Store, name: str,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ):  # fmt: skip
        self.name = name
        self._store = store
        self._clock_ms = clock_ms
        assert isinstance(store.place, Path)
        self._reader = LazyReader(store.place)

    def start(self, keep_ms: int) -> tuple[int, int]:
        """Return the place, and how many messages behind it are gone as such.

        A bridge that is new begins with what is stored from now on.
        """
        now = self._clock_ms()

        def work(connection: Connection) -> tuple[int, int]:
            connection.execute(
                "INSERT INTO bridges(name, message, moved_ms, until_ms)"
                " VALUES(?1, (SELECT coalesce(max(id), 0) FROM messages), ?2, ?2 + ?3)"
                " ON CONFLICT DO UPDATE SET until_ms = excluded.until_ms",
                (self.name, now, keep_ms),
            )
            query = "SELECT message FROM bridges WHERE name = ?"
            message = int(connection.execute(query, (self.name,)).get)
            return message, int(connection.execute(_GONE, (message,)).get or 0)

        return self._store.transact(work)

    def move(self, message: int, keep_ms: int, sent: int, dropped: int) -> None:
        """Note that the other system has everything up to a message, and commit.

        Args:
            sent, dropped: added to the counters.
        """
        now = self._clock_ms()
        values = (self.name, message, now, now + keep_ms, sent, dropped)
        self._store.transact(
            lambda connection: connection.execute(
                "UPDATE bridges SET message = ?2, moved_ms = ?3, until_ms = ?4,"
                " sent = sent + ?5, dropped = dropped + ?6 WHERE name = ?1",
                values,
            )
        )

    def read(self, after: int, limit: int) -> tuple[int, list[OutboxRow]]:
        """Return what follows a message: the last number that was looked at, and what goes out.

        Memory: ``limit`` bodies, which are 64 KiB at most.
        """
        try:
            last, text = next(self._reader.open().execute(_PAGE, (after, limit)))
        except apsw.Error as error:
            raise StoreUnavailable(f"{self._store.place} cannot be read: {error}") from error
        if last is None:
            return after, []
        return last, [OutboxRow._make(row) for row in _decode_page(text)]

    def behind(self, message: int) -> int:
        """Return how many messages were stored since."""
        try:
            newest = self._reader.open().execute("SELECT coalesce(max(id), 0) FROM messages").get
        except apsw.Error as error:
            raise StoreUnavailable(f"{self._store.place} cannot be read: {error}") from error
        return max(0, int(newest) - message)

    def channels(self) -> dict[str, list[str]]:
        """Return channels of each device: of compacted readings, and of the newest messages."""
        try:
            found = {
                device: msgspec.json.decode(text, type=list[str])
                for device, text in self._reader.open().execute(_CHANNELS)
            }
        except apsw.Error as error:
            raise StoreUnavailable(f"{self._store.place} cannot be read: {error}") from error
        _last, rows = self.read(max(0, self.behind(0) - NEWEST), NEWEST)
        return with_channels(found, rows)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


def open_outbox(store: Store, name: str) -> "Outbox | PostgresOutbox":
    """Return the messages of a store for a bridge, whatever the store is."""
    place = store.place
    if isinstance(place, Path):
        return Outbox(store, name)
    from fleetnet_server.store.postgres.outbox import PostgresOutbox

    return PostgresOutbox(store, place, name)


def places(store: Store) -> list[tuple[Place, int]]:
    """Return each bridge's place, and how many messages it lacks. Raises StoreUnavailable."""
    if isinstance(store.place, PostgresPlace):
        from fleetnet_server.store.postgres import outbox

        return outbox.places(store)
    rows = store.read(
        "SELECT name, message, moved_ms, until_ms, sent, dropped,"
        " (SELECT coalesce(max(id), 0) FROM messages) FROM bridges ORDER BY name"
    )
    return [(Place._make(row[:6]), max(0, row[6] - row[1])) for row in rows]


def forget(store: Database, name: str) -> bool:
    """Remove a bridge's place; False: there is none of that name. Raises StoreUnavailable."""

    def work(connection: Connection) -> bool:
        connection.execute("DELETE FROM bridges WHERE name = ?", (name,))
        return connection.changes() > 0

    return store.transact(work)
