"""A backup: one file with the store as it was at one moment, its blobs, and the settings.

A tar (POSIX.1-2001) of

    blobs/ab/abcdef...      content, named by its SHA-256
    fleet.db                the store; a name of its own in the manifest
    fleetnet.toml ...       settings, policy, retention, bridge; with keys everything else as well
    manifest.json           last: {"format", "made_ms", "layout", "store", "with_keys", "files"},
                            files: {name: [bytes, SHA-256]}

Made beside a running server: SQLite copies pages of one snapshot, whatever is committed meanwhile.
"""

import fcntl
import hashlib
import json
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, NamedTuple

import apsw

from fleetnet_server.config import FILE_NAME as SETTINGS
from fleetnet_server.errors import FolderError
from fleetnet_server.identity.files import sync_folder
from fleetnet_server.identity.policy import FILE_NAME as POLICY
from fleetnet_server.store import schema
from fleetnet_server.store.lifetimes import FILE_NAME as RETENTION
from fleetnet_server.store.trouble import unavailable

# Of the file; a reader takes this one and older ones.
# Of the manifest; a restore refuses what it does not know.
FORMAT = 1
MANIFEST = "manifest.json"
BLOBS = "blobs"

# Without keys: what says how the fleet runs, and nothing that lets anybody in.
_PLAIN = (SETTINGS, POLICY, RETENTION, "mqtt.toml")
# Pages between two moves of the bar: 32 MiB.
_PAGES_A_STEP = 4096

Advance = Callable[[float, str], None]


class Made(NamedTuple):
    """What a backup has; ``lost_blobs`` were removed by a quota while it was made."""

    made_ms: int
    bytes: int
    files: int
    blobs: int
    lost_blobs: int


def make_backup(
    folder: Path, store: Path, target: Path, with_keys: bool = False,
    advance: Advance = lambda share, note: None,
) -> Made:  # fmt: skip
    """Write ``target``, whole or not at all; others cannot read it.

    Args:
        store: of the fleet in ``folder``. advance: function (share done, text).

    Raises:
        FolderError: target exists, or cannot be written. StoreError: no store there.
        StoreUnavailable: it cannot be read.
    """
    if target.exists():
        raise FolderError(f"{target} exists and was left alone: name another file")
    if not store.is_relative_to(folder):
        raise FolderError(f"{store} is outside of {folder}: a restored fleet would use that one")
    copy = target.with_name(f".{target.name}.store")
    archive = target.with_name(f".{target.name}.partial")
    try:
        with _alone(folder):
            try:
                made_ms = _copy_store(store, copy, advance)
                with open(_create(archive), "w+b") as file:
                    made = _write(
                        _Archive(file), folder, store, copy, made_ms, with_keys, advance
                    )
                    file.flush()
                    os.fsync(file.fileno())
                os.link(archive, target)  # never over another file
                sync_folder(target.absolute().parent)
            finally:
                for path in (copy, archive, *(Path(f"{copy}{end}") for end in ("-wal", "-shm"))):
                    path.unlink(missing_ok=True)
    except apsw.FullError:
        raise FolderError(f"{target} cannot be written: its disk is full; make room") from None
    except apsw.Error as error:
        raise unavailable(store, "copied", error) from error
    except OSError as error:
        raise FolderError(f"{target} cannot be written: {error.strerror or error}") from error
    return made


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two backups to one file would take each other's half for their own, and call it whole."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise FolderError(f"another backup of {folder} is under way: wait for it") from None
    finally:
        os.close(handle)


def _create(path: Path) -> int:
    """Open a new file that is its owner's alone; what a killed backup left goes."""
    path.unlink(missing_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)


