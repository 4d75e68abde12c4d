"""The tables behind keys, claims, identities, hubs and tokens: the same on either database."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from fleetnet_server.errors import StoreError
from fleetnet_server.store import overview
from fleetnet_server.store.audit import AuditTable
from fleetnet_server.store.bulk import register
from fleetnet_server.store.bundle_rows import Bundled, note_bundle
from fleetnet_server.store.claims import ClaimTable
from fleetnet_server.store.commands import CommandTable
from fleetnet_server.store.expiry import (
    device_certificates,
    devices_with_marks,
    devices_without_pin,
)
from fleetnet_server.store.hubs import HubTable
from fleetnet_server.store.identities import CUT_OFF, IdentityTable
from fleetnet_server.store.psks import PskTable
from fleetnet_server.store.standing import EXPIRED, NONE, REVOKED, VALID, credential
from fleetnet_server.store.tokens import TokenTable

LATER = 4_000_000_000_000
WANTED: Any = SimpleNamespace(marks="m1", pins="aa bb", generation=3)
AUTHORITY: Any = SimpleNamespace(marks="m0", anchors=("a",), bundle_anchor="a", generation=2)


def issued(serial: int, key: bytes = b"key") -> Any:
    return SimpleNamespace(serial=serial, key=key, not_after_ms=LATER, certificate=b"")


def bundled(store: Any, device_id: int, serial: int, *pins: str) -> None:
    made = Bundled(serial, LATER, AUTHORITY.generation, "m0", pins)
    store.transact(lambda connection: note_bundle(connection, device_id, made))


def serials(store: Any, device_id: int) -> dict[int, str | None]:
    """Return the reason of each certificate's revocation, None: it is good."""
    return {
        one.serial: one.reason or (None if one.revoked_ms is None else "")
        for one in store.registry.certificates(device_id)
    }


def test_pre_shared_keys(store: Any) -> None:
    device = store.add_device("cam-1")
    table = PskTable(store)
    before = table.newest()
    assert table.add(device, lambda identity: identity.encode() + b"\0\xff", "cli:a", True) == (
        "cam-1.1"
    )
    with pytest.raises(StoreError, match="psk rotate"):
        table.add(device, lambda _identity: b"", "cli:a", False)
    assert table.find("cam-1.1") == b"cam-1.1\0\xff"
    assert table.find("cam-1.2") is None
    assert table.rotate(device, lambda _identity: b"two", "cli:a", False) == "cam-1.2"
    assert [(one.identity, one.enrol, one.used_ms) for one in table.all()] == [
        ("cam-1.1", True, None),
        ("cam-1.2", True, None),
    ]
    assert table.news_after(before) == (table.newest(), True)
    assert table.news_after(table.newest()) == (table.newest(), False)
    assert table.note_used({"cam-1.2": 70, "gone.1": 5}) == ["cam-1.1"]
    table.note_used({"cam-1.2": 50})  # an older note came later
    assert [(one.identity, one.used_ms) for one in table.all(device)] == [("cam-1.2", 70)]
    assert credential(store, device.id) == VALID
    assert table.remove(device, "cli:a") == ["cam-1.2"]
    assert table.all(device) == []
    assert table.add(device, lambda _identity: b"3", "cli:a", False) == "cam-1.3"


def test_a_claim_is_answered_once(store: Any) -> None:
    device = store.add_device("cam-1")
    table = ClaimTable(store)
    table.open(device.id, "AAAA", LATER, "cli:a")
    table.open(device.id, "BBBB", LATER, "cli:a")  # in place of it
    assert table.find("AAAA") is None
    claim = table.find("bb bb")
    assert claim is not None
    assert (claim.device_id, claim.device, claim.public_key, claim.closed_ms) == (
        device.id, "cam-1", None, None,
    )  # fmt: skip
    assert table.pending() == [("cam-1", LATER)]
    assert table.answer(claim, "key-1", 1, WANTED, issued(0xA1))
    assert not table.answer(claim, "key-2", 1, WANTED, issued(0xA2)), "bound to another key"
    assert table.answer(claim, "key-1", 1, WANTED, issued(0xA3))
    assert serials(store, device.id) == {0xA1: "superseded", 0xA3: None}
    facts = IdentityTable(store).facts(device.id, 0xA3)
    assert facts.has_claim
    IdentityTable(store).worked(device.id, 1, 0xA3)
    assert table.pending() == []
    assert not IdentityTable(store).facts(device.id, 0xA3).has_claim
    table.open(device.id, "CCCC", LATER, "cli:a")
    again = table.find("CCCC")
    assert again is not None
    assert (again.public_key, again.closed_ms) == (None, None), "nothing of the old claim stays"
    store.set_enabled("cam-1", False)
    assert not table.answer(again, "key-1", 1, WANTED, issued(0xA4))


