"""The registry of devices in the store: who may come in, with which certificates.

Each change is one transaction, with its row of the audit log. A running server hears of a
change through that row (core/watch.py).
"""

import json
import time
from collections.abc import Iterable, Mapping
from sys import intern
from typing import Any, NamedTuple

from fleetnet_server.errors import StoreError, unknown_device
from fleetnet_server.identity.crl import Revoked
from fleetnet_server.identity.labels import check_group, check_labels
from fleetnet_server.identity.names import check_device_name
from fleetnet_server.identity.registry import (
    DEFAULT_GROUP,
    DISABLED,
    ENABLED,
    REMOVED,
    Device,
)
from fleetnet_server.store.audit_rows import add_audit
from fleetnet_server.store.ports import Connection, Database
from fleetnet_server.store.standing import credential

TAKEN = "choose another name, or make it a new bundle with `fleetnet device add NAME --again`"
PROGRAM = "program"  # actor of who does not say

# What core/watch.py acts upon.
ADDED = "device-add"
RENEWED = "device-add-again"
ADMITTED = "device-admit"  # by the policy for unknown devices
ENABLED_AGAIN = "device-enable"
TURNED_OFF = "device-disable"
CERTIFICATES_REVOKED = "device-revoke"
FORGOTTEN = "device-remove"
CHANGED = "device-set"

# The server saw a certificate that the table does not have.
FOREIGN = "foreign-certificate"

REASONS = (
    "unspecified", "key-compromise", "superseded", "cessation", "affiliation", "privilege",
)  # fmt: skip
_RFC_5280 = {
    "key-compromise": "keyCompromise",
    "cessation": "cessationOfOperation",
    "affiliation": "affiliationChanged",
    "privilege": "privilegeWithdrawn",
}

# A list may forget a certificate that has ended (RFC 5280 section 3.3), one list later.
_REMEMBERED_MS = 31 * 86_400_000

_DEVICE = "SELECT id, name, state, grp, labels FROM devices "
_OWN = (
    "SELECT 1 FROM certificates AS c WHERE device = ? AND revoked_ms IS NULL AND NOT EXISTS "
    "(SELECT 1 FROM identities WHERE serial = c.serial AND state IN ('offered', 'failed')) LIMIT 1"
)


class Certificate(NamedTuple):
    """A certificate of a device; times are unix ms.

    Attributes:
        revoked_ms: None while it is good. key_made: "server" or "device".
    """

    serial: int
    issued_ms: int
    not_after_ms: int
    revoked_ms: int | None
    reason: str | None
    key_made: str
    generation: int


