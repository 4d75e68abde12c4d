"""Reading and changing the tables in PostgreSQL, on any thread: one connection, made when needed.

A connection that broke is made anew by the next call. What is sure not to have happened is tried
again at once; what may have happened is not.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store.ports import Connection, Readable, Result
from fleetnet_server.store.postgres import migrations
from fleetnet_server.store.postgres.connect import connect, explained, load_psycopg
from fleetnet_server.store.postgres.locks import TAKE_FEED
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    from fleetnet_server.store.postgres.dialect import PgConnection

# A program that stands still inside a transaction holds the feed, for which all others wait.
_STILL = "SET idle_in_transaction_session_timeout = '5s'"
# Deadlocks and serialization failures: another program's transaction was in the way of this one.
_TRIES = 4
_IN_THE_WAY = ("40001", "40P01")

_LAST_RECEIVED = (
    "SELECT max(received) FROM streams WHERE received > 0 AND epoch ="
    " (SELECT max(id) FROM epochs WHERE device = ?)"
)
# The same of every device.
LAST_OF_ALL = (
    "SELECT e.device, max(s.received) FROM"
    " (SELECT device, max(id) AS id FROM epochs GROUP BY device) AS e"
    " JOIN streams AS s ON s.epoch = e.id WHERE s.received > 0 GROUP BY e.device"
)


class PostgresDatabase:
    """A Database (store/ports.py) in PostgreSQL. Use as a context manager, or call ``close``.

    Raises:
        StoreError: it is not migrated, or the user may not. StoreUnavailable: no server.
        ConfigError: psycopg is missing.
    """

    def __init__(self, place: PostgresPlace):
        self.place = place
        self._lock = threading.Lock()
        self._connection: PgConnection | None = None
        try:
            with explained(place, "opened"):
                migrations.check(self._open().raw, place)
        except BaseException:
            self._drop()
            raise

    def __enter__(self) -> "PostgresDatabase":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def read(self, sql: str, values: tuple[int | str | bytes, ...] = ()) -> list[tuple[Any, ...]]:
        """See Database. Tried again once on a new connection: reading twice changes nothing."""
        with self._lock:
            return self._again(lambda connection: connection.execute(sql, values).fetchall())

    def _again(self, read: "Callable[[PgConnection], Result]") -> Result:
        psycopg = load_psycopg()
        with explained(self.place, "read"):
            if self._connection is not None:
                try:
                    return read(self._connection)
                except psycopg.Error:
                    if not self._connection.raw.closed:
                        raise
                    self._drop()
            return read(self._open())

    def transact(self, work: Callable[[Connection], Result]) -> Result:
        """See Database. ``work`` may be run again when another program was in its way."""
        psycopg = load_psycopg()
        with self._lock, explained(self.place, "written"):
            for tries_left in reversed(range(_TRIES)):
                try:
                    return self._transact(work)
                except psycopg.Error as error:
                    if error.sqlstate not in _IN_THE_WAY or not tries_left:
                        raise
        raise AssertionError("unreachable")

    def _transact(self, work: Callable[[Connection], Result]) -> Result:
        psycopg = load_psycopg()
        connection = self._begun()
        try:
            result = work(connection)
        except BaseException:
            self._roll_back()
            raise
        try:
            connection.raw.execute("COMMIT")
        except psycopg.Error as error:
            if not connection.raw.closed:
                raise  # the server said no, and nothing is there
            self._drop()
            raise StoreUnavailable(
                f"{self.place} ended while a change was committed ({error}): "
                "see whether it is there before you repeat it"
            ) from error
        return result

    def _begun(self) -> "PgConnection":
        """Return a connection inside a transaction that has the feed; once on a new one."""
        psycopg = load_psycopg()
        if self._connection is not None:
            try:
                self._begin(self._connection)
                return self._connection
            except psycopg.Error:
                if not self._connection.raw.closed:
                    self._roll_back()
                    raise
                self._drop()
        connection = self._open()
        self._begin(connection)
        return connection

    @staticmethod
    def _begin(connection: "PgConnection") -> None:
        connection.raw.execute("BEGIN")
        connection.raw.execute(TAKE_FEED)

    def _roll_back(self) -> None:
        psycopg = load_psycopg()
        if self._connection is None:
            return
        try:
            self._connection.raw.execute("ROLLBACK")
        except psycopg.Error:
            self._drop()

    def last_received(self, device_id: int) -> int | None:
        """See Database."""
        return last_received(self, device_id)

    def close(self) -> None:
        """End the connection."""
        with self._lock:
            self._drop()

    def _open(self) -> "PgConnection":
        from fleetnet_server.store.postgres.dialect import PgConnection

        if self._connection is None:
            raw = connect(self.place)
            raw.execute(_STILL)
            self._connection = PgConnection(raw)
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.raw.close()
            self._connection = None


def last_received(store: Readable, device_id: int) -> int | None:
    """Return when the newest message of a device's newest epoch came, unix ms."""
    ((found,),) = store.read(_LAST_RECEIVED, (device_id,))
    return None if found is None else int(found)
