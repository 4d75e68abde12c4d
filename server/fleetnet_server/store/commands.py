"""Commands and configurations in the store: what the server still has to tell its devices.

Rows are written by whoever asks (the server's program, `fleetnet call` beside it) and read
by the server's event loop. Answers come with the commit that stores the message which
brought them (answers.py): a crash cannot come between the two.
"""

import json
import secrets
import time
from collections.abc import Iterable
from typing import Any

from fleetnet_server.core.command_ports import DENIED, Command, check_command
from fleetnet_server.core.configs import Config, check_document
from fleetnet_server.errors import unknown_device
from fleetnet_server.identity.registry import Device
from fleetnet_server.store.audit_rows import add_audit
from fleetnet_server.store.ports import Connection, Store
from fleetnet_server.store.query import decode_value

COMMAND = "command"  # in the audit log

# An answer that did not come so long after the deadline will not come: its device is gone.
_LOST_MS = 30 * 86_400_000

_COMMAND = (
    "SELECT c.number, c.id, c.device, d.name, c.name, c.args, c.state, c.created_ms,"
    " c.expires_ms, c.sent_boot, c.ended_ms, c.result, c.issuer"
    " FROM commands AS c JOIN devices AS d ON d.id = c.device "
)
_CONFIG = (
    "SELECT c.device, d.name, c.edit, c.version, c.document, c.state_version, c.state,"
    " c.reported, c.set_ms, c.state_ms FROM configs AS c JOIN devices AS d ON d.id = c.device "
)