class DeviceTable:
    """Devices and certificates of one store file.

    All methods raise StoreUnavailable; those with ``actor`` commit, and raise StoreError for a
    device that is not registered.
    """

    def __init__(self, database: Database):
        self._database = database

    # -- reading ---------------------------------------------------------------------------

    def lookup(self, name: str) -> Device | None:
        """Return the device of that name, None when it is not registered, or was removed."""
        rows = self._database.read(f"{_DEVICE}WHERE name = ? AND state != 'removed'", (name,))
        if not rows:
            return None
        serials = self._database.read(
            "SELECT serial, revoked_ms FROM certificates WHERE device = ?", (rows[0][0],)
        )
        return _device(rows[0], serials)

    def was_removed(self, name: str) -> bool:
        """Say whether somebody removed a device of that name."""
        removed = "SELECT 1 FROM devices WHERE name = ? AND state = 'removed'"
        return bool(self._database.read(removed, (name,)))

    def has_own_certificate(self, device_id: int) -> bool:
        """See Registry. What was only offered to the device does not count."""
        return bool(self._database.read(_OWN, (device_id,)))

    def devices(self) -> list[Device]:
        """Return every device by name; two statements, however many there are."""
        rows = self._database.read(f"{_DEVICE}WHERE state != 'removed' ORDER BY name")
        serials: dict[int, list[tuple[str, int | None]]] = {row[0]: [] for row in rows}
        for number, serial, revoked_ms in self._database.read(
            "SELECT device, serial, revoked_ms FROM certificates"
        ):
            if number in serials:
                serials[number].append((serial, revoked_ms))
        return [_device(row, serials[row[0]]) for row in rows]

    def certificates(self, device_id: int) -> list[Certificate]:
        """Return a device's certificates, the newest first."""
        rows = self._database.read(
            "SELECT serial, issued_ms, not_after_ms, revoked_ms, reason, key_made, generation"
            " FROM certificates WHERE device = ? ORDER BY issued_ms DESC, serial",
            (device_id,),
        )
        return [Certificate(int(row[0], 16), *row[1:]) for row in rows]

    def last_message_ms(self, device_id: int) -> int | None:
        """Return when the newest message of the device's newest epoch came, unix ms."""
        return self._database.last_received(device_id)

    def credential(self, device_id: int) -> str:
        """See standing.credential."""
        return credential(self._database, device_id)

    def revoked(self) -> list[Revoked]:
        """Return what a revocation list has to say today."""
        rows = self._database.read(
            "SELECT serial, revoked_ms, coalesce(reason, ''), generation FROM certificates"
            " WHERE revoked_ms IS NOT NULL AND not_after_ms > ? ORDER BY serial",
            (_now_ms() - _REMEMBERED_MS,),
        )
        return [
            Revoked(int(serial, 16), at_ms, _RFC_5280.get(reason, reason), generation or None)
            for serial, at_ms, reason, generation in rows
        ]

    # -- who is in -------------------------------------------------------------------------

    def add(self, name: str, actor: str = PROGRAM) -> Device:
        """Register a device. A name that was removed gets its old row, and nothing else of it.

        Raises:
            IdentityError: the name breaks the rules of identity/names.py.
            StoreError: a device of that name exists.
        """
        check_device_name(name)

        self._database.transact(lambda connection: insert_device(connection, name, actor))
        device = self.lookup(name)
        if device is None:
            raise StoreError(f"device {name!r} was removed while it was being added: add it again")
        return device

    def admit(self, name: str, state: str, serial: int, policy: str) -> None:
        """Register a device that came by itself; one that is there, or was removed, stays so.

        Runs in a thread beside the event loop, so it uses the writing connection alone.
        """
        check_device_name(name)
        detail = {"serial": f"{serial:x}", "policy": policy}

        def work(connection: Connection) -> None:
            connection.execute(
                "INSERT INTO devices(name, state, created_ms) VALUES(?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                (name, state, _now_ms()),
            )
            if connection.changes():
                add_audit(connection, "server", ADMITTED, name, detail)

        self._database.transact(work)

    def set_enabled(self, name: str, enabled: bool, actor: str = PROGRAM) -> None:
        """Enable or disable a device; enabling releases it from quarantine as well."""
        state, action = (ENABLED, ENABLED_AGAIN) if enabled else (DISABLED, TURNED_OFF)

        def work(connection: Connection) -> None:
            number_of(connection, name)
            connection.execute("UPDATE devices SET state = ? WHERE name = ?", (state, name))
            add_audit(connection, actor, action, name)

        self._database.transact(work)

    def change(
        self,
        name: str,
        actor: str = PROGRAM,
        group: str | None = None,
        labels: Mapping[str, str] | None = None,
        without: Iterable[str] = (),
    ) -> Device:
        """Change a device's group and labels; ``without`` names labels to take away.

        Raises:
            StoreError: no name of a group or label, too many or too long labels.
        """
        check_group(group)

        def work(connection: Connection) -> None:
            number_of(connection, name)
            text = connection.execute("SELECT labels FROM devices WHERE name = ?", (name,)).get
            found = {**json.loads(str(text)), **(labels or {})}
            for key in without:
                found.pop(key, None)
            check_labels(found)
            connection.execute(
                "UPDATE devices SET grp = coalesce(?2, grp), labels = ?3 WHERE name = ?1",
                (name, group, json.dumps(found, sort_keys=True)),
            )
            detail = {"group": group, "labels": labels, "without": list(without)}
            add_audit(connection, actor, CHANGED, name, {key: v for key, v in detail.items() if v})

        self._database.transact(work)
        device = self.lookup(name)
        assert device is not None
        return device

    def remove(self, name: str, actor: str = PROGRAM) -> None:
        """Forget a device: its certificates, keys, claims, configuration and open commands.

        Its readings stay. Only ``add`` lets the name in again.
        """

        def work(connection: Connection) -> None:
            number = number_of(connection, name)
            serials = _revoke_all(connection, number, name, "cessation")
            connection.execute(
                "UPDATE devices SET state = ?, grp = ?, labels = '{}' WHERE id = ?",
                (REMOVED, DEFAULT_GROUP, number),
            )
            for table in ("psks", "claims", "renewals", "identities", "configs"):
                connection.execute(f"DELETE FROM {table} WHERE device = ?", (number,))  # noqa: S608
            connection.execute("DELETE FROM hubs WHERE ?1 IN (device, hub)", (number,))
            connection.execute(
                "UPDATE commands SET ended_ms = ?2,"
                " state = CASE WHEN sent_boot IS NULL THEN 'expired' ELSE 'lost' END"
                " WHERE device = ?1 AND ended_ms IS NULL",
                (number, _now_ms()),
            )
            add_audit(connection, actor, FORGOTTEN, name, {"serials": serials})

        self._database.transact(work)

    # -- certificates ----------------------------------------------------------------------

    def add_certificate(self, device_id: int, serial: int, not_after_ms: int) -> None:
        """Note a certificate that was issued to a device, and commit."""
        values = (f"{serial:x}", device_id, _now_ms(), not_after_ms)
        self._database.transact(
            lambda connection: connection.execute(
                "INSERT INTO certificates(serial, device, issued_ms, not_after_ms)"
                " VALUES(?, ?, ?, ?) ON CONFLICT(serial) DO UPDATE SET device = excluded.device,"
                " issued_ms = excluded.issued_ms, not_after_ms = excluded.not_after_ms,"
                " revoked_ms = NULL, reason = NULL, key_made = 'server', generation = 1",
                values,
            )
        )

    def revoke(self, name: str, reason: str = "", actor: str = PROGRAM) -> list[str]:
        """Refuse all that a device has shown or was given until now; return what that is.

        Serial numbers of certificates, in hexadecimal, and identities of pre-shared keys. A
        claim that was answered cannot be answered again. The device stays registered.
        """

        def work(connection: Connection) -> list[str]:
            number = number_of(connection, name)
            serials = _revoke_all(connection, number, name, reason)
            keys = [
                str(identity)
                for (identity,) in connection.execute(
                    "DELETE FROM psks WHERE device = ? RETURNING identity", (number,)
                ).fetchall()
            ]
            connection.execute(
                "UPDATE claims SET closed_ms = ? WHERE device = ? AND closed_ms IS NULL"
                " AND public_key IS NOT NULL",
                (_now_ms(), number),
            )
            if keys:
                add_audit(connection, actor, "psk-remove", name, {"identities": keys})
            detail = {"serials": serials, "reason": reason}
            add_audit(
                connection, actor, CERTIFICATES_REVOKED, name,
                {key: value for key, value in detail.items() if value},
            )  # fmt: skip
            return serials + keys

        return self._database.transact(work)

    def revoke_certificate(self, serial: int, reason: str = "", actor: str = PROGRAM) -> None:
        """Refuse one certificate, and commit. Raises StoreError when it was not issued here."""
        text = f"{serial:x}"

        def work(connection: Connection) -> None:
            name = connection.execute(
                "SELECT name FROM devices WHERE id ="
                " (SELECT device FROM certificates WHERE serial = ?)",
                (text,),
            ).get
            if name is None:
                raise StoreError(f"certificate {text} was not issued here")
            connection.execute(
                "UPDATE certificates SET revoked_ms = ?, reason = ?"
                " WHERE serial = ? AND revoked_ms IS NULL",
                (_now_ms(), reason or None, text),
            )
            detail = {"serials": [text], "reason": reason}
            add_audit(connection, actor, CERTIFICATES_REVOKED, str(name), detail)

        self._database.transact(work)


