"""PostgreSQL as a worker of `fleetnet serve --workers` has it; see store/remote.py."""

from pathlib import Path

from fleetnet_server.store.postgres.store import PostgresStore
from fleetnet_server.store.remote import RemoteMessages
from fleetnet_server.store.remote_line import StoreLine
from fleetnet_server.store_place import PostgresPlace


class RemotePostgresStore(RemoteMessages, PostgresStore):
    """A database with a replica of its own, and the store process that commits to it.

    The node is the store process: it has the leases, which it shares out among the workers.

    Args:
        place: the database. Others: see RemoteMessages.use_line.

    Raises:
        StoreError, StoreUnavailable, ConfigError: as PostgresStore.
    """

    def __init__(self, place: PostgresPlace, folder: Path, line: StoreLine, worker: int):
        super().__init__(place, node=None, replica=True)
        self.use_line(folder, line, worker)

    def close(self) -> None:
        """Write what is deferred, and close. Raises StoreUnavailable when it cannot."""
        try:
            super().close()
        finally:
            self._hang_up()
