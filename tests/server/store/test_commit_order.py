"""Who follows PostgreSQL in order of commit meets every message once, whoever commits when."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fleetnet.frame import EVENT
from fleetnet_server.errors import StoreError, StoreUnavailable
from fleetnet_server.store.following import follow
from fleetnet_server.store.outbox import forget, open_outbox, places
from fleetnet_server.store.postgres.connect import connect
from fleetnet_server.store.postgres.following import newest
from server.store.postgres_server import PostgresServer
from server.store.reading_world import NOW, World

KEEP = 10_000


@pytest.fixture
def world(postgres: PostgresServer, tmp_path: Path) -> Iterator[World]:
    made = World(postgres.database(), tmp_path)
    yield made
    for other in Other.made:
        other.close()
    Other.made.clear()
    made.close()


class Other:
    """Another node's transaction, which is committed when the test says so."""

    made: ClassVar[list["Other"]] = []

    def __init__(self, world: World):
        self._world = world
        self._raw = connect(world.place)
        self._raw.execute("BEGIN")
        self.close = self._raw.close
        self.made.append(self)

    def put(self, seq: int) -> None:
        message = self._world.message(2, seq, f'[{NOW},0,["t"],[[0,0,{seq}]]]')
        values = (*message[:8], str(message.body).encode())
        self._raw.execute(
            "INSERT INTO messages(device, epoch, stream, seq, kind, t0, t1, received, body)"
            " VALUES(%s, %s, %s, %s, %s, %s, %s, %s, %s)", values,
        )  # fmt: skip

    def commit(self) -> None:
        self._raw.execute("COMMIT")


class Stop(Exception):
    """Nothing more is there."""


def script(*steps: Callable[[], None]) -> Callable[[float], None]:
    """Make a sleep that does one step each time a follower found nothing."""
    left = list(steps)

    def sleep(seconds: float) -> None:
        if not left:
            raise Stop
        left.pop(0)()

    return sleep


def found(world: World, after: int | None, *steps: Callable[[], None], **more: Any) -> list[int]:
    values = []
    try:
        for one in follow(world.place, after, sleep=script(*steps), **more):
            values.append(one.value)
    except Stop:
        pass
    return values


def start_two(world: World) -> tuple[Other, Other]:
    """Numbers of rows alternate between two transactions."""
    first, second = Other(world), Other(world)
    for seq in (10, 12):
        first.put(seq)
        second.put(seq + 1)
    return first, second


def test_nothing_that_commits_late_is_skipped(world: World) -> None:
    world.reading(1, 1, 1)
    first, second = start_two(world)
    later: list[Other] = []

    def third() -> None:
        later.append(Other(world))
        later[0].put(20)
        world.reading(1, 3, 3)

    assert found(
        world, None,
        lambda: world.reading(1, 2, 2),
        second.commit,
        third,
        first.commit,
        lambda: later[0].commit(),
        lambda: world.reading(1, 4, 4),
    ) == [10, 12, 11, 13, 2, 20, 3, 4]  # fmt: skip


def test_what_was_there_is_given_once(world: World) -> None:
    """While a transaction is open, what others committed counts as there."""
    world.reading(1, 1, 1)
    first, second = start_two(world)
    world.reading(1, 2, 2, at=NOW + 1)
    second.commit()
    # The other node's rows have no readings: they are new messages alone.
    later = (first.commit, lambda: world.reading(1, 3, 3))
    assert found(world, 0, *later) == [1, 2, 10, 12, 3]
    assert found(world, None) == []


def test_a_place_of_now_is_before_all_that_is_committed_later(world: World) -> None:
    first, second = start_two(world)
    world.reading(1, 1, 1)
    at = newest(world.place)
    world.reading(1, 2, 2)
    first.commit()
    second.commit()
    got = found(world, at)
    assert set(got) >= {2, 10, 11, 12, 13} and len(got) == len(set(got))


