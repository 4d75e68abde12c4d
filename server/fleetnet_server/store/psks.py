"""Pre-shared keys in the store, encrypted; each change is in the audit log, in one commit."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fleetnet_server.errors import StoreError
from fleetnet_server.identity.psk import name_identity, number_of
from fleetnet_server.identity.registry import Device
from fleetnet_server.store.audit_rows import add_audit
from fleetnet_server.store.ports import Connection, Database
from fleetnet_server.store.registry import FORGOTTEN

ADDED = "psk-add"
ROTATED = "psk-rotate"
REMOVED = "psk-remove"
RETIRED = "psk-retire"  # a newer key of the device was seen
EXPORTED = "psk-export"

_ENDINGS = (REMOVED, RETIRED, ROTATED, FORGOTTEN)

_ROW = (
    "SELECT p.identity, d.name, p.created_ms, p.used_ms, p.enrol, p.key"
    " FROM psks AS p JOIN devices AS d ON d.id = p.device "
)


class Psk(NamedTuple):
    """One pre-shared key; times are unix ms.

    Attributes:
        used_ms: when a session was last begun with it; None: never.
        enrol: good for a first certificate only.
        sealed: the key, see identity/psk.py.
    """

    identity: str
    device: str
    created_ms: int
    used_ms: int | None
    enrol: bool
    sealed: bytes


class PskTable:
    """The pre-shared keys of one store file. Raises StoreUnavailable throughout.

    What says that it commits waits for the disk: see Database.transact.
    """

    def __init__(self, store: Database):
        self._store = store

    # -- on the event loop: one seek each --------------------------------------------------

    def find(self, identity: str) -> bytes | None:
        """Return the encrypted key of an identity."""
        rows = self._store.read("SELECT key FROM psks WHERE identity = ?", (identity,))
        return rows[0][0] if rows else None

    def news_after(self, number: int) -> tuple[int, bool]:
        """Return (number of the newest change, whether keys ended since ``number``)."""
        ((newest, ended),) = self._store.read(
            "SELECT coalesce(max(id), ?1), count(*) FILTER (WHERE action IN (?2, ?3, ?4, ?5))"
            " FROM audit WHERE id > ?1",
            (number, *_ENDINGS),
        )
        return newest, ended > 0

    def newest(self) -> int:
        """Return the number of the newest change of anything."""
        return int(self._store.read("SELECT coalesce(max(id), 0) FROM audit")[0][0])

    # -- the rest --------------------------------------------------------------------------

    def all(self, device: Device | None = None) -> list[Psk]:
        """Return the keys of a device or of all, by device and number."""
        if device is None:
            rows = self._store.read(_ROW)
        else:
            rows = self._store.read(_ROW + "WHERE p.device = ?", (device.id,))
        found = [
            Psk(identity, name, created_ms, used_ms, bool(enrol), sealed)
            for identity, name, created_ms, used_ms, enrol, sealed in rows
        ]
        return sorted(found, key=lambda psk: (psk.device, number_of(psk.identity)))

    def add(self, device: Device, seal: Callable[[str], bytes], actor: str, enrol: bool) -> str:
        """Give a device its first key, and commit; return the identity.

        Args:
            seal: function(identity) -> the encrypted key.
            actor: who does it, for the audit log.

        Raises:
            StoreError: it has one.
        """

        def work(connection: Connection) -> str:
            if _identities(connection, device.id):
                raise StoreError(
                    f"device {device.name!r} has a pre-shared key: `fleetnet psk rotate "
                    f"{device.name}` gives it another, `fleetnet psk remove` takes it away"
                )
            return _insert(connection, device, seal, actor, ADDED, enrol)

        return self._store.transact(work)

    def rotate(
        self, device: Device, seal: Callable[[str], bytes], actor: str, at_once: bool
    ) -> str:
        """Give a device another key, and commit; return the identity.

        The older ones hold until the new one is seen, or not at all with ``at_once``.

        Raises:
            StoreError: it has none.
        """

        def work(connection: Connection) -> str:
            old = _identities(connection, device.id)
            if not old:
                raise StoreError(
                    f"device {device.name!r} has no pre-shared key: "
                    f"`fleetnet psk add {device.name}`"
                )
            enrol = bool(
                connection.execute("SELECT max(enrol) FROM psks WHERE device = ?", (device.id,)).get
            )
            if at_once:
                _delete(connection, old)
            return _insert(connection, device, seal, actor, ROTATED, enrol)

        return self._store.transact(work)

    def remove(self, device: Device, actor: str) -> list[str]:
        """Take all keys of a device away, and commit; return their identities."""

        def work(connection: Connection) -> list[str]:
            old = _identities(connection, device.id)
            if old:
                _delete(connection, old)
                add_audit(connection, actor, REMOVED, device.name, {"identities": old})
            return old

        return self._store.transact(work)

    def note_export(self, identities: list[str], target: str, actor: str) -> None:
        """Note that keys are about to leave the store, and commit."""
        detail = {"identities": identities, "file": target}
        self._store.transact(
            lambda connection: add_audit(connection, actor, EXPORTED, None, detail)
        )

    def note_used(self, used: Mapping[str, int]) -> list[str]:
        """Note when sessions were begun (unix ms by identity), and commit.

        A device that was seen with a key has left its older ones: they are taken away.
        Return their identities.
        """

        def work(connection: Connection) -> list[str]:
            retired: list[str] = []
            for identity, at_ms in used.items():
                connection.execute(
                    "UPDATE psks SET used_ms = CASE WHEN used_ms > ?2 THEN used_ms ELSE ?2 END"
                    " WHERE identity = ?1",
                    (identity, at_ms),
                )
                if not connection.changes():
                    continue  # removed meanwhile
                device_id, name = next(
                    connection.execute(
                        "SELECT d.id, d.name FROM psks AS p JOIN devices AS d ON d.id = p.device"
                        " WHERE p.identity = ?",
                        (identity,),
                    )
                )
                number = number_of(identity)
                old = [
                    each for each in _identities(connection, device_id) if number_of(each) < number
                ]
                if old:
                    _delete(connection, old)
                    detail = {"identities": old, "seen": identity}
                    add_audit(connection, "server", RETIRED, name, detail)
                    retired += old
            return retired

        return self._store.transact(work)


def _identities(connection: Connection, device_id: int) -> list[str]:
    rows = connection.execute("SELECT identity FROM psks WHERE device = ?", (device_id,))
    return sorted((identity for (identity,) in rows), key=number_of)


def _delete(connection: Connection, identities: list[str]) -> None:
    connection.executemany("DELETE FROM psks WHERE identity = ?", [(each,) for each in identities])


def _insert(
    connection: Connection,
    device: Device,
    seal: Callable[[str], bytes],
    actor: str,
    action: str,
    enrol: bool,
) -> str:
    # Counted in the log, which never shrinks: no identity ever means two keys.
    number = 1 + int(
        connection.execute(
            "SELECT count(*) FROM audit WHERE device = ? AND action IN (?, ?)",
            (device.name, ADDED, ROTATED),
        ).get
    )
    identity = name_identity(device.name, number)
    connection.execute(
        "INSERT INTO psks(identity, device, key, created_ms, enrol) VALUES(?, ?, ?, ?, ?)",
        (identity, device.id, seal(identity), time.time_ns() // 1_000_000, int(enrol)),
    )
    add_audit(connection, actor, action, device.name, {"identity": identity})
    return identity
