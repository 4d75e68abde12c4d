"""Messages of PostgreSQL for a bridge to another system, in order of commit: store/outbox.py.

The place in the table ``bridges`` is (xid, message), see positions.py. What a bridge lacks is
kept by whoever removes messages; ``dropped`` says what is gone all the same.
"""

import time
from collections.abc import Callable
from typing import Any

from fleetnet.frame import EVENT, READINGS
from fleetnet_server.store.outbox import NEWEST, OutboxRow, Place, with_channels
from fleetnet_server.store.ports import Connection, Database
from fleetnet_server.store.postgres.positions import OLDEST, pack, unpack
from fleetnet_server.store.postgres.reading import Reader
from fleetnet_server.store_place import PostgresPlace

_PAGE = (  # constants of this program only
    "SELECT m.id, m.xid::text, d.name, d.grp, d.state, m.kind & 127, m.t0, m.received,"  # noqa: S608
    " m.stream,"
    " encode(e.epoch, 'hex'), m.seq, m.problem, m.body"
    " FROM messages AS m JOIN devices AS d ON d.id = m.device JOIN epochs AS e ON e.id = m.epoch"
    f" WHERE (m.xid, m.id) > (%s::xid8, %s) AND m.xid < {OLDEST} ORDER BY m.xid, m.id LIMIT %s"
)
_NEWEST_ROW = (
    "coalesce((SELECT max(id) FROM"
    " (SELECT id FROM messages ORDER BY xid DESC, id DESC LIMIT 1000) AS newest), 0)"
)
_NOW = f"SELECT {OLDEST}::text, {_NEWEST_ROW}"
_CHANNELS = (
    "SELECT d.name, array_agg(s.channel ORDER BY s.id) FROM series AS s"
    " JOIN devices AS d ON d.id = s.device WHERE d.state <> 'removed' GROUP BY d.name"
)
_WAY_BACK = (
    "SELECT xid::text, id FROM messages ORDER BY xid DESC, id DESC OFFSET %s LIMIT 1"
)


class PostgresOutbox:
    """The messages of one database for one bridge; see store/outbox.py's Outbox.

    Args:
        store: whose ``transact`` moves the place.
    """

    def __init__(
        self, store: Database, place: PostgresPlace, name: str,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ):  # fmt: skip
        self.name = name
        self._store = store
        self._clock_ms = clock_ms
        self._reader = Reader(place)

    def start(self, keep_ms: int) -> tuple[int, int]:
        """Return the place, and how many messages behind it are gone as such."""
        now = self._clock_ms()

        def work(connection: Connection) -> tuple[int, int]:
            oldest, newest = connection.execute(_NOW).fetchone()
            connection.execute(
                "INSERT INTO bridges(name, xid, message, moved_ms, until_ms) VALUES(?, ?, ?, ?, ?)"
                " ON CONFLICT(name) DO UPDATE SET until_ms = excluded.until_ms",
                (self.name, int(oldest) - 1, newest, now, now + keep_ms),
            )
            # Ahead only where a standby took over that lacks the last transactions.
            connection.execute(
                "UPDATE bridges SET xid = ? WHERE name = ? AND xid >= ?",
                (int(oldest) - 1, self.name, int(oldest)),
            )
            xid, row = connection.execute(
                "SELECT xid, message FROM bridges WHERE name = ?", (self.name,)
            ).fetchone()
            dropped, last = connection.execute("SELECT xid::text, id FROM dropped").fetchone()
            gone = max(0, last - row) if (int(dropped), last) > (xid, row) else 0
            return pack(xid, row), gone

        return self._store.transact(work)

    def move(self, message: int, keep_ms: int, sent: int, dropped: int) -> None:
        """Note that the other system has everything up to a place, and commit."""
        now = self._clock_ms()
        values = (*unpack(message), now, now + keep_ms, sent, dropped, self.name)

        def work(connection: Connection) -> None:
            connection.execute(
                "UPDATE bridges SET xid = ?, message = ?, moved_ms = ?, until_ms = ?,"
                " sent = sent + ?, dropped = dropped + ? WHERE name = ?",
                values,
            )

        self._store.transact(work)

    def read(self, after: int, limit: int) -> tuple[int, list[OutboxRow]]:
        """Return what follows a place: the last one that was looked at, and what goes out."""
        transaction, number = unpack(after)
        rows: list[tuple[Any, ...]] = self._reader.run(
            lambda connection: connection.execute(
                _PAGE, (str(transaction), number, limit)
            ).fetchall()
        )
        found = []
        for row, xid, *values, problem, body in rows:
            after = pack(int(xid), row)
            if problem is None and values[3] in (READINGS, EVENT):
                found.append(OutboxRow._make((after, *values, bytes(body).decode())))
        return after, found

    def behind(self, message: int) -> int:
        """Return about how many messages were stored since."""
        _transaction, row = unpack(message)
        ((newest,),) = self._reader.read(f"SELECT {_NEWEST_ROW}")
        return max(0, int(newest) - row)

    def channels(self) -> dict[str, list[str]]:
        """Return channels of each device: of dated readings, and of the newest messages."""
        found = {device: list(names) for device, names in self._reader.read(_CHANNELS)}
        first = self._reader.run(
            lambda connection: connection.execute(_WAY_BACK, (NEWEST,)).fetchone()
        )
        after = 0 if first is None else pack(int(first[0]), first[1])
        _last, rows = self.read(after, NEWEST)
        return with_channels(found, rows)

    def close(self) -> None:
        """End the connection."""
        self._reader.close()


def places(store: Database) -> list[tuple[Place, int]]:
    """Return each bridge's place, by the number of its row, and about how much it lacks."""
    rows = store.read(
        "SELECT name, message, moved_ms, until_ms, sent, dropped,"  # noqa: S608
        f" {_NEWEST_ROW} FROM bridges ORDER BY name"
    )
    return [(Place._make(row[:6]), max(0, row[6] - row[1])) for row in rows]