def test_one_device_and_channel_and_pages_of_other_kinds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleetnet_server.store.postgres.following._POLL_ROWS", 3)
    at = newest(world.place)
    for seq in range(1, 9):
        world.put(1, seq, f'[{NOW},0,"door",1]', kind=EVENT)
        world.put(2, seq, f'[{NOW},0,["t","h"],[[0,0,{seq}],[1,0,0]]]')
    reached: list[int] = []
    more = {"device": "cam-2", "channel": "t", "reached": reached.append}
    assert found(world, at, **more) == list(range(1, 9))
    assert reached == sorted(reached) and reached[-1] > at
    assert found(world, reached[-1]) == []


def test_a_database_that_is_away_is_waited_for(world: World, postgres: PostgresServer) -> None:
    def kill() -> None:
        world.reading(1, 1, 1)
        postgres.kill()

    def again() -> None:
        postgres.start()
        with suppress(StoreUnavailable):  # its connection broke
            world.reading(1, 2, 2)
        world.reading(1, 2, 2)

    assert found(world, None, kill, lambda: None, again) == [1, 2]


def test_who_is_too_slow_is_told(world: World) -> None:
    at = newest(world.place)
    world.reading(1, 1, 1)
    with connect(world.place) as raw:
        raw.execute("UPDATE dropped AS d SET xid = m.xid, id = m.id FROM messages AS m")
    with pytest.raises(StoreError, match="too slow: messages were removed"):
        found(world, at)


def everything(outbox: Any, after: int, limit: int = 3) -> list[int]:
    seqs: list[int] = []
    while True:
        last, rows = outbox.read(after, limit)
        assert last >= after
        if last == after:
            return seqs
        after = last
        seqs += [row.seq for row in rows]


def test_the_outbox_of_a_bridge(world: World) -> None:
    world.reading(1, 1, 1)
    outbox = open_outbox(world.store, "b")
    place, gone = outbox.start(KEEP)
    assert gone == 0 and everything(outbox, place) == []
    first, second = start_two(world)
    second.commit()
    world.reading(1, 2, 2)
    assert everything(outbox, place) == []
    first.commit()
    assert everything(outbox, place) == [10, 12, 11, 13, 2]
    world.put(1, 3, f'[{NOW},0,"door",1]', kind=EVENT)
    world.put(1, 4, "[", kind=EVENT)
    last, rows = outbox.read(place, 100)
    assert [row.seq for row in rows][-1] == 3 and (rows[-1].device, rows[-1].group) == (
        "cam-1", "default",
    )  # fmt: skip
    outbox.move(rows[1].id, KEEP, 2, 1)
    ((shown, behind),) = places(world.store)
    assert (shown.sent, shown.dropped) == (2, 1) and behind == outbox.behind(rows[1].id) > 2
    again = open_outbox(world.store, "b")
    assert again.start(KEEP) == (rows[1].id, 0)
    assert everything(again, rows[1].id) == [11, 13, 2, 3]
    assert everything(again, last) == [] and again.behind(last) == 0
    assert again.channels() == {"cam-1": ["t"], "cam-2": ["t"]}
    assert forget(world.store, "b") and not forget(world.store, "b")
    outbox.close()
    again.close()


def test_a_bridge_hears_what_was_removed_before_it_came(world: World) -> None:
    outbox = open_outbox(world.store, "b")
    place, _gone = outbox.start(KEEP)
    for seq in range(1, 6):
        world.reading(1, seq, seq)
    _last, rows = outbox.read(place, 3)
    with connect(world.place) as raw:
        raw.execute(
            "UPDATE dropped AS d SET xid = m.xid, id = m.id FROM messages AS m WHERE m.seq = 5"
        )
    assert outbox.start(KEEP) == (place, 5)
    outbox.move(rows[-1].id, KEEP, 3, 0)
    assert outbox.start(KEEP)[1] == 2
    outbox.close()
