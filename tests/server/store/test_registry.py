"""The registry in the store: what each change does, and that it is in the audit log."""

from pathlib import Path
from typing import Any

import pytest

from fleetnet.frame import READINGS
from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.errors import StoreError
from fleetnet_server.store.audit import AuditTable, Entry
from fleetnet_server.store.commands import CommandTable
from fleetnet_server.store.following import follow
from fleetnet_server.store.query import query
from server.store.two_stores import begin

NOW = 1_800_000_000_000
LATER = NOW * 2


def put(store: Any, device_id: int, seq: int, value: int = 1) -> None:
    body = f'[{NOW},0,["t"],[[0,{seq},{value}]]]'.encode()
    epoch = begin(store, device_id, b"epoch-%02d" % device_id)
    t0, t1, problem, kept = inspect_body(READINGS, body, lambda boot: None, NOW)
    store.commit([Message(device_id, epoch, 1, seq, READINGS, t0, t1, NOW + seq, kept, problem)])


def last(store: Any) -> Entry:
    return AuditTable(store).entries(limit=1)[0]


def test_states_and_who_changed_them(store: Any) -> None:
    store.registry.add("cam-1", "cli:ann")
    assert last(store)[2:] == ("cli:ann", "device-add", "cam-1", {})
    store.registry.set_enabled("cam-1", False, "cli:ann")
    assert last(store)[2:] == ("cli:ann", "device-disable", "cam-1", {})
    device = store.lookup("cam-1")
    assert device is not None
    assert (device.state, device.is_enabled, device.may_come) == ("disabled", False, False)
    store.set_enabled("cam-1", True)
    assert last(store)[2:] == ("program", "device-enable", "cam-1", {})
    count = AuditTable(store).newest()
    with pytest.raises(StoreError, match="fleetnet device list"):
        store.registry.set_enabled("nobody", True, "cli:ann")
    with pytest.raises(StoreError, match="already registered"):
        store.registry.add("cam-1", "cli:ann")
    assert AuditTable(store).newest() == count  # what failed did not happen


def test_revoke_ends_everything_that_was_given(store: Any) -> None:
    device = store.add_device("cam-1")
    other = store.add_device("cam-2")
    for serial in (0xA1, 0xB2):
        store.add_certificate(device.id, serial, LATER)
    store.add_certificate(other.id, 0xC3, LATER)
    store.transact(
        lambda connection: connection.execute(
            "INSERT INTO psks(identity, device, key, created_ms) VALUES('cam-1.1', ?, ?, 1)",
            (device.id, b"\0"),
        )
    )
    assert store.registry.revoke("cam-1", "key-compromise", "cli:ann") == ["a1", "b2", "cam-1.1"]
    assert last(store)[2:] == (
        "cli:ann", "device-revoke", "cam-1",
        {"serials": ["a1", "b2"], "reason": "key-compromise"},
    )  # fmt: skip
    (gone,) = AuditTable(store).entries(action="psk-remove")
    assert gone.detail == {"identities": ["cam-1.1"]}
    found = store.lookup("cam-1")
    assert found is not None
    assert (found.revoked, found.valid, found.state) == ({0xA1, 0xB2}, frozenset(), "enabled")
    kept = store.lookup("cam-2")
    assert kept is not None
    assert (kept.revoked, kept.valid) == (frozenset(), {0xC3})
    assert [(one.serial, one.reason) for one in store.registry.revoked()] == [
        (0xA1, "keyCompromise"),
        (0xB2, "keyCompromise"),
    ]
    assert store.registry.revoke("cam-1", "superseded") == []
    store.add_certificate(device.id, 0xD4, LATER)
    found = store.lookup("cam-1")
    assert found is not None
    assert 0xD4 in found.valid


def test_revoke_reaches_certificates_that_were_made_elsewhere(store: Any) -> None:
    store.registry.admit("cam-1", "enabled", 0xA1, "accept")
    assert last(store)[2:] == (
        "server", "device-admit", "cam-1", {"serial": "a1", "policy": "accept"},
    )  # fmt: skip
    assert store.registry.revoke("cam-1") == ["a1"]
    found = store.lookup("cam-1")
    assert found is not None
    assert found.revoked == {0xA1}
    assert store.registry.revoked()[0].generation is None


def test_the_list_forgets_what_ended_long_ago(store: Any) -> None:
    device = store.add_device("cam-1")
    store.add_certificate(device.id, 0xA1, 1_000_000)
    store.registry.revoke("cam-1")
    assert store.registry.revoked() == []


