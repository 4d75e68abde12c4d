"""A hub at one server and its sensor at another, over one PostgreSQL: everything once."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed")

from end_to_end.device_process import until
from fleetnet import errors, relay
from fleetnet import frame as wire
from fleetnet.ports import port
from fleetnet.session import Session
from fleetnet_server.store.postgres.reading import Reader
from fleetnet_server.store.postgres.store import PostgresStore
from fleetnet_server.store_place import PostgresPlace
from server.core import relay_rig
from server.core.relay_rig import BODY, EPOCH, Link
from server.store.postgres_server import PostgresServer


class World(relay_rig.World):
    """One server; its name is its folder's."""

    async def looking(self, *links: Link) -> None:
        self.watch.look()
        for link in links:
            link.pump()
        await self.settle(*links)

    async def until(self, condition: Callable[[], Any], what: str, *links: Link) -> None:
        """Wait for a condition, and let the links talk meanwhile."""

        def is_so() -> bool:
            for link in links:
                link.pump()
            return bool(condition())

        await until(is_so, what)


@pytest.fixture
async def nodes(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[World, World]]:
    place = postgres.database()
    monkeypatch.setattr(
        relay_rig,
        "SqliteStore",
        lambda path: PostgresStore(place, node=path.parent.name, replica=True),
    )
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made.append(World(tmp_path / name))
    for each in made:
        await until(lambda each=each: each.hubs.assignments(), "the replica has it")
        each.watch.look()
    yield made[0], made[1]
    for each in made:
        await each.stop()
    postgres.drop(place)


def stored(place: PostgresPlace, name: str) -> list[tuple[int, int]]:
    with Reader(place) as reader:
        return reader.read(
            "SELECT m.stream::BIGINT, m.seq FROM messages AS m JOIN devices AS d"
            " ON d.id = m.device WHERE d.name = ? ORDER BY m.stream, m.seq",
            (name,),
        )


def is_open(link: Link) -> bool:
    return link.peer.is_open


async def test_a_sensor_leaves_its_hub_for_another_server(nodes: tuple[World, World]) -> None:
    """The hub has 4 and 5 of it still, when 6 and 7 are stored already."""
    a, b = nodes
    place = a.store.place
    hub = Link(a, "hub-1").hello()
    await a.until(lambda: is_open(hub), "the hub is there", hub)
    hub.announce(1, "cam")
    for seq in (1, 2, 3):
        hub.carry(1, seq)
    await a.until(lambda: not hub.unacknowledged(), "stored", hub)
    assert hub.answers() == [wire.WELCOME] and stored(place, "cam") == [(3, 1), (3, 2), (3, 3)]

    session = Session(os.urandom, EPOCH, wall_ms=port.unix_ms)
    session.sender.open_stream(3, 6)  # the hub has acknowledged 4 and 5
    direct = Link(b, "cam", session).hello(boot=7, uptime_ms=9000)
    await b.until(lambda: is_open(direct), "the sensor is there", direct)
    for seq in (6, 7):
        session.send(3, wire.READINGS, BODY % seq)
    await b.until(lambda: len(stored(place, "cam")) == 5, "stored", direct)
    await a.until(lambda: -errors.REPLACED in hub.answers(), "its session here ended", hub)

    for seq in (4, 5):
        hub.carry(1, seq)
    await a.until(lambda: not hub.unacknowledged(), "stored", hub)
    session.send(3, wire.READINGS, BODY % 8)
    await b.until(lambda: len(stored(place, "cam")) == 8, "stored", direct)
    assert stored(place, "cam") == [(3, seq) for seq in range(1, 9)]
    assert a.router.duplicates == b.router.duplicates == 0 and is_open(direct)


async def test_a_hub_goes_to_another_server_with_what_is_not_acknowledged(
    nodes: tuple[World, World],
) -> None:
    a, b = nodes
    place = a.store.place
    hub = Link(a, "hub-1").hello()
    await a.until(lambda: is_open(hub), "the hub is there", hub)
    hub.announce(1, "cam")
    hub.carry(1, 1)
    await a.until(lambda: not hub.unacknowledged(), "stored", hub)
    # Its server does not hear of the other one, and goes on with what it gets.
    a.store.replica.on_lease = lambda *_lease: None  # type: ignore[attr-defined]
    at_b = Link(b, "hub-1", Session(os.urandom, wall_ms=port.unix_ms)).hello()
    await b.until(lambda: is_open(at_b), "it is there", at_b)
    for seq in (2, 3):
        hub.carry(1, seq)
    await a.until(lambda: hub.endings == [errors.REPLACED], "it is told", hub)
    assert hub.unacknowledged() == 2 and stored(place, "cam") == [(3, 1)]
    assert a.router.lost == 2

    session = hub.session
    session.close_link()
    again = Link(b, "hub-1", session).hello(uptime_ms=2000)
    await b.until(lambda: is_open(again), "its session goes on at the other one", again)
    again.announce(1, "cam", nonce=b"next")
    await b.until(lambda: not again.unacknowledged(), "all acknowledged", again)
    assert stored(place, "cam") == [(3, seq) for seq in (1, 2, 3)]
    with Reader(place) as reader:
        rows = reader.read("SELECT stream, last FROM carried WHERE stream = ?", (relay.RELAYED,))
    assert [tuple(row) for row in rows] == [(relay.RELAYED, 3)]
