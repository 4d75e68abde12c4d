"""What waits for the next commit is bounded, and nothing of it is forgotten."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetnet_server.store.sqlite import SqliteStore

EPOCH = b"\x01" * 8


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "fleet.db") as opened:
        opened.add_device("cam-1")
        yield opened


def rows(store: SqliteStore) -> list[tuple[int, int, int]]:
    found = store.transact(
        lambda connection: connection.execute(
            "SELECT stream, first, last FROM gaps ORDER BY 1, 2"
        ).fetchall()
    )
    return [tuple(row) for row in found]


def test_gaps_that_follow_on_one_another_wait_as_one(store: SqliteStore) -> None:
    """A store that is away for an hour, and a device that gives up ten messages a second."""
    epoch = store.epoch_id(1, EPOCH)
    for seq in range(1, 36_001):
        store.note_gap(1, epoch, 3, seq, seq)
        store.note_gap(1, epoch, 5, 2 * seq, 2 * seq)  # every other one arrives
    waiting = store._waiting().gaps
    assert len([gap for gap in waiting if gap[2] == 3]) == 1
    assert len(waiting) == 36_001
    store.commit([])
    assert rows(store)[0] == (3, 1, 36_000)
    assert len(rows(store)) == 36_001
    assert not store.has_deferred


def test_a_gap_that_grows_under_a_commit_is_stored_whole(store: SqliteStore) -> None:
    epoch = store.epoch_id(1, EPOCH)
    store.note_gap(1, epoch, 3, 4, 6)
    begun = store._waiting()
    store.note_gap(1, epoch, 3, 7, 9)
    store._settle(begun)
    store.commit([])
    assert rows(store) == [(3, 4, 9)]
    store.note_gap(1, epoch, 3, 10, 12)  # the one in front of it is on the disk
    store.commit([])
    assert rows(store) == [(3, 4, 9), (3, 10, 12)]


def test_a_gap_that_is_told_again_does_not_shrink(store: SqliteStore) -> None:
    epoch = store.epoch_id(1, EPOCH)
    store.note_gap(1, epoch, 3, 4, 9)
    store.note_gap(1, epoch, 3, 4, 6)
    store.commit([])
    assert rows(store) == [(3, 4, 9)]
