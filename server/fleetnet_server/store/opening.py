"""Opens a store wherever it is. Who has a file never loads the package for PostgreSQL."""

from pathlib import Path

from fleetnet_server.store import schema
from fleetnet_server.store.ports import Store
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store_place import StorePlace


def open_store(place: StorePlace) -> Store:
    """Return a store, open for a command or a program of its own, not for a node that serves.

    Args:
        place: from Settings.store_place.

    Raises:
        StoreError: no file there, another program's file, or a layout that is not of this version.
        StoreUnavailable: it cannot be opened. ConfigError: psycopg is not installed.
    """
    if isinstance(place, Path):
        schema.check_there(place)
        return SqliteStore(place)
    from fleetnet_server.store.postgres.store import PostgresStore

    return PostgresStore(place, node=None, replica=False)