def test_an_identity_from_its_offer_to_its_end(store: Any) -> None:
    device = store.add_device("cam-1")
    table = IdentityTable(store)
    bundled(store, device.id, 0xA0, "aa")
    assert table.offer(device.id, 1, WANTED, issued(0xB1), None, 0xA0)
    assert table.offer(device.id, 2, WANTED, None, None, 0xA0)  # a CSR is awaited
    first = {one.number: one for one in table.identities(device.id)}
    assert (first[1].state, first[1].reason, first[1].serial) == ("failed", CUT_OFF, 0xB1)
    assert (first[2].state, first[2].tries, first[2].serial) == ("offered", 1, None)
    assert table.certify(device.id, 2, WANTED, issued(0xB2, b""), 0xA0)
    assert not table.certify(device.id, 7, WANTED, issued(0xB7, b""), 0xA0)
    assert table.failed(device.id, 2, "no") == 2
    assert table.offer(device.id, 3, WANTED, issued(0xB3), None, 0xA0)
    table.worked(device.id, 3, 0xB3)
    assert sorted(table.retire(device.id, 3)) == [0xA0, 0xB1, 0xB2]
    assert table.retire(device.id, 1) == [], "only what works supersedes"
    found = {one.number: (one.state, one.tries) for one in table.identities(device.id)}
    assert found == {0: ("retired", 0), 1: ("failed", 0), 2: ("failed", 2), 3: ("working", 0)}
    assert table.facts(device.id, 0xB3).certificate is not None
    assert not table.offer(device.id, 4, WANTED, issued(0xB4), None, 0xA0), "it was revoked"
    assert table.offer(device.id, 3, WANTED, issued(0xB5), None, 0xB3)  # the number once more
    again = table.identities(device.id)[0]
    assert (again.state, again.serial, again.reason, again.ended_ms) == (
        "offered", 0xB5, None, None,
    )  # fmt: skip


def test_a_new_bundle_waits_for_its_device(store: Any) -> None:
    device = store.add_device("cam-1")
    for serial in (0xA0, 0xA1, 0xA2):
        bundled(store, device.id, serial, "aa", "bb")
    table = IdentityTable(store)
    table.worked(device.id, 0, 0xA2)
    (identity,) = table.identities(device.id)
    assert (identity.number, identity.serial, identity.marks, identity.pins) == (
        0, 0xA2, "m0", "aa bb",
    )  # fmt: skip


def test_only_the_newest_rows_of_an_identity_are_kept(store: Any) -> None:
    device = store.add_device("cam-1")
    table = IdentityTable(store)
    for number in range(1, 30):
        table.worked(device.id, number, 0xC0 + number)
    ((count,),) = store.read("SELECT count(*) FROM identities WHERE device = ?", (device.id,))
    assert 16 <= count <= 18


def test_what_is_asked_for_is_asked_for_until_it_was_offered(store: Any) -> None:
    devices = [store.add_device(name) for name in ("cam-1", "cam-2")]
    table = IdentityTable(store)
    before = table.newest()
    for _ in range(2):
        table.ask(devices, "cli:a")
    newest, asked = table.asked_after(before)
    assert {device_id for device_id, _ms in asked} == {device.id for device in devices}
    assert table.asked_after(newest) == (newest, [])
    one = devices[0].id
    assert table.facts(one, 0).asked_ms is not None
    store.add_certificate(one, 0xA0, LATER)
    table.offer(one, 1, WANTED, issued(0xB1), None, 0xA0)
    table.worked(one, 1, 0xB1)
    assert table.facts(one, 0).asked_ms is None
    assert table.facts(devices[1].id, 0).asked_ms is not None


def test_hubs(store: Any) -> None:
    ids = {name: store.add_device(name).id for name in ("hub-1", "hub-2", "cam-1", "cam-2")}
    table = HubTable(store)
    assert table.assign("hub-1", ["cam-1", "cam-2"], "cli:a") == ["cam-1", "cam-2"]
    assert table.assign("hub-1", ["cam-1"], "cli:a") == []
    table.assign("hub-2", ["cam-1"], "cli:a")
    with pytest.raises(StoreError, match="its own hub"):
        table.assign("hub-1", ["cam-2", "hub-1"])
    assert [(one.hub, one.sensor) for one in table.assignments()] == [
        ("hub-1", "cam-1"), ("hub-1", "cam-2"), ("hub-2", "cam-1"),
    ]  # fmt: skip
    assert [one.sensor for one in table.assignments("hub-2")] == ["cam-1"]
    assert table.is_assigned(ids["hub-2"], ids["cam-1"])
    assert not table.is_assigned(ids["hub-2"], ids["cam-2"])
    table.note_came(ids["hub-2"], ids["cam-1"])
    assert table.assignments("hub-2")[0].came_ms is not None
    for mark in (7, 5):
        table.note_carried(3, {1: mark, 2: 2 * mark})
    rows = store.read("SELECT stream, last FROM carried WHERE epoch = 3 ORDER BY stream")
    assert rows == [(1, 7), (2, 14)]
    assert table.unassign("hub-1", ["cam-2", "cam-9"]) == ["cam-2"]
    assert not table.has_hub(ids["cam-2"])
    store.registry.remove("hub-2")
    assert [(one.hub, one.sensor) for one in table.assignments()] == [("hub-1", "cam-1")]


