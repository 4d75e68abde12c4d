"""Partitions, pruning of messages, and the end of readings by policy, on a real server."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetnet.frame import EVENT
from fleetnet_server.core.bodies import Message
from fleetnet_server.errors import StoreError
from fleetnet_server.store.postgres import partitions as making
from fleetnet_server.store.postgres import pruning
from fleetnet_server.store.postgres.partitions import Partitions
from fleetnet_server.store.postgres.pruning import KEEP_MS, Pruning
from fleetnet_server.store.postgres.retention import PostgresRetention
from fleetnet_server.store.postgres.schema_messages import DAY_MS
from fleetnet_server.store.postgres.schema_readings import WEEK_MS
from fleetnet_server.store_place import PostgresPlace
from server.store.postgres_server import PostgresServer
from server.store.postgres_world import Node, rows

NOW = 1_800_000_000_000
WHERE = "SELECT tableoid::regclass::text, count(*) FROM {} GROUP BY 1 ORDER BY 1"


@pytest.fixture
def node(place: PostgresPlace) -> Iterator[Node]:
    made = Node(place)
    made.store.add_device("cam-1")
    made.begin()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def three_weeks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A year of tables takes time, and few tests look at it."""
    monkeypatch.setattr(making, "WEEKS_AHEAD", 1)


def put(node: Node, seq: int, t: int, value: str = "1", kind: int = 16) -> None:
    """Store one message that came at ``t``."""
    body = f'[{t},0,["t"],[[0,0,{value}]]]' if kind == 16 else f'[{t},0,"door",1]'
    message: Message = node.make(seq, body.encode(), kind)
    assert node.commit([message._replace(received=t)]) == [0]


def run(work: Partitions | Pruning | PostgresRetention) -> int:
    """Do all that is due now, as housekeeping does."""
    work._due = 0.0
    steps = 0
    while work.step():
        steps += 1
        assert steps < 10_000
    work.close()
    return steps


def first_of(t: int, width: int) -> int:
    return t - t % width


def test_partitions_are_made_ahead_and_take_what_was_late(
    node: Node, place: PostgresPlace
) -> None:
    put(node, 1, NOW)  # nobody made its day yet
    assert rows(place, WHERE.format("messages")) == [("messages_default", 1)]
    partitions = Partitions(place, lambda: NOW)
    assert partitions.step() == 5
    assert partitions.step() == 0
    partitions.close()
    put(node, 2, NOW + DAY_MS)
    put(node, 3, NOW - 365 * DAY_MS)
    days = [first_of(NOW, DAY_MS), first_of(NOW + DAY_MS, DAY_MS)]
    assert rows(place, WHERE.format("messages")) == [
        (f"messages_{days[0]}", 1), (f"messages_{days[1]}", 1), ("messages_default", 1)
    ]  # fmt: skip
    week = f"readings_{first_of(NOW, WEEK_MS)}"
    assert dict(rows(place, WHERE.format("readings")))["readings_default"] == 1
    assert dict(rows(place, WHERE.format("readings")))[week] >= 1
    assert node.commit([node.make(1, b"x")]) == [], "a row that moved is known"


def test_the_servers_role_makes_no_other_tables(place: PostgresPlace) -> None:
    for sql in ("CREATE TABLE other(a INT)", "DROP TABLE messages_default"):
        with pytest.raises(Exception, match=r"permission denied|must be owner"):
            rows(place, sql)
    with pytest.raises(Exception, match="no table of fleetnet"):
        rows(place, "SELECT fleetnet_make_partition('audit', 0, 1, 0)")
    with pytest.raises(Exception, match="no table of fleetnet"):
        rows(place, "SELECT fleetnet_drop_partition('audit', 0, FALSE)")