class CommandTable:
    """Commands and configurations of one store file. Raises StoreUnavailable throughout.

    What says that it commits waits for the disk: see Database.transact.
    """

    def __init__(self, store: Store):
        self._store = store

    def device(self, name: str) -> Device:
        """Return a registered device. Raises StoreError when there is none of that name."""
        found = self._store.lookup(name)
        if found is None:
            raise unknown_device(name)
        return found

    # Commands

    def add(
        self, device_id: int, name: str, args: Any, expires_ms: int, boot: int | None = None,
        issuer: str = "program",
    ) -> str:  # fmt: skip
        """Keep a command and commit; return its id.

        Args:
            expires_ms: unix ms after which the device must not begin it.
            boot: it will be handed to this boot of the device at once; None: it waits.
            issuer: who gives it, for the audit log.

        Raises:
            ValueError: name or arguments that no CALL can carry.
        """
        check_command(name, args)
        command_id = secrets.token_hex(8)
        values = (
            command_id, device_id, name, json.dumps(args, separators=(",", ":")),
            "queued" if boot is None else "sent", time.time_ns() // 1_000_000, expires_ms, boot,
            issuer,
        )  # fmt: skip

        def work(connection: Connection) -> None:
            connection.execute(
                "INSERT INTO commands(id, device, name, args, state, created_ms, expires_ms,"
                " sent_boot, issuer) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
            device = connection.execute("SELECT name FROM devices WHERE id = ?", (device_id,)).get
            # The arguments may be secret; they are with the command.
            add_audit(connection, issuer, COMMAND, str(device), {"name": name, "id": command_id})

        self._store.transact(work)
        return command_id

    def deny(self, command_id: str, why: str) -> None:
        """End a command that was never sent, as the policy wants, and commit."""
        values = (command_id, json.dumps([DENIED, why]), time.time_ns() // 1_000_000)
        self._store.transact(
            lambda connection: connection.execute(
                "UPDATE commands SET state = 'error', result = ?2, ended_ms = ?3"
                " WHERE id = ?1 AND ended_ms IS NULL AND sent_boot IS NULL",
                values,
            )
        )

    def get(self, command_id: str) -> Command | None:
        """Return one command."""
        rows = self._store.read(f"{_COMMAND}WHERE c.id = ?", (command_id,))
        return _command(rows[0]) if rows else None

    def recent(self, device_id: int | None = None, limit: int = 20) -> list[Command]:
        """Return the newest commands, of one device or of all, oldest first."""
        order = "ORDER BY c.number DESC LIMIT ?"
        if device_id is None:
            rows = self._store.read(_COMMAND + order, (limit,))
        else:
            rows = self._store.read(f"{_COMMAND}WHERE c.device = ? {order}", (device_id, limit))
        return [_command(row) for row in reversed(rows)]

    def unsent(self, device_id: int, now_ms: int, limit: int) -> list[Command]:
        """Return commands that their device never got and may still begin, oldest first."""
        rows = self._store.read(
            f"{_COMMAND}WHERE c.device = ? AND c.ended_ms IS NULL AND c.sent_boot IS NULL"
            " AND c.expires_ms > ? ORDER BY c.number LIMIT ?",
            (device_id, now_ms, limit),
        )
        return [_command(row) for row in rows]

    def unanswered(self, device_id: int, limit: int) -> list[Command]:
        """Return commands that their device got and did not answer, oldest first."""
        rows = self._store.read(
            f"{_COMMAND}WHERE c.device = ? AND c.ended_ms IS NULL AND c.sent_boot IS NOT NULL"
            " ORDER BY c.number LIMIT ?",
            (device_id, limit),
        )
        return [_command(row) for row in rows]

    def added_after(self, number: int) -> list[tuple[int, int]]:
        """Return (number, device id) of commands that came after ``number``."""
        return self._store.read(
            "SELECT number, device FROM commands WHERE number > ? ORDER BY number", (number,)
        )

    def mark_sent(self, command_ids: Iterable[str], boot: int) -> None:
        """Note, before they are sent, that a boot of their device gets commands; commit."""
        rows = [(boot, command_id) for command_id in command_ids]
        self._store.transact(
            lambda connection: connection.executemany(
                "UPDATE commands SET sent_boot = ?, state = 'sent'"
                " WHERE id = ? AND ended_ms IS NULL AND sent_boot IS NULL",
                rows,
            )
        )

    def expire(self, now_ms: int) -> tuple[int, int]:
        """End what was never sent in time, and what was not answered in a month; commit.

        Returns how many there were of each.
        """

        def work(connection: Connection) -> tuple[int, int]:
            connection.execute(
                "UPDATE commands SET state = 'expired', ended_ms = ?1"
                " WHERE ended_ms IS NULL AND sent_boot IS NULL AND expires_ms <= ?1",
                (now_ms,),
            )
            expired = connection.changes()
            connection.execute(
                "UPDATE commands SET state = 'lost', ended_ms = ?1"
                " WHERE ended_ms IS NULL AND sent_boot IS NOT NULL AND expires_ms <= ?1 - ?2",
                (now_ms, _LOST_MS),
            )
            return expired, connection.changes()

        if self._store.read(
            "SELECT 1 FROM commands WHERE ended_ms IS NULL AND (expires_ms <= ?1 - ?2"
            " OR (sent_boot IS NULL AND expires_ms <= ?1)) LIMIT 1",
            (now_ms, _LOST_MS),
        ):
            return self._store.transact(work)
        return 0, 0

    def newest(self) -> tuple[int, int]:
        """Return the highest number of a command, and the highest edit of a configuration."""
        ((number, edit),) = self._store.read(
            "SELECT (SELECT coalesce(max(number), 0) FROM commands),"
            " (SELECT coalesce(max(edit), 0) FROM configs)"
        )
        return number, edit

    # Configurations

    def set_config(self, device_id: int, document: dict[str, Any]) -> int:
        """Keep a device's new document and commit; return its version.

        Raises:
            ValueError: no object, or one that no CONFIG can carry.
        """
        check_document(document)
        text = json.dumps(document, separators=(",", ":"))
        now_ms = time.time_ns() // 1_000_000

        def work(connection: Connection) -> int:
            connection.execute(
                "INSERT INTO configs(device, edit, version, document, set_ms)"
                " VALUES(?1, (SELECT coalesce(max(edit), 0) + 1 FROM configs),"
                # The store that a backup brought back does not know what was set behind it.
                " (SELECT 1 + coalesce(max(config_base), 0) FROM restores), ?2, ?3)"
                " ON CONFLICT(device) DO UPDATE SET edit = excluded.edit,"
                " version = configs.version + 1, document = excluded.document,"
                " set_ms = excluded.set_ms",
                (device_id, text, now_ms),
            )
            return int(
                connection.execute("SELECT version FROM configs WHERE device = ?", (device_id,)).get
            )

        return self._store.transact(work)

    def config(self, device_id: int) -> Config | None:
        """Return what a device should have and what it said of that; None: nothing was set."""
        rows = self._store.read(f"{_CONFIG}WHERE c.device = ?", (device_id,))
        return _config(rows[0]) if rows else None

    def edited_after(self, edit: int) -> list[tuple[int, int]]:
        """Return (edit, device id) of documents that were set after ``edit``."""
        return self._store.read(
            "SELECT edit, device FROM configs WHERE edit > ? ORDER BY edit", (edit,)
        )

    def note_config(self, device_id: int, version: int) -> None:
        """Note what HELLO said: the device has ``version``; commit."""
        now_ms = time.time_ns() // 1_000_000
        self._store.transact(
            lambda connection: connection.execute(
                "UPDATE configs SET state_version = ?2, state = 'applied', state_ms = ?3"
                " WHERE device = ?1 AND version = ?2",
                (device_id, version, now_ms),
            )
        )


def _command(row: tuple[Any, ...]) -> Command:
    values = list(row)
    values[5] = json.loads(values[5])
    values[11] = None if values[11] is None else decode_value(values[11])
    return Command(*values)


def _config(row: tuple[Any, ...]) -> Config:
    values = list(row)
    values[4] = json.loads(values[4])
    values[7] = None if values[7] is None else decode_value(values[7])
    return Config(*values)
