"""Readings for a program, as an asynchronous iterator: stored ones as they become durable.

A thread of its own reads behind the writer, from the store: whoever is slow reads later, and
neither loses a reading nor holds one in memory. Live readings are never stored: of these a slow
reader loses the oldest and is told how many.
"""

import asyncio
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator

from fleetnet_server.core.live import LiveReading, LiveReadings, Watcher
from fleetnet_server.errors import StoreError
from fleetnet_server.store.following import Followers, follow
from fleetnet_server.store.query import Reading
from fleetnet_server.store.selection import is_pattern, matches
from fleetnet_server.store_place import StorePlace

_log = logging.getLogger("fleetnet.feeds")

# A reader is 50 ms behind the store; a batch of 256 is 100 KB of usual readings.
_POLL_S = 0.05
_BATCH = 256
_BATCH_S = 0.1
_BATCHES = 4  # that wait for the reader; the thread then waits, too


class _Stopped(Exception):
    """Nobody reads any more."""


class _Behind:
    """The thread that follows a store, and what it found; knows nothing of its reader."""

    def __init__(
        self, place: StorePlace, after_id: int, devices: tuple[str, ...], channels: tuple[str, ...],
        followers: Followers,
    ):  # fmt: skip
        self._place = place
        self._after_id = after_id
        self._followers = followers
        self._key = followers.add(after_id)
        self._devices = devices
        self._channels = channels
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._room = threading.Semaphore(_BATCHES)
        self._batch: list[Reading] = []
        self._begun = 0.0
        self.found: deque[list[Reading]] = deque()
        self.news = asyncio.Event()
        self.error: Exception | None = None
        self.is_over = False
        self.thread = threading.Thread(target=self._run, name="fleetnet-readings", daemon=True)

    def stop(self) -> None:
        """End the thread, from any thread; what it found and nobody took is in the store."""
        self._stop.set()
        self._followers.remove(self._key)
        self._room.release()

    def take(self) -> list[Reading]:
        """Return a batch, [] when none waits."""
        if not self.found:
            return []
        self._room.release()
        return self.found.popleft()

    def _run(self) -> None:
        error: Exception | None = None
        try:
            self._follow()
        except _Stopped:
            pass
        except Exception as failure:
            error = failure
        self._followers.remove(self._key)
        try:
            self._loop.call_soon_threadsafe(self._ended, error)
        except RuntimeError:
            return  # the loop is closed: nobody is there to be told

    def _follow(self) -> None:
        one = self._devices[0] if len(self._devices) == 1 else None
        if one is not None and is_pattern(one):
            one = None
        found = follow(
            self._place, self._after_id, device=one, poll_s=_POLL_S, sleep=self._pause,
            reached=lambda at: self._followers.move(self._key, at),
        )  # fmt: skip
        for reading in found:
            if not self._batch:
                self._begun = time.monotonic()
            if matches(reading.device, self._devices) and matches(reading.channel, self._channels):
                self._batch.append(reading)
            if len(self._batch) >= _BATCH or time.monotonic() - self._begun > _BATCH_S:
                self._hand_over()

    def _pause(self, seconds: float) -> None:
        self._hand_over()
        if self._stop.wait(seconds):
            raise _Stopped

    def _hand_over(self) -> None:
        if self._batch:
            self._room.acquire()
            batch, self._batch = self._batch, []
            if not self._stop.is_set():
                self._loop.call_soon_threadsafe(self._arrived, batch)
        if self._stop.is_set():
            raise _Stopped

    def _arrived(self, batch: list[Reading]) -> None:
        self.found.append(batch)
        self.news.set()

    def _ended(self, error: Exception | None) -> None:
        self.error, self.is_over = error, True
        self.news.set()


class Readings(AsyncIterator[Reading]):
    """Stored readings, in the order in which they become durable; endless until ``aclose``.

    Raises, where it is iterated:
        StoreError, StoreUnavailable: the store cannot be read any more, or its reader is
            following.MOST_BEHIND messages behind.
    """

    def __init__(
        self, place: StorePlace, after_id: int, devices: tuple[str, ...], channels: tuple[str, ...],
        followers: Followers,
    ):  # fmt: skip
        self._behind = _Behind(place, after_id, devices, channels, followers)
        self._batch: deque[Reading] = deque()
        # Who leaves an `async for` by break does not say so.
        self._finalizer = weakref.finalize(self, self._behind.stop)
        self._is_closed = False

    def __aiter__(self) -> "Readings":
        return self

    async def __anext__(self) -> Reading:
        behind = self._behind
        if behind.thread.ident is None and not self._is_closed:
            behind.thread.start()
        while not self._batch:
            if self._is_closed:
                raise StopAsyncIteration
            self._batch.extend(behind.take())
            if self._batch:
                break
            if behind.is_over:
                if behind.error is not None:
                    raise behind.error
                raise StopAsyncIteration
            behind.news.clear()
            await behind.news.wait()
        return self._batch.popleft()

    async def aclose(self) -> None:
        """Read no more; returns when the thread has closed its connection."""
        self._is_closed = True
        self._finalizer()
        if self._behind.thread.ident is not None:
            while not self._behind.is_over:
                self._behind.news.clear()
                await self._behind.news.wait()
        self._behind.news.set()


class LiveFeed(AsyncIterator[LiveReading]):
    """Best-effort readings from now on; endless until ``aclose``.

    Attributes:
        dropped: readings of any device and channel that this reader was too slow for.
    """

    def __init__(self, live: LiveReadings, devices: tuple[str, ...], channels: tuple[str, ...]):
        self._watcher: Watcher = live.watch()
        self._devices = devices
        self._channels = channels
        self._finalizer = weakref.finalize(self, self._watcher.close)

        self._is_closed = False

    @property
    def dropped(self) -> int:
        """See the class."""
        return self._watcher.dropped

    def __aiter__(self) -> "LiveFeed":
        return self

    async def __anext__(self) -> LiveReading:
        while True:
            reading = await anext(self._watcher)
            if matches(reading.device, self._devices) and matches(reading.channel, self._channels):
                return reading

    async def aclose(self) -> None:
        """Watch no more."""
        self._finalizer()


def patterns(value: str | tuple[str, ...] | list[str] | None) -> tuple[str, ...]:
    """Return a pattern, several, or None (all) as select() takes them. Raises StoreError."""
    if value is None:
        return ()
    found = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(one, str) and one for one in found):
        raise StoreError(f"{value!r} names no device or channel: pass a name, a pattern, or None")
    return found
