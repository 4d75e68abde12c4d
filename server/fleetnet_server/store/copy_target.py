"""A store file that a copy is written into: readings become chunks, as compaction makes them.

Of messages whose readings are in chunks the row stays hidden (store/compaction.py) until no bridge
needs it; ``known`` has the numbers of all of them, so that a copy that comes again is a duplicate.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import apsw

from fleetnet.frame import OPTIONAL, READINGS
from fleetnet_server.core.bodies import TEXT_KINDS
from fleetnet_server.errors import StoreError
from fleetnet_server.store import schema
from fleetnet_server.store.chunks import Chunk, Place, make_chunks
from fleetnet_server.store.copy_sqlite import SqliteSide
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
from fleetnet_server.store.trouble import unavailable

# Behind every device: all of a window is compacted (store/compaction.py).
_ALL = (1 << 63) - 1
_CHUNK = (
    "INSERT INTO chunks(series, epoch, stream, span, t0, seq, place, t1, n, step, times, vals,"
    " runs) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_MESSAGE = (
    "INSERT INTO messages(id, device, epoch, stream, seq, kind, t0, t1, received, problem, body)"
    " VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_HELD = (
    "INSERT INTO held SELECT id FROM messages AS m WHERE m.id > ? AND m.t0 IS NULL"  # noqa: S608
    f" AND m.kind & 127 = {READINGS} AND m.problem IS NULL"
)
# SQLite gives the number of the newest row again when that row goes, so it stays in sight.
_HIDE = (
    "UPDATE compacting SET before = max(0, n - 1), last = max(0, n - 1), device = ?, removed = 0"
    " FROM (SELECT coalesce(max(id), 0) AS n FROM messages)"
)
_SHOW_NEWEST = "DELETE FROM held WHERE id = (SELECT max(id) FROM messages)"
_IN_USE = (
    "SELECT EXISTS (SELECT 1 FROM devices) OR EXISTS (SELECT 1 FROM messages)"
    " OR EXISTS (SELECT 1 FROM audit)"
)


class SqliteTarget(SqliteSide):
    """A store file that is written. Close it."""

    has_every_hole = True  # what the source had of them

    def __init__(self, path: Path):
        super().__init__(path, schema.open_writable(path))

    def begin(self, fingerprint: str) -> dict[str, State]:
        """See copy_steps.Target."""
        with self.explained("written"):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                found = self._begin(fingerprint)
                self.connection.execute("COMMIT")
            except BaseException:
                self.connection.execute("ROLLBACK")
                raise
        return found

    def _begin(self, fingerprint: str) -> dict[str, State]:
        self.connection.execute(COPYING)
        rows = self.connection.execute("SELECT step, place, n, done FROM copying").fetchall()
        found = {str(row[0]): State.read(row[1:]) for row in rows}
        if WHOLE not in found or not found[WHOLE].done:
            # No server, and no other command, takes it for a whole store meanwhile.
            self.connection.pragma("application_id", schema.HALF_COPIED_ID)
        if WHOLE in found:
            return found
        if self.connection.execute(_IN_USE).get:
            raise StoreError(f"{self.path} holds a fleet: copy into a file that is not there yet")
        first = State([fingerprint])
        self.connection.execute("INSERT INTO copying VALUES(?, ?, 0, 0)", (WHOLE, first.text))
        return {WHOLE: first}

    def write(self, step: Step, page: Page, before: State, after: State) -> None:
        """See copy_steps.Target."""
        with self.explained("written"):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                self._claim(step.name, before, after)
                step.write(page.rows)
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    def _claim(self, name: str, before: State, after: State) -> None:
        """Move the place. Raises StoreError: it is not where this program left it."""
        if before.place is None:
            sql = "INSERT INTO copying(place, n, done, step) VALUES(?, ?, ?, ?)"
            self.connection.execute(sql, (after.text, after.n, after.done, name))
            return
        sql = "UPDATE copying SET place = ?, n = ?, done = ? WHERE step = ? AND place = ?"
        values = (after.text, after.n, after.done, name, before.text)
        self.connection.execute(sql, values)
        if not self.connection.changes():
            raise StoreError(f"{self.path} is written by another `fleetnet store copy`: end one")

    def finish(self, audit: Row) -> None:
        """See copy_steps.Target."""
        with self.explained("written"):
            self.connection.execute("BEGIN IMMEDIATE")
            self.connection.execute("UPDATE copying SET done = 1 WHERE step = ?", (WHOLE,))
            self.connection.execute(f"INSERT INTO audit({AUDIT_COLUMNS}) VALUES(?, ?, ?, ?)", audit)
            self.connection.pragma("application_id", schema.APPLICATION_ID)
            self.connection.execute("COMMIT")

    # -- what steps write ----------------------------------------------------------------------

    def write_rows(self, table: Table, rows: Sequence[Row]) -> None:
        """Insert rows of a table that both layouts have."""
        marks = ", ".join("?" * len(table.columns))
        names = ", ".join(table.columns)
        self.connection.executemany(f"INSERT INTO {table.name}({names}) VALUES({marks})", rows)

    def write_marks(self, rows: Sequence[tuple[int, int, Mark]]) -> None:
        """Note what each stream has, up to its watermark and without its holes."""
        ranges: list[tuple[int, ...]] = []
        for epoch, stream, mark in rows:
            first = 1
            for low, high in (*mark.holes, (mark.last + 1, 0)):
                if low > first:
                    ranges.append((epoch, stream, low - 1, first, mark.received))
                first = high + 1
        self.connection.executemany("INSERT INTO known VALUES(?, ?, ?, ?, ?)", ranges)

    def write_messages(self, rows: Sequence[Row]) -> None:
        """Insert (number, and what Store.messages gives); undated readings are held."""
        self.connection.executemany(
            _MESSAGE,
            [
                (number, device, epoch, stream, seq, kind, t0, t1, received, problem,
                 _body(kind, body, problem))
                for number, epoch, stream, seq, device, kind, t0, t1, received, body, problem
                in rows
            ],
        )  # fmt: skip
        self.connection.execute(_HELD, (rows[0][0] - 1,))

    def write_readings(self, rows: Sequence[Row]) -> None:
        """Make chunks of (series, t, epoch, stream, seq, place, value as JSON)."""
        groups: defaultdict[tuple[int, int, int], list[Place]] = defaultdict(list)
        for series, t, epoch, stream, seq, place, raw in rows:
            groups[series, epoch, stream].append(Place(seq, place, t, raw))
        chunks: list[tuple[int, int, int, Chunk]] = []
        spans: defaultdict[int, int] = defaultdict(int)
        for (series, epoch, stream), places in groups.items():
            places.sort()
            for chunk in make_chunks(places):
                chunks.append((series, epoch, stream, chunk))
                spans[series] |= 1 << chunk.span
        self.connection.executemany(_CHUNK, [tuple(chain(key[:3], key[3])) for key in chunks])
        self.connection.executemany(
            "UPDATE series SET spans = spans | ? WHERE id = ?",
            [(bits, series) for series, bits in spans.items()],
        )

    def write_bridges(self, rows: Sequence[Row]) -> None:
        """Insert (name, message, moved_ms, until_ms, sent, dropped)."""
        self.connection.executemany(
            "INSERT INTO bridges(name, message, moved_ms, until_ms, sent, dropped)"
            " VALUES(?, ?, ?, ?, ?, ?)", rows,
        )  # fmt: skip

    def write_end(self, _rows: Any) -> None:
        """Hide the rows whose readings are in chunks."""
        self.connection.execute(_HIDE, (_ALL,))
        self.connection.execute(_SHOW_NEWEST)


def _body(kind: int, body: bytes, problem: str | None) -> str | bytes:
    """Return a body as inspect_body leaves it: JSON is text."""
    if problem is None and kind & ~OPTIONAL in TEXT_KINDS:
        return body.decode()
    return body


def open_target(path: Path) -> SqliteTarget:
    """Open a file for a copy, and make it where there is none.

    Raises:
        StoreError: another program's file. StoreUnavailable: it cannot be made.
    """
    try:
        if path.exists():
            _open_again(path)
        return SqliteTarget(path)
    except apsw.Error as error:
        raise unavailable(path, "opened", error) from error


def _open_again(path: Path) -> None:
    """Let a copy that is not complete be opened; ``begin`` closes it to everybody else again."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.set_busy_timeout(schema.BUSY_TIMEOUT_MS)
        if connection.pragma("application_id") == schema.HALF_COPIED_ID:
            connection.pragma("application_id", schema.APPLICATION_ID)
    finally:
        connection.close()
