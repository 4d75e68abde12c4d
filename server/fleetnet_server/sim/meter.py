"""What the devices of one process add to: times, attempts, and how they come back."""

import time
from collections import Counter

from fleetnet_server.sim.histogram import Histogram


class Meter:
    """Gauges of one process.

    Attributes:
        connect: from the beginning of an attempt to WELCOME, of those that succeed.
        latency: from the message's making to its receipt, which says that the server has it
            on its disk; once for each reading.
        back: from the storm to WELCOME; hit: devices that were online in its moment.
        back_at: second after the storm -> devices that came back in it.
        storm_attempts: attempts of those until they were back. storm_unheard: of these, the ones
            that found nobody listening.
    """

    def __init__(self) -> None:
        self.connect = Histogram()
        self.latency = Histogram()
        self.back = Histogram()
        self.back_at: Counter[int] = Counter()
        self.hit = 0
        self.storm_attempts = self.storm_unheard = 0
        self.storm_at = 0.0

    def begin_storm(self, hit: int) -> None:
        """A storm begins now, with ``hit`` devices online."""
        self.storm_at = time.monotonic()
        self.hit = hit
        self.storm_attempts = self.storm_unheard = 0
        self.back = Histogram()
        self.back_at.clear()

    def came_back(self) -> None:
        """A device that the storm had hit has a session again."""
        after_s = time.monotonic() - self.storm_at
        self.back.add(after_s * 1000)
        self.back_at[int(after_s)] += 1