def _copy_store(store: Path, copy: Path, advance: Advance) -> int:
    """Copy the store as it is now; return when that was, unix ms."""
    source = schema.open_readable(store)
    try:
        os.close(_create(copy))
        target = apsw.Connection(str(copy))
        try:
            # The snapshot is held by this transaction: commits do not begin the copy again.
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM devices").fetchall()
            made_ms = time.time_ns() // 1_000_000
            target.execute("PRAGMA synchronous=OFF")  # it is synchronised as part of the archive
            with target.backup("main", source, "main") as copying:
                while not copying.done:
                    copying.step(_PAGES_A_STEP)
                    done = copying.page_count - copying.remaining
                    advance(0.5 * done / max(1, copying.page_count), "store")
            # One file: a write-ahead log beside it would be half of the truth.
            target.execute("PRAGMA journal_mode=DELETE").fetchall()
        finally:
            target.close()
    finally:
        source.close()
    return made_ms


def _write(
    archive: "_Archive", folder: Path, store: Path, copy: Path, made_ms: int, with_keys: bool,
    advance: Advance,
) -> Made:  # fmt: skip
    lost = _add_blobs(archive, folder, copy, advance)
    blobs = len(archive.files)
    if lost:
        _forget_blobs(copy, lost)
    name_of_store = store.relative_to(folder).as_posix()
    archive.add(name_of_store, copy)
    for name in sorted(_all_names(folder, store) if with_keys else _PLAIN):
        if (folder / name).is_file():
            archive.add(name, folder / name)
    document = {
        "format": FORMAT, "made_ms": made_ms, "layout": schema.SCHEMA_VERSION,
        "store": name_of_store, "with_keys": with_keys, "files": archive.files,
    }  # fmt: skip
    archive.close(json.dumps(document).encode())
    return Made(made_ms, archive.size, len(archive.files), blobs, len(lost))


def _add_blobs(archive: "_Archive", folder: Path, copy: Path, advance: Advance) -> list[str]:
    """Add the content of all blobs of the copy; return those that are gone."""
    lost = []
    connection = schema.open_readable(copy)
    try:
        total = int(connection.execute("SELECT count(DISTINCT sha256) FROM blobs").get) or 1
        rows = connection.execute("SELECT DISTINCT sha256 FROM blobs")
        for number, (sha256,) in enumerate(rows):
            name = f"{sha256[:2]}/{sha256}"
            try:
                archive.add(f"{BLOBS}/{name}", folder / BLOBS / name)
            except FileNotFoundError:
                lost.append(str(sha256))
            advance(0.5 + 0.4 * number / total, "blobs")
    finally:
        connection.close()
    return lost


def _forget_blobs(copy: Path, lost: list[str]) -> None:
    connection = apsw.Connection(str(copy))
    try:
        with connection:
            connection.executemany("DELETE FROM blobs WHERE sha256 = ?", [(one,) for one in lost])
    finally:
        connection.close()


def _all_names(folder: Path, store: Path) -> Iterator[str]:
    """Everything of the folder but the store, the blobs, the lock and what is half written."""
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if parts[0] == BLOBS or parts == ("serve.lock",):
            continue
        if path.parent == store.parent and path.name.startswith(store.name):
            continue
        if not path.is_symlink() and not any(part.startswith(".") for part in parts):
            yield "/".join(parts)


class _Archive:
    """A tar under way, with what its manifest will say.

    Attributes:
        files: name: [bytes, SHA-256]. size: bytes of all together.
    """

    def __init__(self, file: IO[bytes]):
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)
        self.files: dict[str, tuple[int, str]] = {}
        self.size = 0

    def add(self, name: str, path: Path) -> None:
        """Add a file as it is now. Raises OSError."""
        with path.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            reading = _Hashing(source)
            self._tar.addfile(_entry(name, size), reading)
        self.files[name] = (size, reading.hash.hexdigest())
        self.size += size

    def close(self, manifest: bytes) -> None:
        """Add the manifest, and end the tar."""
        self._tar.addfile(_entry(MANIFEST, len(manifest)), BytesIO(manifest))
        self._tar.close()


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, 0o600, int(time.time())
    return entry


class _Hashing:
    """Hashes what is read through it."""

    def __init__(self, source: IO[bytes]):
        self._source = source
        self.hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.hash.update(data)
        return data
