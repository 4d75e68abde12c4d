"""Identities of devices in the store: what each was offered, what works, what is superseded.

Private keys never come here. An offer is on the disk, with its certificate's serial number,
before it is sent: a certificate that nobody knows of could never be revoked.
"""

import time
from collections.abc import Iterable
from typing import Any

from fleetnet_server.core.rotation_ports import Certificate, Facts, Identity, Issued, Wanted
from fleetnet_server.identity.registry import Device
from fleetnet_server.store.ports import Connection, Database

# What a person may want to look back at; the audit log has the rest.
_KEPT_ROWS = 16

# The number of a bundle that was made for a device that had one; 0 when it has come with it.
NEXT_BUNDLE = -1

SUPERSEDED = "superseded"
_ASKED = "identity-asked"
CUT_OFF = "the session ended before it worked"

# An offer that waits is no leftover: its certificate may be in use a second later.
_OTHERS = (
    " device = ?1 AND revoked_ms IS NULL AND serial != ?2 AND serial NOT IN"
    " (SELECT serial FROM identities WHERE device = ?1 AND state = 'offered'"
    " AND serial IS NOT NULL)"
)

# Behind an INSERT: a row of that number is over, nothing of it stays.
ANEW = (
    " ON CONFLICT(device, number) DO UPDATE SET serial = excluded.serial, marks = excluded.marks,"
    " pins = excluded.pins, state = excluded.state, reason = NULL, tries = excluded.tries,"
    " offered_ms = excluded.offered_ms, ended_ms = NULL"
)

# The device of a session may have been disabled, or what the session rests on revoked, since it
# was opened: nothing new is made for it.
_STANDS = (
    "SELECT EXISTS(SELECT 1 FROM devices WHERE id = ?1 AND state = 'enabled') AND CASE ?2"
    " WHEN '0' THEN EXISTS(SELECT 1 FROM psks WHERE device = ?1 AND enrol = 1) ELSE NOT"
    " EXISTS(SELECT 1 FROM certificates WHERE serial = ?2 AND revoked_ms IS NOT NULL) END"
)

# A claim that was answered, and whose certificate is the one that came.
_CLAIM = (
    "SELECT 1 FROM claims JOIN certificates AS c ON c.device = claims.device"
    " WHERE claims.device = ?1 AND closed_ms IS NULL AND public_key IS NOT NULL"
    " AND c.serial = ?2 AND c.issued_ms >= claims.created_ms"
)
_FACTS = (
    "SELECT (SELECT asked_ms FROM renewals WHERE device = ?1),"  # noqa: S608
    " EXISTS(SELECT 1 FROM psks WHERE identity = ?3 AND device = ?1 AND enrol = 1),"
    f" EXISTS({_CLAIM}),"
    f" (SELECT count(*) FROM certificates WHERE {_OTHERS})"
    " + (SELECT count(*) FROM psks WHERE device = ?1 AND enrol = 1)"
)
_CLOSE_CLAIM = f"UPDATE claims SET closed_ms = ?3 WHERE device = ?1 AND EXISTS({_CLAIM})"  # noqa: S608
_SUPERSEDE = (
    "UPDATE certificates SET revoked_ms = ?3, reason = ?4"  # noqa: S608
    f" WHERE {_OTHERS} RETURNING serial"
)


