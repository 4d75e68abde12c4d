"""Queries against a plain sort of everything; following a store that grows."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetnet.frame import READINGS
from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.errors import StoreError
from fleetnet_server.store.following import follow
from fleetnet_server.store.query import Reading, query
from fleetnet_server.store.sqlite import SqliteStore

NOW = 1_800_000_000_000


def put(store: SqliteStore, device: int, seq: int, body: str) -> None:
    found = inspect_body(READINGS, body.encode(), lambda boot: store.boot_offset(device, boot), NOW)
    epoch = store.epoch_id(device, b"epoch-01")
    t0, t1, problem, kept = found
    store.commit([Message(device, epoch, 3, seq, READINGS, t0, t1, NOW, kept, problem)])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "fleet.db") as opened:
        for name in ("cam-1", "cam-2"):
            opened.add_device(name)
        yield opened


def fill(store: SqliteStore) -> list[tuple[int, str, str, int]]:
    """Store overlapping messages, short and wide; return (time, device, channel, value)."""
    draw = random.Random(7)
    expected = []
    for seq in range(1, 120):
        device = draw.choice((1, 2))
        base = NOW + draw.randrange(4_000_000)
        span = draw.choice((1, 5_000, 600_000, 600_001, 3_000_000))
        items = []
        for _reading in range(draw.randint(1, 6)):
            index, dt_ms, value = draw.randrange(2), draw.randint(0, span), draw.randrange(10**6)
            items.append(f"[{index},{dt_ms},{value}]")
            expected.append((base + dt_ms, f"cam-{device}", "th"[index], value))
        put(store, device, seq, f'[{base},0,["t","h"],[{",".join(items)}]]')
    put(store, 1, 500, "[")  # a problem is in no answer
    return sorted(expected)


def plain(found: Iterator[Reading]) -> list[tuple[int | None, str, str, int]]:
    return [(one.unix_ms, one.device, one.channel, one.value) for one in found]


def test_everything_in_order_of_time(store: SqliteStore) -> None:
    expected = fill(store)
    found = plain(query(store.path))
    assert [row[0] for row in found] == [row[0] for row in expected]
    assert sorted(found) == expected


@pytest.mark.parametrize("start", [None, NOW, NOW + 1_234_567])
@pytest.mark.parametrize("end", [None, NOW + 2_000_000])
@pytest.mark.parametrize("device", [None, "cam-2"])
@pytest.mark.parametrize("channel", [None, "h"])
def test_bounds(
    store: SqliteStore, start: int | None, end: int | None, device: str | None, channel: str | None
) -> None:
    expected = [
        row
        for row in fill(store)
        if (start is None or row[0] >= start)
        and (end is None or row[0] <= end)
        and device in (None, row[1])
        and channel in (None, row[2])
    ]
    found = plain(query(store.path, device, channel, start, end))
    assert [row[0] for row in found] == [row[0] for row in expected]
    assert sorted(found) == expected
    assert len(expected) > 5


def test_limit_key_and_values(store: SqliteStore) -> None:
    put(store, 1, 4, '[10,0,["t"],[[0,0,{"a":[1]}],[0,1,1e999],[0,2,' + "9" * 400 + "]]]")
    found = list(query(store.path, limit=2))
    assert found[0] == Reading("cam-1", "t", 10, {"a": [1]}, 3, b"epoch-01".hex(), 4)
    assert found[1].value == "1e999"
    assert len(list(query(store.path))) == 3


def test_undated_readings_come_last_and_only_without_bounds(store: SqliteStore) -> None:
    put(store, 1, 1, '[100,7,["t"],[[0,5,1]]]')
    put(store, 1, 2, '[50,0,["t"],[[0,5,2]]]')
    assert plain(query(store.path)) == [(55, "cam-1", "t", 2), (None, "cam-1", "t", 1)]
    assert plain(query(store.path, start_ms=0)) == [(55, "cam-1", "t", 2)]
    store.set_boot(1, 7, 1_000)
    store.commit([])
    store.set_boot(1, 7, 9_000)  # refined later: the date stays
    store.commit([])
    assert plain(query(store.path))[1] == (1_105, "cam-1", "t", 1)


def test_searches_use_their_indexes(store: SqliteStore) -> None:
    from fleetnet_server.store import query as module
    from fleetnet_server.store.schema import open_readable

    connection = open_readable(store.path)
    for sql, count, index in (
        (module._NARROW, 6, "messages_time (device=? AND t0>? AND t0<?)"),
        (module._WIDE, 3, "messages_wide (device=? AND t1>?)"),
    ):
        plan = connection.execute("EXPLAIN QUERY PLAN " + sql, (*range(count),)).fetchall()
        assert any(f"USING INDEX {index}" in str(row[3]) for row in plan), plan
    connection.close()


def test_pages_of_rows_leave_nothing_out(store: SqliteStore) -> None:
    """Many messages of one time, and of times that follow: a page may end within one."""
    for number in range(40):
        put(store, 1, number + 1, f'[{100 + number // 15},0,["t"],[[0,0,{number}]]]')
    found = [one.value for one in query(store.path)]
    assert found == list(range(40))
    assert [one.value for one in query(store.path, start_ms=101, end_ms=101)] == found[15:30]


def test_unknown_device_and_missing_store(store: SqliteStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not registered"):
        list(query(store.path, "nobody"))
    with pytest.raises(StoreError, match="no store at"):
        list(query(tmp_path / "missing.db"))


def test_follow_sees_what_is_committed_later(store: SqliteStore) -> None:
    put(store, 1, 1, '[1,0,["t"],[[0,0,1]]]')
    seq = iter(range(2, 100))

    def store_more(seconds: float) -> None:
        number = next(seq)
        put(store, 2 - number % 2, number, f'[1,0,["t"],[[0,0,{number}],[0,1,0]]]')
        put(store, 1, number + 1000, "a problem moves the position as well")

    found = follow(store.path, sleep=store_more)
    assert [next(found).value for _ in range(4)] == [2, 0, 3, 0]
    found.close()  # type: ignore[attr-defined]
    assert next(follow(store.path, 0)).value == 1
    only = follow(store.path, 0, device="cam-2", channel="t")
    assert [next(only).value for _ in range(2)] == [2, 0]
