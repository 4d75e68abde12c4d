"""The feed of what happens in a fleet: sessions, alarms, answers, readings as they come.

    feed.publish("session-opened", "cam-1", {"link": "dtls"})
    subscription = feed.subscribe(kinds={"alarm"}, device="cam-1")
    async for event in subscription: ...

Nothing here waits. Every subscriber has a queue of its own with a bound: who reads too slowly
loses the oldest events and is told how many, or is cut off, and nobody else notices.
"""

import asyncio
import json
import os
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any, NamedTuple

# What happens at the rate of devices' sampling, and is neither numbered nor kept for a
# subscriber that comes back: the store has the readings.
READINGS, LIVE = "readings", "live"
FLEETING = frozenset((READINGS, LIVE))

KINDS = (
    "session-opened", "session-ended", "session-refused", "gap", "alarm", "command-ended",
    "config-applied", "config-rejected", "blob-stored", READINGS, LIVE,
)  # fmt: skip

# What a subscriber that comes back can still have; some 200 B each.
_KEPT = 1024

# What one slow subscriber may have waiting: a page of readings of each of 500 devices.
_WAITING = 512

# Bytes that one subscriber may have waiting: events with large values must not add up.
_WAITING_BYTES = 1 << 20

Tell = Callable[[str, str | None, dict[str, Any]], None]


def tell_nobody(kind: str, device: str | None, detail: dict[str, Any]) -> None:
    """Where nobody listens."""


class Event(NamedTuple):
    """One thing that happened.

    Attributes:
        id: "RUN-NUMBER"; RUN is another one after a restart of the server, NUMBER grows. ""
            for readings, which are not repeated.
        at_ms: unix ms. kind: see KINDS. text: all of it as JSON, made once for all subscribers.
    """

    id: str
    at_ms: int
    kind: str
    device: str | None
    detail: dict[str, Any]
    text: str


class Subscription:
    """An async iterator over events from its making on; ``close`` ends it.

    Attributes:
        dropped: events that it was too slow for.
        is_cut: it was too slow and wanted to be cut off; the iteration ends.
    """

    def __init__(
        self, feed: "Events", kinds: Collection[str], device: str | None, cut_when_slow: bool
    ):
        self._feed = feed
        self.kinds = frozenset(kinds)
        self.device = device
        self._cut_when_slow = cut_when_slow
        self._waiting: deque[Event] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self._is_closed = False
        self.is_cut = False
        self.dropped = 0

    def wants(self, kind: str, device: str | None) -> bool:
        """Say whether such an event is for this subscriber."""
        return kind in self.kinds and self.device in (None, device)

    def put(self, event: Event) -> None:
        """Keep an event; the oldest give way to it."""
        waiting = self._waiting
        waiting.append(event)
        self._bytes += len(event.text)
        while len(waiting) > _WAITING or (self._bytes > _WAITING_BYTES and len(waiting) > 1):
            self._bytes -= len(waiting.popleft().text)
            self.dropped += 1
            self._feed.dropped += 1
            if self._cut_when_slow:
                self._cut()
                return
        self._news.set()

    def _cut(self) -> None:
        self.is_cut = True
        self._feed.cut += 1
        self._waiting.clear()
        self.close()

    def close(self) -> None:
        """Listen no longer; what waits can still be read."""
        if not self._is_closed:
            self._is_closed = True
            self._feed.forget(self)
            self._news.set()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while not self._waiting:
            if self._is_closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        event = self._waiting.popleft()
        self._bytes -= len(event.text)
        return event


