"""Leases where the database's server or another node died in the middle."""

import asyncio
import contextlib

import pytest

from fleetnet_server.core.ports import Committed, SessionAbout
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store.postgres import leases
from fleetnet_server.store.postgres.connect import connect
from fleetnet_server.store.postgres.lease_rows import FENCES
from fleetnet_server.store.postgres.store import PostgresStore
from fleetnet_server.store_place import PostgresPlace
from server.store.postgres_server import PATIENCE_S, PostgresServer
from server.store.postgres_world import EPOCH, Node, opened, rows

ABOUT = SessionAbout("tls", "192.0.2.1")


@pytest.fixture
def place(own_place: PostgresPlace) -> PostgresPlace:
    with PostgresStore(own_place) as store:
        store.add_device("cam-1")
        store.add_device("cam-2")
    return own_place


def test_no_epoch_gets_the_number_that_a_killed_server_gave_another(
    postgres: PostgresServer, place: PostgresPlace
) -> None:
    """A commit of the first would be acknowledged, and the other's messages taken for copies."""
    with postgres.admin() as connection:
        # What is not waited for is not on the disk by chance.
        connection.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
        connection.execute("SELECT pg_reload_conf()")
    node = Node(place)
    with opened(node):
        # PostgreSQL notes 33 numbers of a sequence at once.
        made = "SELECT 1, int8send(n) FROM generate_series(1, 33) AS n RETURNING id"
        rows(place, f"INSERT INTO epochs(device, epoch) {made}")
        node.begin(1)
        first = node.epochs[1, EPOCH]
        postgres.kill()
        postgres.start()
        with postgres.admin() as connection:
            connection.execute("ALTER SYSTEM RESET wal_writer_delay")
            connection.execute("SELECT pg_reload_conf()")
        assert rows(place, "SELECT device FROM epochs WHERE id = %s", first) == [(1,)]
        with contextlib.suppress(StoreUnavailable):  # the connection of before
            node.begin(2)
        node.begin(2)
        assert node.epochs[2, EPOCH] != first
        assert node.commit([node.reading(seq, device=2) for seq in (1, 2)]) == [0, 1]


@pytest.mark.parametrize("holder", ["one", ""])
def test_who_has_a_larger_fence_than_the_database_has_lost_the_device(
    holder: str, place: PostgresPlace
) -> None:
    """A crash of the database's server took the lease, or both the lease and its giving back."""
    node = Node(place)
    with opened(node):
        node.begin(1)
        node.begin(1)
        rows(place, "UPDATE leases SET fence = 1, node = %s RETURNING 1", holder)
        assert node.store.commit([node.reading(1)]) == Committed([], frozenset({0}))


def test_a_fence_that_two_nodes_were_given_is_the_one_of_the_row(place: PostgresPlace) -> None:
    node = Node(place)
    with opened(node):
        node.begin(1)
        rows(place, "UPDATE leases SET node = 'two' RETURNING 1")
        assert node.store.commit([node.reading(1)]) == Committed([], frozenset({0}))


async def test_a_lease_that_a_dead_nodes_commit_holds_keeps_no_other_waiting(
    place: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_HELD_S", 2 * PATIENCE_S)
    with PostgresStore(place, node="one") as store:
        await asyncio.wait_for(store.begin(1, EPOCH, ABOUT), PATIENCE_S)  # type: ignore[arg-type]
        with contextlib.closing(connect(place)) as dead:
            dead.execute("BEGIN")
            dead.execute(FENCES, ([1],))
            held = asyncio.ensure_future(store.begin(1, EPOCH, ABOUT))
            other = asyncio.ensure_future(store.begin(2, EPOCH, ABOUT))
            await asyncio.wait_for(other, PATIENCE_S)
            assert not held.done()
            store.end(2)
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.wait_for(store.begin(2, EPOCH, ABOUT), PATIENCE_S)  # type: ignore[arg-type]
            assert not held.done()
        await asyncio.wait_for(held, PATIENCE_S)
    assert rows(place, "SELECT device, fence FROM leases ORDER BY 1") == [(1, 2), (2, 2)]


async def test_a_lease_that_stays_locked_is_told_to_who_waits(
    place: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_HELD_S", 0.2)
    with PostgresStore(place, node="one") as store:
        await asyncio.wait_for(store.begin(1, EPOCH, ABOUT), PATIENCE_S)  # type: ignore[arg-type]
        with contextlib.closing(connect(place)) as dead:
            dead.execute("BEGIN")
            dead.execute(FENCES, ([1],))
            with pytest.raises(StoreUnavailable, match="holds the lease"):
                await asyncio.wait_for(store.begin(1, EPOCH, ABOUT), PATIENCE_S)  # type: ignore[arg-type]
        await asyncio.wait_for(store.begin(1, EPOCH, ABOUT), PATIENCE_S)  # type: ignore[arg-type]


def test_a_commit_whose_node_falls_silent_is_ended_by_the_database(place: PostgresPlace) -> None:
    node = Node(place)
    with opened(node):
        shown = node.store._ingest._open().execute("SHOW idle_in_transaction_session_timeout")
        assert shown.fetchone() == (f"{leases.IDLE_S}s",)
        assert leases._HELD_S > leases.IDLE_S
