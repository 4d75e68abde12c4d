"""Blobs on the disk: content by its hash below FOLDER/blobs, one row a blob in the store.

    FOLDER/blobs/ab/abcdef...   content; the name is its SHA-256
    FOLDER/blobs/partial/       what has come of blobs that are not complete; emptied at start

A blob is kept in this order: content synchronised, renamed to its name, its folder
synchronised, row committed. A crash in between leaves content without a row at worst, which
the next offer of the same content finds, or the quotas' sweep (blob_quotas.py).
"""

import asyncio
import fcntl
import hashlib
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from fleetnet_server.core.blob_ports import BlobRow
from fleetnet_server.core.blob_ports import PartialFile as AnyPartial
from fleetnet_server.errors import StoreError
from fleetnet_server.store import schema
from fleetnet_server.store.lifetimes import Lifetimes
from fleetnet_server.store.ports import Connection, Database
from fleetnet_server.store_place import PostgresPlace, StorePlace

_INSERT = (
    "INSERT INTO blobs(device, number, name, content_format, size, sha256, t_ms, received_ms,"
    " path) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)

# Two disks' worth of work: hashing and synchronising; more would only wait for each other.
_THREADS = 2


# Below FOLDER/blobs. Each process that receives blobs has partials of its own.
PARTIALS, LOCK = "partial", ".lock"


class _Changing:
    """A lock for the threads of this process, and for every process that uses the folder."""

    def __init__(self, path: Path):
        self._path = path
        self._lock = threading.Lock()
        self._file: int | None = None

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_error: object) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
        self._lock.release()


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

    Args:
        partials: name of the folder below it for blobs that are not complete; emptied.

    Attributes:
        lifetimes: of which the quotas count; set by BlobQuotas.
        changing: hold it from looking whether content has a row to acting upon it.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, folder: Path, store: Database, partials: str = PARTIALS):
        self.folder = folder
        self._store = store
        self._partials = folder / partials
        shutil.rmtree(self._partials, ignore_errors=True)
        self._partials.mkdir(parents=True)
        self._threads = ThreadPoolExecutor(_THREADS, "fleetnet-blobs")
        self.lifetimes = Lifetimes()
        self.changing = _Changing(folder / LOCK)

    def is_stored(self, row: BlobRow) -> bool:
        """See core.blob_ports."""
        try:
            found = self._store.read(
                "SELECT 1 FROM blobs WHERE device = ? AND number = ? AND sha256 = ?",
                (row.device_id, row.number, row.sha256.hex()),
            )
        except StoreError:
            # Of several servers none has these rows in memory; the content is found, as of
            # any blob that comes again, and its row is not added twice.
            return False
        return bool(found)

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


def _insert(connection: Connection, rows: list[BlobRow]) -> None:
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
    place: StorePlace, device: str | None = None, name: str | None = None, limit: int | None = None
) -> list[StoredBlob]:
    """Return blobs, the newest first; works beside a running server.

    Raises:
        StoreError: no such store. StoreUnavailable.
    """
    wanted = [("d.name = ?", device), ("b.name = ?", name)]
    texts = [text for text, value in wanted if value is not None]
    values: list[str | int] = [value for _text, value in wanted if value is not None]
    where = f"WHERE {' AND '.join(texts)}" if texts else ""
    if limit is not None:
        values.append(limit)
    last = "" if limit is None else " LIMIT ?"
    return _select(place, f"{where} ORDER BY b.id DESC{last}", tuple(values))


def find_blob(place: StorePlace, blob_id: int) -> StoredBlob:
    """Return one blob. Raises StoreError when there is none of that id."""
    found = _select(place, "WHERE b.id = ?", (blob_id,))
    if not found:
        raise StoreError(f"no blob {blob_id}: see `fleetnet blob list`")
    return found[0]


def _select(place: StorePlace, where: str, values: tuple[str | int, ...]) -> list[StoredBlob]:
    if isinstance(place, PostgresPlace):
        from fleetnet_server.store.postgres.reading import Reader

        with Reader(place) as reader:
            return [StoredBlob._make(row) for row in reader.read(_SELECT + where, values)]
    connection = schema.open_readable(place)
    try:
        if int(connection.pragma("user_version")) < schema.SCHEMA_VERSION:
            return []  # an older server's store: it had no blobs
        found = connection.execute(_SELECT + where, values)  # nosemgrep: sql-by-text - constants
        return [StoredBlob._make(row) for row in found]
    finally:
        connection.close()
