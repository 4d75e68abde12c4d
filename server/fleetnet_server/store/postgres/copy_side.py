"""A database as one side of a copy (store/copying.py)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from fleetnet_server.errors import StoreError
from fleetnet_server.store.copy_steps import SUMMED_BELOW, AllSums, Mark, Place, Row, SeriesSums
from fleetnet_server.store.postgres import migrations
from fleetnet_server.store.postgres.connect import connect, explained
from fleetnet_server.store.postgres.copy_rows import as_json
from fleetnet_server.store.postgres.dialect import translate
from fleetnet_server.store.postgres.reading import BEGIN_SNAPSHOT
from fleetnet_server.store.postgres.schema_cluster import NOW_MS
from fleetnet_server.store_place import PostgresPlace

# A node says that it lives every 2 s; one that has been silent for longer has ended.
_ALIVE_MS = 10_000

# Rows that a cursor brings at once.
_FETCH_ROWS = 10_000

_MESSAGES = "SELECT epoch, stream, seq, device, kind, t0, t1, received, body, problem FROM messages"
_IN_ORDER = (
    "SELECT xid::text, id, epoch, stream, seq, device, kind, t0, t1, received, body, problem"
    " FROM messages"
)
_READING_KEY = "series, t, epoch, stream, seq, place"
_NEWEST = (
    "SELECT epoch, stream, seq, (kind & 127) = 16 AND problem IS NULL AND t0 IS NOT NULL"
    " FROM messages ORDER BY xid DESC, id DESC LIMIT 1"
)
_MARKS = (
    "SELECT s.epoch, s.stream, s.last, s.received, h.first, h.last FROM streams AS s"
    " LEFT JOIN holes AS h ON h.epoch = s.epoch AND h.stream = s.stream ORDER BY 1, 2, 5"
)
_SMALL = f"FILTER (WHERE abs(number) < {SUMMED_BELOW})"
_SUMS = f"""
SELECT d.name, s.channel, r.* FROM (
    SELECT series, count(*), sum(t), sum(seq), sum(place), count(number),
        coalesce(sum(number) {_SMALL}, 0), coalesce(sum(abs(number)) {_SMALL}, 0)
    FROM readings GROUP BY series) AS r