def _device(row: tuple[Any, ...], serials: Iterable[tuple[Any, ...]]) -> Device:
    """Make a device of its row and its certificates' (serial, revoked_ms)."""
    number, name, state, group, labels = row
    revoked_ms = {int(serial, 16): at_ms for serial, at_ms in serials}
    revoked = frozenset(serial for serial, at_ms in revoked_ms.items() if at_ms is not None)
    known = frozenset(revoked_ms) - revoked
    # A session keeps the group: one text for all of them.
    return Device(number, name, state, revoked, intern(group), json.loads(labels), known)


def insert_device(connection: Connection, name: str, actor: str) -> None:
    """Register a device inside a transaction of the caller's. Raises StoreError: it is there."""
    connection.execute(
        "INSERT INTO devices(name, created_ms) VALUES(?1, ?2)"
        " ON CONFLICT(name) DO UPDATE SET state = 'enabled' WHERE devices.state = 'removed'",
        (name, _now_ms()),
    )
    if not connection.changes():
        raise StoreError(f"device {name!r} is already registered: {TAKEN}")
    add_audit(connection, actor, ADDED, name)


def number_of(connection: Connection, name: str) -> int:
    """Return the number of a device. Raises StoreError: it is not registered, or was removed."""
    found = connection.execute(
        "SELECT id FROM devices WHERE name = ? AND state != 'removed'", (name,)
    ).get
    if found is None:
        raise unknown_device(name)
    return int(found)


def _revoke_all(connection: Connection, number: int, name: str, reason: str) -> list[str]:
    """Revoke what the table knows, and what the server saw that the table does not know."""
    now_ms = _now_ms()
    details = connection.execute(
        "SELECT detail FROM audit WHERE device = ? AND action IN (?, ?)",
        (name, ADMITTED, FOREIGN),
    ).fetchall()
    seen = {json.loads(detail).get("serial") for (detail,) in details}
    connection.executemany(
        # When it ends is not known: it stays in the list for the longest life there is.
        "INSERT INTO certificates(serial, device, issued_ms, not_after_ms, generation)"
        " VALUES(?1, ?2, ?3, ?4, 0) ON CONFLICT DO NOTHING",
        [(serial, number, now_ms, now_ms + 20 * 365 * 86_400_000) for serial in seen if serial],
    )
    rows = connection.execute(
        "UPDATE certificates SET revoked_ms = ?2, reason = ?3"
        " WHERE device = ?1 AND revoked_ms IS NULL RETURNING serial",
        (number, now_ms, reason or None),
    ).fetchall()
    return [str(serial) for (serial,) in rows]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