def test_one_certificate(store: Any) -> None:
    device = store.add_device("cam-1")
    for serial in (0xA1, 0xB2):
        store.add_certificate(device.id, serial, LATER)
    store.registry.revoke_certificate(0xA1, "superseded", "server")
    found = store.lookup("cam-1")
    assert found is not None
    assert (found.revoked, found.valid) == ({0xA1}, {0xB2})
    with pytest.raises(StoreError, match="not issued here"):
        store.registry.revoke_certificate(0xFF)


def test_remove_forgets_all_but_the_readings(store: Any) -> None:
    device = store.add_device("cam-1")
    store.add_certificate(device.id, 0xA1, LATER)
    table = CommandTable(store)
    waiting = table.add(device.id, "reboot", [], LATER)
    table.set_config(device.id, {"rate": 5})
    store.registry.change("cam-1", group="sensors", labels={"room": "7"})
    put(store, device.id, 1)
    store.registry.remove("cam-1", "cli:ann")
    assert store.lookup("cam-1") is None
    assert store.devices() == []
    assert store.was_removed("cam-1")
    assert not store.was_removed("cam-2")
    assert last(store)[2:] == ("cli:ann", "device-remove", "cam-1", {"serials": ["a1"]})
    assert len(list(query(store.path))) == 1
    with pytest.raises(StoreError):
        store.registry.remove("cam-1")
    # No policy brings it back; only somebody who adds it does.
    store.registry.admit("cam-1", "enabled", 0xA1, "accept")
    assert store.lookup("cam-1") is None
    again = store.registry.add("cam-1", "cli:ann")
    assert (again.id, again.state, again.group, again.labels) == (
        device.id, "enabled", "default", {},
    )  # fmt: skip
    assert again.revoked == {0xA1}
    assert table.config(device.id) is None
    command = table.get(waiting)
    assert command is not None
    assert command.state == "expired"


def test_groups_and_labels(store: Any) -> None:
    store.add_device("cam-1")
    device = store.registry.change("cam-1", "cli:ann", "sensors", {"room": "7", "floor": "1"})
    assert (device.group, device.labels) == ("sensors", {"floor": "1", "room": "7"})
    assert last(store).detail == {"group": "sensors", "labels": {"room": "7", "floor": "1"}}
    device = store.registry.change("cam-1", labels={"room": "8"}, without=["floor", "none"])
    assert (device.group, device.labels) == ("sensors", {"room": "8"})
    for group in ("", "A", "a b", "x" * 33):
        with pytest.raises(StoreError, match="is no group"):
            store.registry.change("cam-1", group=group)
    for labels in ({"a b": "1"}, {"a": "x" * 129}, {"a": "\x1b"}, {"": "1"}):
        with pytest.raises(StoreError, match="label"):
            store.registry.change("cam-1", labels=labels)
    with pytest.raises(StoreError, match="at most 32"):
        store.registry.change("cam-1", labels={f"k{number}": "" for number in range(32)})
    found = store.lookup("cam-1")
    assert found is not None
    assert found.labels == {"room": "8"}


def test_newest_message(store: Any) -> None:
    device = store.add_device("cam-1")
    assert store.registry.last_message_ms(device.id) is None
    for seq in (1, 2, 3):
        put(store, device.id, seq)
    assert store.registry.last_message_ms(device.id) == NOW + 3


def test_readings_of_a_quarantined_device_wait_for_its_release(store: Any) -> None:
    path = store.path
    view = "readings" if isinstance(path, Path) else "device_readings"
    store.registry.admit("new-1", "quarantined", 0xA1, "quarantine")
    device = store.lookup("new-1")
    assert device is not None
    assert (device.may_come, device.is_enabled) == (True, False)
    put(store, device.id, 1)
    assert list(query(path)) == []
    assert store.read(f"SELECT count(*) FROM {view}") == [(0,)]
    nothing = follow(path, 0, sleep=_stop)
    with pytest.raises(_Stopped):
        next(nothing)
    store.registry.set_enabled("new-1", True)
    assert len(list(query(path))) == 1
    assert store.read(f"SELECT count(*) FROM {view}") == [(1,)]
    assert next(follow(path, 0)).device == "new-1"


class _Stopped(Exception):
    pass


def _stop(_seconds: float) -> None:
    raise _Stopped
