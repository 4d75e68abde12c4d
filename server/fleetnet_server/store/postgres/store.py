"""The store in PostgreSQL: the same surface as SqliteStore, for one node or for a command.

A node (``node`` is its name) commits messages of the devices whose leases it holds, and reads the
control tables in its replica, so that nothing on the event loop waits for the network. A command
(``node`` is None) reads and changes the database itself, and needs no lease.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from fleetnet_server.core.bodies import Message
from fleetnet_server.core.ports import Committed, SessionAbout, SessionStart
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store.fleet_store import FleetStore
from fleetnet_server.store.ports import Connection, Result
from fleetnet_server.store.postgres.database import PostgresDatabase
from fleetnet_server.store.postgres.ingest import Ingest
from fleetnet_server.store.postgres.lease_rows import Begun
from fleetnet_server.store.postgres.leases import Leases
from fleetnet_server.store.postgres.schema_cluster import LAST_CHANGE
from fleetnet_server.store.registry import DeviceTable
from fleetnet_server.store_place import PostgresPlace

if TYPE_CHECKING:
    from fleetnet_server.store.postgres.replica import Replica

# Behind this whoever holds the audit log and stands still is ended (database.py).
_AUDIT_S = 8.0
# The replica has a change some ms behind its commit. Longer, and the caller goes on: what it reads
# may be a moment old.
_SEEN_S = 2.0


class PostgresStore(FleetStore):
    """One database, open for a node or a command.

    ``commit`` runs on one thread; ``begin``, ``end`` and the notes on the event loop's, where
    none of them waits. ``transact`` waits for the database: not on the loop.

    Args:
        node: name of this node; None: a command, which begins no sessions.
        replica: keep the control tables in memory and read there.

    Attributes:
        on_lost: see MessageStore. on_change: called on the replica's thread behind a change.
        Others: see FleetStore.

    Raises:
        StoreError: it is not migrated, or does not let us in. StoreUnavailable: no server.
        ConfigError: psycopg is missing.
    """

    def __init__(self, place: PostgresPlace, *, node: str | None = None, replica: bool = False):
        super().__init__()
        self.place = self.path = place
        self.node = node
        self.on_change: Callable[[], None] | None = None
        self._database = PostgresDatabase(place)
        self._leases = None if node is None else Leases(place, node)
        self._ingest = Ingest(place, self._leases)
        self._lock = threading.Lock()
        self._closed = False
        self._boots: dict[int, dict[int, int]] = {}
        self._replica = self._start_replica() if replica else None
        self.registry = DeviceTable(self)

    def _start_replica(self) -> "Replica":
        from fleetnet_server.store.postgres.replica import Replica

        leases = self._leases
        try:
            replica = Replica(
                self.place,
                on_change=self._changed,
                on_lease=leases.heard if leases else lambda _device, _fence, _node: None,
                on_listening=leases.look if leases else lambda: None,
            )
            replica.start()
        except BaseException:
            self._database.close()
            raise
        return replica

    @property
    def on_lost(self) -> Callable[[int], None] | None:
        """See MessageStore."""
        return self._leases.on_lost if self._leases else None

    @on_lost.setter
    def on_lost(self, call: Callable[[int], None] | None) -> None:
        if self._leases is not None:
            self._leases.on_lost = call

    @property
    def replica(self) -> "Replica | None":
        """The control tables in memory; None: they are read in the database."""
        return self._replica

    # Sessions

    def begin(
        self, device_id: int, epoch: bytes, about: SessionAbout
    ) -> Awaitable[SessionStart]:
        """See MessageStore: takes the device's lease; a round trip or two."""
        if self._leases is None:
            raise StoreUnavailable(f"{self.place} is open for a command: it begins no sessions")
        return self._begun(device_id, self._leases.begin(device_id, epoch, about))

    async def _begun(self, device_id: int, asked: "asyncio.Future[Begun]") -> SessionStart:
        return self._note_begun(device_id, await asked)

    def begin_now(
        self, device_id: int, epoch: bytes, about: SessionAbout | None = None
    ) -> SessionStart:
        """Do what ``begin`` does on a thread that may wait. Raises as it does."""
        if self._leases is None:
            raise StoreUnavailable(f"{self.place} is open for a command: it begins no sessions")
        begun = self._leases.begin_now(device_id, epoch, about or SessionAbout("", ""))
        return self._note_begun(device_id, begun)

    def _note_begun(self, device_id: int, begun: Begun) -> SessionStart:
        self._boots[device_id] = {**begun.boots, **self._boots.get(device_id, {})}
        return begun.start

    def end(self, device_id: int) -> None:
        """See MessageStore."""
        self._boots.pop(device_id, None)
        if self._leases is not None:
            self._leases.end(device_id)

    def set_boot(self, device_id: int, boot: int, offset_ms: int) -> None:
        """See FleetStore."""
        self._boots.setdefault(device_id, {})[boot] = offset_ms
        super().set_boot(device_id, boot, offset_ms)

    def boot_offset(self, device_id: int, boot: int) -> int | None:
        """Return the offset of a boot in ms, None when it is unknown here.

        A commit knows more boots than this, and dates what came without a date.
        """
        return self._boots.get(device_id, {}).get(boot)

    # The commit

    def commit(self, batch: Sequence[Message]) -> Sequence[int] | Committed:
        """Store a batch in one transaction; it is on the server's disk when this returns.

        Returns:
            The indexes of the messages that were not stored before, in order; with those of
            devices whose lease is another node's, when there are any.

        Raises:
            StoreUnavailable, StoreError: commit the same batch again later; what was stored
                of it nevertheless is not stored twice.

        Cost: see docs/store.md; blocks for four round trips and an fsync of the server's.
        """
        with self._lock:
            done, stored = self._ingest.commit(batch, self._waiting())
            self._settle(stored)
        return done if done.lost else done.new

    # Tables

    def read(self, sql: str, values: tuple[int | str | bytes, ...] = ()) -> list[tuple[Any, ...]]:
        """Return rows: of the replica, which waits for nothing, or of the database."""
        if self._replica is not None:
            return self._replica.read(sql, values)
        return self._database.read(sql, values)

    def transact(self, work: Callable[[Connection], Result]) -> Result:
        """Run ``work`` in a transaction of the database, commit it, return what it returned.

        The replica has the change by then. Not for the event loop's thread.

        Raises:
            StoreUnavailable: nothing was stored, unless it says so. What ``work`` raises: neither.
        """
        replica = self._replica
        if replica is None:
            return self._database.transact(work)

        def counted(connection: Connection) -> tuple[Result, int]:
            result = work(connection)
            return result, int(connection.execute(LAST_CHANGE).get or 0)

        result, change = self._database.transact(counted)
        if change:
            replica.wait_for(change, _SEEN_S)
        return result

    def last_received(self, device_id: int) -> int | None:
        """Return when the newest message of a device's newest epoch came, unix ms."""
        return self._database.last_received(device_id)

    def close(self) -> None:
        """Write what is deferred, give the leases back, end the connections.

        Raises StoreUnavailable when what is deferred cannot be written.
        """
        if self._closed:
            return
        try:
            self._write_deferred()
        finally:
            self._closed = True
            self._ingest.close()
            if self._leases is not None:
                self._leases.close()
            if self._replica is not None:
                self._replica.close()
            self._database.close()

    def _write_deferred(self) -> None:
        until = time.monotonic() + _AUDIT_S
        while self.has_deferred:
            self.commit([])
            if time.monotonic() > until and self._audit:
                raise StoreUnavailable(
                    f"{self.place}: another program holds the audit log, which lacks"
                    f" {len(self._audit)} rows: see pg_locks there for feed_lock"
                )

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()
