"""A device and the bundle that was made for it, in the store as one commit.

A bundle whose certificate the store does not have could come in, and could not be revoked.
"""

import time
from typing import NamedTuple

from fleetnet_server.identity.names import check_device_name
from fleetnet_server.store.audit_rows import add_audit
from fleetnet_server.store.identities import ANEW, NEXT_BUNDLE
from fleetnet_server.store.ports import Connection, Database
from fleetnet_server.store.registry import RENEWED, insert_device, number_of


class Bundled(NamedTuple):
    """What a bundle was made with.

    Attributes:
        serial: number of its certificate. not_after_ms: its end, unix ms.
        generation: the CA that signed it. marks: of Authority, "" where rotation sends anchors
            that a bundle has no room for. pins: of the server, hexadecimal.
    """

    serial: int
    not_after_ms: int
    generation: int
    marks: str
    pins: tuple[str, ...]


def add_with_bundle(store: Database, name: str, made: Bundled, actor: str) -> None:
    """Register a device with the certificate of its bundle, and commit.

    Raises:
        IdentityError: no device name. StoreError: a device of that name exists.
        StoreUnavailable: nothing was registered.
    """
    check_device_name(name)

    def work(connection: Connection) -> None:
        insert_device(connection, name, actor)
        note_bundle(connection, number_of(connection, name), made)

    store.transact(work)


def renew_with_bundle(store: Database, name: str, made: Bundled, actor: str) -> None:
    """Note another bundle of a device, and that identities of the older one are over; commit.

    Raises:
        StoreError: it is not registered. StoreUnavailable: nothing was noted.
    """

    def work(connection: Connection) -> None:
        number = number_of(connection, name)
        note_bundle(connection, number, made)
        connection.execute(
            "UPDATE identities SET state = 'retired', ended_ms = ?2"
            " WHERE device = ?1 AND number > 0 AND state IN ('offered', 'working')",
            (number, _now_ms()),
        )
        add_audit(connection, actor, RENEWED, name, {"serial": f"{made.serial:x}"})

    store.transact(work)


def note_bundle(connection: Connection, device_id: int, made: Bundled) -> None:
    """Note certificate and bundle, as identity 0, inside a transaction of the caller's.

    Another bundle for a device that has one is on offer until its device comes with it: nothing
    that the present one does revokes it.
    """
    serial, now_ms = f"{made.serial:x}", _now_ms()
    connection.execute(
        "INSERT INTO certificates(serial, device, issued_ms, not_after_ms, generation)"
        " VALUES(?, ?, ?, ?, ?)",
        (serial, device_id, now_ms, made.not_after_ms, made.generation),
    )
    has_one = connection.execute(
        "SELECT EXISTS(SELECT 1 FROM identities WHERE device = ?)", (device_id,)
    ).get
    place = (NEXT_BUNDLE, "offered") if has_one else (0, "working")
    connection.execute(
        "INSERT INTO identities(device, serial, marks, pins, offered_ms, number, state)"
        f" VALUES(?, ?, ?, ?, ?, ?, ?){ANEW}",
        (device_id, serial, made.marks, " ".join(made.pins), now_ms, *place),
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
