"""When certificates end, and which of a device's counts."""

import time
from datetime import timedelta
from pathlib import Path

import pytest

from fleetnet_server.identity import expiry
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.expiry import Dated, expiries, level
from fleetnet_server.identity.server_keys import ServerKeys
from fleetnet_server.store.expiry import device_certificates, devices_without_pin
from fleetnet_server.store.sqlite import SqliteStore

DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("kind", "life_d", "left_d", "expected"),
    [
        ("device", 825, 31, "ok"),
        ("device", 825, 30, "soon"),
        ("server", 825, 8, "soon"),
        ("server", 825, 7, "urgent"),
        ("device", 825, 0, "expired"),
        ("device", 825, -1, "expired"),
        # Of a short life a third and a tenth count.
        ("device", 30, 11, "ok"),
        ("device", 30, 10, "soon"),
        ("device", 30, 3, "urgent"),
        # A CA takes longer to be replaced.
        ("ca", 7300, 366, "ok"),
        ("ca", 7300, 365, "soon"),
        ("ca", 7300, 90, "urgent"),
    ],
)
def test_level(kind: str, life_d: int, left_d: int, expected: str) -> None:
    end = 10_000 * DAY_MS
    assert level(kind, end - life_d * DAY_MS, end, end - left_d * DAY_MS) == expected


def test_everything_that_ends_is_listed_the_nearest_first(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, permit=("fleet.example",))
    keys = ServerKeys.create(tmp_path, authority, ("fleet.example",), timedelta(days=20))
    now = time.time_ns() // 1_000_000
    devices = [
        Dated("late", now, now + 900 * DAY_MS),
        Dated("gone", now - 30 * DAY_MS, now - DAY_MS),
    ]
    found = expiries(now, devices, keys, authority)
    assert [(one.kind, one.name, one.level) for one in found] == [
        ("device", "gone", "expired"),
        ("server", "fleet.example", "ok"),
        ("device", "late", "ok"),
        ("ca", "issuing 1", "ok"),
        ("ca", "root 1", "ok"),
    ]
    assert expiry.summary(found) == {"ok": 4, "soon": 0, "urgent": 0, "expired": 1}
    assert expiries(now + 15 * DAY_MS, [], keys)[0].level == "soon"
    assert expiries(now) == []


def test_a_flat_ca_is_one_certificate(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, is_flat=True)
    assert [one.name for one in expiries(0, authority=authority)] == ["root 1"]


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    return SqliteStore(tmp_path / "fleet.db")


def offer(store: SqliteStore, device: int, number: int, serial: int, state: str, pins: str) -> None:
    store.transact(
        lambda connection: connection.execute(
            "INSERT INTO identities(device, number, serial, marks, pins, state, offered_ms)"
            " VALUES(?, ?, ?, '', ?, ?, 0)",
            (device, number, f"{serial:x}", pins, state),
        ).fetchall()
    )


def test_of_a_device_the_newest_certificate_in_use_counts(store: SqliteStore) -> None:
    with store:
        for name in ("cam-1", "cam-2", "cam-3", "none"):
            store.add_device(name)
        cam1, cam2, cam3 = (store.lookup(f"cam-{n}").id for n in (1, 2, 3))  # type: ignore[union-attr]
        for device, serial, end in ((cam1, 1, 100), (cam1, 2, 200), (cam2, 3, 300), (cam3, 4, 400)):
            store.add_certificate(device, serial, end)
            time.sleep(0.002)  # "newest" is by issue, in ms
        ends = [(one.name, one.not_after_ms) for one in device_certificates(store)]
        assert ends == [("cam-1", 200), ("cam-2", 300), ("cam-3", 400)]
        store.add_certificate(cam2, 5, 500)
        offer(store, cam2, 1, 5, "offered", "")
        store.revoke_certificate(2)
        store.set_enabled("cam-3", False)
        ends = [(one.name, one.not_after_ms) for one in device_certificates(store)]
        assert ends == [("cam-1", 100), ("cam-2", 300)]


def test_which_devices_do_not_know_a_key(store: SqliteStore) -> None:
    with store:
        made = [store.add_device(name) for name in ("cam-1", "cam-2", "cam-3", "cam-4")]
        after = time.time_ns() // 1_000_000 + 1
        assert devices_without_pin(store, "bb", 0) == []  # their bundles are younger than the key
        assert len(devices_without_pin(store, "bb", after)) == 4
        offer(store, made[0].id, 1, 1, "working", "aa bb")
        offer(store, made[1].id, 1, 2, "working", "aa")
        offer(store, made[2].id, 1, 3, "offered", "aa bb")
        store.set_enabled("cam-4", False)
        assert devices_without_pin(store, "bb", after) == ["cam-2", "cam-3"]
        offer(store, made[1].id, 2, 4, "working", "bb cc")
        assert devices_without_pin(store, "bb", after) == ["cam-3"]
