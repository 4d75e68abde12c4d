"""The store over one SQLite file: registry, epochs, watermarks, and the group commit.

Two connections, so that nothing on the event loop waits for a commit: the loop reads
through one (WAL readers never block), the writer's thread writes through the other. What
the loop must write waits in memory (fleet_store.py), and so does a new epoch.
"""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import apsw

from fleetnet_server.core.bodies import Message
from fleetnet_server.core.ports import SessionAbout, SessionStart
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store import schema, streams
from fleetnet_server.store.answers import apply_answers
from fleetnet_server.store.batch import (
    date_messages,
    insert,
    newly_stored,
    note_carriers,
    undated_devices,
)
from fleetnet_server.store.fleet_store import Deferred, FleetStore
from fleetnet_server.store.registry import DeviceTable
from fleetnet_server.store.trouble import unavailable

Result = TypeVar("Result")

_UNAVAILABLE = (
    apsw.FullError,
    apsw.IOError,
    apsw.BusyError,
    apsw.LockedError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.NoMemError,
    apsw.CorruptError,
    apsw.ProtocolError,
)


class SqliteStore(FleetStore):
    """One store file, open for writing.

    ``commit`` runs on one thread, everything else on the event loop's. What says that it
    commits waits for the disk, and for a batch under way: call it from a thread of its own
    while a Writer runs.

    Args:
        path: the file; created when missing.

    Attributes:
        on_lost: see MessageStore; never called, as one server alone has the file.
        Others: see FleetStore.

    Raises:
        StoreError: another program's file, or one of a newer layout.
        StoreUnavailable: the file cannot be opened.
    """

    def __init__(self, path: str | Path):
        super().__init__()
        self.path = Path(path)
        self.on_lost: Callable[[int], None] | None = None
        self._lock = threading.Lock()
        self._writable: apsw.Connection | None = None
        self._closed = False
        try:
            self._writable = schema.open_writable(path)
            self._reader = schema.open_readable(path)
        except (*_UNAVAILABLE, StoreUnavailable) as error:
            if self._writable is not None:
                self._writable.close()
            if isinstance(error, StoreUnavailable):
                raise
            raise unavailable(path, "opened", error) from error
        self._file = _identity(self.path)
        self._new_epochs: dict[tuple[int, bytes], int] = {}
        self._next_epoch = 1 + int(
            self._reader.execute("SELECT coalesce(max(id), 0) FROM epochs").get
        )
        self.registry = DeviceTable(self)

    @property
    def place(self) -> Path:
        """Where it is (store_place.py)."""
        return self.path

    def last_received(self, device_id: int) -> int | None:
        """See Database; reads as ``read`` does."""
        return streams.last_received(self, device_id)

    # Sessions, epochs, boots, gaps

    def begin(self, device_id: int, epoch: bytes, about: SessionAbout) -> SessionStart:
        """See MessageStore; answers at once. Raises StoreUnavailable."""
        return SessionStart(self.epoch_id(device_id, epoch), self.watermarks(device_id, epoch))

    def end(self, device_id: int) -> None:
        """See MessageStore: a file has no leases."""

    def epoch_id(self, device_id: int, epoch: bytes) -> int:
        """Return the small number of a device's epoch (8 bytes), a new one when it is new.

        A new epoch is written with the next commit, together with its first messages.
        """
        key = (device_id, epoch)
        pending = self._new_epochs.get(key)
        if pending is not None:
            return pending
        row = self._first("SELECT id FROM epochs WHERE device = ? AND epoch = ?", key)
        if row is not None:
            return int(row[0])
        number = self._next_epoch
        self._next_epoch += 1
        self._new_epochs[key] = number
        return number

    def watermarks(self, device_id: int, epoch: bytes) -> dict[int, int]:
        """Return {stream: highest durable sequence} of an epoch; gaps count as stored.

        Messages that wait for a commit are not in it.
        """
        row = self._first(
            "SELECT id FROM epochs WHERE device = ? AND epoch = ?", (device_id, epoch)
        )
        if row is None:
            return {}
        marks = self._read(streams.WATERMARKS, (row[0],))
        found: dict[int, int] = {}
        for stream, seq in marks:
            found[stream] = max(seq, found.get(stream, 0))
        return found

    def boot_offset(self, device_id: int, boot: int) -> int | None:
        """Return the offset of a boot in ms, None when it is unknown."""
        pending = self._offsets.get((device_id, boot))
        if pending is not None:
            return pending
        row = self._first(
            "SELECT offset_ms FROM boots WHERE device = ? AND boot = ?", (device_id, boot)
        )
        return None if row is None else int(row[0])

    @property
    def has_deferred(self) -> bool:
        """Something waits for the next commit."""
        return bool(self._new_epochs) or super().has_deferred

    # The commit

    def commit(self, batch: Sequence[Message]) -> Sequence[int]:
        """Store a batch in one transaction; it is on the disk when this returns.

        Returns:
            The indexes of the messages that were not stored before, in order.

        Raises:
            StoreUnavailable: nothing of the batch was stored; commit it again later.

        Cost: 3 us a message of 130 B, 1,000 devices; 8 to 17 where each of them has pages of its
        own in the indexes. Blocks for an fsync.
        """
        with self._lock:
            waited = self._waiting()
            # Behind the gaps, whose epochs it then has.
            epochs = list(self._new_epochs.items())
            try:
                connection = self._connection()
                connection.execute("BEGIN IMMEDIATE")
                self._write_deferred(connection, epochs, waited)
                stored = insert(connection, batch)
                new: Sequence[int] = range(len(batch))
                if stored != len(batch):
                    new = newly_stored(connection, batch, stored)
                apply_answers(connection, batch)
                note_carriers(connection, batch)
                undated = undated_devices(batch)
                if waited.offsets or undated:
                    date_messages(connection, waited.offsets.items(), undated, stored)
                connection.execute("COMMIT")
            except _UNAVAILABLE as error:
                self._roll_back(reopen=isinstance(error, apsw.IOError))
                raise unavailable(self.path, "written", error) from error
            except BaseException:
                self._roll_back(reopen=False)
                raise
        self._settle(waited)
        for key, _number in epochs:
            del self._new_epochs[key]
        return new

    def transact(self, work: Callable[[apsw.Connection], Result]) -> Result:
        """Run ``work`` in a transaction of its own, commit it, and return what it returned.

        Waits for the disk and for a batch under way: not for the event loop's thread.

        Raises:
            StoreUnavailable: nothing was stored. What ``work`` raises: neither.
        """
        with self._lock:
            try:
                connection = self._connection()
                connection.execute("BEGIN IMMEDIATE")
                result = work(connection)
                connection.execute("COMMIT")
            except _UNAVAILABLE as error:
                self._roll_back(reopen=isinstance(error, apsw.IOError))
                raise unavailable(self.path, "written", error) from error
            except BaseException:
                self._roll_back(reopen=False)
                raise
        return result

    def read(self, sql: str, values: tuple[int | str | bytes, ...] = ()) -> list[tuple[Any, ...]]:
        """Return rows as they are committed, on the event loop's thread: keep it short.

        Raises StoreUnavailable when the file cannot be read.
        """
        return self._read(sql, values)

    def close(self) -> None:
        """Write what is deferred, and close the file. Raises StoreUnavailable when it cannot."""
        if self._closed:
            return
        try:
            if self.has_deferred:
                self.commit([])
        finally:
            self._closed = True
            self._reader.close()
            if self._writable is not None:
                self._writable.close()

    def _read(self, sql: str, values: tuple[int | str | bytes, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._reader.execute(sql, values).fetchall()
        except _UNAVAILABLE as error:
            raise unavailable(self.path, "read", error) from error

    def _first(self, sql: str, values: tuple[int | str | bytes, ...]) -> tuple[Any, ...] | None:
        rows = self._read(sql, values)
        return rows[0] if rows else None

    def _connection(self) -> apsw.Connection:
        if _identity(self.path) != self._file:
            # What is written to a file without a name is gone when it is closed: nothing that
            # cannot be found again may be acknowledged.
            raise StoreUnavailable(
                f"{self.path} was removed or replaced while it was in use: "
                "put it back, or stop the server and restore a backup"
            )
        if self._writable is None:
            self._writable = schema.open_writable(self.path)
        return self._writable

    def _write_deferred(
        self,
        connection: apsw.Connection,
        epochs: Iterable[tuple[tuple[int, bytes], int]],
        waited: Deferred,
    ) -> None:
        for (device_id, epoch), number in epochs:
            connection.execute(
                "INSERT INTO epochs(id, device, epoch) VALUES(?, ?, ?)", (number, device_id, epoch)
            )
        for gap in waited.gaps:
            connection.execute("INSERT OR REPLACE INTO gaps VALUES(?, ?, ?, ?, ?, ?)", gap)
        for row in waited.audit:
            connection.execute(
                "INSERT INTO audit(at_ms, actor, action, device, detail) VALUES(?, ?, ?, ?, ?)", row
            )

    def _roll_back(self, reopen: bool) -> None:
        connection = self._writable
        if connection is None:
            return
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except apsw.Error:
            reopen = True
        # After a failed fsync the kernel may call the same pages clean: start from the file.
        if reopen:
            self._writable = None
            connection.close()


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file lies at ``path``, by device and inode; None: none that can be seen."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
