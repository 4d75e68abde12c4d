"""The devices' own logs out of PostgreSQL: store/logs.py for it."""

from collections.abc import Iterator

from fleetnet.frame import LOG, READINGS
from fleetnet_server.errors import unknown_device
from fleetnet_server.store.postgres.expanding import as_text
from fleetnet_server.store.postgres.reading import Row, snapshot, stream
from fleetnet_server.store_place import PostgresPlace

_LOGS = (  # constants of this program only
    "SELECT d.name, m.t0, m.body FROM messages AS m JOIN devices AS d ON d.id = m.device"  # noqa: S608
    # The first condition is that of the index.
    f" WHERE m.kind & 127 <> {READINGS} AND m.kind & 127 = {LOG} AND m.problem IS NULL"
)
_ORDER = " ORDER BY m.t0 IS NULL, m.t0, m.id"


def log_rows(place: PostgresPlace, device: str | None, start_ms: int | None) -> Iterator[Row]:
    """Yield (device, t0, body) of batches of lines; raises as store/logs.py."""
    text, values = _LOGS, []
    with snapshot(place) as connection:
        if device is not None:
            found = "SELECT id FROM devices WHERE name = %s"
            row = connection.execute(found, (as_text(device),)).fetchone()
            if row is None:
                raise unknown_device(device)
            text += " AND m.device = %s"
            values.append(row[0])
        if start_ms is not None:
            text += " AND m.t1 >= %s"
            values.append(start_ms)
        yield from stream(connection, text + _ORDER, values)
