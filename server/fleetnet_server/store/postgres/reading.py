"""Connections that only read, and answers that stream whatever their size.

A search that crosses many series is cut into windows of time: PostgreSQL sorts one of them at a
time, and the first reading comes at once.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store.postgres.connect import connect, explain, explained, load_psycopg
from fleetnet_server.store.postgres.dialect import translate
from fleetnet_server.store.postgres.expanding import as_text
from fleetnet_server.store.postgres.idle import idle
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    import psycopg

    PgReader = psycopg.Connection[tuple[Any, ...]]

Row = tuple[Any, ...]
Result = TypeVar("Result")

# One statement, or one fetch of an answer that streams: a window of a healthy database takes a
# tenth of a second. What takes this long would be asked again by whoever waits for it.
STATEMENT_S = 30

# Rows of one fetch: 100 KB of readings.
_FETCH_ROWS = 2000
_numbers = count(1)
# The snapshot comes with the first question behind the locks. Before them, rows that leave DEFAULT
# for a new partition would be in neither: deleted for the plan, and not yet there for the snapshot.
BEGIN_SNAPSHOT = (
    "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;"
    " LOCK TABLE messages, readings IN ACCESS SHARE MODE"
)

# The first window, and how the next ones grow: one of few rows is mostly overhead, one of many
# is sorted on the database's disk.
WINDOW_MS = 60_000
_FEW_ROWS, _MANY_ROWS = 2_000, 50_000
_GROWTH, _SHRINK = 8, 4
_SLOW_S = 1.0


def open_reader(place: PostgresPlace, statement_s: float = STATEMENT_S) -> "PgReader":
    """Open a connection that cannot write, in autocommit mode.

    Of several hosts, to the one that can be written: a standby is behind, and taken when there is
    nothing else.

    Raises: as connect.
    """
    connection: PgReader
    try:
        connection = connect(place)
    except StoreUnavailable as error:
        if "read-only" not in str(error):
            raise
        connection = connect(place, writes=False)
    try:
        with explained(place, "opened"):
            # Someone may read an answer slowly: the server would end a transaction that idles.
            connection.execute(
                "SELECT set_config('default_transaction_read_only', 'on', false),"
                " set_config('statement_timeout', %s, false),"
                " set_config('idle_in_transaction_session_timeout', '0', false)",
                (str(round(1000 * statement_s)),),
            )
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def snapshot(place: PostgresPlace) -> Iterator["PgReader"]:
    """Open a database for reading, as it is at this moment, whatever is committed meanwhile.

    Raises, also from within: StoreUnavailable, StoreError.
    """
    connection = _begun(place)
    try:
        with reading(place):
            try:
                yield connection
            finally:
                # Also when nobody wants the rest of an answer. What broke stays broken.
                if is_sound(connection):
                    connection.execute("ROLLBACK")
    finally:
        if is_sound(connection):
            idle.put(place, connection)
        else:
            connection.close()


def is_sound(connection: "PgReader") -> bool:
    """Say whether a connection waits for a statement: not one that broke, or is at it still."""
    status = connection.info.transaction_status
    return not connection.closed and status.name in ("IDLE", "INTRANS", "INERROR")


def _begun(place: PostgresPlace) -> "PgReader":
    """Return a connection inside a transaction, one that rested if there is one."""
    psycopg = load_psycopg()
    while (rested := idle.take(place)) is not None:
        try:
            rested.execute(BEGIN_SNAPSHOT)
        except psycopg.Error:
            rested.close()
        else:
            return rested
    connection = open_reader(place)
    try:
        with reading(place):
            connection.execute(BEGIN_SNAPSHOT)
    except BaseException:
        connection.close()
        raise
    return connection


class Reader:
    """One connection that only reads the tables, made when needed; one thread at a time.

    Use as a context manager, or call ``close``.
    """

    def __init__(self, place: PostgresPlace):
        self._place = place
        self._connection: PgReader | None = None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def read(self, sql: str, values: Sequence[int | str | bytes] = ()) -> list[Row]:
        """Return the rows of the tables' SQL; see store/ports.py. Raises as ``reading``.

        A connection that broke since is made anew: reading twice changes nothing.
        """
        text, numbers = translate(sql)
        values = [as_text(value) if isinstance(value, str) else value for value in values]
        arguments = values if numbers is None else {f"v{n}": values[n - 1] for n in numbers}
        return self.run(lambda connection: connection.execute(text, arguments).fetchall())

    def run(self, read: "Callable[[PgReader], Result]") -> "Result":
        """Call what reads with the connection. Raises as ``reading``."""
        psycopg = load_psycopg()
        with reading(self._place):
            if self._connection is not None:
                try:
                    return read(self._connection)
                except psycopg.Error:
                    if not self._connection.closed:
                        raise
            self._connection = open_reader(self._place)
            return read(self._connection)

    def close(self) -> None:
        """End the connection; the next call makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextmanager
def reading(place: PostgresPlace) -> Iterator[None]:
    """Raise StoreUnavailable or StoreError for what psycopg raises inside."""
    psycopg = load_psycopg()
    try:
        yield
    except psycopg.errors.QueryCanceled as error:
        raise StoreUnavailable(
            f"{place} cannot be read: it took longer than {STATEMENT_S} s; ask for a shorter time,"
            " or see what else the database server does"
        ) from error
    except psycopg.Error as error:
        raise explain(place, "read", error) from error


def stream(
    connection: "PgReader", sql: str, values: Sequence[Any] | Mapping[str, Any] = ()
) -> Iterator[Row]:
    """Yield rows through a cursor of the server's; inside a transaction."""
    psycopg = load_psycopg()
    cursor = connection.cursor(name=f"fleetnet_{next(_numbers)}", binary=True)
    try:
        cursor.itersize = _FETCH_ROWS
        cursor.execute(sql, values)
        yield from cursor
    finally:
        # It ends with its connection, too, and nobody may be there who could be told.
        with suppress(psycopg.Error):
            cursor.close()


def by_windows(
    fetch: Callable[[int, int], Iterable[Row]],
    find: Callable[[int], int | None],
    first: int,
    last: int,
    step: int = 1,
    width_ms: int = WINDOW_MS,
) -> Iterator[Row]:
    """Yield rows of one window of time after another.

    Args:
        fetch: gives the rows of a window; its two times are both included.
        find: gives the time of the first row at or behind a time, None: there is none.
        first, last: unix ms, both included. step: windows begin at its multiples, in ms.
        width_ms: of the first window, and of the first one behind a time without rows.
    """
    found = find(first)
    least = max(step, width_ms - width_ms % step)
    while found is not None and found <= last:
        at = max(first, found - found % step)
        width = least
        while at <= last:
            until = min(at - at % step + width - 1, last)
            rows = 0
            began = time.monotonic()
            for row in fetch(at, until):
                rows += 1
                yield row
            at = until + 1
            if not rows:
                break
            if rows > _MANY_ROWS or time.monotonic() - began > _SLOW_S:
                width = max(step, width // _SHRINK - width // _SHRINK % step)
            elif rows < _FEW_ROWS:
                width *= _GROWTH
        found = find(at) if at <= last else None
