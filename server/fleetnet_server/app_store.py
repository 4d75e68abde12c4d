"""What app.Backend does otherwise when its store is a database of PostgreSQL.

psycopg (extra "postgres") is only loaded for who has one.
"""

import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fleetnet_server.config import Settings
from fleetnet_server.core.events import Events
from fleetnet_server.core.peer import Peer
from fleetnet_server.core.presence import Presence
from fleetnet_server.core.router import Router
from fleetnet_server.core.shared_presence import SharedPresence
from fleetnet_server.store import schema
from fleetnet_server.store.blob_quotas import BlobQuotas
from fleetnet_server.store.blobs import BlobFiles
from fleetnet_server.store.compaction import Compactor
from fleetnet_server.store.following import Followers
from fleetnet_server.store.housekeeping import Stepping
from fleetnet_server.store.log_damage import LeftLog
from fleetnet_server.store.retention import Retention
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store.writer import Writer
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    from fleetnet_server.store.postgres.store import PostgresStore

    ServedStore = SqliteStore | PostgresStore


def node_name(settings: Settings) -> str:
    """Return the name of this server among those at its database."""
    return settings.node or f"{socket.gethostname()}-{os.getpid()}"


def open_served(settings: Settings, folder: Path) -> "ServedStore":
    """Open the store for a server. Raises StoreError, StoreUnavailable, ConfigError."""
    place = settings.store_place(folder)
    if isinstance(place, Path):
        schema.check_there(place)
        LeftLog(place).compare()
        return SqliteStore(place)
    from fleetnet_server.store.postgres.store import PostgresStore

    return PostgresStore(place, node=node_name(settings), replica=True)


def make_blob_files(store: "ServedStore", folder: Path, partials: str) -> BlobFiles:
    """Open FOLDER/blobs, which several servers may share; incomplete blobs are each one's own.

    Args:
        partials: name of the folder for these.
    """
    if not isinstance(store, SqliteStore):
        # The same after a restart, which empties it; the lock of a fleet folder is one server's.
        whose = f"{socket.gethostname()}:{folder.resolve()}"
        partials = f"{partials}-{hashlib.sha256(whose.encode()).hexdigest()[:12]}"
    return BlobFiles(folder / "blobs", store, partials)


def make_writer(store: "ServedStore", router: Router, settings: Settings) -> Writer[Peer]:
    """Return the writer of a store, on the running loop; the router hears of its commits."""
    return Writer(
        store,
        router.on_durable,
        interval_s=settings.commit_interval_ms / 1000,
        max_rows=settings.commit_rows,
        on_lost=router.on_lost,
    )


def make_feed(store: "ServedStore") -> tuple[Events, Presence]:
    """Return what happens, and who is here: at this server, or at all that share the store."""
    events = Events()
    if isinstance(store, SqliteStore):
        return events, Presence(events.publish)
    return events, SharedPresence(store.node or "", events.publish)


def newest_received(store: "ServedStore") -> int | None:
    """Return when the newest message was received, unix ms; None: there is none."""
    sql = "SELECT received FROM messages ORDER BY id DESC LIMIT 1"
    if isinstance(store, SqliteStore):
        rows = store.read(sql)
        return rows[0][0] if rows else None
    from fleetnet_server.store.postgres.reading import Reader

    with Reader(store.place) as reader:
        newest = reader.read("SELECT max(received) FROM streams")[0][0]
    return int(newest) if newest else None


class Led:
    """A work of housekeeping that one node does for all: see Stepping.

    Args:
        leads: whether this node does it now.
    """

    def __init__(self, work: Stepping, leads: Callable[[], bool]):
        self._work = work
        self._leads = leads

    @property
    def name(self) -> str:
        """See Stepping."""
        return self._work.name

    def step(self) -> int:
        """See Stepping; nothing is due at a node that does not lead."""
        return self._work.step() if self._leads() else 0

    def close(self) -> None:
        """See Stepping."""
        self._work.close()


def make_works(
    store: "ServedStore",
    folder: Path,
    files: BlobFiles,
    clock_ms: Callable[[], int],
    followers: Followers,
    leads: Callable[[], bool],
) -> tuple[Stepping, ...]:
    """Return what housekeeping does with a store."""
    quotas = BlobQuotas(store, files, folder, clock_ms)
    if isinstance(store, SqliteStore):
        compactor = Compactor(store, followers=followers)
        return compactor, Retention(store, folder, clock_ms), quotas
    from fleetnet_server.store.postgres.backlog import Backlog
    from fleetnet_server.store.postgres.partitions import Partitions
    from fleetnet_server.store.postgres.pruning import Pruning
    from fleetnet_server.store.postgres.retention import PostgresRetention

    place: PostgresPlace = store.place
    works: tuple[Stepping, ...] = (
        Partitions(place), Backlog(place), PostgresRetention(place, folder, clock_ms),
        Pruning(place, folder, clock_ms), quotas,
    )  # fmt: skip
    return tuple(Led(work, leads) for work in works)