class IdentityTable:
    """Identities of one store file. Raises StoreUnavailable throughout.

    What says that it commits waits for the disk: see Database.transact.
    """

    def __init__(self, store: Database):
        self._store = store

    def facts(self, device_id: int, serial: int, psk_identity: str = "") -> Facts:
        """Return what is known of a device whose session opens.

        Args:
            serial: of the certificate that it came with, 0: none, but ``psk_identity``.
        """
        rows = self._store.read(
            "SELECT number, serial, marks, pins, state, reason, tries, offered_ms, ended_ms"
            " FROM identities WHERE device = ? AND number >= 0 ORDER BY number DESC LIMIT ?",
            (device_id, _KEPT_ROWS),
        )
        certificates = self._store.read(
            "SELECT issued_ms, not_after_ms, generation, key_made FROM certificates"
            " WHERE serial = ? AND device = ?",
            (_text(serial), device_id),
        )
        ((asked_ms, is_first, has_claim, others),) = self._store.read(
            _FACTS,
            (device_id, _text(serial), psk_identity),
        )
        return Facts(
            [Identity(row[0], _number(row[1]), *row[2:]) for row in rows],
            Certificate(*certificates[0]) if certificates else None,
            asked_ms,
            bool(is_first),
            bool(has_claim),
            others,
        )

    def identities(self, device_id: int) -> list[Identity]:
        """Return a device's identities, newest number first."""
        return self.facts(device_id, 0).identities

    # What devices are asked to do

    def ask(self, devices: Iterable[Device], actor: str) -> None:
        """Ask for a new identity of each device and commit; a running server hears of it."""
        asked = list(devices)
        now_ms = _now_ms()

        def work(connection: Connection) -> None:
            connection.executemany(
                "INSERT INTO renewals(device, asked_ms) VALUES(?, ?)"
                " ON CONFLICT(device) DO UPDATE SET asked_ms = excluded.asked_ms",
                [(device.id, now_ms) for device in asked],
            )
            connection.executemany(
                "INSERT INTO audit(at_ms, actor, action, device) VALUES(?, ?, ?, ?)",
                [(now_ms, actor, _ASKED, device.name) for device in asked],
            )

        self._store.transact(work)

    def newest(self) -> int:
        """Return the number of the newest note of the audit log, see ``asked_after``."""
        return int(self._store.read("SELECT coalesce(max(id), 0) FROM audit")[0][0])

    def asked_after(self, note: int) -> tuple[int, list[tuple[int, int]]]:
        """Return the newest note, and (device id, asked_ms) of what was asked for after ``note``.

        Notes count up whatever the clock does.
        """
        newest = self.newest()
        if newest == note:
            return note, []
        rows = self._store.read(
            "SELECT r.device, r.asked_ms FROM audit AS a JOIN devices AS d ON d.name = a.device"
            " JOIN renewals AS r ON r.device = d.id"
            " WHERE a.id > ? AND a.id <= ? AND a.action = ? ORDER BY a.id",
            (note, newest, _ASKED),
        )
        return newest, rows

    # The story of an identity

    def offer(
        self, device_id: int, number: int, wanted: Wanted, issued: Issued | None,
        serial: int | None, using: int,
    ) -> bool:  # fmt: skip
        """Note, before it is sent, what a device is offered as ``number``; commit.

        False: the device may have nothing any more, and nothing was noted.

        Args:
            using: serial number of the session's certificate, 0: a key for enrolment.
            issued: the new certificate with its key; None: there is none, or none yet.
            serial: of the certificate that stays; None: a CSR is awaited, or ``issued``.
        """
        now_ms = _now_ms()
        if issued is not None:
            serial = issued.serial

        def work(connection: Connection) -> bool:
            if not connection.execute(_STANDS, (device_id, _text(using))).get:
                return False
            tries = _tries(connection, device_id)
            _cut_off(connection, device_id)
            # This is what was asked for, even if the clock was set back meanwhile.
            connection.execute(
                "UPDATE renewals SET asked_ms = ?1 WHERE device = ?2 AND asked_ms > ?1",
                (now_ms, device_id),
            )
            connection.execute(
                "INSERT INTO identities(device, number, serial, marks, pins, state,"
                f" tries, offered_ms) VALUES(?, ?, ?, ?, ?, 'offered', ?, ?){ANEW}",
                (
                    device_id, number, None if serial is None else _text(serial),
                    wanted.marks, wanted.pins, tries, now_ms,
                ),
            )  # fmt: skip
            if issued is not None:
                add_certificate(connection, device_id, wanted, issued, "server", now_ms)
            return True

        return self._store.transact(work)

    def certify(
        self, device_id: int, number: int, wanted: Wanted, issued: Issued, using: int
    ) -> bool:
        """Note the certificate that answers a CSR, before it is sent; commit.

        False: that number is not on offer any more, or not to this device; nothing was noted.

        Args:
            using: see ``offer``.
        """
        now_ms = _now_ms()

        def work(connection: Connection) -> bool:
            if not connection.execute(_STANDS, (device_id, _text(using))).get:
                return False
            connection.execute(
                "UPDATE identities SET serial = ?3, marks = ?4, pins = ?5"
                " WHERE device = ?1 AND number = ?2 AND state = 'offered'",
                (device_id, number, _text(issued.serial), wanted.marks, wanted.pins),
            )
            if not connection.changes():
                return False
            add_certificate(connection, device_id, wanted, issued, "device", now_ms)
            return True

        return self._store.transact(work)

    def worked(self, device_id: int, number: int, serial: int) -> None:
        """Note that a device came with identity ``number`` and this certificate; commit.

        What the store did not expect is noted as it is, with marks and pins unknown. Closes the
        claim by which the device got it.
        """
        now_ms, text = _now_ms(), _text(serial)

        def work(connection: Connection) -> None:
            marks, pins = _noted_with(connection, device_id, number, text)
            connection.execute(
                "INSERT INTO identities(device, number, serial, marks, pins, state, offered_ms,"
                " ended_ms) VALUES(?1, ?2, ?3, ?5, ?6, 'working', ?4, ?4)"
                " ON CONFLICT(device, number) DO UPDATE SET state = 'working', reason = NULL,"
                " tries = 0, ended_ms = excluded.ended_ms, serial = excluded.serial,"
                " marks = excluded.marks, pins = excluded.pins",
                (device_id, number, text, now_ms, marks, pins),
            )
            connection.execute(
                "DELETE FROM identities WHERE device = ? AND number = ? AND serial = ?",
                (device_id, NEXT_BUNDLE, text),
            )
            connection.execute(
                "DELETE FROM renewals WHERE device = ?1 AND asked_ms <="
                " (SELECT offered_ms FROM identities WHERE device = ?1 AND number = ?2)",
                (device_id, number),
            )
            connection.execute(_CLOSE_CLAIM, (device_id, text, now_ms))
            # What HELLO says is the device's own: it must not fill the table.
            connection.execute(
                "DELETE FROM identities WHERE device = ?1 AND state != 'offered' AND number != ?2"
                " AND number NOT IN (SELECT number FROM identities WHERE device = ?1"
                " ORDER BY offered_ms DESC LIMIT ?3)",
                (device_id, number, _KEPT_ROWS),
            )

        self._store.transact(work)

    def failed(self, device_id: int, number: int, reason: str) -> int:
        """Note that an identity does not work on its device and commit; return the tries."""
        values = (device_id, number, reason, _now_ms())

        def work(connection: Connection) -> int:
            connection.execute(
                "UPDATE identities SET state = 'failed', reason = ?3, tries = tries + 1,"
                " ended_ms = ?4 WHERE device = ?1 AND number = ?2",
                values,
            )
            found = connection.execute(
                "SELECT tries FROM identities WHERE device = ? AND number = ?", values[:2]
            ).get
            return int(str(found or 0))

        return self._store.transact(work)

    def retire(self, device_id: int, number: int) -> list[int]:
        """Revoke what identity ``number`` supersedes, and commit; return the serial numbers.

        A pre-shared key that was good for the first certificate goes as well. Only for an
        identity that works. What is on offer meanwhile stays.
        """
        now_ms = _now_ms()

        def work(connection: Connection) -> list[int]:
            serial = connection.execute(
                "SELECT serial FROM identities"
                " WHERE device = ? AND number = ? AND state = 'working'",
                (device_id, number),
            ).get
            if serial is None:
                return []
            revoked = connection.execute(
                _SUPERSEDE, (device_id, serial, now_ms, SUPERSEDED)
            ).fetchall()
            connection.execute(
                "UPDATE identities SET state = 'retired', ended_ms = ?3"
                " WHERE device = ?1 AND number != ?2 AND state = 'working'",
                (device_id, number, now_ms),
            )
            connection.execute("DELETE FROM psks WHERE device = ? AND enrol = 1", (device_id,))
            return [int(str(text), 16) for (text,) in revoked]

        return self._store.transact(work)


