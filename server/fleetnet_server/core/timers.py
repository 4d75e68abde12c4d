"""The timers of all sessions, in groups: an idle one costs a place in a group, not a handle.

What is due within seconds is rounded up to 10 ms, so that acknowledgements of many devices leave
in one turn of the loop. What is due later is rounded up to a second; it is the keepalive, of
which every acknowledgement asks for one that is not earlier than the one before. So each entry
has two times, a near one and a far one, and leaves none behind that nobody needs: a heap with
one time each grew by an entry an acknowledgement, which stayed for two minutes.
"""

import asyncio
import heapq
import logging
from typing import Protocol

_log = logging.getLogger("fleetnet.timers")

# 10 ms, a tenth of an acknowledgement's delay.
_SLOTS_A_S = 100

# Seconds from which on a time is a far one; no retransmission waits so long (limits.MAX_RTO_MS).
_FAR_S = 10.0
# A keepalive is 75 s and more, the patience for a HELLO 15 s.
_FAR_SLOTS = 100


class Timed(Protocol):
    """Whoever has a timer; the attributes are kept by Timers, 0 to begin with.

    Attributes:
        near_at, far_at: when it will be called, in slots of 10 ms of the loop's clock; 0: not.
    """

    near_at: int
    far_at: int

    def handle_timer(self) -> None:
        """Do what is due, then arm again if need be."""


class Timers:
    """Calls ``handle_timer`` of each entry at its time, or earlier."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        # Near: as armed; one whose near_at is another by now is passed over.
        self._near: dict[int, list[Timed]] = {}
        self._far: dict[int, dict[Timed, None]] = {}
        self._slots: list[int] = []  # a heap
        self._handle: asyncio.TimerHandle | None = None
        self._handle_slot = 0

    def arm(self, entry: Timed, delay_s: float) -> None:
        """Call ``entry`` in ``delay_s`` seconds, unless it will be called before."""
        slot = int((self._loop.time() + (delay_s if delay_s > 0.0 else 0.0)) * _SLOTS_A_S) + 1
        if 0 < entry.near_at <= slot or 0 < entry.far_at <= slot:
            return
        if delay_s > _FAR_S:
            slot = self._arm_far(entry, slot)
        else:
            entry.near_at = slot
            near = self._near.get(slot)
            if near is not None:
                near.append(entry)
                return
            self._near[slot] = [entry]
            # Twice for a slot of both kinds does no harm; a slot that is being run has left it.
            heapq.heappush(self._slots, slot)
        if self._handle is None or self._handle_slot > slot:
            self._schedule()

    def forget(self, entry: Timed) -> None:
        """Call ``entry`` no more: its session is over, and its memory shall be free."""
        if entry.far_at and (far := self._far.get(entry.far_at)):
            far.pop(entry, None)
        entry.near_at = entry.far_at = 0

    def close(self) -> None:
        """Call nobody any more."""
        self._near.clear()
        self._far.clear()
        self._slots.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm_far(self, entry: Timed, slot: int) -> int:
        slot += -slot % _FAR_SLOTS
        if entry.far_at:
            if entry.far_at <= slot:
                return slot
            del self._far[entry.far_at][entry]
        entry.far_at = slot
        far = self._far.get(slot)
        if far is None:
            far = self._far[slot] = {}
            heapq.heappush(self._slots, slot)
        far[entry] = None
        return slot

    def _schedule(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._slots:
            # Not handle.when(): uvloop's handle for a time that has passed has none.
            self._handle_slot = self._slots[0]
            self._handle = self._loop.call_at(self._handle_slot / _SLOTS_A_S, self._run)

    def _run(self) -> None:
        self._handle = None
        # A hundredth of a slot: uvloop's clock counts milliseconds, in floating point.
        now = self._loop.time() * _SLOTS_A_S + 0.01
        while self._slots and self._slots[0] <= now:
            slot = heapq.heappop(self._slots)
            for entry in self._near.pop(slot, ()):
                if entry.near_at == slot:
                    entry.near_at = 0
                    self._call(entry)
            for entry in self._far.pop(slot, ()):
                if entry.far_at == slot:
                    entry.far_at = 0
                    self._call(entry)
        self._schedule()

    def _call(self, entry: Timed) -> None:
        try:
            entry.handle_timer()
        except Exception:
            # One session's fault must not stop the timers of all the others.
            _log.exception("timer of %r failed", entry)
