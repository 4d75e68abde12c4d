"""What PostgreSQL refuses is stored as it came, and holds nobody up; on a real server."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

import pytest

from fleetnet_server.core.relay_ports import Relayed
from fleetnet_server.errors import StoreError
from fleetnet_server.store.fleet_store import Deferred
from fleetnet_server.store.postgres import series
from fleetnet_server.store.postgres.connect import connect
from fleetnet_server.store.postgres.schema_readings import WEEK_MS
from fleetnet_server.store_place import PostgresPlace
from server.store.postgres_server import PATIENCE_S
from server.store.postgres_world import EPOCH, NOW, Node, rows

PROBLEMS = "SELECT device, seq, problem IS NOT NULL FROM messages ORDER BY device, seq"


@pytest.fixture
def node(own_place: PostgresPlace) -> Iterator[Node]:
    made = Node(own_place)
    made.store.add_device("cam-1")
    made.store.add_device("hub-1")
    made.begin()
    made.begin(2)
    yield made
    made.close()


def removed(node: Node, seq: int) -> Relayed:
    """A message of a device that has no row any more, by a hub: its series cannot be made."""
    node.epochs[99, EPOCH] = 1000
    message = Relayed(*node.reading(seq, device=99))
    message.carrier, message.hub = (node.epochs[2, EPOCH], 4, seq), 2
    return message


def test_rows_that_are_refused_hold_no_others_up(
    node: Node, own_place: PostgresPlace, caplog: pytest.LogCaptureFixture
) -> None:
    batch = [*(node.reading(seq) for seq in range(1, 31)), removed(node, 1), removed(node, 2)]
    batch[10] = batch[10]._replace(t0=1 << 70, t1=1 << 70)
    node.store.note_gap(1, node.epochs[1, EPOCH], 9, 1, 4)
    node.store.defer_audit((NOW, "x", "tested", None, "{}"))
    with caplog.at_level(logging.ERROR, "fleetnet.store"):
        assert node.commit(batch) == list(range(32))
    told = "\n".join(caplog.messages)
    assert "message 11 of stream 3 of cam-1" in told and "of device 99" in told
    assert len(caplog.messages) == 3
    found = rows(own_place, PROBLEMS)
    assert [row for row in found if row[2]] == [(1, 11, True), (99, 1, True), (99, 2, True)]
    assert len(found) == 32
    kept = rows(own_place, "SELECT body FROM messages WHERE problem IS NOT NULL AND device = 1")
    assert kept == [(batch[10].body.encode(),)]  # type: ignore[union-attr]
    assert rows(own_place, "SELECT count(*) FROM readings") == [(29,)]
    assert rows(own_place, "SELECT stream, last FROM carried") == [(4, 2)]
    assert rows(own_place, "SELECT count(*) FROM audit WHERE action = 'tested'") == [(1,)]
    assert rows(own_place, "SELECT first, last FROM gaps") == [(1, 4)]
    assert node.commit(batch) == []
    assert node.commit([node.reading(31)]) == [0]


def test_an_error_that_no_message_is_to_blame_for_stays_one(
    node: Node, own_place: PostgresPlace
) -> None:
    waited = Deferred([(1, 1, 3, 1 << 70, 1 << 70, NOW)], [], {})
    batch = [node.reading(1)]
    with pytest.raises(StoreError):
        node.store._ingest.commit(batch, waited)
    assert rows(own_place, PROBLEMS) == []
    assert node.commit(batch) == [0]
    assert rows(own_place, PROBLEMS) == [(1, 1, False)]


def test_rows_on_their_way_while_their_partition_is_made_are_stored(
    node: Node, own_place: PostgresPlace
) -> None:
    """They wait for DEFAULT, and are told then that they do not belong there."""
    with contextlib.closing(connect(own_place)) as leader:
        leader.execute("BEGIN")
        week = NOW - NOW % WEEK_MS
        leader.execute("SELECT fleetnet_make_partition('readings', %s, %s, 0)",
                       (week, week + WEEK_MS))  # fmt: skip
        committing = threading.Thread(
            target=lambda: node.commit([node.reading(1), node.reading(2)])
        )
        committing.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        until = time.monotonic() + PATIENCE_S
        while rows(own_place, waiting) == [(0,)]:
            assert time.monotonic() < until
            time.sleep(0.02)
        leader.execute("COMMIT")
    committing.join(PATIENCE_S)
    assert rows(own_place, PROBLEMS) == [(1, 1, False), (1, 2, False)]
    assert rows(own_place, "SELECT DISTINCT tableoid::regclass::text, count(*) FROM readings"
                       " GROUP BY 1") == [(f"readings_{week}", 2)]  # fmt: skip


def test_a_device_has_a_limited_number_of_channels(
    node: Node, own_place: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(series, "MOST_OF_A_DEVICE", 3)

    def message(seq: int, *names: str, device: int = 1):  # type: ignore[no-untyped-def]
        channels = ",".join(f'"{name}"' for name in names)
        items = ",".join(f"[{index},0,1]" for index in range(len(names)))
        return node.make(seq, f"[{NOW},0,[{channels}],[{items}]]".encode(), device=device)

    batch = [
        message(1, "a", "b"), message(2, "c", "d"), message(3, "c"), message(4, "d", "a"),
        message(1, "d", device=2),
    ]  # fmt: skip
    assert node.commit(batch) == [0, 1, 2, 3, 4]
    assert node.commit([message(5, "e"), message(6, "b")]) == [0, 1]
    found = rows(own_place, PROBLEMS)
    assert [seq for device, seq, is_bad in found if is_bad and device == 1] == [2, 4, 5]
    assert not found[-1][2], "the limit is each device's own"
    assert rows(own_place, "SELECT device, channel FROM series ORDER BY 1, 2") == [
        (1, "a"), (1, "b"), (1, "c"), (2, "d")
    ]  # fmt: skip
    problems = rows(own_place, "SELECT DISTINCT problem FROM messages WHERE problem IS NOT NULL")
    assert len(problems) == 1 and "channels at most" in problems[0][0]
