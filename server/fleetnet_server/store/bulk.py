"""Many devices registered in one transaction: a wait for the disk, and not four for each."""

import time
from collections.abc import Iterable, Sequence

from fleetnet_server.identity.authority import Authority, Issued
from fleetnet_server.identity.names import check_device_name
from fleetnet_server.store.audit_rows import add_audit
from fleetnet_server.store.identities import ANEW
from fleetnet_server.store.ports import Connection, Database
from fleetnet_server.store.registry import ADDED


def register(
    store: Database,
    authority: Authority,
    devices: Sequence[tuple[str, Issued]],
    pins: Iterable[str],
    actor: str,
) -> None:
    """Register devices with the certificates of their bundles, and commit.

    As add_with_bundle for each; a device that exists
    gets one certificate more, which counts at once, and one that was removed is in again.

    Args:
        authority: which signed the certificates. pins: that the bundles hold.

    Raises:
        IdentityError: no device name. StoreUnavailable: nothing was registered.
    """
    for name, _issued in devices:
        check_device_name(name)
    marks = authority.marks if authority.anchors == (authority.bundle_anchor,) else ""
    now_ms = time.time_ns() // 1_000_000
    pin_text = " ".join(pins)

    def work(connection: Connection) -> None:
        for name, issued in devices:
            number = _add_device(connection, name, now_ms)
            serial = f"{issued.serial:x}"
            connection.execute(
                "INSERT INTO certificates(serial, device, issued_ms, not_after_ms, generation)"
                " VALUES(?, ?, ?, ?, ?)",
                (serial, number, now_ms, issued.not_after_ms, authority.generation),
            )
            connection.execute(
                "INSERT INTO identities(device, serial, marks, pins, offered_ms,"
                f" number, state) VALUES(?, ?, ?, ?, ?, 0, 'working'){ANEW}",
                (number, serial, marks, pin_text, now_ms),
            )
            add_audit(connection, actor, ADDED, name)

    store.transact(work)


def _add_device(connection: Connection, name: str, now_ms: int) -> int:
    """Register a device inside a transaction of the caller's; return its id."""
    connection.execute(
        "INSERT INTO devices(name, created_ms) VALUES(?1, ?2)"
        " ON CONFLICT(name) DO UPDATE SET state = 'enabled' WHERE devices.state = 'removed'",
        (name, now_ms),
    )
    return int(connection.execute("SELECT id FROM devices WHERE name = ?", (name,)).get)
