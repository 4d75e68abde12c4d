"""Functions that are called with readings, each for itself.

Every handler has a queue of its own, bounded, and a task of its own: one that is slow loses its
oldest, one that raises is counted, and no other notices. A function that is no coroutine runs in
a thread of its own, so that it may block.
"""

import asyncio
import inspect
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from queue import SimpleQueue
from typing import Any

from fleetnet_server.core.live import LiveReading
from fleetnet_server.store.query import Reading
from fleetnet_server.store.selection import matches

_log = logging.getLogger("fleetnet.handlers")

# How much one handler may have waiting, and how long it may go on at the end.
_WAITING = 1024
_DRAIN_S = 1.0

Function = Callable[[Any], Any]


class Handler:
    """One function and what became of its calls.

    Attributes:
        name: of the function.
        calls: that were begun. failures: that raised. dropped: readings that it was too slow
        for. last_error: what the last failure said, "" before the first.
        waiting: readings that wait for it.
    """

    def __init__(
        self, function: Function, devices: tuple[str, ...], channels: tuple[str, ...], live: bool
    ):
        self.name = getattr(function, "__qualname__", repr(function))
        self.live = live
        self.calls = self.failures = self.dropped = 0
        self.last_error = ""
        self._function = function
        self._devices = devices
        self._channels = channels
        self._queue: deque[Reading | LiveReading] = deque()
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._thread: _Thread | None = None
        self._is_coroutine = inspect.iscoroutinefunction(function)

    @property
    def waiting(self) -> int:
        """See the class."""
        return len(self._queue)

    def start(self) -> None:
        """Begin to call the function."""
        if self._task is None:
            if not self._is_coroutine:
                self._thread = _Thread(self._function)
            self._task = asyncio.get_running_loop().create_task(self._run())

    def put(self, reading: Reading | LiveReading) -> None:
        """Queue a reading that is its own; the oldest gives way."""
        if not matches(reading.device, self._devices):
            return
        if not matches(reading.channel, self._channels):
            return
        if len(self._queue) >= _WAITING:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append(reading)
        self._idle.clear()
        self._news.set()

    async def stop(self) -> None:
        """Let it finish what waits, for a second; then it is cancelled."""
        task, self._task = self._task, None
        if task is not None:
            try:
                async with asyncio.timeout(_DRAIN_S):
                    await self._idle.wait()
            except TimeoutError:
                _log.warning("handler %s did not end: %d wait", self.name, len(self._queue))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._thread is not None:
            self._thread.end()

    async def _run(self) -> None:
        while True:
            while self._queue:
                await self._call(self._queue.popleft())
            self._idle.set()
            self._news.clear()
            await self._news.wait()

    async def _call(self, reading: Reading | LiveReading) -> None:
        self.calls += 1
        try:
            if self._thread is None:
                await self._function(reading)
            else:
                await self._thread.call(reading)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._failed("CancelledError: something that it awaited was cancelled")
        except Exception as error:
            self._failed(f"{type(error).__name__}: {error}")

    def _failed(self, text: str) -> None:
        # Once with its traceback; thousands a second must not fill a disk.
        if not self.failures:
            _log.exception("handler %s failed; further failures are counted", self.name)
        self.failures += 1
        self.last_error = text


class _Thread:
    """Runs one function, one call after the other.

    A daemon, which no executor's threads are: a function that never returns would keep the
    program from ending.
    """

    def __init__(self, function: Function):
        self._function = function
        self._calls: SimpleQueue[tuple[Any, asyncio.Future[Exception | None]] | None]
        self._calls = SimpleQueue()
        thread = threading.Thread(target=self._run, name="fleetnet-handler", daemon=True)
        thread.start()

    async def call(self, reading: Any) -> None:
        """Call the function and wait for it. Raises what it raises."""
        future: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._calls.put((reading, future))
        error = await future
        if error is not None:
            raise error

    def end(self) -> None:
        """Begin no other call."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            reading, future = call
            error: Exception | None = None
            try:
                self._function(reading)
            except Exception as raised:
                error = raised
            except BaseException as raised:  # SystemExit is the function's, not the program's
                error = RuntimeError(f"{type(raised).__name__}: {raised}")
            try:
                future.get_loop().call_soon_threadsafe(_settle, future, error)
            except RuntimeError:
                return  # the loop is closed: the program has ended without it


def _settle(future: "asyncio.Future[Exception | None]", error: Exception | None) -> None:
    if not future.done():  # cancelled at the end of the fleet
        future.set_result(error)


class Handlers:
    """The handlers of one fleet, and the feeds that they share."""

    def __init__(self) -> None:
        self.all: list[Handler] = []
        self._tasks: dict[bool, asyncio.Task[None]] = {}
        self._make_feed: Callable[[bool], AsyncIterator[Any]] | None = None
        self._feeds: list[Any] = []

    def add(self, handler: Handler) -> None:
        """Take a handler; it is called at once where the fleet runs."""
        self.all.append(handler)
        if self._make_feed is not None:
            self._begin(handler)

    def start(self, make_feed: Callable[[bool], AsyncIterator[Any]]) -> None:
        """Begin; ``make_feed`` makes a feed of stored readings, or with True of live ones."""
        self._make_feed = make_feed
        for handler in self.all:
            self._begin(handler)

    async def stop(self) -> None:
        """End the feeds, then the handlers."""
        self._make_feed = None
        for feed in self._feeds:
            await feed.aclose()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        self._feeds.clear()
        await asyncio.gather(*(handler.stop() for handler in self.all))

    def _begin(self, handler: Handler) -> None:
        handler.start()
        if handler.live not in self._tasks:
            assert self._make_feed is not None
            feed = self._make_feed(handler.live)
            self._feeds.append(feed)
            work = self._feed(feed, handler.live)
            self._tasks[handler.live] = asyncio.get_running_loop().create_task(work)

    async def _feed(self, feed: AsyncIterator[Any], live: bool) -> None:
        count = 0
        try:
            async for reading in feed:
                for handler in self.all:
                    if handler.live == live:
                        handler.put(reading)
                count += 1
                if count % 256 == 0:
                    await asyncio.sleep(0)  # a batch never waits: the handlers' turn
        except Exception:
            _log.exception("handlers get no more readings")
