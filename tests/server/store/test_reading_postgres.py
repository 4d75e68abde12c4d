"""Reading from PostgreSQL: connections, time limits, windows of time, indexes."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fleetnet.frame import EVENT, LOG
from fleetnet_server.errors import StoreError, StoreUnavailable
from fleetnet_server.store.postgres import following, logs, outbox, selecting, summarizing
from fleetnet_server.store.postgres.connect import connect, explained
from fleetnet_server.store.postgres.curves import Asked, curves
from fleetnet_server.store.postgres.dialect import translate
from fleetnet_server.store.postgres.reading import (
    Reader,
    by_windows,
    open_reader,
    reading,
    snapshot,
)
from fleetnet_server.store.postgres.schema_readings import WEEK_MS
from fleetnet_server.store.query import query
from server.store.postgres_server import PostgresServer
from server.store.reading_world import NOW, World

MINUTE = 60_000


@pytest.fixture
def world(postgres: PostgresServer, tmp_path: Path) -> Iterator[World]:
    yield from make(postgres, tmp_path)


@pytest.fixture(scope="module")
def still(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """For tests that change nothing."""
    yield from make(postgres, tmp_path_factory.mktemp("fleet"))


def make(postgres: PostgresServer, folder: Path) -> Iterator[World]:
    made = World(postgres.database(), folder)
    for seq in range(1, 6):
        made.reading(1, seq, seq, at=NOW + seq)
    yield made
    made.close()


def process(place: Any) -> int:
    with snapshot(place) as connection:
        return connection.info.backend_pid


def test_connections_are_used_again(still: World) -> None:
    """Of an answer that was read to its end, and of one that was not."""
    first = process(still.place)
    list(query(still.place, limit=3))
    left = query(still.place)
    next(left)
    left.close()  # type: ignore[attr-defined]
    assert process(still.place) == first
    with pytest.raises(StoreError, match="no_such_table"), snapshot(still.place) as connection:
        connection.execute("SELECT * FROM no_such_table")
    assert process(still.place) == first


def test_a_connection_that_broke_meanwhile_is_made_anew(
    still: World, postgres: PostgresServer
) -> None:
    reader = Reader(still.place)
    ((mine,),) = reader.read("SELECT pg_backend_pid()")
    rested = process(still.place)
    with postgres.admin() as admin:
        admin.execute("SELECT pg_terminate_backend(%s), pg_terminate_backend(%s)", (mine, rested))
    assert [one.value for one in query(still.place)] == [1, 2, 3, 4, 5]
    assert reader.read("SELECT name FROM devices WHERE id = ?", (1,)) == [("cam-1",)]
    reader.close()


def test_what_takes_too_long_is_ended_and_said(still: World) -> None:
    connection = open_reader(still.place, 0.05)
    with pytest.raises(StoreUnavailable, match="took longer than"), reading(still.place):
        connection.execute("SELECT pg_sleep(60)")
    connection.close()


def test_nothing_can_be_written(still: World) -> None:
    with Reader(still.place) as reader, pytest.raises(StoreUnavailable, match="read-only"):
        reader.read("DELETE FROM devices RETURNING id")


def test_a_standby_will_do(world: World, postgres: PostgresServer) -> None:
    name = world.place.database  # type: ignore[union-attr]
    with postgres.admin() as admin:
        admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with open_reader(world.place) as connection:
        assert connection.execute("SELECT count(*) FROM readings").fetchall() == [(5,)]


def test_without_tables_the_remedy_is_said(postgres: PostgresServer) -> None:
    empty = postgres.database(migrated=False)
    with pytest.raises(StoreError, match="fleetnet store migrate"):
        list(query(empty))


def test_who_reads_slowly_stops_no_commit(world: World) -> None:
    """Partitions cannot be dropped meanwhile, and nobody waits long for them."""
    week = NOW - NOW % WEEK_MS
    with connect(world.place) as raw:
        raw.execute(
            "SELECT fleetnet_make_partition('readings', %s, %s, 9)", (week, week + WEEK_MS)
        )
        slow = query(world.place, "cam-1", "t")
        next(slow)
        found = raw.execute(
            "SELECT count(*) FROM pg_proc WHERE prosecdef AND 'lock_timeout=1s' = ANY(proconfig)"
        )
        assert found.fetchall() == [(3,)]
        with pytest.raises(StoreUnavailable, match="lock"), explained(world.place, "changed"):
            raw.execute("SELECT fleetnet_drop_partition('readings', %s, FALSE)", (week,))
    world.reading(1, 6, 6)
    assert [one.value for one in slow] == [2, 3, 4, 5]


def test_windows_grow_shrink_and_jump_over_nothing() -> None:
    """Rows at times; each window is asked for once, and no row is left out."""
    times = sorted([5, 7, *range(3_000_000, 3_400_000, 4), *(10**12 + n for n in range(3))])
    asked: list[tuple[int, int]] = []

    def fetch(at: int, until: int) -> list[tuple[int]]:
        asked.append((at, until))
        return [(t,) for t in times if at <= t <= until]

    def find(at: int) -> int | None:
        return next((t for t in times if t >= at), None)

    assert [t for (t,) in by_windows(fetch, find, 6, 10**12 + 1)] == times[1:-1]
    assert len(asked) < 30
    assert all(until < at for (_at, until), (at, _until) in pairwise(asked))
    assert max(until - at for at, until in asked[:12]) < 10**9
    asked.clear()
    list(by_windows(fetch, find, 0, 10**12 + 2, 7_000))
    assert all(at % 7_000 == 0 for at, _until in asked)


def test_many_series_in_windows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleetnet_server.store.postgres.reading._FEW_ROWS", 3)
    monkeypatch.setattr("fleetnet_server.store.postgres.reading._MANY_ROWS", 5)
    expected = [(NOW + seq, "cam-1", seq) for seq in range(1, 6)]
    for number in range(60):
        at = NOW + number**4 * 100
        world.put(2, 100 + number, f'[{at},0,["a{number % 7}"],[[0,0,{number}],[0,1,{number}]]]')
        expected += [(at, "cam-2", number), (at + 1, "cam-2", number)]
    found = [(one.unix_ms, one.device, one.value) for one in query(world.place)]
    assert sorted(found) == sorted(expected)
    assert [row[0] for row in found] == sorted(row[0] for row in expected)


def test_curves_have_an_end_in_channels_and_time(world: World) -> None:
    world.put(1, 6, f'[{NOW},0,["b","c"],[[0,0,6],[1,9,true]]]')
    asked = Asked(NOW, NOW + 99, 10, 2, 1e300, 60.0)
    channels, left_out, is_complete = curves(world.place, "cam-1", asked)
    assert [(one["name"], one["count"], one["value"]) for one in channels] == [
        ("b", 1, 6), ("t", 5, 5),
    ]  # fmt: skip
    assert (left_out, is_complete) == (1, True)
    channels, _left, is_complete = curves(world.place, "cam-1", asked._replace(seconds=-1.0))
    assert not is_complete and [one["points"] for one in channels] == [[], []]


WHEN = (NOW, NOW + 1)
SOME: dict[str, Any] = {
    "series": [1, 2], "step": MINUTE, "first": NOW, "last": NOW, "begin": NOW, "at": NOW,
    "minute": NOW, "hour": NOW,
}  # fmt: skip
STATEMENTS: dict[str, tuple[str, Any]] = {
    "one series": (selecting._OF_ONE, (1, *WHEN)),
    "some series": (selecting._OF_SOME, ([1, 2], *WHEN)),
    "the first": (selecting._FIRST, ([1, 2], *WHEN)),
    "undated": (selecting._UNDATED, ()),
    "steps": (summarizing._STEPS, SOME),
    "sums": (summarizing._SUMS, SOME),
    "any sum": (summarizing._HAS_SUMS, SOME),
    "the first sum": (summarizing._FIRST_SUM, ([1, 2], 1, 2, *WHEN)),
    "behind a place": (following._NEWER, ("1", 1, "9", None, None)),
    "a page of the outbox": (outbox._PAGE, ("1", 1, 9)),
    "the newest": (f"SELECT {outbox._NEWEST_ROW}", ()),
    "logs": (logs._LOGS + " AND m.device = 1" + logs._ORDER, ()),
}


def history_statements() -> dict[str, tuple[str, Any]]:
    from fleetnet_server.store import history

    found = {}
    for name, sql, kind in (
        ("alarms", history._POSTGRES_FLEET_WINDOW, EVENT),
        ("log of one", history._POSTGRES_DEVICE_WINDOW, LOG),
        ("one message", history._ONE, None),
    ):
        text, numbers = translate(sql)
        values = (NOW, 9, kind, 1) if kind is not None else (9,)
        named = values if numbers is None else {f"v{n}": values[n - 1] for n in numbers}
        found[name] = (text, named)
    return found


@pytest.mark.parametrize("name", [*STATEMENTS, *history_statements()])
def test_statements_use_their_indexes(still: World, name: str) -> None:
    sql, values = (STATEMENTS | history_statements())[name]
    with open_reader(still.place) as connection:
        # A table of five rows is read as a whole, unless there is no other way.
        connection.execute("SET enable_seqscan = off")
        rows = connection.execute("EXPLAIN " + sql, values).fetchall()  # type: ignore[arg-type]
    plan = "\n".join(row[0] for row in rows)
    for table in ("messages", "readings", "rollups"):
        assert f"Seq Scan on {table}" not in plan, plan
    assert "Index" in plan, plan
