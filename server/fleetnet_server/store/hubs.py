"""Which sensors each hub may speak for, and up to where what it carried is stored.

    fleetnet hub assign HUB SENSOR...

A running server hears of a change through its row of the audit log (core/watch.py). Implements
fleetnet_server.core.relay_ports.HubStore.
"""

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fleetnet_server.errors import StoreError
from fleetnet_server.store.audit_rows import add_audit
from fleetnet_server.store.batch import CARRIED
from fleetnet_server.store.ports import Connection, Database
from fleetnet_server.store.registry import PROGRAM, number_of

# What core/watch.py acts upon, about the sensor.
ASSIGNED = "device-assign"
UNASSIGNED = "device-unassign"


class Assignment(NamedTuple):
    """A sensor that may come through a hub; times are unix ms.

    Attributes:
        came_ms: when it last opened a session through this hub; None: it never did.
    """

    hub: str
    sensor: str
    assigned_ms: int
    came_ms: int | None


class HubTable:
    """The assignments of one store. What commits is not for the event loop's thread."""

    def __init__(self, store: Database):
        self._store = store

    # -- what a server asks ----------------------------------------------------------------

    def is_assigned(self, hub_id: int, device_id: int) -> bool:
        """Say whether a hub may speak for a device."""
        sql = "SELECT 1 FROM hubs WHERE device = ? AND hub = ?"
        return bool(self._store.read(sql, (device_id, hub_id)))

    def has_hub(self, device_id: int) -> bool:
        """Say whether any hub may speak for a device."""
        return bool(self._store.read("SELECT 1 FROM hubs WHERE device = ? LIMIT 1", (device_id,)))

    def note_came(self, hub_id: int, device_id: int) -> None:
        """Keep that a device opened a session through a hub, and commit."""
        values = (_now_ms(), device_id, hub_id)
        sql = "UPDATE hubs SET came_ms = ? WHERE device = ? AND hub = ?"
        self._store.transact(lambda connection: connection.execute(sql, values))

    def note_carried(self, epoch_id: int, marks: Mapping[int, int]) -> None:
        """Move what is durable of a hub's streams over RELAYs of which nothing is stored."""
        rows = [(epoch_id, stream, seq) for stream, seq in marks.items()]
        self._store.transact(lambda connection: connection.executemany(CARRIED, rows))

    # -- what people decide ------------------------------------------------------------------

    def assign(self, hub: str, sensors: Iterable[str], actor: str = PROGRAM) -> list[str]:
        """Let a hub speak for sensors; return those for which it might not before.

        Raises:
            StoreError: one of them is not registered, or is the hub itself. Nothing is changed.
        """

        def work(connection: Connection) -> list[str]:
            hub_id = number_of(connection, hub)
            new = []
            for sensor in sensors:
                if sensor == hub:
                    raise StoreError(f"{hub!r} cannot be its own hub: name its sensors")
                connection.execute(
                    "INSERT INTO hubs(hub, device, assigned_ms) VALUES(?, ?, ?)"
                    " ON CONFLICT DO NOTHING",
                    (hub_id, number_of(connection, sensor), _now_ms()),
                )
                if connection.changes():
                    add_audit(connection, actor, ASSIGNED, sensor, {"hub": hub})
                    new.append(sensor)
            return new

        return self._store.transact(work)

    def unassign(self, hub: str, sensors: Iterable[str], actor: str = PROGRAM) -> list[str]:
        """Let a hub speak for sensors no longer; return those for which it might.

        Raises:
            StoreError: the hub is not registered. Nothing is changed.
        """

        def work(connection: Connection) -> list[str]:
            hub_id = number_of(connection, hub)
            gone = []
            for sensor in sensors:
                connection.execute(
                    "DELETE FROM hubs WHERE hub = ? AND device ="
                    " (SELECT id FROM devices WHERE name = ?)",
                    (hub_id, sensor),
                )
                if connection.changes():
                    add_audit(connection, actor, UNASSIGNED, sensor, {"hub": hub})
                    gone.append(sensor)
            return gone

        return self._store.transact(work)

    def assignments(self, hub: str | None = None) -> list[Assignment]:
        """Return the assignments, of one hub or of all, by hub and sensor."""
        rows = self._store.read(
            "SELECT h.name, d.name, a.assigned_ms, a.came_ms FROM hubs AS a"
            " JOIN devices AS h ON h.id = a.hub JOIN devices AS d ON d.id = a.device"
            " WHERE ?1 IN ('', h.name) ORDER BY h.name, d.name",
            (hub or "",),
        )
        return [Assignment(*row) for row in rows]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
