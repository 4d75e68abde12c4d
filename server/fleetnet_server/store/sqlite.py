"""The store over one SQLite file: registry, epochs, watermarks, and the group commit.

Two connections, so that nothing on the event loop waits for a commit: the loop reads
through one (WAL readers never block), the writer's thread writes through the other. What
the loop must write (a new epoch, a gap, the offset of a boot) waits in memory and goes
into the next commit, before the messages that need it.

Implements fleetnet_server.identity.registry.Registry.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import apsw

from fleetnet_server.core.bodies import Message
from fleetnet_server.core.ports import SessionAbout, SessionStart
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.identity.registry import Device
from fleetnet_server.store import schema, streams
from fleetnet_server.store.answers import apply_answers
from fleetnet_server.store.batch import (
    date_messages,
    insert,
    newly_stored,
    note_carriers,
    undated_devices,
)
from fleetnet_server.store.registry import PROGRAM, DeviceTable
from fleetnet_server.store.trouble import unavailable

Result = TypeVar("Result")

# unix ms, actor, action, device, detail as JSON
AuditRow = tuple[int, str, str, str | None, str]

# Rows of the audit log that may wait for a store that is away: some 1 MB.
MAX_AUDIT = 4096

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


class SqliteStore:
    """One store file, open for writing.

    ``commit`` runs on one thread, everything else on the event loop's. What says that it
    commits waits for the disk, and for a batch under way: call it from a thread of its own
    while a Writer runs. Use as a context manager, or call ``close``.

    Args:
        path: the file; created when missing.

    Attributes:
        on_deferred: called on the loop's thread when something waits for the next commit
            without a message (set by Writer).
        on_lost: see MessageStore; never called, as one server alone has the file.
        registry: its devices and certificates.

    Raises:
        StoreError: another program's file, or one of a newer layout.
        StoreUnavailable: the file cannot be opened.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.on_deferred: Callable[[], None] | None = None
        self.on_lost: Callable[[int], None] | None = None
        self._lock = threading.Lock()
        self._deferring = threading.Lock()
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
        self._new_epochs: dict[tuple[int, bytes], int] = {}
        self._next_epoch = 1 + int(
            self._reader.execute("SELECT coalesce(max(id), 0) FROM epochs").get
        )
        self._offsets: dict[tuple[int, int], int] = {}
        self._gaps: list[tuple[int, int, int, int, int, int]] = []
        self._audit: list[AuditRow] = []
        self.registry = DeviceTable(self)

    @property
    def place(self) -> Path:
        """Where it is (store/places.py)."""
        return self.path

    def __enter__(self) -> "SqliteStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Registry

    def lookup(self, name: str) -> Device | None:
        """Return the device of that name, None when it is not registered, or was removed."""
        return self.registry.lookup(name)

    def was_removed(self, name: str) -> bool:
        """Say whether somebody removed a device of that name."""
        return self.registry.was_removed(name)

    def has_own_certificate(self, device_id: int) -> bool:
        """See Registry."""
        return self.registry.has_own_certificate(device_id)

    def admit(self, name: str, state: str, serial: int, policy: str) -> None:
        """Register a device that came by itself, and commit; see DeviceTable.admit."""
        self.registry.admit(name, state, serial, policy)

    def devices(self) -> list[Device]:
        """Return every device by name."""
        return self.registry.devices()

    def add_device(self, name: str, actor: str = PROGRAM) -> Device:
        """Register a device, enabled, and commit. Raises as DeviceTable.add."""
        return self.registry.add(name, actor)

    def set_enabled(self, name: str, enabled: bool) -> None:
        """Enable or disable a device, and commit. Raises StoreError when it is unknown."""
        self.registry.set_enabled(name, enabled)

    def add_certificate(self, device_id: int, serial: int, not_after_ms: int) -> None:
        """Note a certificate that was issued to a device, and commit."""
        self.registry.add_certificate(device_id, serial, not_after_ms)

    def revoke_certificate(self, serial: int) -> None:
        """Refuse a certificate from now on, and commit. Raises StoreError when it is unknown."""
        self.registry.revoke_certificate(serial)

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

    def note_gap(self, device_id: int, epoch_id: int, stream: int, first: int, last: int) -> None:
        """Note that a device dropped messages ``first`` to ``last``, with the next commit."""
        now_ms = time.time_ns() // 1_000_000
        self._gaps.append((device_id, epoch_id, stream, first, last, now_ms))
        self._deferred()

    def set_boot(self, device_id: int, boot: int, offset_ms: int) -> None:
        """Tell the offset (unix ms minus uptime ms) of a boot, with the next commit.

        Dates the stored messages of that boot that have no date yet. A later call refines
        the offset for later messages only.
        """
        with self._deferring:
            self._offsets[(device_id, boot)] = offset_ms
        self._deferred()

    def boot_offset(self, device_id: int, boot: int) -> int | None:
        """Return the offset of a boot in ms, None when it is unknown."""
        pending = self._offsets.get((device_id, boot))
        if pending is not None:
            return pending
        row = self._first(
            "SELECT offset_ms FROM boots WHERE device = ? AND boot = ?", (device_id, boot)
        )
        return None if row is None else int(row[0])

    def defer_audit(self, row: AuditRow) -> bool:
        """Write (unix ms, actor, action, device, detail as JSON) with the next commit.

        False: MAX_AUDIT rows wait already, and this one was not taken.
        """
        if len(self._audit) >= MAX_AUDIT:
            return False
        self._audit.append(row)
        self._deferred()
        return True

    @property
    def audit_room(self) -> int:
        """How many rows ``defer_audit`` would take now."""
        return MAX_AUDIT - len(self._audit)

    @property
    def has_deferred(self) -> bool:
        """Something waits for the next commit."""
        return bool(self._new_epochs or self._gaps or self._offsets or self._audit)

    # The commit

    def commit(self, batch: Sequence[Message]) -> Sequence[int]:
        """Store a batch in one transaction; it is on the disk when this returns.

        Returns:
            The indexes of the messages that were not stored before, in order.

        Raises:
            StoreUnavailable: nothing of the batch was stored; commit it again later.

        Cost: 2 to 3 us a message of 130 B, 1,000 devices; blocks for an fsync.
        """
        with self._lock:
            epochs = list(self._new_epochs.items())
            gaps = self._gaps[:]
            audit = self._audit[:]
            offsets = list(self._offsets.items())
            try:
                connection = self._connection()
                connection.execute("BEGIN IMMEDIATE")
                self._write_deferred(connection, epochs, gaps, audit)
                stored = insert(connection, batch)
                new: Sequence[int] = range(len(batch))
                if stored != len(batch):
                    new = newly_stored(connection, batch, stored)
                apply_answers(connection, batch)
                note_carriers(connection, batch)
                undated = undated_devices(batch)
                if offsets or undated:
                    date_messages(connection, offsets, undated, stored)
                connection.execute("COMMIT")
            except _UNAVAILABLE as error:
                self._roll_back(reopen=isinstance(error, apsw.IOError))
                raise StoreUnavailable(f"{self.path} cannot be written: {error}") from error
            except BaseException:
                self._roll_back(reopen=False)
                raise
        del self._gaps[: len(gaps)]
        del self._audit[: len(audit)]
        self._forget(epochs, offsets)
        return new

    def _forget(
        self,
        epochs: Iterable[tuple[tuple[int, bytes], int]],
        offsets: Iterable[tuple[tuple[int, int], int]],
    ) -> None:
        """What was deferred is on the disk."""
        for key, _number in epochs:
            del self._new_epochs[key]
        with self._deferring:  # a newer offset that came meanwhile stays
            for boot, offset in offsets:
                if self._offsets[boot] == offset:
                    del self._offsets[boot]

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
                raise StoreUnavailable(f"{self.path} cannot be written: {error}") from error
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

    def _deferred(self) -> None:
        if self.on_deferred is not None:
            self.on_deferred()

    def _connection(self) -> apsw.Connection:
        if self._writable is None:
            self._writable = schema.open_writable(self.path)
        return self._writable

    def _write_deferred(
        self,
        connection: apsw.Connection,
        epochs: Iterable[tuple[tuple[int, bytes], int]],
        gaps: Iterable[tuple[int, int, int, int, int, int]],
        audit: Iterable[AuditRow],
    ) -> None:
        for (device_id, epoch), number in epochs:
            connection.execute(
                "INSERT INTO epochs(id, device, epoch) VALUES(?, ?, ?)", (number, device_id, epoch)
            )
        for gap in gaps:
            connection.execute("INSERT OR REPLACE INTO gaps VALUES(?, ?, ?, ?, ?, ?)", gap)
        for row in audit:
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
