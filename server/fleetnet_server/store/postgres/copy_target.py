"""A database that a copy is written into, page by page; see store/copying.py."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

from fleetnet_server.core.bodies import Message
from fleetnet_server.errors import StoreError
from fleetnet_server.store.copy_sqlite import decode_chunk
from fleetnet_server.store.copy_steps import (
    AUDIT_COLUMNS,
    COPYING,
    WHOLE,
    Mark,
    Page,
    Row,
    State,
    Step,
    Table,
)
from fleetnet_server.store.postgres import migrations
from fleetnet_server.store.postgres.copy_rows import ChunkReadings, chunk_rows
from fleetnet_server.store.postgres.copy_side import PgSide
from fleetnet_server.store.postgres.expanding import (
    COPY_MESSAGES,
    COPY_READINGS,
    as_text,
    expand,
    message_rows,
    reading_rows,
)
from fleetnet_server.store.postgres.partitions import make_partitions
from fleetnet_server.store.postgres.schema_messages import DAY_MS
from fleetnet_server.store.postgres.schema_readings import WEEK_MS
from fleetnet_server.store.postgres.series import SeriesNumbers
from fleetnet_server.store_place import PostgresPlace

# 2000-01-01, and a year from now: outside no clock of a device was right, and each partition is a
# table. What is outside goes to the DEFAULT partition.
_FIRST_MS = 946_684_800_000
_AHEAD_MS = 366 * DAY_MS
# Ten years of weeks. A device whose clock jumps could ask for one of every week since 2000, and
# each search opens all that it may need.
_MOST_PARTITIONS = 520

_IN_USE = (
    "SELECT EXISTS (SELECT 1 FROM devices) OR EXISTS (SELECT 1 FROM messages)"
    " OR EXISTS (SELECT 1 FROM audit)"
)
_NTH_MESSAGE = "SELECT xid::text, id FROM messages ORDER BY xid, id OFFSET %s LIMIT 1"
_BRIDGE = (
    "INSERT INTO bridges(name, xid, message, moved_ms, until_ms, sent, dropped)"
    " VALUES(%s, %s, %s, %s, %s, %s, %s)"
)


class PgTarget(PgSide):
    """A database that is written. Close it."""

    def __init__(self, place: PostgresPlace):
        super().__init__(place)
        self._partitions: set[tuple[str, int]] = set()
        self._series = SeriesNumbers()
        self._latest = time.time_ns() // 1_000_000 + _AHEAD_MS

    def _check(self) -> None:
        # What is half a copy is what this goes on with.
        migrations.check_layout(self.raw, self.place)

    def begin(self, fingerprint: str) -> dict[str, State]:
        """See copy_steps.Target."""
        with self.explained("written"), self.raw.transaction():
            self.raw.execute(COPYING)
            # A server that starts has to see that a copy is not complete.
            self.raw.execute("GRANT SELECT ON copying TO PUBLIC")
            rows = self.raw.execute("SELECT step, place, n, done FROM copying").fetchall()
            found = {row[0]: State.read(row[1:]) for row in rows}
            if WHOLE in found:
                return found
            if self.raw.execute(_IN_USE).fetchone()[0]:
                raise StoreError(f"{self.place} holds a fleet: copy into a database without one")
            first = State([fingerprint])
            self.raw.execute("INSERT INTO copying VALUES(%s, %s, 0, 0)", (WHOLE, first.text))
            return {WHOLE: first}

    def write(self, step: Step, page: Page, before: State, after: State) -> None:
        """See copy_steps.Target."""
        with self.explained("written"), self.raw.transaction():
            self._claim(step.name, before, after)
            step.write(page.rows)

    def _claim(self, name: str, before: State, after: State) -> None:
        """Move the place. Raises StoreError: it is not where this program left it."""
        if before.place is None:
            sql = "INSERT INTO copying(place, n, done, step) VALUES(%s, %s, %s, %s)"
            self.raw.execute(sql, (after.text, after.n, after.done, name))
            return
        sql = "UPDATE copying SET place = %s, n = %s, done = %s WHERE step = %s AND place = %s"
        values = (after.text, after.n, after.done, name, before.text)
        if not self.raw.execute(sql, values).rowcount:
            raise StoreError(f"{self.place} is written by another `fleetnet store copy`: end one")

    def finish(self, audit: Row) -> None:
        """See copy_steps.Target."""
        with self.explained("written"):
            self.raw.execute("ANALYZE")
            with self.raw.transaction():
                self.raw.execute("UPDATE copying SET done = 1 WHERE step = %s", (WHOLE,))
                self.raw.execute(
                    f"INSERT INTO audit({AUDIT_COLUMNS}) VALUES(%s, %s, %s, %s)", audit
                )

    # -- what steps write ----------------------------------------------------------------------

    def write_rows(self, table: Table, rows: Sequence[Row]) -> None:
        """Insert rows of a table that both layouts have."""
        sql = f"COPY {table.name}({', '.join(table.columns)}) FROM STDIN"
        with self.raw.cursor() as cursor, cursor.copy(sql) as copy:
            for row in rows:
                copy.write_row([as_text(one) if isinstance(one, str) else one for one in row])
        if table.number:
            newest = rows[-1][table.columns.index(table.number)]
            self.raw.execute(
                "SELECT setval(pg_get_serial_sequence(%s, %s), %s)",
                (table.name, table.number, newest),
            )

    def write_marks(self, rows: Sequence[tuple[int, int, Mark]]) -> None:
        """Note watermarks and holes of streams."""
        with self.raw.cursor() as cursor:
            with cursor.copy("COPY streams(epoch, stream, last, received) FROM STDIN") as copy:
                for epoch, stream, mark in rows:
                    copy.write_row((epoch, stream, mark.last, mark.received))
            with cursor.copy("COPY holes(epoch, stream, first, last) FROM STDIN") as copy:
                for epoch, stream, mark in rows:
                    for first, last in mark.holes:
                        copy.write_row((epoch, stream, first, last))

    def write_messages(self, rows: Sequence[tuple[Message, bool]]) -> None:
        """Insert messages, and the readings of those whose readings are in no chunk."""
        messages = [message for message, _is_shown in rows]
        found = [expand(message) for message, is_shown in rows if is_shown]
        dated = [one for one in found if one is not None]
        self._make_days(messages)
        self._copy(COPY_MESSAGES, message_rows(messages))
        if dated:
            wanted = {(one.message.device_id, name) for one in dated for name in one.channels}
            self._series.learn(self.raw, wanted)
            self._make_weeks(
                one.base_ms + dt_ms for one in dated for _index, dt_ms, _value in one.items
            )
            self._copy(COPY_READINGS, reading_rows(dated, self._series.known))

    def write_chunks(self, rows: Sequence[Row]) -> None:
        """Insert the readings of chunks (SqliteSide.chunks)."""
        chunks = []
        for row in rows:
            series, epoch, stream = row[0], row[3], row[4]
            chunks.append(ChunkReadings(series, epoch, stream, decode_chunk(row)))
        # A chunk is some hours long at most: its ends are in all of its weeks.
        times = [one.decoded.times for one in chunks]
        self._make_weeks([*map(min, times), *map(max, times)])
        self._copy(COPY_READINGS, chunk_rows(chunks))

    def write_bridges(self, rows: Sequence[Row]) -> None:
        """Insert (name, messages that are not behind its place, times, counters)."""
        for name, count, moved_ms, until_ms, sent, dropped in rows:
            place: Any = ("0", 0)
            if count:
                place = self.raw.execute(_NTH_MESSAGE, (count - 1,)).fetchone()
            values = (name, int(place[0]), place[1], moved_ms, until_ms, sent, dropped)
            self.raw.execute(_BRIDGE, values)

    def write_end(self, _rows: Any) -> None:
        """Nothing is left to do."""

    def _make_days(self, messages: Iterable[Message]) -> None:
        self._make("messages", DAY_MS, {one.received // DAY_MS for one in messages})

    def _make_weeks(self, times: Iterable[int]) -> None:
        self._make("readings", WEEK_MS, {t // WEEK_MS for t in times})

    def _make(self, parent: str, size: int, numbers: Iterable[int]) -> None:
        """Make the partitions of days or weeks that are not there yet."""
        for number in sorted(numbers):
            first = number * size
            if len(self._partitions) >= _MOST_PARTITIONS:
                return
            if (parent, first) not in self._partitions and _FIRST_MS <= first < self._latest:
                make_partitions(self.raw, parent, first, first)
                self._partitions.add((parent, first))

    def _copy(self, sql: str, data: bytes) -> None:
        with self.raw.cursor() as cursor, cursor.copy(sql) as copy:
            copy.write(data)
