"""The place of a bridge in the store: what it lacks is kept, whatever compaction does."""

from pathlib import Path

import pytest

from fleetnet_server.store.outbox import Outbox, forget, places
from fleetnet_server.store.query import query
from fleetnet_server.store.schema import open_readable
from server.store.plain_store import NOW, PlainStore

KEEP = 10_000


@pytest.fixture
def plain(tmp_path: Path) -> PlainStore:
    return PlainStore(tmp_path / "fleet.db")


def fill(plain: PlainStore, first: int, last: int, boot: int = 0) -> None:
    for seq in range(first, last + 1):
        plain.put(1, seq, [(0, 0, str(seq))], base=1000 if boot else NOW, boot=boot)


def everything(outbox: Outbox, after: int) -> list[int]:
    found: list[int] = []
    while True:
        after, rows = outbox.read(after, 7)
        if not rows:
            return found
        found += [row.seq for row in rows]


def held(plain: PlainStore) -> int:
    connection = open_readable(plain.store.path)
    try:
        return int(connection.execute("SELECT count(*) FROM messages").get)
    finally:
        connection.close()


def test_what_is_not_sent_keeps_its_row(plain: PlainStore) -> None:
    fill(plain, 1, 3)
    outbox = Outbox(plain.store, "b", lambda: NOW)
    place, gone = outbox.start(KEEP)
    assert (place, gone) == (3, 0)
    fill(plain, 4, 40)
    plain.compact()
    assert everything(outbox, place) == list(range(4, 41))
    assert len(list(query(plain.store.path))) == 40  # once each, though there are chunks as well
    outbox.move(20, KEEP, 17, 0)
    plain.compact()
    assert everything(outbox, 20) == list(range(21, 41)) and held(plain) == 20
    outbox.move(40, KEEP, 20, 0)
    fill(plain, 41, 60)
    plain.compact()
    assert held(plain) < 30 and len(list(query(plain.store.path))) == 60
    outbox.close()


def test_without_a_bridge_nothing_is_held(plain: PlainStore) -> None:
    fill(plain, 1, 40)
    plain.compact()
    assert held(plain) < 20


def test_what_is_dated_late_is_kept_as_well(plain: PlainStore) -> None:
    outbox = Outbox(plain.store, "b", lambda: NOW)
    outbox.start(KEEP)
    fill(plain, 1, 20, boot=7)
    fill(plain, 21, 40)
    plain.compact()
    plain.date(1, 7, NOW)
    plain.compact()
    assert everything(outbox, 0) == list(range(1, 41))
    outbox.close()


def test_a_bridge_that_is_gone_holds_nothing_for_longer_than_it_said(plain: PlainStore) -> None:
    outbox = Outbox(plain.store, "b", lambda: NOW - KEEP)
    outbox.start(KEEP)
    fill(plain, 1, 40)
    plain.compact()
    assert held(plain) < 20
    place, gone = Outbox(plain.store, "b", lambda: NOW).start(KEEP)
    assert place == 0 and gone == 40 - held(plain)


def test_a_bridge_that_is_forgotten_holds_nothing(plain: PlainStore) -> None:
    outbox = Outbox(plain.store, "b", lambda: NOW)
    outbox.start(KEEP)
    fill(plain, 1, 40)
    outbox.move(2, KEEP, 2, 1)
    ((place, behind),) = places(plain.store)
    assert (place.message, place.sent, place.dropped, behind) == (2, 2, 1, 38)
    assert forget(plain.store, "b") and not forget(plain.store, "b")
    plain.compact()
    assert held(plain) < 20


def test_channels_are_known_of_chunks_and_of_messages(plain: PlainStore) -> None:
    fill(plain, 1, 40)
    plain.compact()
    plain.put(2, 1, [(0, 0, "1")])
    outbox = Outbox(plain.store, "b", lambda: NOW)
    assert outbox.channels() == {"cam-1": ["t", "h"], "cam-2": ["t", "h"]}
    outbox.close()
