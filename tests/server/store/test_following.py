"""Who follows a store meets every reading once, whatever compaction does meanwhile."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetnet_server.errors import StoreError
from fleetnet_server.feeds import Readings
from fleetnet_server.store.compaction import Compactor
from fleetnet_server.store.following import MOST_BEHIND, Followers, follow
from server.store.plain_store import NOW, SMALL, PlainStore


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[PlainStore]:
    made = PlainStore(tmp_path / "fleet.db")
    yield made
    made.close()


def fill(plain: PlainStore, first: int, behind: int) -> None:
    for seq in range(first, behind):
        plain.put(1, seq, [(0, seq * 10, seq)])


def stop(seconds: float) -> None:
    raise InterruptedError


def everything(plain: PlainStore, after_id: int | None) -> list[int]:
    found = []
    try:
        for one in follow(plain.store.path, after_id, sleep=stop):
            found.append(one.value)
    except InterruptedError:
        pass
    return found


def test_from_the_start_is_with_what_was_compacted(plain: PlainStore) -> None:
    fill(plain, 1, 60)
    assert everything(plain, 0) == list(range(1, 60))
    plain.compact()
    assert everything(plain, 0) == list(range(1, 60))


def test_who_is_too_slow_is_told_and_misses_nothing_silently(plain: PlainStore) -> None:
    fill(plain, 1, 10)
    found = follow(plain.store.path, 5)
    assert next(found).value == 6
    fill(plain, 10, 60)
    assert [next(found).value for _ in range(3)] == [7, 8, 9]
    plain.compact()
    with pytest.raises(StoreError, match="compacted before they were read"):
        next(found)


def test_compaction_leaves_what_a_follower_of_its_process_lacks(plain: PlainStore) -> None:
    followers = Followers()
    plain.compactor = Compactor(plain.store, SMALL, lambda: NOW + 1, followers)
    fill(plain, 1, 10)
    key = followers.add(9)
    found = follow(
        plain.store.path, 9, reached=lambda at: followers.move(key, at), sleep=stop
    )
    fill(plain, 10, 1200)
    plain.compact()
    first = next(found).value
    plain.compact()
    fill(plain, 1200, 1300)
    plain.compact()
    rest = [next(found).value for _ in range(11, 1300)]
    assert [first, *rest] == list(range(10, 1300))
    followers.remove(key)
    assert plain.compact()
    assert plain.store.read("SELECT count(*) FROM messages") == [(1,)]


def test_a_reader_that_is_forgotten_does_not_end_compaction() -> None:
    followers = Followers()
    followers.add(7)
    assert followers.last_free(100) == 7
    assert followers.last_free(8 + MOST_BEHIND) == 8 + MOST_BEHIND


async def test_a_feed_holds_rows_until_it_is_closed(plain: PlainStore) -> None:
    followers = Followers()
    feed = Readings(plain.store.path, 3, (), (), followers)
    assert followers.last_free(10) == 3
    await feed.aclose()
    assert followers.last_free(10) == 10
