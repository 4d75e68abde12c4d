"""What a commit knows of older messages: ranges without rows, copies in one batch, carriers."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from fleetnet.frame import READINGS
from fleetnet_server.core.bodies import Message
from fleetnet_server.core.relay_ports import Relayed
from fleetnet_server.store import batch
from fleetnet_server.store.known import merge_known
from fleetnet_server.store.sqlite import SqliteStore

NOW = 1_800_000_000_000
BODY = f'[{NOW},0,["t"],[[0,0,1]]]'


class Row(NamedTuple):
    """What merge_known reads of a message."""

    epoch: int
    stream: int
    seq: int
    received: int = NOW


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "fleet.db") as opened:
        opened.add_device("cam-1")
        yield opened


@pytest.fixture
def epoch(store: SqliteStore) -> int:
    return store.epoch_id(1, b"epoch-01")


def message(epoch: int, seq: int, stream: int = 3) -> Message:
    return Message(1, epoch, stream, seq, READINGS, NOW, NOW, NOW, BODY, None)


def stored(store: SqliteStore) -> list[tuple[int, int]]:
    rows = store.read("SELECT stream, seq FROM messages ORDER BY id")
    return [(int(stream), int(seq)) for stream, seq in rows]


def know(store: SqliteStore, *rows: Row) -> None:
    store.transact(lambda connection: merge_known(connection, rows).write(connection))


def ranges(store: SqliteStore) -> list[tuple[int, ...]]:
    found = store.read(
        "SELECT epoch, stream, first, last, received FROM known ORDER BY epoch, stream, first"
    )
    return [tuple(map(int, row)) for row in found]


def test_a_range_keeps_out_what_it_has_and_nothing_beside_it(
    store: SqliteStore, epoch: int
) -> None:
    know(store, *(Row(epoch, 3, seq) for seq in (5, 6, 7)), Row(epoch, 3, 20))
    found = store.commit([message(epoch, seq) for seq in (4, 5, 6, 7, 8, 19, 20, 21)])
    assert list(found) == [0, 4, 5, 7]
    assert stored(store) == [(3, 4), (3, 8), (3, 19), (3, 21)]
    # The same numbers of another stream are other messages.
    assert list(store.commit([message(epoch, seq, 2) for seq in (5, 6)])) == [0, 1]
    # A batch of which everything is known stores nothing.
    assert list(store.commit([message(epoch, seq) for seq in (5, 20)])) == []
    assert len(stored(store)) == 6


@pytest.mark.parametrize("count", [1, 7, 8, 9, 63, 64, 65, 72, 73, 511, 512, 513, 585])
def test_every_size_of_a_batch_is_stored_once_and_in_order(
    count: int, store: SqliteStore, epoch: int
) -> None:
    messages = [message(epoch, seq) for seq in range(1, count + 1)]
    assert list(store.commit(messages)) == list(range(count))
    assert list(store.commit(messages)) == []
    assert stored(store) == [(3, seq) for seq in range(1, count + 1)]


def test_of_copies_in_one_batch_the_first_counts(store: SqliteStore, epoch: int) -> None:
    assert list(store.commit([message(epoch, seq) for seq in (1, 1, 2, 1, 2, 3)])) == [0, 2, 5]
    assert stored(store) == [(3, 1), (3, 2), (3, 3)]


def test_the_rows_of_an_insert_are_few_and_large_first() -> None:
    assert batch._ROWS_A_STEP == (512, 64, 8, 1)


def test_ranges_that_touch_become_one(store: SqliteStore, epoch: int) -> None:
    know(store, Row(epoch, 3, 1, 10), Row(epoch, 3, 2, 30), Row(epoch, 3, 3, 20))
    assert ranges(store) == [(epoch, 3, 1, 3, 30)]
    know(store, Row(epoch, 3, 6, 5), Row(epoch, 4, 4, 1))
    assert ranges(store) == [(epoch, 3, 1, 3, 30), (epoch, 3, 6, 6, 5), (epoch, 4, 4, 4, 1)]
    know(store, Row(epoch, 3, 4, 40), Row(epoch, 3, 5, 2))
    assert ranges(store) == [(epoch, 3, 1, 6, 40), (epoch, 4, 4, 4, 1)]


def test_ranges_that_leave_one_out_stay_apart(store: SqliteStore, epoch: int) -> None:
    know(store, Row(epoch, 3, 1), Row(epoch, 3, 3), Row(epoch, 3, 5))
    assert [found[2:4] for found in ranges(store)] == [(1, 1), (3, 3), (5, 5)]
    know(store, Row(epoch, 3, 3))
    assert [found[2:4] for found in ranges(store)] == [(1, 1), (3, 3), (5, 5)]


def test_a_range_within_another_does_not_make_it_shorter(store: SqliteStore, epoch: int) -> None:
    know(store, *(Row(epoch, 3, seq) for seq in range(1, 10)))
    know(store, Row(epoch, 3, 4))
    assert [found[2:4] for found in ranges(store)] == [(1, 9)]


def test_nothing_merges_to_nothing(store: SqliteStore) -> None:
    found = merge_known(store._reader, [])
    assert (found.old, found.new) == ([], [])


def test_a_carrier_moves_forward_only(store: SqliteStore, epoch: int) -> None:
    def carried(seq: int, *carrier: int) -> Relayed:
        made = Relayed(*message(epoch, seq))
        made.carrier = (carrier[0], carrier[1], carrier[2])
        made.hub = 1
        return made

    def marks() -> list[tuple[int, ...]]:
        rows = store.read("SELECT epoch, stream, last FROM carried ORDER BY 1, 2")
        return [tuple(map(int, row)) for row in rows]

    store.commit([carried(1, 7, 3, 9), carried(2, 7, 3, 11), carried(3, 7, 3, 10)])
    assert marks() == [(7, 3, 11)]
    store.commit([carried(4, 7, 3, 5), carried(5, 7, 2, 1), message(epoch, 6)])
    assert marks() == [(7, 2, 1), (7, 3, 11)]
    store.commit([carried(7, 7, 3, 12)])
    assert marks() == [(7, 2, 1), (7, 3, 12)]


def test_ranges_of_epochs_and_streams_do_not_mix(store: SqliteStore, epoch: int) -> None:
    other = store.epoch_id(1, b"epoch-02")
    streams = [(each, stream) for each in (epoch, other) for stream in (2, 3)]
    know(store, *(Row(*each, 1) for each in streams))
    know(store, *(Row(*each, 2) for each in streams))
    assert [found[:4] for found in ranges(store)] == [(*each, 1, 2) for each in streams]


def test_beside_what_is_known_a_copy_of_an_older_row_is_not_new(
    store: SqliteStore, epoch: int
) -> None:
    know(store, Row(epoch, 3, 5))
    assert list(store.commit([message(epoch, 4)])) == [0]
    assert list(store.commit([message(epoch, seq) for seq in (4, 5, 6)])) == [2]


def test_a_commit_stores_device_by_device_and_each_in_its_order(store: SqliteStore) -> None:
    """Two pages of a device are then found once a commit, not once a message."""
    store.add_device("cam-2")
    epochs = [store.epoch_id(device, b"epoch-01") for device in (1, 2)]
    batch = [
        message(epochs[device - 1], seq)._replace(device_id=device)
        for seq in (2, 1, 3)
        for device in (2, 1)
    ]
    # A copy in the same batch is found where it came, whatever was moved.
    assert list(store.commit([*batch, batch[2]])) == list(range(6))
    rows = store.read("SELECT device, seq FROM messages ORDER BY id")
    assert [tuple(row) for row in rows] == [(1, 2), (1, 1), (1, 3), (2, 2), (2, 1), (2, 3)]
