"""Nodes at one database: who runs, where devices are, who does the work of all."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed")

from fleetnet_server.cli.whereabouts import Whereabouts
from fleetnet_server.errors import ConfigError
from fleetnet_server.store.opening import open_store
from fleetnet_server.store.postgres import leadership, nodes
from fleetnet_server.store.postgres.database import PostgresDatabase
from fleetnet_server.store.postgres.leadership import Leadership
from fleetnet_server.store.postgres.nodes import Heartbeat, Where
from fleetnet_server.store.sqlite import SqliteStore
from fleetnet_server.store_place import PostgresPlace
from server.store.postgres_server import PostgresServer, wait_until
from server.store.postgres_world import cut


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats and looks come sooner than they need to in life."""
    monkeypatch.setattr(nodes, "BEAT_S", 0.1)
    monkeypatch.setattr(leadership, "_LOOK_S", 0.1)


def age(database: PostgresDatabase, name: str) -> None:
    """Let a node be one that was not seen for a minute."""
    database.transact(
        lambda c: c.execute("UPDATE nodes SET seen_ms = seen_ms - 60000 WHERE name = ?", (name,))
    )


def test_a_node_says_that_it_runs_and_that_it_stops(
    own_place: PostgresPlace, database: PostgresDatabase
) -> None:
    sessions = [3]
    beat = Heartbeat(own_place, "node a", "1.2", "http://a", lambda: sessions[0])
    beat.start()
    (row,) = nodes.nodes(database)
    assert (row.name, row.version, row.url, row.is_alive) == ("node a", "1.2", "http://a", True)
    sessions[0] = 4
    wait_until(lambda: nodes.nodes(database)[0].sessions == 4, "the next beat")
    assert nodes.nodes(database)[0].started_ms == row.started_ms
    beat.close()
    assert nodes.nodes(database) == []


def test_two_that_run_may_not_have_one_name(
    own_place: PostgresPlace, database: PostgresDatabase
) -> None:
    first = Heartbeat(own_place, "node a", "1", "", lambda: 0)
    first.start()
    with pytest.raises(ConfigError, match="another server at this database is 'node a'"):
        Heartbeat(own_place, "node a", "1", "", lambda: 0).start()
    first.close()
    second = Heartbeat(own_place, "node a", "1", "", lambda: 0)
    second.start()
    second.close()


