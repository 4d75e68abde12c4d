"""A connection for reading that is opened when it is first used, and again after ``close``."""

from pathlib import Path

import apsw

from fleetnet_server.store import schema


class LazyReader:
    """One store file, read from one thread at a time.

    Args:
        path: the file, which need not be there yet.
    """

    def __init__(self, path: Path):
        self._path = path
        self._connection: apsw.Connection | None = None

    def open(self) -> apsw.Connection:
        """Return the connection. Raises as schema.open_readable."""
        if self._connection is None:
            self._connection = schema.open_readable(self._path)
        return self._connection

    def close(self) -> None:
        """Close the file; the next ``open`` opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
