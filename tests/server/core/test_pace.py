"""A session under a rate: when its windows close, when they open, when it has to go.

Without a network; the bucket's clock is moved by hand, the loop's calls are caught.
"""

from collections.abc import Callable

import pytest

from fleetnet.limits import MAX_STREAM, WINDOW
from fleetnet_server.core import policing
from fleetnet_server.core.policing import Bucket, Buckets, Pace
from fleetnet_server.identity.policy import Rules

# Every stream's window full, all under way when the windows close.
MOST_OVERDRAWN = MAX_STREAM * WINDOW
HOUR_MS = 3_600_000


class Loop:
    """Stands for asyncio's: keeps what would be called, and when."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        self.calls.append((delay_s, call))


class World:
    """One bucket, its sessions, and the time."""

    def __init__(self, rate: float) -> None:
        self.now = 100.0
        self.changes = 0
        self.loop = Loop()
        self.bucket = Bucket(rate, lambda: self.now)

    def session(self) -> Pace:
        return Pace(self.bucket, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def pass_time(self) -> float:
        """Go to the one call that waits, and make it."""
        [(delay_s, call)] = self.loop.calls
        self.loop.calls.clear()
        self.now += delay_s
        call()
        return delay_s


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(10.0)
    monkeypatch.setattr(policing.asyncio, "get_running_loop", lambda: made.loop)
    return made


def test_a_bucket_says_when_it_runs_empty(world: World) -> None:
    assert [world.bucket.take() for _ in range(11)] == [True] * 9 + [False] * 2
    assert world.bucket.level == -1.0
    world.now += 0.2
    assert not world.bucket.take()  # two came in, and one of them is the last
    world.now += 0.2
    assert world.bucket.take()
    assert not world.bucket.is_barred


def test_a_bucket_is_used_again_when_a_quarter_is_full(world: World) -> None:
    for _ in range(10):
        world.bucket.take()
    assert world.bucket.wait_s() == pytest.approx(0.25)
    wide = Bucket(400.0, lambda: world.now)
    wide.level = 0.0
    assert wide.wait_s() == pytest.approx(0.25)
    narrow = Bucket(2.0, lambda: world.now)
    narrow.level = 0.0
    assert narrow.wait_s() == pytest.approx(0.5)  # of one message, more than a quarter of two


def test_the_window_is_what_the_bucket_has_room_for(world: World) -> None:
    pace = world.session()
    assert not pace.is_over and not world.loop.calls
    assert pace.room(100) == 10 and pace.room(4) == 4
    for _ in range(7):
        pace.count()
    assert pace.room(100) == 3
    pace.count()
    pace.count()
    assert pace.room(100) == 1  # still open: a window of 0 would halt it
    assert world.changes == 0 and not world.loop.calls


def test_a_session_that_sends_too_fast_is_halted_and_let_go(world: World) -> None:
    pace = world.session()
    for _ in range(12):
        pace.count()
    assert pace.room(100) == 0
    assert world.changes == 1  # it is told once
    assert world.pass_time() == pytest.approx(0.25)
    # Two more came than the bucket had: it waits for those as well.
    assert pace.room(100) == 0 and world.changes == 1
    assert world.pass_time() == pytest.approx(0.2)
    assert world.changes == 2 and not world.loop.calls
    assert pace.room(100) == 2
    assert not pace.is_over and not world.bucket.is_barred


def test_a_session_is_halted_at_its_start_when_the_one_before_was(world: World) -> None:
    pace = world.session()
    for _ in range(10):
        pace.count()
    assert pace.room(100) == 0
    world.loop.calls.clear()
    again = world.session()
    assert again.room(100) == 0 and world.changes == 1
    world.pass_time()
    assert again.room(100) == 2 and world.changes == 2


def test_a_bucket_with_room_for_one_message_begins_open(world: World) -> None:
    world.bucket.level = 1.0
    assert world.session().room(100) == 1 and not world.loop.calls
    world.bucket.level = 0.5
    assert world.session().room(100) == 0 and len(world.loop.calls) == 1


def test_what_was_under_way_is_forgiven_and_no_more(world: World) -> None:
    pace = world.session()
    for _ in range(10 + MOST_OVERDRAWN):
        pace.count()
    assert world.bucket.level == -MOST_OVERDRAWN
    assert not pace.is_over and not world.bucket.is_barred
    pace.count()
    assert pace.is_over and world.bucket.is_barred
    assert world.changes == 1


def rules(rate: float | None) -> Rules:
    return Rules(max_rate=rate)


def test_buckets_outlive_sessions_and_follow_the_rules() -> None:
    buckets = Buckets()
    assert buckets.of(1, None) is None and buckets.of(1, rules(None)) is None
    made = buckets.of(1, rules(5.0))
    assert made is not None and made.rate == 5.0
    made.take()
    assert buckets.of(1, rules(5.0)) is made
    assert buckets.of(2, rules(5.0)) is not made
    other = buckets.of(1, rules(6.0))
    assert other is not made and other is not None and other.rate == 6.0
    assert buckets.of(1, rules(None)) is None
    assert buckets.of(1, rules(6.0)) is not other  # it was forgotten with the rule
    assert buckets.of(2, None) is None and not buckets._of.keys() - {1}


def test_who_did_not_obey_stays_away_until_the_bucket_is_used_again(world: World) -> None:
    buckets = Buckets()
    bucket = buckets._of[1] = world.bucket
    bucket.level = -20.0
    assert buckets.barred_ms(1, None) == 0 and buckets.barred_ms(2, rules(10.0)) == 0
    buckets._of[1] = bucket
    assert buckets.barred_ms(1, rules(10.0)) == 0  # it is empty, but obeyed
    bucket.is_barred = True
    assert buckets.barred_ms(1, rules(10.0)) == 2250
    assert bucket.is_barred
    world.now += 2.0
    assert buckets.barred_ms(1, rules(10.0)) == 250
    assert bucket.is_barred, "a quarter of a second is a wait as well"
    world.now += 0.25
    assert buckets.barred_ms(1, rules(10.0)) == 0
    assert not bucket.is_barred
    bucket.level = -20.0
    assert buckets.barred_ms(1, rules(10.0)) == 0  # once paid, it may come


def test_nobody_stays_away_for_more_than_an_hour(world: World) -> None:
    buckets = Buckets()
    slow = buckets._of[1] = Bucket(0.001, lambda: world.now)
    slow.level = -100.0
    slow.is_barred = True
    assert buckets.barred_ms(1, rules(0.001)) == HOUR_MS
