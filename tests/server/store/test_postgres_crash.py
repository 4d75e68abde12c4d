"""PostgreSQL is killed, all of it at once, while a node commits: nothing lost, nothing twice."""

import threading
import time

from fleetnet_server.errors import FleetError
from server.store.postgres_server import PATIENCE_S, PostgresServer
from server.store.postgres_world import Node, opened, stored

KILLS = 3
# Of a server that is there again; TARGETS.
_BACK_S = 10.0


def test_a_killed_server_loses_nothing_that_was_acknowledged(postgres: PostgresServer) -> None:
    place = postgres.database()
    node = Node(place)
    with opened(node):
        for number in range(1, 6):
            node.store.add_device(f"cam-{number}")
            node.begin(number)
        acknowledged: set[tuple[int, int]] = set()
        commits, end = [0], threading.Event()

        def load() -> None:
            seq = 1
            while not end.is_set():
                batch = [
                    node.reading(each, device=device)
                    for device in range(1, 6)
                    for each in range(seq, seq + 20)
                ]
                while not end.is_set():
                    try:
                        node.store.commit(batch)
                    except FleetError as error:
                        print(error)
                        end.wait(0.05)
                        continue
                    acknowledged.update((one.epoch_id, one.seq) for one in batch)
                    commits[0] += 1
                    seq += 20
                    break

        thread = threading.Thread(target=load)
        thread.start()
        try:
            for _ in range(KILLS):
                _wait_for_more(commits, 5)
                postgres.kill()
                postgres.start()
                started = time.monotonic()
                _wait_for_more(commits, 1)
                assert time.monotonic() - started < _BACK_S
        finally:
            end.set()
            thread.join(PATIENCE_S)
        assert not thread.is_alive()
        found = [(epoch, seq) for epoch, _stream, seq in stored(place)]
    assert len(found) == len(set(found)), "some are there twice"
    assert acknowledged <= set(found), "some are lost"
    postgres.drop(place)


def _wait_for_more(commits: list[int], count: int) -> None:
    wanted, until = commits[0] + count, time.monotonic() + PATIENCE_S
    while commits[0] < wanted:
        assert time.monotonic() < until, "no commit succeeds any more"
        time.sleep(0.01)