def test_a_node_that_was_killed_may_come_back_at_once(
    own_place: PostgresPlace, database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row says that it lived a second ago; its connection, and so its lock, is gone."""
    killed = Heartbeat(own_place, "node a", "1", "", lambda: 0)
    monkeypatch.setattr(killed, "_work", lambda: None)
    killed._thread = threading.Thread(target=lambda: None)
    killed.start()
    assert killed._first is not None
    killed._first.close()
    (before,) = nodes.nodes(database)
    again = Heartbeat(own_place, "node a", "1", "", lambda: 0)
    again.start()
    (row,) = nodes.nodes(database)
    assert row.started_ms >= before.started_ms
    again.close()


def test_it_goes_on_when_its_connection_was_cut(
    own_place: PostgresPlace, database: PostgresDatabase
) -> None:
    beat = Heartbeat(own_place, "node a", "1", "", lambda: 0)
    beat.start()
    cut(database, "%INTO nodes%")
    age(database, "node a")
    wait_until(lambda: nodes.nodes(database)[0].is_alive, "a beat")
    wait_until(lambda: beat.silence_s < 1, "it knows")
    beat.close()


def test_a_database_that_is_away_makes_a_node_silent(
    postgres: PostgresServer, own_place: PostgresPlace
) -> None:
    beat = Heartbeat(own_place, "node a", "1", "", lambda: 0)
    beat.start()
    try:
        with postgres.frozen():
            wait_until(lambda: beat.silence_s > 1, "silence")
        wait_until(lambda: beat.silence_s < 1, "a beat")
    finally:
        beat.close()


def test_where_devices_are(own_place: PostgresPlace, database: PostgresDatabase) -> None:
    take = (
        "INSERT INTO leases(device, fence, node, since_ms, link, address, software)"
        " VALUES(?, 1, ?, 5, 'tls', '10.0.0.1', 'cam/1')"
    )
    rows = [(1, "node a"), (2, "node b"), (3, ""), (4, "gone")]
    add = "INSERT INTO devices(id, name, created_ms) VALUES(?, ?, 1)"
    database.transact(lambda c: c.executemany(add, [(n, f"cam-{n}") for n, _ in rows]))
    database.transact(lambda c: c.executemany(take, rows))
    beats = [Heartbeat(own_place, f"node {x}", "1", "", lambda: 0) for x in "ab"]
    for beat in beats:
        beat.start()
    here = Where("node a", 5, "tls", "10.0.0.1", "cam/1")
    assert nodes.whereabouts(database) == {1: here, 2: here._replace(node="node b")}
    assert nodes.whereabouts(database, [1, 3, 4]) == {1: here}
    assert nodes.whereabouts(database, range(2, 2000)) == {2: here._replace(node="node b")}
    assert nodes.sessions_elsewhere(database, "node b") == {"cam-1": here}
    assert list(nodes.sessions_elsewhere(database, "node c")) == ["cam-1", "cam-2"]
    beats[0].close()
    assert nodes.sessions_elsewhere(database, "node b") == {}
    assert list(nodes.whereabouts(database)) == [2]
    beats[1].close()


def test_a_list_shows_servers_only_when_there_are_several(
    own_place: PostgresPlace, database: PostgresDatabase, tmp_path: Path
) -> None:
    take = "INSERT INTO leases(device, fence, node, since_ms) VALUES(7, 1, 'node a', 5)"
    database.transact(lambda c: c.execute(take))
    beats = [Heartbeat(own_place, f"node {x}", "1", "", lambda: 0) for x in "ab"]
    for beat, shown in zip(beats, (("yes",), ("yes", "node a")), strict=True):
        beat.start()
        with open_store(own_place) as store:
            where = Whereabouts(store)
        assert where.headings == ("ONLINE", "SERVER")[: len(shown)]
        assert where.cells(where.describe(7)) == shown
        assert where.describe(8) == {"online": False, "node": None}
    with SqliteStore(tmp_path / "fleet.db") as store:
        where = Whereabouts(store)
    assert (where.headings, where.describe(7), where.cells({})) == ((), {}, ())
    for beat in beats:
        beat.close()


def test_old_changes_and_old_nodes_are_removed(
    own_place: PostgresPlace, database: PostgresDatabase
) -> None:
    from fleetnet_server.store.postgres.connect import connect

    for name in ("one", "two", "three"):
        database.transact(
            lambda c, name=name: c.execute(  # type: ignore[misc]
                "INSERT INTO devices(name, created_ms) VALUES(?, 1)", (name,)
            )
        )
    database.transact(lambda c: c.execute("UPDATE changes SET at_ms = 0 WHERE id < 3"))
    row = "INSERT INTO nodes VALUES('old', 'x', 0, 0, '1', 0, '')"
    database.transact(lambda c: c.execute(row))
    with connect(own_place) as connection:
        nodes.prune(connection)
        nodes.prune(connection)
    assert database.read("SELECT id FROM changes") == [(3,)]
    assert database.read("SELECT pruned FROM feed") == [(2,)]
    assert nodes.nodes(database) == []


# -- leadership --------------------------------------------------------------------------------


@pytest.fixture
def two(own_place: PostgresPlace) -> Iterator[list[Leadership]]:
    made = [Leadership(own_place, "bridge"), Leadership(own_place, "bridge")]
    for one in made:
        one.start()
    yield made
    for one in made:
        one.close()


def leader(two: list[Leadership]) -> Leadership:
    wait_until(lambda: any(one.is_leader for one in two), "a leader")
    leads = [one for one in two if one.is_leader]
    assert len(leads) == 1
    return leads[0]


def other(two: list[Leadership], one: Leadership) -> Leadership:
    return two[1] if one is two[0] else two[0]


def test_one_leads_and_the_other_takes_over(two: list[Leadership]) -> None:
    first = leader(two)
    first.close()
    assert not first.is_leader
    second = other(two, first)
    wait_until(lambda: second.is_leader, "the other one leads")


def test_a_leader_whose_connection_was_cut(
    two: list[Leadership], database: PostgresDatabase
) -> None:
    leader(two)
    told: list[bool] = []
    for one in two:
        one.on_change = told.append
    for _ in range(3):
        cut(database, "SELECT 1%")
        cut(database, "%advisory_lock%")
    wait_until(lambda: False in told and True in told, "a change")
    wait_until(lambda: sum(one.is_leader for one in two) == 1, "one leads")


def test_a_leader_that_resigns_lets_another_have_it(two: list[Leadership]) -> None:
    first = leader(two)
    first.resign(60.0)
    second = other(two, first)
    wait_until(lambda: second.is_leader, "the other one leads")
    assert not first.is_leader
    second.resign(60.0)
    wait_until(lambda: not second.is_leader, "nobody leads")
    time.sleep(0.3)
    assert not first.is_leader, "its pause is not over"


def test_nobody_leads_without_an_answer(
    postgres: PostgresServer, two: list[Leadership], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = leader(two)
    monkeypatch.setattr(leadership, "_SURE_S", 1.0)
    with postgres.frozen():
        wait_until(lambda: not first.is_leader, "it is not sure any more")
    wait_until(lambda: any(one.is_leader for one in two), "a leader")


def test_works_are_independent(own_place: PostgresPlace) -> None:
    made = [Leadership(own_place, name) for name in ("bridge", "retention")]
    for one in made:
        one.start()
    wait_until(lambda: all(one.is_leader for one in made), "both")
    for one in made:
        one.close()
