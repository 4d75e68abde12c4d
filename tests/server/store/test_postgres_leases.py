"""Two nodes at one database: leases with fences, and commits side by side."""

import asyncio
import random
import threading

import pytest

from fleetnet_server.core.ports import Committed, SessionAbout
from fleetnet_server.core.relay_ports import Relayed
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store.postgres.store import PostgresStore
from fleetnet_server.store.postgres.watermarks import Marks
from fleetnet_server.store_place import PostgresPlace
from server.store.postgres_server import PATIENCE_S, PostgresServer
from server.store.postgres_world import EPOCH, NOW, Node, opened, rows, stored

ABOUT = SessionAbout("tls", "192.0.2.1", "fleetnet 1")


@pytest.fixture
def place(place: PostgresPlace) -> PostgresPlace:
    with PostgresStore(place) as store:
        store.transact(
            lambda connection: connection.executemany(
                "INSERT INTO devices(name, created_ms) VALUES(?, ?)",
                [(f"cam-{number}", NOW) for number in range(1, 41)],
            )
        )
    return place


def test_the_old_nodes_commit_is_refused(place: PostgresPlace) -> None:
    one, two = Node(place, "one"), Node(place, "two")
    with opened(one, two):
        one.begin()
        one.begin(2)
        assert one.commit([one.reading(1)]) == [0]
        assert two.begin() == {3: 1}
        mixed = [one.reading(2), one.reading(1, device=2), one.reading(3)]
        assert one.store.commit(mixed) == Committed([1], frozenset({0, 2}))
        assert two.commit([two.reading(1), two.reading(2)]) == [1]
        one.store.end(1)  # a lease that is not ours any more is not given back
        assert one.store.commit([one.reading(9)]) == Committed([], frozenset({0}))
        one.begin(3)
        assert two.commit([two.reading(3)]) == [0]
    assert sorted(seq for _epoch, _stream, seq in stored(place)) == [1, 1, 2, 3]


def test_who_takes_a_lease_waits_for_the_commit_under_way(place: PostgresPlace) -> None:
    one, two = Node(place, "one"), Node(place, "two")
    with opened(one, two):
        one.begin()
        at_commit, go_on = threading.Event(), threading.Event()
        finish = one.store._ingest._finish

        def slow(*values):  # type: ignore[no-untyped-def]
            at_commit.set()
            assert go_on.wait(PATIENCE_S)
            finish(*values)

        one.store._ingest._finish = slow  # type: ignore[method-assign]
        committing = threading.Thread(target=one.commit, args=([one.reading(1)],))
        committing.start()
        assert at_commit.wait(PATIENCE_S)
        marks: list[dict[int, int]] = []
        taking = threading.Thread(target=lambda: marks.append(two.begin()))
        taking.start()
        taking.join(0.3)
        assert not marks, "the lease was taken over a commit that goes on"
        go_on.set()
        committing.join(PATIENCE_S)
        taking.join(PATIENCE_S)
        assert marks == [{3: 1}]


def test_what_a_hub_carried_is_checked_against_the_hub(place: PostgresPlace) -> None:
    one, two = Node(place, "one"), Node(place, "two")
    with opened(one, two):
        one.begin(2, b"hub-boot")
        hub = one.epochs[2, b"hub-boot"]
        one.begin(1)
        two.begin(1)  # the sensor moved; its old hub still brings what it holds
        message = Relayed(*one.reading(1))
        message.carrier, message.hub = (hub, 4, 1), 2
        assert one.commit([message]) == [0]
        assert two.commit([two.reading(1), two.reading(2)]) == [1]
        two.begin(2, b"hub-boot")
        late = Relayed(*one.reading(3))
        late.carrier, late.hub = (hub, 4, 2), 2
        assert one.store.commit([late]) == Committed([], frozenset({0}))
        assert two.begin(2, b"hub-boot") == {4: 1}, "its number moved over what is not stored"


def test_two_ways_at_once_store_a_message_once(place: PostgresPlace) -> None:
    """The first message of a stream comes directly to one node, and by a hub to another."""
    nodes = [Node(place, "one"), Node(place, "two")]
    with opened(*nodes):
        one, two = nodes
        one.begin(1)
        two.begin(2, b"hub-boot")
        two.epochs[1, EPOCH] = one.epochs[1, EPOCH]
        for first in range(1, 200, 20):
            direct = [one.reading(seq) for seq in range(first, first + 20)]
            relayed = []
            for seq in range(first, first + 20):
                message = Relayed(*two.reading(seq))
                message.carrier, message.hub = (two.epochs[2, b"hub-boot"], 4, seq), 2
                relayed.append(message)
            new: list[list[int]] = []
            both = [
                threading.Thread(target=lambda n=n, b=b: new.append(n.commit(b)))  # type: ignore[misc]
                for n, b in ((one, direct), (two, relayed))
            ]
            for thread in both:
                thread.start()
            for thread in both:
                thread.join(PATIENCE_S)
            assert sorted(map(len, new)) == [0, 20]
    assert len(stored(place)) == 200