@pytest.mark.parametrize("most", [1000, 0])
def test_old_messages_go_and_their_readings_stay(
    most: int, node: Node, place: PostgresPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one go; and in steps, when too much else is in the day."""
    monkeypatch.setattr(pruning, "MOST_MOVED", most)
    run(Partitions(place, lambda: NOW))
    put(node, 1, NOW)
    put(node, 2, NOW, kind=EVENT)
    undated = node.make(3, b'[5,7,["t"],[[0,0,1]]]')
    node.commit([undated._replace(received=NOW)])
    later = first_of(NOW, DAY_MS) + DAY_MS + KEEP_MS
    run(Pruning(place, tmp_path, lambda: later - 1))
    assert rows(place, "SELECT count(*) FROM messages") == [(3,)]
    rows(place, "INSERT INTO bridges(name, message, moved_ms, until_ms)"
                " VALUES('mqtt', 0, 0, %s) RETURNING 1", later + 1)  # fmt: skip
    run(Pruning(place, tmp_path, lambda: later))
    assert rows(place, "SELECT count(*) FROM messages") == [(3,)], "a bridge still needs it"
    run(Pruning(place, tmp_path, lambda: later + 1))
    assert rows(place, "SELECT seq FROM messages ORDER BY 1") == [(2,), (3,)]
    assert rows(place, "SELECT seq FROM readings") == [(1,)]
    assert rows(place, "SELECT id > 0 FROM dropped") == [(True,)]
    assert node.commit([node.reading(1)]) == [], "what is gone as a message is still known"
    node.store.set_boot(1, 7, NOW)
    node.commit([])
    assert rows(place, "SELECT seq, t FROM readings ORDER BY 1")[1] == (3, NOW + 5)


def test_old_readings_go_where_nobody_had_made_their_day(
    node: Node, place: PostgresPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "_PRUNE_DEFAULT", pruning._PRUNE_DEFAULT.replace("5000", "2"))
    for seq in range(1, 5):
        put(node, seq, NOW, kind=EVENT if seq == 2 else 16)
    undated = node.make(5, b'[5,7,["t"],[[0,0,1]]]')
    node.commit([undated._replace(received=NOW)])
    put(node, 6, NOW + 2 * DAY_MS)
    assert rows(place, WHERE.format("messages")) == [("messages_default", 6)]
    later = first_of(NOW, DAY_MS) + DAY_MS + KEEP_MS
    run(Pruning(place, tmp_path, lambda: later - 1))
    assert rows(place, "SELECT count(*) FROM messages") == [(6,)]
    rows(place, "INSERT INTO bridges(name, xid, message, moved_ms, until_ms)"
                " SELECT 'mqtt', xid::text::bigint, id, 0, %s FROM messages WHERE seq = 3"
                " RETURNING 1", later + 1)  # fmt: skip
    run(Pruning(place, tmp_path, lambda: later))
    assert rows(place, "SELECT seq FROM messages ORDER BY 1") == [(2,), (4,), (5,), (6,)]
    told = rows(place, "SELECT d.xid < m.xid, d.id > 0 FROM dropped AS d, messages AS m"
                       " WHERE m.seq = 4")  # fmt: skip
    assert told == [(True, True)], "what a bridge still needs counts as dropped, or nothing does"
    run(Pruning(place, tmp_path, lambda: later + 1))
    assert rows(place, "SELECT seq FROM messages ORDER BY 1") == [(2,), (5,), (6,)]
    assert rows(place, "SELECT seq FROM readings ORDER BY 1") == [(1,), (3,), (4,), (6,)]


def test_events_end_by_the_policy_for_messages(
    node: Node, place: PostgresPlace, tmp_path: Path
) -> None:
    (tmp_path / "retention.toml").write_text('[messages]\nkeep = "30d"\n')
    put(node, 1, NOW, kind=EVENT)
    put(node, 2, NOW + 20 * DAY_MS, kind=EVENT)
    put(node, 3, NOW)
    run(Pruning(place, tmp_path, lambda: NOW + 30 * DAY_MS))
    assert rows(place, "SELECT seq FROM messages ORDER BY 1") == [(1,), (2,)]
    run(Pruning(place, tmp_path, lambda: NOW + 30 * DAY_MS + 1))
    assert rows(place, "SELECT seq FROM messages ORDER BY 1") == [(2,)]
    assert rows(place, "SELECT seq FROM readings") == [(3,)]


POLICY = '[[rule]]\nraw = "1h"\nminutes = "1d"\nhours = "30d"\n'


def test_readings_become_minutes_then_hours_then_nothing(
    node: Node, place: PostgresPlace, tmp_path: Path
) -> None:
    (tmp_path / "retention.toml").write_text(POLICY)
    hour = first_of(NOW, 3_600_000)
    values = ["1", "5", '"open"', "1.7e308", "1.7e308", "true"]
    for seq, value in enumerate(values, 1):
        put(node, seq, hour + seq * 1000, value)
    put(node, 7, hour + 61_000, "-2")
    sums = "SELECT step, t, n, other, low, high, total FROM rollups ORDER BY 1, 2"
    old = PostgresRetention(place, tmp_path, lambda: hour + 3_600_000 + 30_000)
    run(old)
    assert old.ended == 6
    most = 1.7976931348623157e308
    first = (60_000, hour, 4, 2, 1.0, 1.7e308, most)
    assert rows(place, sums) == [first]
    assert rows(place, "SELECT seq FROM readings") == [(7,)]
    put(node, 8, hour + 2000, "3")  # late, for a minute that was summed up
    run(PostgresRetention(place, tmp_path, lambda: hour + 2 * 3_600_000))
    assert rows(place, sums) == [
        (60_000, hour, 5, 2, 1.0, 1.7e308, most), (60_000, hour + 60_000, 1, 0, -2.0, -2.0, -2.0)
    ]  # fmt: skip
    run(PostgresRetention(place, tmp_path, lambda: hour + 2 * DAY_MS))
    assert rows(place, sums) == [(3_600_000, hour, 6, 2, -2.0, 1.7e308, most)]
    run(PostgresRetention(place, tmp_path, lambda: hour + 40 * DAY_MS))
    assert rows(place, sums) == rows(place, "SELECT * FROM readings") == []


def test_a_series_without_a_rule_stays(node: Node, place: PostgresPlace, tmp_path: Path) -> None:
    (tmp_path / "retention.toml").write_text('[[rule]]\nchannel = "h"\nraw = "1h"\n')
    body = b'[%d,0,["t","h"],[[0,0,1],[1,0,2]]]' % NOW
    node.commit([node.make(1, body)])
    run(Partitions(place, lambda: NOW))
    run(PostgresRetention(place, tmp_path, lambda: NOW + 60 * DAY_MS))
    assert rows(place, "SELECT channel FROM readings JOIN series ON id = series") == [("t",)]


@pytest.mark.parametrize("is_stepwise", [False, True])
def test_weeks_are_dropped_when_nothing_in_them_counts(
    is_stepwise: bool, node: Node, place: PostgresPlace, tmp_path: Path
) -> None:
    (tmp_path / "retention.toml").write_text(POLICY if is_stepwise else '[[rule]]\nraw = "1h"\n')
    run(Partitions(place, lambda: NOW))
    put(node, 1, NOW)
    week = f"readings_{first_of(NOW, WEEK_MS)}"
    there = "SELECT to_regclass(%s) IS NOT NULL"
    run(PostgresRetention(place, tmp_path, lambda: NOW + 10))
    assert rows(place, there, week) == [(True,)]
    run(PostgresRetention(place, tmp_path, lambda: NOW + 2 * WEEK_MS))
    assert rows(place, there, week) == [(False,)]
    assert rows(place, "SELECT sum(n)::int FROM rollups") == [(1 if is_stepwise else None,)]


def test_a_broken_policy_ends_nothing(node: Node, place: PostgresPlace, tmp_path: Path) -> None:
    (tmp_path / "retention.toml").write_text('[[rule]]\nraw = "soon"\n')
    put(node, 1, NOW)
    retention = PostgresRetention(place, tmp_path, lambda: NOW + 365 * DAY_MS)
    run(retention)
    assert retention.error is not None
    assert rows(place, "SELECT count(*) FROM readings") == [(1,)]


def test_a_step_is_bounded(node: Node, place: PostgresPlace, tmp_path: Path) -> None:
    """A long backlog of one series ends in windows that get as wide as a step can carry."""
    (tmp_path / "retention.toml").write_text(POLICY)
    batch = []
    for seq in range(1, 201):
        items = ",".join(f"[0,{second * 1000},1]" for second in range(100))
        batch.append(node.make(seq, f'[{NOW + seq * 100_000},0,["t"],[{items}]]'.encode()))
    node.commit(batch)
    retention = PostgresRetention(place, tmp_path, lambda: NOW + 12 * 3_600_000)
    started = time.monotonic()
    assert 3 < run(retention) < 60
    assert time.monotonic() - started < 30
    assert retention.ended == 20_000
    assert rows(place, "SELECT sum(n)::int, sum(total)::int FROM rollups") == [(20_000, 20_000)]


def test_errors_are_fleetnets(postgres: PostgresServer, tmp_path: Path) -> None:
    empty = postgres.database(migrated=False)
    with pytest.raises(StoreError):
        run(Partitions(empty, lambda: NOW))
    postgres.drop(empty)
