"""The control tables in memory, as SQLite: what a node reads on its event loop.

The tables and their names are SQLite's (store/schema.py), so that one text of SQL reads both.
Only what replica.py fills is there; a read of another table is a NotCopied.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apsw

from fleetnet_server.errors import StoreError
from fleetnet_server.store import schema
from fleetnet_server.store.postgres.schema_cluster import REPLICATED

# Commands that ended so long ago nobody waits for any more.
KEPT_MS = 3_600_000
# Rows of the audit log behind the newest that are kept: nobody who looks for news is so late.
_KEPT_AUDIT = 20_000
_PRUNE_EVERY_S = 60.0


class NotCopied(StoreError):
    """The table is not in memory: read it in the database, on a thread that may wait."""


class Change:
    """One row of ``changes``: how a row of a table is now, or that it is gone."""

    __slots__ = ("is_gone", "row", "table")

    def __init__(self, table: str, op: str, row: dict[str, Any]):
        self.table, self.is_gone, self.row = table, op == "D", row


class Copied:
    """The tables, for any thread; one statement at a time, each a matter of microseconds.

    Attributes:
        revocations: grows when a certificate was revoked, by whomever.
        audit: id of the newest row of the audit log that was ever in here, 0: none.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection = _make_tables()
        self._columns = _columns(self._connection)
        self._pruned = time.monotonic()
        self.audit = self.revocations = 0

    def columns(self, table: str) -> list[str]:
        """Return the columns of a table, in order."""
        return [name for name, _, _ in self._columns[table]]

    def read(self, sql: str, values: tuple[int | str | bytes, ...] = ()) -> list[tuple[Any, ...]]:
        """Return rows. Raises NotCopied."""
        with self._lock:
            try:
                return self._connection.execute(sql, values).fetchall()
            except apsw.SQLError as error:
                if "no such table" in str(error):
                    raise NotCopied(f"{error}: it is in the database alone") from error
                raise

    def load(self, tables: "Iterable[tuple[str, Iterable[Sequence[Any]]]]") -> None:
        """Put other rows in place of all that are here, at once.

        Args:
            tables: each with its rows, which have its columns in order.
        """
        made = _make_tables()
        made.execute("BEGIN")
        for table, rows in tables:
            names = self.columns(table)
            marks = ", ".join("?" * len(names))
            made.executemany(
                f"INSERT INTO {table}({', '.join(names)}) VALUES({marks})",
                rows,
            )
        made.execute("COMMIT")
        with self._lock:
            old, self._connection = self._connection, made
            self._note_audit()
            self.revocations += 1
        old.close()

    def apply(self, changes: Iterable[Change]) -> None:
        """Take changes, in order: all of them or, when it raises, none."""
        with self._lock:
            connection = self._connection
            connection.execute("BEGIN")
            try:
                for change in changes:
                    if change.table in self._columns:
                        self._apply(change)
                if time.monotonic() - self._pruned > _PRUNE_EVERY_S:
                    self._prune()
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            self._note_audit()

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._connection.close()

    def _apply(self, change: Change) -> None:
        table, row = change.table, change.row
        columns = self._columns[table]
        if change.is_gone:
            keys = [(name, read) for name, read, is_key in columns if is_key]
            where = " AND ".join(f"{name} = ?" for name, _ in keys)
            values = [read(row[name]) for name, read in keys]
            self._connection.execute(f"DELETE FROM {table} WHERE {where}", values)  # noqa: S608
            return
        if table == "certificates" and row["revoked_ms"] is not None:
            self.revocations += 1
        names = ", ".join(name for name, _, _ in columns)
        marks = ", ".join("?" * len(columns))
        self._connection.execute(
            f"INSERT OR REPLACE INTO {table}({names}) VALUES({marks})",
            [read(row[name]) for name, read, _ in columns],
        )

    def _prune(self) -> None:
        self._pruned = time.monotonic()
        self._connection.execute(
            "DELETE FROM commands WHERE ended_ms < ?"
            " AND number < (SELECT max(number) FROM commands)",
            (time.time_ns() // 1_000_000 - KEPT_MS,),
        )
        self._connection.execute("DELETE FROM audit WHERE id <= ?", (self.audit - _KEPT_AUDIT,))

    def _note_audit(self) -> None:
        newest = self._connection.execute("SELECT coalesce(max(id), 0) FROM audit").get
        self.audit = max(self.audit, int(newest))


def _make_tables() -> apsw.Connection:
    connection = apsw.Connection(":memory:", statementcachesize=256)
    schema.make_tables(connection)
    things = connection.execute(
        "SELECT type, name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'"
        " AND (type IN ('trigger', 'view') OR type = 'table') ORDER BY type = 'table'"
    ).fetchall()
    for kind, name in things:
        if kind != "table" or name not in REPLICATED:
            connection.execute(f"DROP {kind} {name}")
    return connection


_Reader = Callable[[Any], Any]


def _columns(connection: apsw.Connection) -> dict[str, list[tuple[str, _Reader, bool]]]:
    """Return table -> (column, how its JSON is read, whether it is of the key) of each."""
    return {
        table: [
            (name, _read_bytes if kind == "BLOB" else _as_it_is, bool(key))
            for _, name, kind, _, _, key in connection.execute(f"PRAGMA table_info({table})")
        ]
        for table in REPLICATED
    }


def _as_it_is(value: Any) -> Any:
    return value


def _read_bytes(value: str | None) -> bytes | None:
    """PostgreSQL writes bytes in JSON as text: \\x and hexadecimal."""
    return None if value is None else bytes.fromhex(value[2:])
