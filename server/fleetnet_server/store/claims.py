"""Claims in the store: who may ask for a first certificate, by a token that is used once.

The token itself is nowhere, its SHA-256 is: whoever reads the store cannot use what it finds.
100 random bits need no slow hash.
"""

import base64
import hashlib
import json
import secrets
import time
from typing import Any

from fleetnet_server.core.enrolment_ports import Claim
from fleetnet_server.core.rotation_ports import Issued, Wanted
from fleetnet_server.store.identities import add_certificate
from fleetnet_server.store.ports import Connection, Database

# Nobody guesses 100 bits, and 20 characters can be typed from a label.
_TOKEN_BITS = 100


def make_token() -> str:
    """Return 20 characters of base32 (RFC 4648): 100 random bits."""
    number = secrets.randbits(_TOKEN_BITS) << 4
    return base64.b32encode(number.to_bytes(13, "big")).decode()[:20]


def token_hash(token: str) -> str:
    """Return what the store knows of a token. Case and blanks do not count: people type it."""
    return hashlib.sha256("".join(token.split()).upper().encode()).hexdigest()


class ClaimTable:
    """Claims of one store file. Raises StoreUnavailable throughout."""

    def __init__(self, store: Database):
        self._store = store

    def open(self, device_id: int, token: str, expires_ms: int, actor: str) -> None:
        """Let a device be claimed by ``token``, in place of an older claim, and commit."""
        now_ms = _now_ms()
        values = (device_id, token_hash(token), now_ms, expires_ms)
        note = (now_ms, actor, device_id, json.dumps({"expires_ms": expires_ms}))

        def work(connection: Connection) -> None:
            connection.execute(
                "INSERT INTO claims(device, token, created_ms, expires_ms) VALUES(?, ?, ?, ?)"
                " ON CONFLICT(device) DO UPDATE SET token = excluded.token,"
                " created_ms = excluded.created_ms, expires_ms = excluded.expires_ms,"
                " public_key = NULL, closed_ms = NULL",
                values,
            )
            connection.execute(
                "INSERT INTO audit(at_ms, actor, action, device, detail)"
                " VALUES(?1, ?2, 'claim-made', (SELECT name FROM devices WHERE id = ?3), ?4)",
                note,
            )

        self._store.transact(work)

    def find(self, token: str) -> Claim | None:
        """Return the claim of a token, whatever its state; None: nobody made it."""
        rows = self._store.read(
            "SELECT c.device, d.name, d.state, c.expires_ms, c.public_key, c.closed_ms, c.token"
            " FROM claims AS c JOIN devices AS d ON d.id = c.device WHERE c.token = ?",
            (token_hash(token),),
        )
        return Claim(*rows[0]) if rows else None

    def answer(
        self, claim: Claim, public_key: str, number: int, wanted: Wanted, issued: Issued
    ) -> bool:
        """Note the certificate that answers a claim, before it is sent; commit.

        Args:
            public_key: SHA-256 of the key that came, hexadecimal; the claim is bound to it.
            number: what the device calls its identity.

        Returns:
            False: the claim was closed, replaced, or bound to another key meanwhile.
        """
        now_ms = _now_ms()

        def work(connection: Connection) -> bool:
            connection.execute(
                "UPDATE claims SET public_key = ?2 WHERE device = ?1 AND closed_ms IS NULL"
                " AND expires_ms > ?3 AND token = ?4"
                " AND (public_key IS NULL OR public_key = ?2)"
                " AND EXISTS(SELECT 1 FROM devices WHERE id = ?1 AND state = 'enabled')",
                (claim.device_id, public_key, now_ms, claim.token),
            )
            if not connection.changes():
                return False
            if issued.key:
                _take_back(connection, claim.device_id, number, now_ms)
            _begin_anew(connection, claim.device_id, number, wanted, issued, now_ms)
            return True

        return self._store.transact(work)

    def pending(self) -> list[tuple[str, int]]:
        """Return (device, expires_ms) of claims that wait for their device."""
        rows: list[tuple[Any, ...]] = self._store.read(
            "SELECT d.name, c.expires_ms FROM claims AS c JOIN devices AS d ON d.id = c.device"
            " WHERE c.closed_ms IS NULL ORDER BY d.name"
        )
        return [(row[0], row[1]) for row in rows]


def _take_back(connection: Connection, device_id: int, number: int, now_ms: int) -> None:
    """Revoke the answer before this one: two that have the token shall not have a key each."""
    connection.execute(
        "UPDATE certificates SET revoked_ms = ?3, reason = 'superseded' WHERE revoked_ms IS NULL"
        " AND serial IN (SELECT serial FROM identities"
        " WHERE device = ?1 AND number = ?2 AND state = 'offered')",
        (device_id, number, now_ms),
    )


def _begin_anew(
    connection: Connection,
    device_id: int,
    number: int,
    wanted: Wanted,
    issued: Issued,
    now_ms: int,
) -> None:
    """A claimed device counts its identities from the one it asked for."""
    connection.execute(
        "DELETE FROM identities WHERE device = ? AND (number >= ? OR number < 0)",
        (device_id, number),
    )
    connection.execute(
        "INSERT INTO identities(device, number, serial, marks, pins, state, offered_ms)"
        " VALUES(?, ?, ?, ?, ?, 'offered', ?)",
        (device_id, number, f"{issued.serial:x}", wanted.marks, wanted.pins, now_ms),
    )
    key_made = "server" if issued.key else "device"
    add_certificate(connection, device_id, wanted, issued, key_made, now_ms)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
