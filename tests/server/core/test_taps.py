"""What the feed shows of commits: which messages, how many, and at which times; and how long."""

from typing import Any, NamedTuple

from fleetnet.frame import EVENT, OPTIONAL, RAW, READINGS
from fleetnet_server.core import events
from fleetnet_server.core.bodies import Message
from fleetnet_server.core.events import Events, Subscription
from fleetnet_server.core.histogram import Histogram
from fleetnet_server.core.taps import _SHOWN, Alarms, ReadingsTap, readings_of

NOW = 1_800_000_000_000
BODY = b'[%d,0,["t","u"],[[0,0,1],[1,250,"x"]]]' % NOW


class Peer(NamedTuple):
    """What the tap reads of a session."""

    name: str = "cam-1"
    is_quarantined: bool = False


def message(body: bytes = BODY, kind: int = READINGS, problem: str | None = None) -> Message:
    return Message(1, 1, 3, 1, kind, NOW, NOW, NOW, body, problem)


def shown(watcher: Subscription) -> list[tuple[str | None, dict[str, Any]]]:
    found = [(event.device, event.detail) for event in watcher._waiting]
    watcher._waiting.clear()
    return found


async def test_good_new_readings_are_shown_and_nothing_else() -> None:
    feed = Events()
    tap = ReadingsTap(feed)
    watcher = feed.subscribe(kinds={events.READINGS}, device="cam-1")
    cam = Peer()
    tap.on_batch([  # type: ignore[list-item]
        (message(), cam, False), (message(kind=RAW), cam, True),
        (message(problem="broken"), cam, True), (message(), Peer(is_quarantined=True), True),
        (message(), Peer("cam-2"), True),
    ])  # fmt: skip
    assert shown(watcher) == []
    tap.on_batch([(message(kind=READINGS | OPTIONAL), cam, True)])  # type: ignore[list-item]
    readings = [
        {"channel": "t", "unix_ms": NOW, "value": 1},
        {"channel": "u", "unix_ms": NOW + 250, "value": "x"},
    ]
    assert shown(watcher) == [("cam-1", {"readings": readings})]
    watcher.close()
    tap.on_batch([(message(b"nobody reads this"), cam, True)])  # type: ignore[list-item]


async def test_of_a_large_commit_the_first_are_shown_and_the_rest_counted() -> None:
    feed = Events()
    tap = ReadingsTap(feed)
    watcher = feed.subscribe(kinds={events.READINGS})
    tap.on_batch([(message(), Peer(), True)] * (_SHOWN + 3))  # type: ignore[arg-type]
    assert (len(shown(watcher)), tap.left_out) == (_SHOWN, 3)


def test_times_of_a_boot_are_those_that_the_store_found() -> None:
    body = b'[5000,7,["t"],[[0,100,1],[0,40,2]]]'
    dated = message(body)._replace(t0=NOW + 40)
    assert [one["unix_ms"] for one in readings_of(dated)] == [NOW + 100, NOW + 40]
    waiting = message(body)._replace(t0=None, t1=None)
    assert [one["unix_ms"] for one in readings_of(waiting)] == [None, None]


async def test_alarms_are_told_with_what_they_say() -> None:
    feed = Events()
    watcher = feed.subscribe(kinds={"alarm"})
    alarms = Alarms(feed)
    body = b'[%d,0,"door",{"open":true}]' % NOW
    alarms.durable(Peer(), message(body, EVENT))  # type: ignore[arg-type]
    alarms.durable(Peer(), message(b"?", EVENT, "no event"))  # type: ignore[arg-type]
    detail = {"name": "door", "unix_ms": NOW, "value": {"open": True}}
    assert shown(watcher) == [("cam-1", detail)]


def test_durations_are_counted_at_their_upper_bound() -> None:
    made = Histogram((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 1.0, 3.0):
        made.add(seconds)
    assert made.cumulated() == [("0.1", 2.0), ("1.0", 4.0), ("+Inf", 5.0)]
    assert (made.count, made.total) == (5, 4.65)
