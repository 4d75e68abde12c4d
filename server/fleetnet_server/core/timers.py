"""One heap of timers for all sessions: an idle one costs an entry, not a handle.

Due times are rounded up to 10 ms, so that acknowledgements of many devices leave in one
turn of the loop.
"""

import asyncio
import heapq
import logging
from typing import Protocol

_log = logging.getLogger("fleetnet.timers")

# A tenth of an acknowledgement's delay.
_GRAIN_S = 0.010


class Timed(Protocol):
    """Whoever has a timer; ``armed_at`` is kept by Timers."""

    armed_at: float | None

    def handle_timer(self) -> None:
        """Do what is due, then arm again if need be."""


class Timers:
    """Calls ``handle_timer`` of each entry at its time; at most one pending time each."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._heap: list[tuple[float, int, Timed]] = []
        self._order = 0
        self._handle: asyncio.TimerHandle | None = None
        self._handle_due = 0.0

    def arm(self, entry: Timed, delay_s: float) -> None:
        """Call ``entry`` in ``delay_s`` seconds, unless it will be called before."""
        when = self._loop.time() + max(delay_s, 0.0)
        when -= when % _GRAIN_S - _GRAIN_S
        if entry.armed_at is not None and entry.armed_at <= when:
            return
        entry.armed_at = when
        self._order += 1
        heapq.heappush(self._heap, (when, self._order, entry))
        if self._handle is None or self._handle_due > when:
            self._schedule()

    def close(self) -> None:
        """Call nobody any more."""
        self._heap.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _schedule(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._heap:
            # Not handle.when(): uvloop's handle for a time that has passed has none.
            self._handle_due = self._heap[0][0]
            self._handle = self._loop.call_at(self._handle_due, self._run)

    def _run(self) -> None:
        self._handle = None
        now = self._loop.time()
        while self._heap and self._heap[0][0] <= now:
            when, _, entry = heapq.heappop(self._heap)
            # An entry that was armed earlier meanwhile has left this one behind.
            if entry.armed_at == when:
                entry.armed_at = None
                try:
                    entry.handle_timer()
                except Exception:
                    # One session's fault must not stop the timers of all the others.
                    _log.exception("timer of %r failed", entry)
        self._schedule()