JOIN series AS s ON s.id = r.series JOIN devices AS d ON d.id = s.device
"""  # noqa: S608
_BRIDGES = (
    "SELECT name, (SELECT count(*) FROM messages AS m"
    " WHERE (m.xid, m.id) <= (b.xid::text::xid8, b.message)),"
    " moved_ms, until_ms, sent, dropped FROM bridges AS b ORDER BY name"
)
_FINGERPRINT = (
    "SELECT (SELECT max(id) FROM devices), (SELECT max(id) FROM epochs),"
    " (SELECT max(id) FROM messages), (SELECT max(id) FROM audit),"
    " (SELECT max(number) FROM commands), (SELECT max(edit) FROM configs),"
    " (SELECT max(id) FROM blobs), (SELECT max(id) FROM series), (SELECT count(*) FROM gaps)"
)


class PgSide:
    """One database. What is read between ``freeze`` and ``thaw`` is of one moment."""

    def __init__(self, place: PostgresPlace):
        self.place = place
        self.raw = connect(place)
        try:
            with explained(place, "opened"):
                self._check()
                self._refuse_served()
                self._refuse_undated()
                # One page of the other side may take its time.
                self.raw.execute("SET idle_in_transaction_session_timeout = 0")
        except BaseException:
            self.raw.close()
            raise

    def _check(self) -> None:
        migrations.check(self.raw, self.place)

    def _refuse_served(self) -> None:
        found = self.raw.execute(
            f"SELECT name FROM nodes WHERE seen_ms > {NOW_MS} - %s ORDER BY name",  # noqa: S608
            (_ALIVE_MS,),
        ).fetchall()
        if found:
            names = ", ".join(name for (name,) in found)
            raise StoreError(
                f"{self.place} is served by {names}: stop it, wait {_ALIVE_MS // 1000} s, copy"
            )

    def _refuse_undated(self) -> None:
        """What a commit left to housekeeping would never be dated elsewhere (backlog.py)."""
        if self.raw.execute("SELECT 1 FROM dating LIMIT 1").fetchone() is not None:
            raise StoreError(
                f"{self.place} has messages whose date is known and not written yet: "
                "let a server run for some minutes, stop it, copy"
            )

    def freeze(self) -> None:
        """Read what is there now."""
        with self.explained("read"):
            self.raw.execute(BEGIN_SNAPSHOT)

    def thaw(self) -> None:
        """End what ``freeze`` began."""
        with self.explained("read"):
            self.raw.execute("ROLLBACK")

    def close(self) -> None:
        """End the connection."""
        self.raw.close()

    @contextmanager
    def explained(self, done: str) -> Iterator[None]:
        """Raise StoreUnavailable or StoreError for what psycopg raises inside."""
        with explained(self.place, done):
            yield

    def fingerprint(self) -> str:
        """See copy_steps.Store."""
        return f"postgresql {list(next(self.rows(_FINGERPRINT)))}"

    def rows(self, sql: str, values: Sequence[Any] = ()) -> Iterator[Row]:
        """See copy_steps.Store; between ``freeze`` and ``thaw``."""
        text, _numbers = translate(sql)
        with self.explained("read"), self.raw.cursor(name="copying", binary=True) as cursor:
            cursor.itersize = _FETCH_ROWS
            cursor.execute(text, values)
            yield from cursor

    def messages(self) -> Iterator[Row]:
        """See copy_steps.Store."""
        return self.rows(_MESSAGES)

    def messages_in_order(self, after: Place | None) -> Iterator[Row]:
        """Yield transaction, number, and what ``messages`` gives, in order of commit."""
        where = "WHERE (xid, id) > (?::text::xid8, ?)" if after else ""
        return self.rows(f"{_IN_ORDER} {where} ORDER BY xid, id", after[:2] if after else ())

    def readings(self, after: Place | None) -> Iterator[Row]:
        """Yield (series, t, epoch, stream, seq, place, value as JSON) behind such a key.

        Without those of the newest message, when its row shows them: SQLite keeps that row.
        """
        wanted, values = ["TRUE"], list[Any]()
        newest = list(self.rows(_NEWEST))
        if newest and newest[0][3]:
            wanted.append("NOT (epoch = ? AND stream = ? AND seq = ?)")
            values += newest[0][:3]
        if after:
            # The first condition is what the index begins with.
            wanted.append(f"(series, t) >= (?, ?) AND ({_READING_KEY}) > (?, ?, ?, ?, ?, ?)")
            values += [*after[:2], *after]
        found = self.rows(
            f"SELECT {_READING_KEY}, number, value FROM readings"  # noqa: S608
            f" WHERE {' AND '.join(wanted)} ORDER BY {_READING_KEY}",
            values,
        )
        for row in found:
            yield (*row[:6], as_json(row[6], row[7]))

    def count_readings(self) -> int:
        """Return how many readings there are."""
        return int(next(self.rows("SELECT count(*) FROM readings"))[0])

    def bridges(self) -> Iterator[Row]:
        """Yield bridges; their place is how many messages are not behind it."""
        return self.rows(_BRIDGES)

    def marks(self) -> Iterator[tuple[int, int, Mark]]:
        """See copy_steps.Store."""
        for (epoch, stream, last, received), rows in groupby(
            self.rows(_MARKS), key=lambda row: row[:4]
        ):
            holes = tuple((row[4], row[5]) for row in rows if row[4] is not None)
            yield epoch, stream, Mark(last, received, holes)

    def sums(self, progress: Callable[[int], None]) -> AllSums:
        """See copy_steps.Store. PostgreSQL adds them up: progress comes at the end."""
        with self.explained("read"):
            # NUMERIC as text: dialect.py makes numbers of it.
            rows = self.raw.execute(_SUMS).fetchall()
        found = {
            (name, channel): SeriesSums(n, t, seq, place, numbers, float(total), float(size))
            for name, channel, _series, n, t, seq, place, numbers, total, size in rows
        }
        progress(sum(one.n for one in found.values()))
        return found
