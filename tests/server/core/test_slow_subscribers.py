"""Whoever listens too slowly costs a bounded amount of memory, is counted, and holds up nobody."""

import asyncio
import sys

from fleetnet_server.core import events as module
from fleetnet_server.core.events import LIVE, READINGS, Event, Events, Subscription


def waiting(subscription: Subscription) -> list[Event]:
    """What it has not read yet."""
    return list(subscription._waiting)


async def test_the_oldest_give_way_and_it_is_told_how_many() -> None:
    feed = Events()
    slow, quick = feed.subscribe(kinds={"alarm"}), feed.subscribe(kinds={"alarm"})
    most = module._WAITING
    for number in range(3 * most):
        feed.publish("alarm", "cam-1", {"number": number})
        assert (await anext(quick)).detail["number"] == number, "the other one misses nothing"
    assert len(waiting(slow)) == most
    assert slow.dropped == feed.dropped == 2 * most and quick.dropped == 0
    assert (await anext(slow)).detail["number"] == 2 * most and not slow.is_cut


async def test_large_events_are_bounded_in_bytes() -> None:
    feed = Events()
    slow = feed.subscribe(kinds={READINGS})
    for _ in range(100):
        feed.publish(READINGS, "cam-1", {"value": "x" * 50_000})
    held = sum(sys.getsizeof(event.text) for event in waiting(slow))
    assert module._WAITING_BYTES // 2 < held <= module._WAITING_BYTES + 50_000
    assert slow.dropped == 100 - len(waiting(slow))


async def test_a_stream_that_must_miss_nothing_is_cut_off_and_counted() -> None:
    feed = Events()
    slow = feed.subscribe(kinds={LIVE}, cut_when_slow=True)
    for _ in range(module._WAITING + 1):
        feed.publish(LIVE, "cam-1", {})
    assert slow.is_cut and feed.cut == 1 and feed.subscribers == 0
    assert not waiting(slow) and not feed.wants(LIVE, "cam-1")
    async with asyncio.timeout(30):
        assert [event async for event in slow] == []
    feed.publish(LIVE, "cam-1", {})
    assert feed.cut == 1, "nobody is there to be cut off"


async def test_who_comes_back_is_not_cut_off_for_what_it_missed() -> None:
    feed = Events()
    feed.publish("alarm", "cam-1", {"number": -1})
    last = f"{feed.run}-1"
    for number in range(3 * module._WAITING):
        feed.publish("alarm", "cam-1", {"number": number})
    again = feed.subscribe(kinds={"alarm"}, after=last, cut_when_slow=True)
    assert not again.is_cut
    kinds = [event.kind for event in waiting(again)]
    assert kinds[0] == "missed" and 1 < len(kinds) <= module._WAITING


async def test_who_comes_back_is_told_of_what_does_not_fit() -> None:
    feed = Events()
    for number in range(1000):
        feed.publish("alarm", f"cam-{number % 10}", {"number": number})
    after = feed.run + "-{}"
    back = waiting(feed.subscribe(after=after.format(100)))
    assert back[0].kind == "missed"
    assert [one.detail["number"] for one in back[1:]] == list(range(744, 1000))
    # Of its own device everything fits, however much happened elsewhere.
    own = waiting(feed.subscribe(device="cam-3", after=after.format(100)))
    assert [one.detail["number"] for one in own] == list(range(103, 1000, 10))


async def test_who_comes_back_is_not_cut_off_for_the_size_of_what_it_missed() -> None:
    feed = Events()
    for _number in range(100):
        feed.publish("alarm", "cam-1", {"value": "x" * 60_000})
    back = feed.subscribe(after=f"{feed.run}-0", cut_when_slow=True)
    assert not back.is_cut
    assert [one.kind for one in waiting(back)] == ["missed", *["alarm"] * 8]