def add_certificate(
    connection: Connection,
    device_id: int,
    wanted: Wanted,
    issued: Issued,
    key_made: str,
    now_ms: int,
) -> None:
    """Note a certificate inside a transaction of the caller's."""
    connection.execute(
        "INSERT INTO certificates(serial, device, issued_ms, not_after_ms, key_made, generation)"
        " VALUES(?, ?, ?, ?, ?, ?)",
        (
            _text(issued.serial), device_id, now_ms, issued.not_after_ms, key_made,
            wanted.generation,
        ),
    )  # fmt: skip


def _noted_with(
    connection: Connection, device_id: int, number: int, serial: str
) -> tuple[Any, Any]:
    """Return marks and pins that went with this identity, "" when nobody knows."""
    row = connection.execute(
        "SELECT marks, pins FROM identities"
        " WHERE device = ? AND serial = ? AND number IN (?, ?) LIMIT 1",
        (device_id, serial, number, NEXT_BUNDLE if number == 0 else number),
    ).fetchone()
    return ("", "") if row is None else (row[0], row[1])


def _cut_off(connection: Connection, device_id: int) -> None:
    connection.execute(
        "UPDATE identities SET state = 'failed', reason = ?"
        " WHERE device = ? AND state = 'offered' AND number > 0",
        (CUT_OFF, device_id),
    )


def _tries(connection: Connection, device_id: int) -> int:
    """How many offers before this one came to nothing, since one worked."""
    row = connection.execute(
        "SELECT state, tries FROM identities WHERE device = ? ORDER BY number DESC LIMIT 1",
        (device_id,),
    ).fetchone()
    if row is None or row[0] not in ("offered", "failed"):
        return 0
    return int(row[1] or 0) + int(row[0] == "offered")


def _text(serial: int) -> str:
    return f"{serial:x}"


def _number(serial: str | None) -> int | None:
    return None if serial is None else int(serial, 16)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
