"""Partitions of readings: a year ahead, and what one device's wrong times do to others; real."""

import logging
import re
from collections.abc import Iterator
from contextlib import suppress

import pytest
from psycopg.errors import LockNotAvailable

from fleetnet_server.store.postgres import partitions
from fleetnet_server.store.postgres.connect import connect
from fleetnet_server.store.postgres.partitions import Partitions
from fleetnet_server.store.postgres.reading import snapshot
from fleetnet_server.store.postgres.schema_messages import DAY_MS
from fleetnet_server.store.postgres.schema_readings import WEEK_MS
from fleetnet_server.store.postgres.selecting import query, search
from fleetnet_server.store_place import PostgresPlace
from server.store.postgres_server import PostgresServer
from server.store.postgres_world import NOW, Node, rows

WHERE = "SELECT tableoid::regclass::text, count(*) FROM readings GROUP BY 1 ORDER BY 1"
FAR = NOW - NOW % WEEK_MS + 2 * WEEK_MS


@pytest.fixture
def node(place: PostgresPlace) -> Iterator[Node]:
    made = Node(place)
    made.store.add_device("cam-1")
    made.begin()
    yield made
    made.close()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few weeks ahead, and few rows that may move."""
    monkeypatch.setattr(partitions, "WEEKS_AHEAD", 1)
    monkeypatch.setattr(partitions, "MOST_MOVED", 3)
    monkeypatch.setattr(partitions, "MOST_AHEAD", 5)


def put(node: Node, seq: int, t: int, count: int = 1) -> None:
    items = ",".join(f"[0,{dt},1]" for dt in range(count))
    assert node.commit([node.make(seq, f'[{t},0,["t"],[{items}]]'.encode())]) == [0]


def run(work: Partitions) -> int:
    work._due = 0.0
    made = 0
    while count := work.step():
        made += count
    return made


def is_there(place: PostgresPlace, first: int) -> bool:
    return rows(place, "SELECT to_regclass(%s) IS NOT NULL", f"readings_{first}") == [(True,)]


def test_a_year_ahead_has_its_partitions(node: Node, place: PostgresPlace) -> None:
    work = Partitions(place, lambda: NOW)
    assert run(work) == 2 + 55
    assert run(work) == 0
    work.close()
    t = NOW + 366 * DAY_MS
    put(node, 1, NOW)
    put(node, 2, t)
    put(node, 3, t + 3 * WEEK_MS)
    assert rows(place, WHERE) == [
        (f"readings_{NOW - NOW % WEEK_MS}", 1), (f"readings_{t - t % WEEK_MS}", 1),
        ("readings_default", 1),
    ]  # fmt: skip


@pytest.mark.usefixtures("small")
def test_a_week_to_come_may_take_more(node: Node, place: PostgresPlace) -> None:
    put(node, 1, FAR, 5)
    work = Partitions(place, lambda: NOW + WEEK_MS)
    run(work)
    work.close()
    assert rows(place, WHERE) == [(f"readings_{FAR}", 5)]


@pytest.mark.usefixtures("small")
def test_a_week_that_is_refused_is_told_once_with_the_remedy(
    node: Node, place: PostgresPlace, caplog: pytest.LogCaptureFixture
) -> None:
    put(node, 1, FAR, 6)
    work = Partitions(place, lambda: NOW + WEEK_MS)
    with caplog.at_level(logging.ERROR, "fleetnet.store"):
        assert run(work) == 4, "the others are made"
        run(work)
    work.close()
    (told,) = caplog.messages
    assert not is_there(place, FAR)
    (remedy,) = re.findall(r"SELECT fleetnet_make_partition\(.*\)", told)
    assert rows(place, remedy) == [(True,)]
    assert rows(place, WHERE) == [(f"readings_{FAR}", 6)]
    assert len(list(query(place, "cam-1", None, 0, 1 << 62, False, None))) == 6


@pytest.mark.usefixtures("small")
def test_nobody_waits_for_a_week_that_is_refused(
    node: Node, place: PostgresPlace, postgres: PostgresServer
) -> None:
    """DEFAULT is not locked to count, and an index counts."""
    put(node, 1, FAR, 6)
    with postgres.admin(place.database) as other, other.transaction():
        other.execute("LOCK TABLE readings_default IN ROW EXCLUSIVE MODE")
        make = "SELECT fleetnet_make_partition('readings', %s, %s, 5)"
        assert rows(place, make, FAR, FAR + WEEK_MS) == [(False,)]
    found = rows(place, "SELECT indexdef FROM pg_indexes WHERE tablename = 'readings_default'")
    assert any(one.endswith("USING btree (t)") for (one,) in found)


def test_a_search_misses_nothing_that_moves_to_a_new_partition(
    node: Node, place: PostgresPlace
) -> None:
    """The partition is made between the first question of a search and those for readings."""
    put(node, 1, FAR, 3)
    make = "SELECT fleetnet_make_partition('readings', %s, %s, 10)"
    with snapshot(place) as searching, connect(place) as mover:
        searching.execute("SELECT 1 FROM devices")
        with suppress(LockNotAvailable):
            mover.execute(make, (FAR, FAR + WEEK_MS))
        found = search(searching, "cam-1", None, FAR, FAR + WEEK_MS - 1, False)
        assert [one.unix_ms for one in found] == [FAR, FAR + 1, FAR + 2]
