"""The audit log: append-only, never in the event loop's way, and not flooded."""

import json
from typing import Any

import apsw
import pytest

from fleetnet_server.errors import StoreError, StoreUnavailable
from fleetnet_server.store.audit import MAX_OF_ONE, MAX_REPEATED, PERIOD_S, Audit, AuditTable
from fleetnet_server.store.audit_rows import add_audit
from fleetnet_server.store.commands import CommandTable
from fleetnet_server.store.fleet_store import MAX_AUDIT
from server.store.two_stores import unavailable


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_nothing_changes_or_deletes_a_row(store: Any) -> None:
    store.transact(lambda connection: add_audit(connection, "cli:ann", "x", "cam-1", {"a": 1}))
    for statement in ("UPDATE audit SET actor = 'cli:eve'", "DELETE FROM audit"):
        with pytest.raises((apsw.ConstraintError, StoreError), match=r"append-only|permission"):
            store.transact(lambda connection, text=statement: connection.execute(text))
    (entry,) = AuditTable(store).entries()
    assert entry[2:] == ("cli:ann", "x", "cam-1", {"a": 1})


def test_a_note_waits_for_the_next_commit(store: Any) -> None:
    woken: list[bool] = []
    store.on_deferred = lambda: woken.append(True)
    audit = Audit(store)
    audit.note("server", "policy-reloaded", None, {"unknown": "refuse"})
    assert woken
    assert store.has_deferred
    assert AuditTable(store).newest() == 0
    store.commit([])
    (entry,) = AuditTable(store).entries()
    assert entry[2:] == ("server", "policy-reloaded", None, {"unknown": "refuse"})
    assert not store.has_deferred


def test_a_commit_that_fails_keeps_the_notes(store: Any, request: pytest.FixtureRequest) -> None:
    audit = Audit(store)
    audit.note("server", "x", None)
    with unavailable(store, request):
        with pytest.raises(StoreUnavailable):
            store.commit([])
        audit.note("server", "y", None)
    store.commit([])
    assert [entry.action for entry in AuditTable(store).entries()] == ["x", "y"]


def test_what_finds_no_room_is_counted_and_told(store: Any) -> None:
    audit = Audit(store)
    for _ in range(MAX_AUDIT + 7):
        audit.note("server", "x", None)
    assert audit.lost == 7
    audit.look()
    store.commit([])
    audit.look()
    audit.look()
    store.commit([])
    assert AuditTable(store).newest() == MAX_AUDIT + 1
    (told,) = AuditTable(store).entries(action="audit-lost")
    assert told.detail == {"rows": 7}


async def test_the_same_again_and_again_is_a_row_a_minute(store: Any) -> None:
    clock = Clock()
    audit = Audit(store, clock)
    reason = {"reason": "no certificate"}
    said = [audit.note_repeated("10.0.0.1", "handshake-refused", None, reason) for _ in range(500)]
    assert said == [True] + [False] * 499
    assert audit.note_repeated("10.0.0.2", "handshake-refused", None, reason)
    assert audit.note_repeated("10.0.0.1", "handshake-refused", None, {"reason": "expired"})
    clock.now += PERIOD_S + 1
    audit.look()
    audit.note_repeated("10.0.0.1", "handshake-refused", None, reason)
    clock.now += PERIOD_S + 1
    audit.look()
    clock.now += PERIOD_S + 1
    audit.look()  # a minute without any: forgotten
    assert audit.note_repeated("10.0.0.1", "handshake-refused", None, reason)
    audit.note_repeated("10.0.0.1", "handshake-refused", None, reason)
    await audit.stop()
    store.commit([])
    rows = [entry for entry in AuditTable(store).entries() if entry.detail.get("reason")]
    mine = [
        entry.detail.get("count", 0)
        for entry in rows
        if entry.actor == "10.0.0.1" and entry.detail["reason"] == "no certificate"
    ]
    assert mine == [0, 499, 1, 0, 1]
    assert len(rows) == 7


def test_many_different_ones_take_no_memory(store: Any) -> None:
    audit = Audit(store, Clock())
    for number in range(3 * MAX_REPEATED):
        audit.note_repeated(f"10.0.{number >> 8}.{number & 255}", "handshake-refused", None, {})
    assert len(audit._repeated) <= MAX_REPEATED + 1
    store.commit([])
    assert AuditTable(store).newest() == MAX_OF_ONE + 1


def test_what_is_asked_for(store: Any) -> None:
    for number in range(1, 6):
        store.transact(
            lambda connection, n=number: add_audit(connection, "cli:ann", f"a{n % 2}", f"d{n}")
        )
    table = AuditTable(store)
    assert [entry.id for entry in table.entries()] == [1, 2, 3, 4, 5]
    assert [entry.id for entry in table.entries(limit=2)] == [4, 5]
    assert [entry.id for entry in table.entries(action="a1")] == [1, 3, 5]
    assert [entry.id for entry in table.entries(device="d4")] == [4]
    assert [entry.id for entry in table.entries(after=3)] == [4, 5]
    assert table.entries(since_ms=1 << 52) == []
    assert table.after(3) == [(4, "a0", "d4"), (5, "a1", "d5")]


def test_a_command_is_noted_without_its_arguments(store: Any) -> None:
    device = store.add_device("cam-1")
    number = CommandTable(store).add(device.id, "wifi", ["secret"], 1 << 52, issuer="cli:ann")
    (entry,) = AuditTable(store).entries(action="command")
    assert entry[2:] == ("cli:ann", "command", "cam-1", {"name": "wifi", "id": number})
    assert "secret" not in json.dumps(entry)
    command = CommandTable(store).get(number)
    assert command is not None
    assert command.issuer == "cli:ann"