class Events:
    """The feed of one back-end; lives on its event loop.

    Attributes:
        run: 8 hexadecimal digits, drawn at every start.
        counts: events by kind. dropped: events that subscribers were too slow for; cut:
            subscribers that were cut off for it.
    """

    def __init__(self) -> None:
        self.run = os.urandom(4).hex()
        self.counts: Counter[str] = Counter()
        self.dropped = 0
        self.cut = 0
        self._number = 0
        self._kept: deque[Event] = deque(maxlen=_KEPT)
        self._subscribers: dict[Subscription, None] = {}
        self._wanted: Counter[str] = Counter()

    @property
    def subscribers(self) -> int:
        return len(self._subscribers)

    def wants(self, kind: str, device: str | None = None) -> bool:
        """Say whether anybody listens to such events; cheap while nobody does."""
        if not self._wanted[kind]:
            return False
        return any(one.wants(kind, device) for one in self._subscribers)

    def wants_any(self, kind: str) -> bool:
        """Say whether anybody listens to events of a kind, of whatever device."""
        return self._wanted[kind] > 0

    def publish(self, kind: str, device: str | None, detail: dict[str, Any]) -> None:
        """Tell every subscriber whom it concerns; ``detail`` is JSON."""
        self.counts[kind] += 1
        identity = ""
        if kind not in FLEETING:
            self._number += 1
            identity = f"{self.run}-{self._number}"
        elif not self._wanted[kind]:
            return
        event = _event(identity, kind, device, detail)
        if identity:
            self._kept.append(event)
        for one in list(self._subscribers):
            if one.wants(kind, device):
                one.put(event)

    def subscribe(
        self,
        kinds: Collection[str] | None = None,
        device: str | None = None,
        after: str = "",
        cut_when_slow: bool = False,
    ) -> Subscription:
        """Return an iterator over what happens from now on.

        Args:
            kinds: of KINDS; None: all but readings and live readings.
            device: only what concerns this one.
            after: id of the last event that the subscriber has; those behind it come first.
                When some of them are gone, an event "missed" comes before all.
            cut_when_slow: end the iteration instead of leaving events out.
        """
        wanted = frozenset(KINDS) - FLEETING if kinds is None else frozenset(kinds)
        made = Subscription(self, wanted, device, cut_when_slow)
        self._subscribers[made] = None
        self._wanted.update(wanted)
        if after:
            self._repeat(made, after)
        return made

    def _repeat(self, subscription: Subscription, after: str) -> None:
        number = self._number_of(after)
        first = self._number - len(self._kept) + 1
        events = [
            event
            for event in self._kept
            if subscription.wants(event.kind, event.device)
            and (number is None or int(event.id.partition("-")[2]) > number)
        ]
        # The newest that fit: a subscriber is not cut off for what happened while it was away.
        shown = _newest(events)
        if number is None or number + 1 < first or len(shown) < len(events):
            detail = {"after": after[:64]}
            subscription.put(_event("", "missed", None, detail))
        for event in shown:
            subscription.put(event)

    def _number_of(self, identity: str) -> int | None:
        """Return the number of an id of this run; None: it is of another run, or no id."""
        run, _, number = identity.partition("-")
        if run != self.run or not (number.isascii() and number.isdigit()) or len(number) > 18:
            return None
        return int(number) if int(number) <= self._number else None

    def forget(self, subscription: Subscription) -> None:
        """See Subscription.close."""
        if subscription in self._subscribers:
            del self._subscribers[subscription]
            self._wanted.subtract(subscription.kinds)

    def close(self) -> None:
        """End every subscription."""
        for one in list(self._subscribers):
            one.close()


def _newest(events: list[Event]) -> list[Event]:
    """Return the newest events that take half of a queue together."""
    size = 0
    for count, event in enumerate(reversed(events)):
        size += len(event.text)
        if count >= _WAITING // 2 or size > _WAITING_BYTES // 2:
            return events[len(events) - count :]
    return events


def _event(identity: str, kind: str, device: str | None, detail: dict[str, Any]) -> Event:
    at_ms = time.time_ns() // 1_000_000
    shown = {"id": identity or None, "at_ms": at_ms, "kind": kind, "device": device, **detail}
    # ASCII: whatever a device sent, half a surrogate pair included, is one line that can be sent.
    text = json.dumps(shown, separators=(",", ":"))
    return Event(identity, at_ms, kind, device, detail, text)
