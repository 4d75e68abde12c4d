"""A connection that is opened when it is first used, and again behind a fault."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fleetnet_server.store.postgres.connect import connect, explained
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    import psycopg

    PgRawConnection = psycopg.Connection[tuple[Any, ...]]


class LazyConnection:
    """One connection of a work of housekeeping; one thread at a time."""

    def __init__(self, place: PostgresPlace):
        self._place = place
        self._connection: PgRawConnection | None = None

    @contextmanager
    def use(self, done: str) -> Iterator["PgRawConnection"]:
        """Give the connection; whatever is raised inside ends it, as nobody knows its state.

        Args:
            done: what is done with the database, for the error: "it cannot be ... ".

        Raises:
            StoreUnavailable, StoreError: for what psycopg raises, as connect.explained.
        """
        try:
            with explained(self._place, done):
                if self._connection is None:
                    self._connection = connect(self._place)
                yield self._connection
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the connection; the next use makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
