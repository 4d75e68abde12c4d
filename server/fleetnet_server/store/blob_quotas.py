"""Keeps blobs within FOLDER/retention.toml: ages, quotas of devices, the quota of all.

The oldest go first: rows in one commit, then the content that no row names any more. A crash in
between leaves content without a row, which a sweep at start and once a day finds.
"""

import logging
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import apsw

from fleetnet_server.errors import ConfigError, StoreUnavailable
from fleetnet_server.store.blobs import BlobFiles
from fleetnet_server.store.lazy_reader import LazyReader
from fleetnet_server.store.lifetimes import Lifetimes, load_lifetimes
from fleetnet_server.store.ports import Connection, Store
from fleetnet_server.store_place import StorePlace

if TYPE_CHECKING:
    from fleetnet_server.store.postgres.reading import Reader

_log = logging.getLogger("fleetnet.blobs")

# Between two looks at what is there: what a camera sends meanwhile is above its quota.
_PASS_S = 10.0
# Of content without a row: only a crash leaves any.
_SWEEP_S = 86_400.0
# Rows of one step: the lock that new blobs wait for is held for some ms.
_ROWS_A_STEP = 100

# PostgreSQL has no such words, and finds the index itself.
_INDEXED = "INDEXED BY blobs_device"
_DEVICES = (
    f"SELECT b.device, d.grp, sum(b.size) FROM blobs AS b {_INDEXED}"  # noqa: S608
    " JOIN devices AS d ON d.id = b.device GROUP BY b.device"
)
_ALL = "SELECT coalesce(sum(size), 0) FROM (SELECT DISTINCT sha256, size FROM blobs)"
_OLDEST_OF = (
    f"SELECT id, size, sha256, received_ms FROM blobs {_INDEXED}"  # noqa: S608
    f" WHERE device = ? ORDER BY id LIMIT {_ROWS_A_STEP}"
)
_OLDEST = (
    "SELECT id, size, sha256, received_ms FROM blobs"  # noqa: S608
    f" ORDER BY id LIMIT {_ROWS_A_STEP}"
)
_NAMED = "SELECT 1 FROM blobs WHERE sha256 = ? LIMIT 1"


class _Row(NamedTuple):
    id: int
    size: int
    sha256: str
    received_ms: int


class BlobQuotas:
    """Removes blobs, some a step. The thread of its own is Housekeeping's.

    Args:
        folder: of the fleet; its retention.toml is read at the start of each pass.

    Attributes:
        removed, freed_bytes: blobs, and bytes of content. orphans: content without a blob.
    """

    name = "blob quotas"

    def __init__(
        self, store: Store, files: BlobFiles, folder: Path,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ):  # fmt: skip
        self._store = store
        self._files = files
        self._folder = folder
        self._clock_ms = clock_ms
        self._reader = _open_later(store.place)
        self._due = self._sweep_due = 0.0
        self._folders: list[Path] = []
        self.removed = self.freed_bytes = self.orphans = 0

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def step(self) -> int:
        """Do one piece of work; return some bytes, 0 when none is due.

        Raises StoreUnavailable: try again later.
        """
        try:
            return self._sweep() or self._enforce()
        except (OSError, apsw.Error) as error:
            raise StoreUnavailable(f"{self._files.folder}: {error}") from error

    def _read(self, sql: str, values: tuple[int | str, ...] = ()) -> list[tuple[Any, ...]]:
        if isinstance(self._reader, LazyReader):
            return self._reader.open().execute(sql, values).fetchall()
        return self._reader.read(sql.replace(_INDEXED, ""), values)

    def _enforce(self) -> int:
        now = time.monotonic()
        if now < self._due:
            return 0
        try:
            lifetimes = self._files.lifetimes = load_lifetimes(self._folder)
        except ConfigError:
            # Retention says so. What was in force stays: half a file could end too much.
            self._due = now + _PASS_S
            return 0
        if rows := self._surplus(lifetimes):
            return self._remove(rows)
        self._due = now + _PASS_S
        return 0

    def _surplus(self, lifetimes: Lifetimes) -> list[_Row]:
        """Return some blobs that have to go, of one device or the oldest of all."""
        now_ms = self._clock_ms()
        devices: list[tuple[int, str, int]] = []
        if lifetimes.blob_rules:
            devices += self._read(_DEVICES)
        for device, group, size in devices:
            rule = lifetimes.blob_rule(group)
            before = None if rule.keep_ms is None else now_ms - rule.keep_ms
            surplus = 0 if rule.device_bytes is None else size - rule.device_bytes
            if before is not None or surplus > 0:
                rows = map(_Row._make, self._read(_OLDEST_OF, (device,)))
                if found := _first(rows, surplus, before):
                    return found
        if lifetimes.blobs_bytes is not None:
            surplus = int(self._read(_ALL)[0][0]) - lifetimes.blobs_bytes
            if surplus > 0:
                return _first(map(_Row._make, self._read(_OLDEST)), surplus)
        return []

    def _remove(self, rows: list[_Row]) -> int:
        ids = [(row.id,) for row in rows]
        sizes = {row.sha256: row.size for row in rows}

        def work(connection: Connection) -> list[str]:
            connection.executemany("DELETE FROM blobs WHERE id = ?", ids)
            return [one for one in sizes if connection.execute(_NAMED, (one,)).get is None]

        with self._files.changing:
            for sha256 in self._store.transact(work):
                self._unlink(sha256)
                self.freed_bytes += sizes[sha256]
        self.removed += len(rows)
        _log.info("%d blobs were removed for ages and quotas", len(rows))
        return sum(sizes.values()) + 1

    def _unlink(self, sha256: str) -> None:
        (self._files.folder / sha256[:2] / sha256).unlink(missing_ok=True)

    def _sweep(self) -> int:
        """Remove content of one of the folders that has no row."""
        if not self._folders:
            if time.monotonic() < self._sweep_due:
                return 0
            self._sweep_due = time.monotonic() + _SWEEP_S
            self._folders = [
                path
                for path in self._files.folder.iterdir()
                if re.fullmatch("[0-9a-f]{2}", path.name) and path.is_dir()
            ]
            return 0
        for path in self._folders.pop().iterdir():
            with self._files.changing:
                if not self._read(_NAMED, (path.name,)):
                    path.unlink(missing_ok=True)
                    self.orphans += 1
        return 1


def _open_later(place: StorePlace) -> "LazyReader | Reader":
    if isinstance(place, Path):
        return LazyReader(place)
    from fleetnet_server.store.postgres.reading import Reader

    return Reader(place)


def _first(rows: Iterable[_Row], surplus: int, before: int | None = None) -> list[_Row]:
    """Return the first rows that are too old, or that ``surplus`` bytes ask for."""
    found = []
    for row in rows:
        if surplus <= 0 and (before is None or row.received_ms >= before):
            break
        surplus -= row.size
        found.append(row)
    return found
