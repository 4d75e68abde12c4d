"""What the HTTP API shows of a store: pages of rows, ready to be JSON, beside the event loop.

Every call runs on a thread with a connection of its own that only reads (WAL: it waits for
nobody and nobody waits for it). Writing goes through the store's own connection and lock.

A page is (rows, position behind it or None). Positions are plain JSON values; web/paging.py
makes them opaque.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import apsw

from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.identity import expiry
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.registry import Device
from fleetnet_server.identity.server_keys import ServerKeys
from fleetnet_server.store import schema, streams
from fleetnet_server.store.access import Access
from fleetnet_server.store.blobs import StoredBlob
from fleetnet_server.store.expiry import device_certificates
from fleetnet_server.store.history import History
from fleetnet_server.store.overview import Overview
from fleetnet_server.store.ports import Connection, Store
from fleetnet_server.store.query import decode_value, query
from fleetnet_server.store.registry import DeviceTable
from fleetnet_server.store.view_summaries import summary_page
from fleetnet_server.store_place import StorePlace

if TYPE_CHECKING:
    from fleetnet_server.store.postgres.reading import Reader

Row = dict[str, Any]
Page = tuple[list[Row], list[Any] | None]
P = ParamSpec("P")
Result = TypeVar("Result")

# Long queries at once. More would only fight for the disk and, in decoding, for the interpreter.
_THREADS = 3

# A page of readings that takes longer ends early, with its position: a channel that is rare
# among 100 million readings must not hold a thread for minutes.
_PAGE_S = 1.0
_LOOK_EVERY = 256

_COMMANDS = (
    "SELECT c.number, c.id, d.name, c.name, c.args, c.state, c.created_ms, c.expires_ms,"
    " c.ended_ms, c.result, c.issuer FROM commands AS c JOIN devices AS d ON d.id = c.device"
)
_BLOBS = (
    "SELECT b.id, d.name, b.name, b.content_format, b.size, b.sha256, b.t_ms, b.received_ms,"
    " b.path FROM blobs AS b JOIN devices AS d ON d.id = b.device"
)
_IMAGES = "(22, 23)"  # image/jpeg and image/png, IANA CoAP


class Views:
    """Call what reads through ``run``, and ``close`` at the end.

    Raises, from ``run``:
        StoreUnavailable: the file cannot be read. StoreError: as the functions say.
    """

    def __init__(self, folder: Path, store: Store):
        self._folder = folder
        self._store = store
        self._place = store.place
        self._local = threading.local()
        self._readers: list[apsw.Connection | Reader] = []
        self._threads = ThreadPoolExecutor(_THREADS, "fleetnet-views")
        self.registry = DeviceTable(self)
        self.access = Access(self, store)
        self.history = History(self, self._place)
        read_last = None if isinstance(self._place, Path) else self._read_last
        self.overview = Overview(self, self.registry, read_last)

    async def run(self, function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Call a function on one of the threads."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*args, **kwargs))

    def close(self) -> None:
        """End the threads, behind what they do."""
        self._threads.shutdown(cancel_futures=True)
        for reader in self._readers:
            reader.close()
        if not isinstance(self._place, Path):
            from fleetnet_server.store.postgres.idle import idle

            idle.close()

    # -- store.registry.Database -------------------------------------------------------------

    def read(self, sql: str, values: tuple[int | str | bytes, ...] = ()) -> list[tuple[Any, ...]]:
        """See Database.read, on a thread."""
        reader = self._reader()
        if not isinstance(reader, apsw.Connection):
            return reader.read(sql, values)
        try:
            return reader.execute(sql, values).fetchall()
        except apsw.Error as error:
            raise StoreUnavailable(f"{self._place} cannot be read: {error}") from error

    def transact(self, work: Callable[[Connection], Result]) -> Result:
        """See Database."""
        return self._store.transact(work)

    def last_received(self, device_id: int) -> int | None:
        """See Database."""
        if isinstance(self._place, Path):
            return streams.last_received(self, device_id)
        from fleetnet_server.store.postgres.database import last_received

        return last_received(self, device_id)

    def _read_last(self) -> dict[int, int]:
        from fleetnet_server.store.postgres.database import LAST_OF_ALL

        return dict(self.read(LAST_OF_ALL))

    def _reader(self) -> "apsw.Connection | Reader":
        """Return this thread's connection."""
        found: apsw.Connection | Reader | None = getattr(self._local, "reader", None)
        if found is None:
            found = self._local.reader = _open_reader(self._place)
            self._readers.append(found)
        return found

    # -- devices -----------------------------------------------------------------------------

    def device(self, name: str) -> Device | None:
        """Return a registered device."""
        return self.registry.lookup(name)

    def devices(
        self,
        after: str = "",
        limit: int = 100,
        *,
        group: str | None = None,
        state: str | None = None,
        labels: Iterable[tuple[str, str]] = (),
        is_wanted: Callable[[str], bool] | None = None,
    ) -> Page:
        """Return devices by name; ``is_wanted`` chooses among names, on this thread."""
        wanted = list(labels)
        found: list[Row] = []
        for number, name, state_, group_, text, created_ms in self.read(
            "SELECT id, name, state, grp, labels, created_ms FROM devices"
            " WHERE state != 'removed' AND name > ?1"
            " AND (?2 = '' OR grp = ?2) AND (?3 = '' OR state = ?3) ORDER BY name",
            (after, group or "", state or ""),
        ):
            marks = json.loads(text)
            if any(marks.get(key) != value for key, value in wanted):
                continue
            if is_wanted is not None and not is_wanted(name):
                continue
            if len(found) == limit:
                return found, [found[-1]["name"]]
            found.append(self._device_row(number, name, state_, group_, marks, created_ms))
        return found, None

    def device_row(self, name: str) -> Row | None:
        """Return one device as ``devices`` does."""
        rows = self.read(
            "SELECT id, name, state, grp, labels, created_ms FROM devices"
            " WHERE state != 'removed' AND name = ?",
            (name,),
        )
        if not rows:
            return None
        number, name, state, group, text, created_ms = rows[0]
        return self._device_row(number, name, state, group, json.loads(text), created_ms)

    def _device_row(
        self, number: int, name: str, state: str, group: str, labels: Any, created_ms: int
    ) -> Row:
        ((expires_ms,),) = self.read(
            "SELECT max(not_after_ms) FROM certificates WHERE device = ? AND revoked_ms IS NULL",
            (number,),
        )
        return {
            "id": number, "name": name, "state": state, "group": group, "labels": labels,
            "created_ms": created_ms, "expires_ms": expires_ms,
            "last_message_ms": self.registry.last_message_ms(number),
            "credential": self.registry.credential(number),
        }  # fmt: skip

    def certificates(self, device_id: int) -> list[Row]:
        """Return a device's certificates, the newest first."""
        return [
            one._asdict() | {"serial": f"{one.serial:x}"}
            for one in self.registry.certificates(device_id)
        ]

    def identities(self, device_id: int) -> list[Row]:
        """Return the story of a device's identities, the newest first."""
        names = ("number", "serial", "state", "reason", "tries", "offered_ms", "ended_ms")
        rows = self.read(
            f"SELECT {', '.join(names)} FROM identities"  # noqa: S608
            " WHERE device = ? AND number >= 0 ORDER BY number DESC LIMIT 100",
            (device_id,),
        )
        return [dict(zip(names, row, strict=True)) for row in rows]

    def device_states(self) -> dict[str, int]:
        """Return how many devices there are of each state."""
        return dict(
            self.read("SELECT state, count(*) FROM devices WHERE state != 'removed' GROUP BY state")
        )

    def expiries(self) -> list[expiry.Expiry]:
        """Return when each certificate ends. Raises as upkeep.Upkeep.expiries."""
        return expiry.expiries(
            time.time_ns() // 1_000_000,
            device_certificates(self),
            ServerKeys(self._folder),
            Authority.load(self._folder),
        )

    # -- readings ------------------------------------------------------------------------------

    def readings(
        self,
        device: str | None,
        channel: str | None,
        start_ms: int,
        end_ms: int,
        limit: int,
        after: tuple[int, int] | None = None,
    ) -> Page:
        """Return dated readings in order of time.

        Args:
            start_ms, end_ms: unix ms; the end is not included.
            after: (unix ms of the last one, how many of that ms were given).

        A page may be short, or empty, with a position: see _PAGE_S.
        """
        at_ms, given = after or (start_ms, 0)
        skip = given
        deadline = time.monotonic() + _PAGE_S
        rows: list[Row] = []
        # Every channel is read: a filter below would not come back before it found something.
        found = query(self._place, device, None, max(start_ms, at_ms), end_ms - 1)
        try:
            for count, one in enumerate(found, 1):
                if one.unix_ms is None:
                    break
                if one.unix_ms == at_ms and skip:
                    skip -= 1
                    continue
                given = given + 1 if one.unix_ms == at_ms else 1
                at_ms = one.unix_ms
                if channel in (None, one.channel):
                    rows.append(one._asdict())
                if len(rows) == limit or (count % _LOOK_EVERY == 0 and time.monotonic() > deadline):
                    return rows, [at_ms, given]
        finally:
            found.close()  # type: ignore[attr-defined]
        return rows, None

    def summaries(
        self, device: str, channel: str, start_ms: int, end_ms: int, step_ms: int, limit: int
    ) -> Page:
        """See view_summaries.summary_page."""
        return summary_page(self._place, device, channel, start_ms, end_ms, step_ms, limit)

    # -- commands, blobs, audit ------------------------------------------------------------------

    def commands(self, device: str | None, before: int | None, limit: int) -> Page:
        """Return commands, the newest first."""
        rows = self._newest(_COMMANDS, "c.number", device, before, limit)
        found = [_command(row) for row in rows]
        return found, [rows[-1][0]] if len(rows) == limit else None

    def command(self, command_id: str) -> Row | None:
        """Return one command."""
        rows = self.read(f"{_COMMANDS} WHERE c.id = ?", (command_id,))
        return _command(rows[0]) if rows else None

    def blobs(self, device: str | None, name: str | None, before: int | None, limit: int) -> Page:
        """Return blobs, the newest first; ``name`` is that of the blob."""
        rows = self._newest(_BLOBS, "b.id", device, before, limit, name)
        found = [_blob(StoredBlob._make(row)) for row in rows]
        return found, [rows[-1][0]] if len(rows) == limit else None

    def blob(self, blob_id: int) -> tuple[Row, Path] | None:
        """Return one blob, and where its content is."""
        return self._one_blob("WHERE b.id = ?", blob_id)

    def latest_frame(self, device_id: int) -> tuple[Row, Path] | None:
        """Return a device's newest image, by arrival."""
        where = f"WHERE b.device = ? AND b.content_format IN {_IMAGES} ORDER BY b.id DESC LIMIT 1"
        return self._one_blob(where, device_id)

    def _one_blob(self, where: str, value: int) -> tuple[Row, Path] | None:
        rows = self.read(f"{_BLOBS} {where}", (value,))
        if not rows:
            return None
        found = StoredBlob._make(rows[0])
        return _blob(found), self._folder / "blobs" / found.path

    def audit(self, device: str | None, action: str | None, before: int | None, limit: int) -> Page:
        """Return rows of the audit log, the newest first."""
        wanted: list[tuple[str, int | str]] = [
            (text, value)
            for text, value in (("device = ?", device), ("action = ?", action), ("id < ?", before))
            if value is not None
        ]
        where = f"WHERE {' AND '.join(text for text, _ in wanted)} " if wanted else ""
        rows = self.read(
            f"SELECT id, at_ms, actor, action, device, detail FROM audit {where}"  # noqa: S608
            "ORDER BY id DESC LIMIT ?",
            (*(value for _, value in wanted), limit),
        )
        names = ("id", "at_ms", "actor", "action", "device")
        found = [
            dict(zip(names, row[:5], strict=True)) | {"detail": json.loads(row[5])} for row in rows
        ]
        return found, [rows[-1][0]] if len(rows) == limit else None

    def _newest(
        self, select: str, key: str, device: str | None, before: int | None, limit: int,
        name: str | None = None,
    ) -> list[tuple[Any, ...]]:  # fmt: skip
        wanted: list[str] = []
        values: list[int | str] = []
        if device is not None:
            # By number, so that the index on the device serves; no such device: no row.
            table = key.partition(".")[0]
            # Both are constants of this module.
            wanted.append(f"{table}.device = (SELECT id FROM devices WHERE name = ?)")  # noqa: S608
            values.append(device)
        if name is not None:
            wanted.append("b.name = ?")
            values.append(name)
        if before is not None:
            wanted.append(f"{key} < ?")
            values.append(before)
        where = f" WHERE {' AND '.join(wanted)}" if wanted else ""
        return self.read(f"{select}{where} ORDER BY {key} DESC LIMIT ?", (*values, limit))


def _open_reader(place: StorePlace) -> "apsw.Connection | Reader":
    if isinstance(place, Path):
        return schema.open_readable(place)
    from fleetnet_server.store.postgres.reading import Reader

    return Reader(place)


def _command(row: tuple[Any, ...]) -> Row:
    names = (
        "id", "device", "name", "args", "state", "created_ms", "expires_ms", "ended_ms", "result",
        "issuer",
    )  # fmt: skip
    found = dict(zip(names, row[1:], strict=True))
    found["args"] = json.loads(found["args"])
    result = None if found["result"] is None else decode_value(found["result"])
    found["result"], found["error"] = result, None
    if found["state"] == "error":
        kind, text = result or (None, None)
        found["result"], found["error"] = None, {"type": kind, "message": text}
    return found


def _blob(one: StoredBlob) -> Row:
    found = one._asdict()
    del found["path"]
    return found
