"""Readings that devices send now or never: the latest of each channel, and who watches.

They are neither acknowledged nor stored (docs/protocol.md section 3.2). A watcher that is
slow loses the oldest and is told how many.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from fleetnet.events import Received
from fleetnet.frame import READINGS
from fleetnet.handshake import Hello
from fleetnet_server.core.bodies import Message, decode_readings, inspect_body
from fleetnet_server.core.events import LIVE, Events

if TYPE_CHECKING:
    from fleetnet_server.core.peer import Peer

# A device with more channels than this shows the last 64 that it sent.
_CHANNELS = 64

# What one slow watcher may have waiting.
_WAITING = 1024


class LiveReading(NamedTuple):
    """One best-effort reading; ``unix_ms`` is of its arrival while the device has no date."""

    device: str
    channel: str
    unix_ms: int
    value: Any


class Watcher:
    """An async iterator over live readings from its making on; ``close`` ends it.

    Attributes:
        dropped: readings that it was too slow for.
    """

    def __init__(self, live: "LiveReadings"):
        self._live = live
        self._waiting: deque[LiveReading] = deque()
        self._news = asyncio.Event()
        self._is_closed = False
        self.dropped = 0

    def put(self, reading: LiveReading) -> None:
        """Keep a reading for the watcher; the oldest gives way."""
        if len(self._waiting) >= _WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(reading)
        self._news.set()

    def take(self) -> list[LiveReading]:
        """Return what waits now, and wait for nothing."""
        found = list(self._waiting)
        self._waiting.clear()
        return found

    def close(self) -> None:
        """Watch no longer."""
        self._is_closed = True
        self._live.forget(self)
        self._news.set()

    def __aiter__(self) -> AsyncIterator[LiveReading]:
        return self

    async def __anext__(self) -> LiveReading:
        while not self._waiting:
            if self._is_closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()


class LiveReadings:
    """The Service for best-effort READINGS.

    Attributes:
        refused: bodies that break the rules, those of their group's policy included.
    """

    capability = 0
    kinds: frozenset[int] = frozenset()
    live_kinds = frozenset((READINGS,))

    def __init__(self, events: Events | None = None) -> None:
        self._events = events
        self.refused = 0
        self._latest: dict[str, dict[str, LiveReading]] = {}
        self._watchers: set[Watcher] = set()

    def watch(self) -> Watcher:
        """Return an iterator over what arrives from now on."""
        watcher = Watcher(self)
        self._watchers.add(watcher)
        return watcher

    def forget(self, watcher: Watcher) -> None:
        """See Watcher.close."""
        self._watchers.discard(watcher)

    def latest(self, device: str) -> dict[str, LiveReading]:
        """Return channel -> newest live reading of a device that is connected."""
        return dict(self._latest.get(device, {}))

    def opened(self, peer: "Peer", hello: Hello) -> None:
        """See Service."""

    def received(self, peer: "Peer", event: Received) -> None:
        """See Service."""
        now = int(time.time() * 1000)
        rules = peer.rules
        if rules is not None:
            # Best effort: what is too much or too large is not waited for.
            most = rules.max_message
            is_too_large = most is not None and len(event.payload) > most
            if is_too_large or (peer.pace is not None and not peer.pace.room(1)):
                self.refused += 1
                return
            if peer.pace is not None:
                peer.pace.count()
        allowed = None if rules is None else rules.channels
        found = inspect_body(READINGS, event.payload, peer.boot_offset, now, allowed)
        if found.problem is not None:
            self.refused += 1
            return
        base_ms, boot, channels, items = decode_readings(event.payload)
        offset = peer.boot_offset(boot) if boot else 0
        fresh: list[LiveReading] = []
        for index, dt_ms, value in items:
            unix_ms = now if offset is None else base_ms + offset + dt_ms
            decoded = msgspec.json.decode(value)
            fresh.append(LiveReading(peer.name, channels[index], unix_ms, decoded))
        self.take(peer.name, fresh)

    def take(self, device: str, fresh: list[LiveReading]) -> None:
        """Keep and show live readings of one device."""
        known = self._latest.setdefault(device, {})
        for reading in fresh:
            known.pop(reading.channel, None)
            known[reading.channel] = reading
            if len(known) > _CHANNELS:
                del known[next(iter(known))]
            for watcher in self._watchers:
                watcher.put(reading)
        if self._events is not None and self._events.wants(LIVE, device):
            shown = [
                {"channel": one.channel, "unix_ms": one.unix_ms, "value": one.value}
                for one in fresh
            ]
            self._events.publish(LIVE, device, {"readings": shown})

    def durable(self, peer: "Peer", message: Message) -> None:
        """See Service; nothing of this service is stored."""

    def closed(self, peer: "Peer") -> None:
        """See Service."""
        self._latest.pop(peer.name, None)
