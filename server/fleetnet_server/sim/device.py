"""The device library as it is, with gauges at its seams, for thousands in one process.

What differs from a board: devices share an OpenSSL context (contexts.py), one timer of the
process stands for each device's own look at its outbox, and no attempt to connect makes the
collector walk over everybody's objects.
"""

import time
from collections import deque
from typing import Any

from fleetnet.errors import OVERLOADED, Rejected, Unreachable
from fleetnet.events import Opened
from fleetnet.ports import port
from fleetnet_device import Device, connection
from fleetnet_device.backoff import Backoff
from fleetnet_device.clock import Clock
from fleetnet_device.core import CONNECTING, ONLINE
from fleetnet_server.sim.contexts import SharingCredentials
from fleetnet_server.sim.meter import Meter


class _NoCollector:
    """Stands for the module gc in the library's connection.py.

    There a collection makes room in a small heap before the handshake. Here it would walk over
    the objects of thousands of devices, 0.1 s each time, and reference counts free the same.
    """

    @staticmethod
    def collect() -> None:
        """Do nothing."""


setattr(connection, "gc", _NoCollector)  # noqa: B010 (mypy: a module is no class)


class _UnsetPort:
    """A board without a battery: it wakes in 1970."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def ticks(self) -> int:
        return port.ticks()

    def random_bytes(self, n: int) -> bytes:
        return port.random_bytes(n)

    def unix_ms(self) -> int:
        return int((time.monotonic() - self._began) * 1000)


class Impatience(Backoff):
    """A fleet without herd control: the same short pause each time, whatever the server asks."""

    def after(self, lasted_ms: int, retry_after_ms: int = 0, refused: int = 0) -> int:
        return self._base_ms


class SimDevice(Device):
    """One device of the simulator.

    Args:
        bundle: dict (shares the OpenSSL context) or folder; options: as Device's.
        clock_lost: it does not know the date. patient: see Plan.

    Attributes:
        attempts: to connect, so far.
        is_hit: it was online when the storm came, and is not back yet.
    """

    def __init__(
        self,
        bundle: str | dict[str, Any],
        meter: Meter,
        clock_lost: bool = False,
        patient: bool = True,
        **options: Any,
    ):
        super().__init__(bundle, **options)
        if isinstance(bundle, dict):
            self.credentials = SharingCredentials(bundle)
            self.connection._credentials = self.credentials
        if clock_lost:
            self.clock = Clock(_UnsetPort(), self.credentials.made_ms)
        if not patient:
            self.connection._backoff = Impatience(port.random_bytes)
        self.attempts = 0
        self.is_hit = False
        self._meter = meter
        self._attempt_began = 0.0
        # (when it was made, readings) of each message that is under way.
        self._flight: deque[list[float]] = deque()
        self._given_up = 0

    @property
    def is_started(self) -> bool:
        """It connects, or is connected."""
        return self._is_started

    @property
    def is_unwanted(self) -> bool:
        """The server refuses it, and not only for now."""
        error = self.last_error
        return isinstance(error, Rejected) and error.reason != OVERLOADED

    @property
    def waiting(self) -> int:
        """Messages that are not acknowledged yet."""
        return len(self._outbox)

    @property
    def is_busy(self) -> bool:
        """Something is not acknowledged yet, or it is not back from a storm."""
        return self.waiting > 0 or self.is_hit

    @property
    def unacknowledged(self) -> int:
        """Readings that are not acknowledged yet."""
        return self.sent - self.acknowledged - self.dropped

    def seal(self) -> None:
        """Turn the open batch into a message."""
        self._seal()

    def poll(self) -> None:
        """What every device's own timer does once a second."""
        self.clock.uptime_ms()
        self._outbox.poll(port.ticks())

    async def _poll_outbox(self) -> None:
        """See ``poll``, which the process calls for all its devices."""

    def cut_power(self) -> None:
        """End at once: nothing is flushed, no good-bye is said."""
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        self._is_started = False

    # -- the seams -------------------------------------------------------------------

    def put(self, stream: int, kind: int, payload: bytes, readings: int = 0) -> None:
        """Note when a message of readings is made."""
        if readings:
            self._flight.append([time.monotonic(), readings])
        super().put(stream, kind, payload, readings)

    def link_opening(self) -> None:
        """Count an attempt."""
        self.attempts += 1
        if self.is_hit:
            self._meter.storm_attempts += 1
        self._attempt_began = time.monotonic()
        super().link_opening()

    def link_lost(self, error: Exception | None) -> None:
        """Count an attempt that cost no server anything."""
        if self.is_hit and self.state == CONNECTING and isinstance(error, Unreachable):
            self._meter.storm_unheard += 1
        super().link_lost(error)

    def on_event(self, event: object) -> None:
        """Note what the event says of times."""
        before = self.acknowledged
        super().on_event(event)
        if self.acknowledged > before:
            self._settle(self.acknowledged - before)
        if isinstance(event, Opened):
            self._meter.connect.add((time.monotonic() - self._attempt_began) * 1000)
            if self.is_hit:
                self.is_hit = False
                self._meter.came_back()

    def _settle(self, readings: int) -> None:
        # The oldest are given up first, and acknowledged first.
        given_up = self.dropped - self._given_up
        self._given_up += given_up
        self._take(given_up, is_timed=False)
        self._take(readings, is_timed=True)

    def _take(self, readings: int, is_timed: bool) -> None:
        now = time.monotonic()
        while readings > 0 and self._flight:
            entry = self._flight[0]
            taken = min(readings, int(entry[1]))
            if is_timed:
                self._meter.latency.add((now - entry[0]) * 1000, taken)
            readings -= taken
            entry[1] -= taken
            if not entry[1]:
                self._flight.popleft()

    @property
    def is_online(self) -> bool:
        """A session is open."""
        return self.state == ONLINE
