"""Rows of the audit log that belong to a change of the store: written in its transaction."""

import json
import time
from typing import Any

from fleetnet_server.store.ports import Connection


def add_audit(
    connection: Connection,
    actor: str,
    action: str,
    device: str | None,
    detail: dict[str, Any] | None = None,
) -> None:
    """Write a row inside a transaction of the caller's."""
    connection.execute(
        "INSERT INTO audit(at_ms, actor, action, device, detail) VALUES(?, ?, ?, ?, ?)",
        (time.time_ns() // 1_000_000, actor, action, device, json.dumps(detail or {})),
    )
