"""Blobs on the disk: content by its hash below FOLDER/blobs, one row a blob in the store.

    FOLDER/blobs/ab/abcdef...   content; the name is its SHA-256
    FOLDER/blobs/partial/       what has come of blobs that are not complete; emptied at start

A blob is kept in this order: content synchronised, renamed to its name, its folder
synchronised, row committed. A crash in between leaves content without a row at worst, which
the next offer of the same content finds, or the quotas' sweep (blob_quotas.py).
"""

import asyncio
import hashlib
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import apsw

from fleetnet_server.core.blob_ports import BlobRow
from fleetnet_server.core.blob_ports import PartialFile as AnyPartial
from fleetnet_server.errors import StoreError
from fleetnet_server.store import schema
from fleetnet_server.store.lifetimes import Lifetimes
from fleetnet_server.store.sqlite import SqliteStore

_INSERT = (
    "INSERT INTO blobs(device, number, name, content_format, size, sha256, t_ms, received_ms,"
    " path) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)

# Two disks' worth of work: hashing and synchronising; more would only wait for each other.
_THREADS = 2


class PartialFile:
    """See core.blob_ports."""

    def __init__(self, path: Path):
        self.path = path
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)

    def write(self, offset: int, data: memoryview) -> None:
        """See core.blob_ports."""
        if self._file is None:
            raise OSError(f"{self.path} is closed")
        while data:
            written = os.pwrite(self._file, data, offset)
            data = data[written:]
            offset += written

    def digest(self) -> bytes:
        """See core.blob_ports."""
        if self._file is None:
            raise OSError(f"{self.path} is closed")
        os.fsync(self._file)
        with open(self._file, "rb", closefd=False) as file:
            file.seek(0)
            return hashlib.file_digest(file, "sha256").digest()

    def discard(self) -> None:
        """See core.blob_ports."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self.path.unlink(missing_ok=True)


class BlobFiles:
    """Implements core.blob_ports.BlobStore over a folder and a store. Call ``close`` at the end.

    Attributes:
        lifetimes: of which the quotas count; set by BlobQuotas.
        changing: hold it from looking whether content has a row to acting upon it.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, folder: Path, store: SqliteStore):
        self.folder = folder
        self._store = store
        self._partials = folder / "partial"
        shutil.rmtree(self._partials, ignore_errors=True)
        self._partials.mkdir(parents=True)
        self._threads = ThreadPoolExecutor(_THREADS, "fleetnet-blobs")
        self.lifetimes = Lifetimes()
        self.changing = threading.Lock()

    def is_stored(self, row: BlobRow) -> bool:
        """See core.blob_ports."""
        return bool(
            self._store.read(
                "SELECT 1 FROM blobs WHERE device = ? AND number = ? AND sha256 = ?",
                (row.device_id, row.number, row.sha256.hex()),
            )
        )

    def has_content(self, sha256: bytes, size: int) -> bool:
        """See core.blob_ports."""
        try:
            return (self.folder / content_path(sha256)).stat().st_size == size
        except OSError:
            return False

    def most_bytes(self, device_id: int) -> int | None:
        """See core.blob_ports."""
        if not self.lifetimes.blob_rules:
            return self.lifetimes.blobs_bytes
        rows = self._store.read("SELECT grp FROM devices WHERE id = ?", (device_id,))
        return self.lifetimes.most_blob_bytes(rows[0][0]) if rows else None

    def open_partial(self, device_id: int, sha256: bytes) -> PartialFile:
        """See core.blob_ports."""
        return PartialFile(self._partials / f"{device_id}-{sha256.hex()}")

    async def keep(self, rows: list[BlobRow], partial: AnyPartial | None) -> bool:
        """See core.blob_ports."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._keep, rows, partial)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def _keep(self, rows: list[BlobRow], partial: AnyPartial | None) -> bool:
        sha256 = rows[0].sha256
        if partial is not None and partial.digest() != sha256:
            return False
        path = self.folder / content_path(sha256)
        with self.changing:
            if partial is not None:
                if not path.parent.exists():
                    path.parent.mkdir(exist_ok=True)
                    _synchronise(self.folder)
                os.replace(partial.path, path)
            elif not path.exists():
                raise FileNotFoundError(f"{path} was removed by a quota: it has to come again")
            _synchronise(path.parent)
            self._store.transact(lambda connection: _insert(connection, rows))
        return True


def content_path(sha256: bytes) -> Path:
    """Return where content lies below FOLDER/blobs."""
    text = sha256.hex()
    return Path(text[:2]) / text


def _insert(connection: apsw.Connection, rows: list[BlobRow]) -> None:
    connection.executemany(
        _INSERT,
        [
            (
                row.device_id, row.number, row.name, row.content_format, row.size,
                row.sha256.hex(), row.time_ms, row.received_ms,
                content_path(row.sha256).as_posix(),
            )
            for row in rows
        ],
    )  # fmt: skip


def _synchronise(folder: Path) -> None:
    """A new name is durable when its folder is (fsync(2))."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class StoredBlob(NamedTuple):
    """One blob; ``path`` is below FOLDER/blobs, times are unix ms."""

    id: int
    device: str
    name: str
    content_format: int
    size: int
    sha256: str
    time_ms: int | None
    received_ms: int
    path: str


_SELECT = (
    "SELECT b.id, d.name, b.name, b.content_format, b.size, b.sha256, b.t_ms, b.received_ms,"
    " b.path FROM blobs AS b JOIN devices AS d ON d.id = b.device "
)


def list_blobs(
    path: Path, device: str | None = None, name: str | None = None, limit: int | None = None
) -> list[StoredBlob]:
    """Return blobs, the newest first; works beside a running server.

    Raises:
        StoreError: no such store.
    """
    return _select(
        path,
        "WHERE (?1 IS NULL OR d.name = ?1) AND (?2 IS NULL OR b.name = ?2)"
        " ORDER BY b.id DESC LIMIT ?3",
        (device, name, -1 if limit is None else limit),
    )


def find_blob(path: Path, blob_id: int) -> StoredBlob:
    """Return one blob. Raises StoreError when there is none of that id."""
    found = _select(path, "WHERE b.id = ?", (blob_id,))
    if not found:
        raise StoreError(f"no blob {blob_id}: see `fleetnet blob list`")
    return found[0]


def _select(path: Path, where: str, values: tuple[str | int | None, ...]) -> list[StoredBlob]:
    connection = schema.open_readable(path)
    try:
        if int(connection.pragma("user_version")) < schema.SCHEMA_VERSION:
            return []  # an older server's store: it had no blobs
        return [StoredBlob._make(row) for row in connection.execute(_SELECT + where, values)]
    finally:
        connection.close()