def test_commits_side_by_side_do_not_wait_in_a_circle(place: PostgresPlace) -> None:
    """Two nodes, the same streams (by hubs) in every order; new ones among them each time."""
    nodes = [Node(place, name) for name in ("one", "two")]
    failed: list[BaseException] = []
    together = threading.Barrier(2)
    with opened(*nodes):
        for number, node in enumerate(nodes):
            node.begin(39 + number, b"hub-boot")
        for device in range(1, 31):
            nodes[0].begin(device)
            nodes[1].epochs[device, EPOCH] = nodes[0].epochs[device, EPOCH]

        def run(number: int) -> None:
            node, random_order = nodes[number], random.Random(number)
            try:
                for seq in range(1, 11):
                    batch = []
                    streams = [(device, 1 + n) for device in range(1, 31) for n in range(15)]
                    some = random_order.sample(streams, len(streams) - 9 * (seq < 3))
                    for device, stream in some:
                        message = Relayed(*node.reading(seq, stream=stream, device=device))
                        message.carrier = (node.epochs[39 + number, b"hub-boot"], 4, seq)
                        message.hub = 39 + number
                        batch.append(message)
                    node.store.set_boot(1 + seq, 7, seq)
                    together.wait(PATIENCE_S)
                    node.commit(batch)
            except BaseException as error:
                failed.append(error)
                together.abort()

        threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * PATIENCE_S)
        assert not any(thread.is_alive() for thread in threads)
    assert not failed
    found = stored(place)
    assert len(found) == len(set(found)) > 30 * 15 * 9


async def test_sessions_begin_without_blocking_the_loop(place: PostgresPlace) -> None:
    with PostgresStore(place, node="one") as store:
        begins = [store.begin(number, EPOCH, ABOUT) for number in range(1, 41)]
        async with asyncio.timeout(PATIENCE_S):
            starts = await asyncio.gather(*begins)
        assert len({start.epoch_id for start in starts}) == 40
        assert all(start.marks == {} for start in starts)
        found = rows(place, "SELECT device, node, link, address, software FROM leases ORDER BY 1")
        assert found[0] == (1, "one", "tls", "192.0.2.1", "fleetnet 1")
        store.end(1)
        async with asyncio.timeout(PATIENCE_S):
            while rows(place, "SELECT node FROM leases WHERE device = 1") != [("",)]:
                await asyncio.sleep(0.05)
    assert rows(place, "SELECT count(*), min(node) FROM leases WHERE node = ''") == [(40, "")]


async def test_a_node_hears_that_it_lost_a_device(place: PostgresPlace) -> None:
    lost: list[int] = []
    with PostgresStore(place, node="one") as one:
        one.on_lost = lost.append
        await asyncio.wait_for(one.begin(1, EPOCH, ABOUT), PATIENCE_S)  # type: ignore[arg-type]
        assert one._leases is not None
        one._leases.heard(1, 1, "one")  # its own session
        with PostgresStore(place, node="two") as two:
            await asyncio.to_thread(two.begin_now, 1, EPOCH)
            one._leases.look()
            async with asyncio.timeout(PATIENCE_S):
                while not lost:
                    await asyncio.sleep(0.02)
    assert lost == [1]


async def test_a_lease_that_is_taken_before_its_session_begins_is_told(
    place: PostgresPlace,
) -> None:
    """The other node's word comes between the COMMIT and the note that it is held here."""
    one, two = Node(place, "one"), Node(place, "two")
    with opened(one, two):
        lost = asyncio.Event()
        leases = one.store._leases
        assert leases is not None
        leases.on_lost = lambda device: lost.set() if device == 1 else None

        class Held(dict):  # type: ignore[type-arg]
            def update(self, fences):  # type: ignore[no-untyped-def]
                two.begin()
                leases.heard(1, 2, "two")
                super().update(fences)

        leases._held = Held()
        await leases.begin(1, EPOCH, ABOUT)
        async with asyncio.timeout(PATIENCE_S):
            await lost.wait()


async def test_no_session_begins_while_the_server_is_away(
    postgres: PostgresServer, place: PostgresPlace
) -> None:
    with PostgresStore(place, node="one") as store:
        await asyncio.wait_for(store.begin(1, EPOCH, ABOUT), PATIENCE_S)  # type: ignore[arg-type]
        postgres.kill()
        try:
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(store.begin(2, EPOCH, ABOUT), PATIENCE_S)  # type: ignore[arg-type]
        finally:
            postgres.start()
        start = await asyncio.wait_for(store.begin(2, EPOCH, ABOUT), PATIENCE_S)  # type: ignore[arg-type]
        assert start.marks == {}


def test_watermarks_and_holes_know_what_a_set_knows() -> None:
    """Any order, copies, gaps; and each transaction begins from what the last one left."""
    for seed in range(300):
        random_order = random.Random(seed)
        last: dict[tuple[int, int], int] = {(1, 1): 0}
        table: dict[int, int] = {}
        known: set[int] = set()
        for _transaction in range(12):
            marks = Marks(dict(last))
            marks.load((1, 1, first, end) for first, end in sorted(table.items()))
            for _ in range(random_order.randrange(6)):
                seq = random_order.randrange(1, 25)
                if random_order.random() < 0.2:
                    end = seq + random_order.randrange(4)
                    marks.give_up((1, 1), seq, end)
                    known.update(range(seq, end + 1))
                else:
                    assert marks.take((1, 1), seq, NOW) == (seq not in known)
                    known.add(seq)
            gone, *kinds = marks.changed_holes()
            new = [*kinds[0], *kinds[1]]
            for _epoch, _stream, first in gone:
                del table[first]
            for _epoch, _stream, first, end in new:
                assert first not in table
                table[first] = end
            last = marks.last
            missing = set(range(1, last[1, 1] + 1)) - known
            assert {n for a, b in table.items() for n in range(a, b + 1)} == missing
