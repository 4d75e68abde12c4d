"""The devices' own logs out of a store, beside a running server."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from fleetnet.frame import LOG
from fleetnet_server.core.bodies import decode_log
from fleetnet_server.errors import StoreUnavailable, unknown_device
from fleetnet_server.store import schema
from fleetnet_server.store_place import PostgresPlace, StorePlace

_LOGS = (  # constants of this module only
    "SELECT d.name, m.t0, m.body FROM messages AS m JOIN devices AS d ON d.id = m.device"  # noqa: S608
    f" WHERE m.kind & 127 = {LOG} AND m.problem IS NULL AND (?1 IS NULL OR d.name = ?1)"
    " AND (?2 IS NULL OR m.t1 >= ?2) ORDER BY m.t0 IS NULL, m.t0, m.id"
)


class LogLine(NamedTuple):
    """One line. ``unix_ms`` is None while nobody knows when its device's boot began."""

    device: str
    unix_ms: int | None
    level: str
    text: str


def logs(
    place: StorePlace | str,
    device: str | None = None,
    start_ms: int | None = None,
    limit: int | None = None,
) -> Iterator[LogLine]:
    """Yield lines in order of their batches' times, those without a date last.

    Reads every message of the device, or the whole store: a command for people, no index.

    Raises:
        StoreError: no store there, or no such device. StoreUnavailable: it cannot be read.
    """
    if isinstance(place, PostgresPlace):
        from fleetnet_server.store.postgres import logs as postgres

        rows = postgres.log_rows(place, device, start_ms)
    else:
        rows = _rows(Path(place), device, start_ms)
    return islice(_lines(rows, start_ms), limit)


def _lines(rows: Iterator[tuple[Any, ...]], start_ms: int | None) -> Iterator[LogLine]:
    for name, t0, body in rows:
        _base_ms, _boot, lines = decode_log(body)
        first_ms = min((line[0] for line in lines), default=0)
        for dt_ms, level, text in lines:
            unix_ms = None if t0 is None else t0 + dt_ms - first_ms
            if start_ms is None or (unix_ms is not None and unix_ms >= start_ms):
                yield LogLine(name, unix_ms, level, text)


def _rows(path: Path, device: str | None, start_ms: int | None) -> Iterator[tuple[Any, ...]]:
    connection = schema.open_readable(path)
    try:
        if device is not None:
            known = connection.execute("SELECT 1 FROM devices WHERE name = ?", (device,)).fetchall()
            if not known:
                raise unknown_device(device)
        yield from connection.execute(_LOGS, (device, start_ms))
    except apsw.Error as error:
        raise StoreUnavailable(f"{path} cannot be read: {error}") from error
    finally:
        connection.close()
