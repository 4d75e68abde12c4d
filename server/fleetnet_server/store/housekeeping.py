"""The thread that compacts and retires what is stored beside a running server, at a bounded cost.

It rests after each step, so that it takes its share of one core and of the disk, and no more:
share 0.25 means three times as much rest as work.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from fleetnet_server.errors import StoreUnavailable

_log = logging.getLogger("fleetnet.store")

# Between two looks when nothing was due, and after a work failed.
_IDLE_S = 1.0
_AWAY_S = 5.0


class Budget(NamedTuple):
    """What housekeeping may take.

    Attributes:
        share: of one core, 0.01 to 1. bytes_per_s: of bodies and rows that are moved.
        paused: names of works that do nothing now.
    """

    share: float = 0.25
    bytes_per_s: int = 32 << 20
    paused: frozenset[str] = frozenset()


class Limits(Protocol):
    """What is needed of config.Settings."""

    @property
    def compaction(self) -> bool: ...
    @property
    def housekeeping_share(self) -> float: ...


class Stepping(Protocol):
    """Work in small steps."""

    @property
    def name(self) -> str:
        """For the log, and for Budget.paused."""

    def step(self) -> int:
        """Do one; return the bytes it moved, 0: none is due. Raises StoreUnavailable."""

    def close(self) -> None:
        """Free what it has open; the next step opens it again."""


class Housekeeping:
    """Calls the steps of several works on a thread of its own, from ``start`` to ``stop``.

    Attributes:
        budget: may be changed at any time.
    """

    def __init__(
        self, works: tuple[Stepping, ...], budget: Budget | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):  # fmt: skip
        self._duties = tuple(_Duty(work) for work in works)
        self.budget = budget or Budget()
        self._clock = clock
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fleetnet-housekeeping", daemon=True)

    def use(self, limits: Limits) -> None:
        """Let other settings hold, from the next step on."""
        paused = frozenset(() if limits.compaction else ("compaction",))
        self.budget = Budget(limits.housekeeping_share, paused=paused)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End behind the step under way; waits for it, some 100 ms at most."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        for duty in self._duties:
            duty.work.close()

    def rest_s(self, busy_s: float, moved: int) -> float:
        """Return how long to rest after a step."""
        budget = self.budget
        return max(busy_s / budget.share - busy_s, moved / budget.bytes_per_s - busy_s)

    def _run(self) -> None:
        while not self._end.is_set():
            started = self._clock()
            moved = sum(
                duty.step(started)
                for duty in self._duties
                if duty.work.name not in self.budget.paused
            )
            rest = _IDLE_S
            if moved:
                rest = self.rest_s(self._clock() - started, moved)
            self._end.wait(rest)


class _Duty:
    """One work; when it fails it is tried again later, and the others go on."""

    def __init__(self, work: Stepping):
        self.work = work
        self._failed_at: float | None = None

    def step(self, now: float) -> int:
        if self._failed_at is not None and now - self._failed_at < _AWAY_S:
            return 0
        try:
            moved = self.work.step()
        except Exception as error:
            # A body that cannot be compacted must not end the server, nor fill its log.
            if self._failed_at is None:
                _log.error(
                    "%s failed, and is tried again; nothing is lost: %s", self.work.name, error,
                    exc_info=None if isinstance(error, StoreUnavailable) else error,
                )  # fmt: skip
            self._failed_at = now
            return 0
        if self._failed_at is not None:
            _log.warning("%s goes on", self.work.name)
            self._failed_at = None
        return moved
