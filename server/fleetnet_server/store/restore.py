"""Puts a backup (backup.py) into a new folder, after everything in it was verified.

What the lost server did after the backup, this store does not know. So that it can do no harm:

- versions of configurations go on above every one that the lost server can have given;
- commands that were open are ended: their devices may have run them;
- open claims are closed: their devices may have used them.

What was revoked, removed or disabled since is good again until somebody says so once more.
"""

import hashlib
import json
import os
import re
import shutil
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import apsw

from fleetnet_server.errors import FolderError, StoreError
from fleetnet_server.identity.files import (
    PRIVATE_FOLDER,
    hidden_beside,
    move_folder_into_place,
    sync_folder,
)
from fleetnet_server.store import schema
from fleetnet_server.store.audit_rows import add_audit
from fleetnet_server.store.backup import FORMAT, MANIFEST, Advance
from fleetnet_server.store.trouble import unavailable

# In the audit log.
RESTORED = "store-restored"

# The manifest has some 150 B for each file: 1 GB are more blobs than a folder can hold well.
_MAX_MANIFEST = 1 << 30
# Read and hashed at once.
_PIECE = 1 << 20
# Seconds of unix time at the begin of 2026. Versions stay below 2**30 on the wire, so seconds
# since then do until 2060; one change a second of one device would have to go on for ever to
# come ahead of them.
_BASE_S = 1_767_225_600

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.@+=-]{0,254}"
_NAME = re.compile(f"{_PART}(/{_PART}){{0,7}}")

_FORGET = """
UPDATE commands SET ended_ms = ?1,
    state = CASE WHEN sent_boot IS NULL THEN 'expired' ELSE 'lost' END WHERE ended_ms IS NULL;
UPDATE claims SET closed_ms = ?1 WHERE closed_ms IS NULL;
"""


class Restored(NamedTuple):
    """What was put back; ``made_ms``: of the backup, unix ms. ``has_keys``: and the keys."""

    made_ms: int
    files: int
    bytes: int
    has_keys: bool


def restore_backup(
    backup: Path, folder: Path, actor: str, advance: Advance = lambda share, note: None
) -> Restored:
    """Put ``backup`` into ``folder``, which must not be there, or be empty; all or nothing.

    Raises:
        FolderError: the folder is not empty, or cannot be written.
        StoreError: no backup, a damaged one, or one of a newer fleetnet.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FolderError(f"{folder} is not empty and was left alone: name a new folder with -C")
    with _beside(folder) as temporary:
        found = _extract(backup, temporary, advance)
        manifest = _verify(backup, found, temporary)
        advance(0.9, "checking the store")
        _check_store(backup, temporary / manifest["store"])
        _adapt(temporary / manifest["store"], manifest["made_ms"], actor)
        size = sum(size for size, _sha256 in found.values())
        move_folder_into_place(temporary, folder)
    return Restored(manifest["made_ms"], len(found), size, manifest["with_keys"])


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """Make a folder beside the wanted one; it goes when something fails."""
    temporary = hidden_beside(folder.absolute())
    try:
        temporary.mkdir(mode=PRIVATE_FOLDER)
        yield temporary
    except OSError as error:
        where = error.filename or folder
        raise FolderError(f"{where} cannot be written: {error.strerror or error}") from error
    except apsw.Error as error:
        raise unavailable(temporary, "written", error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _extract(backup: Path, into: Path, advance: Advance) -> dict[str, tuple[int, str]]:
    """Write the files of a tar below a folder; return what they are."""
    found: dict[str, tuple[int, str]] = {}
    try:
        with backup.open("rb") as file:
            total = max(1, os.fstat(file.fileno()).st_size)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for entry in tar:
                    # Of whatever else a tar may have, nothing is made; a sparse file of 1 KiB
                    # may be larger than every disk.
                    is_plain = entry.isreg() and not entry.issparse()
                    if not is_plain or not _NAME.fullmatch(entry.name):
                        raise StoreError(f"{backup} is no backup: it has {entry.name!r}")
                    if entry.name in found:
                        raise StoreError(f"{backup} is damaged: {entry.name} is there twice")
                    source = tar.extractfile(entry)
                    assert source is not None  # of a regular file
                    found[entry.name] = _write(source, into, entry.name)
                    advance(0.9 * file.tell() / total, "files")
    except FileNotFoundError:
        raise StoreError(f"no backup at {backup}") from None
    except (tarfile.TarError, EOFError) as error:
        raise StoreError(f"{backup} is no backup, or a damaged one: {error}") from error
    return found


def _write(source: IO[bytes], place: Path, name: str) -> tuple[int, str]:
    *folders, last = name.split("/")
    for part in folders:
        place /= part
        place.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    path = place / last
    hashing, size = hashlib.sha256(), 0
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
        while piece := source.read(_PIECE):
            target.write(piece)
            hashing.update(piece)
            size += len(piece)
        target.flush()
        os.fsync(target.fileno())
    return size, hashing.hexdigest()


def _verify(backup: Path, found: dict[str, tuple[int, str]], folder: Path) -> dict[str, Any]:
    """Compare the files with the manifest, which goes."""
    manifest = folder / MANIFEST
    try:
        if manifest.stat().st_size > _MAX_MANIFEST:
            raise StoreError(f"{backup} is no backup: its manifest is too large")
        document = json.loads(manifest.read_bytes())
        files = {name: (int(one[0]), str(one[1])) for name, one in document["files"].items()}
        if document["format"] > FORMAT or document["layout"] > schema.SCHEMA_VERSION:
            raise StoreError(f"{backup} was made by a newer fleetnet: install that one")
        store, _with_keys = document["store"], bool(document["with_keys"])
        int(document["made_ms"])
    except FileNotFoundError:
        raise StoreError(f"{backup} is no backup, or its end is missing: no {MANIFEST}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{backup} is damaged: its manifest cannot be read: {error}") from error
    manifest.unlink()
    del found[MANIFEST]
    for name in sorted({*found, *files}):
        if found.get(name) != files.get(name):
            raise StoreError(f"{backup} is damaged: {name} is not what it was; use an older backup")
    if store not in found:
        raise StoreError(f"{backup} has no store")
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
    return dict(document)


def _check_store(backup: Path, store: Path) -> None:
    connection = schema.open_readable(store)
    try:
        problems = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
    except apsw.Error as error:
        problems = [str(error)]
    finally:
        connection.close()
    if problems != ["ok"]:
        raise StoreError(f"{backup} has a damaged store: {'; '.join(problems)}; use an older one")


def _adapt(store: Path, made_ms: int, actor: str) -> None:
    """Let the store say nothing that the lost server may have said otherwise since."""
    now_ms = time.time_ns() // 1_000_000
    base = max(0, now_ms // 1000 - _BASE_S)
    connection = schema.open_writable(store)
    try:
        # Not `with connection`: after a full disk its way out fails as well, and says so instead.
        connection.execute("BEGIN IMMEDIATE")
        newest = connection.execute("SELECT coalesce(max(version), 0) FROM configs").get
        base = max(base, int(newest) + 1)
        connection.execute("INSERT INTO restores VALUES(?, ?, ?)", (now_ms, made_ms, base))
        connection.execute("UPDATE configs SET version = ?", (base,))
        for statement in _FORGET.split(";\n"):
            if statement.strip():
                connection.execute(statement, (now_ms,))
        add_audit(connection, actor, RESTORED, None, {"backup_ms": made_ms})
        connection.execute("COMMIT")
    finally:
        connection.close()