def test_tokens(store: Any) -> None:
    table = TokenTable(store)
    token = table.add("ci", ["read"], "cli:a", LATER)
    with pytest.raises(StoreError, match="exists"):
        table.add("ci", ["read"], "cli:a")
    table.add("a-person", ["read"], "cli:a")
    over = table.add("old", ["read"], "cli:a", 5)
    assert table.find(over) is None
    found = table.find(token)
    assert found is not None
    assert (found.name, found.used_ms) == ("ci", None)
    table.note_used("ci")
    assert [one.name for one in table.all()] == ["a-person", "ci", "old"]
    assert table.all()[1].used_ms is not None
    table.revoke("ci", "cli:a")
    with pytest.raises(StoreError, match="no token"):
        table.revoke("ci", "cli:a")
    assert table.find(token) is None


def test_whose_certificate_ends_when_and_who_knows_which_pin(store: Any) -> None:
    now_ms = time.time_ns() // 1_000_000
    register(store, AUTHORITY, [("b-cam", issued(0xB0)), ("B-CAM", issued(0xB1))][:1], ["aa"], "a")
    register(store, AUTHORITY, [("a-cam", issued(0xA0))], ["bb"], "cli:a")
    none = store.add_device("z-none")
    dated = device_certificates(store)
    assert [one.name for one in dated] == ["a-cam", "b-cam"]
    assert dated[0].not_after_ms == LATER
    assert devices_without_pin(store, "aa", now_ms + 1_000_000) == ["a-cam", "z-none"]
    assert devices_with_marks(store) == [("a-cam", "m0"), ("b-cam", "m0")]
    assert credential(store, none.id) == NONE
    device = store.lookup("a-cam")
    assert credential(store, device.id) == VALID
    store.registry.revoke("a-cam")
    assert credential(store, device.id) == REVOKED
    store.add_certificate(none.id, 0xF0, 5)
    assert credential(store, none.id) == EXPIRED
    listed = overview.Overview(store, store.registry).devices()
    assert [(one.name, one.expires_ms) for one in listed] == [
        ("a-cam", None), ("b-cam", LATER), ("z-none", 5),
    ]  # fmt: skip


def test_many_at_once_are_as_one_after_another(store: Any) -> None:
    register(store, AUTHORITY, [("cam-1", issued(0xA0))], ["aa"], "cli:a")
    store.registry.remove("cam-1")
    register(store, AUTHORITY, [("cam-1", issued(0xA1)), ("cam-2", issued(0xB1))], ["aa"], "cli:a")
    devices = store.devices()
    assert [device.name for device in devices] == ["cam-1", "cam-2"]
    assert devices == [store.lookup("cam-1"), store.lookup("cam-2")]
    assert (devices[0].revoked, devices[0].valid) == ({0xA0}, {0xA1})
    (identity,) = IdentityTable(store).identities(devices[0].id)
    assert (identity.serial, identity.state) == (0xA1, "working")


def test_names_are_in_order_of_their_bytes(store: Any) -> None:
    """Whatever the language of the database is."""
    for name in ("cam_1", "cam-1", "camera", "cam.2", "a", "zz", "cam1"):
        store.add_device(name)
    names = [device.name for device in store.devices()]
    assert names == sorted(names)


def test_numbers_grow_and_a_transaction_that_fails_leaves_nothing(store: Any) -> None:
    device = store.add_device("cam-1")
    table = CommandTable(store)
    newest = AuditTable(store).newest()
    ids = [table.add(device.id, "reboot", [], LATER) for _ in range(3)]
    numbers = [number for number, _device in table.added_after(0)]
    assert numbers == sorted(numbers)
    assert [one.id for one in table.recent(device.id)] == ids
    after = AuditTable(store).newest()
    assert after > newest

    def work(connection: Any) -> None:
        connection.execute("DELETE FROM commands")
        assert connection.changes() == 3
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        store.transact(work)
    assert len(table.recent(device.id)) == 3
    assert [table.set_config(device.id, {"a": n}) for n in range(3)] == [1, 2, 3]
    assert [edit for edit, _device in table.edited_after(1)] == [3]
