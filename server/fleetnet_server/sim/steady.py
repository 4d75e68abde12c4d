"""What a fleet costs while all of it is connected, and nothing but readings happens."""

import asyncio
import time
from typing import Any, NamedTuple

from fleetnet_server.sim.load import Load
from fleetnet_server.sim.server import OwnServer
from fleetnet_server.sim.usage import Usage

# The last device of the ramp has connected by then.
SETTLE_S = 2.0

# CPU time is counted in ticks of 10 ms: less would say little.
LEAST_S = 1.0


class _Look(NamedTuple):
    at_s: float
    acknowledged: int
    online: int
    server: Usage | None
    devices: Usage | None


class Steady:
    """Two looks at everybody's CPU time, and what happened between them."""

    def __init__(self, load: Load, server: OwnServer | None):
        self._load = load
        self._server = server
        self._looks: list[_Look] = []

    async def watch(self, seconds: float) -> None:
        """Look now, and ``seconds`` later."""
        self._looks = [self._look()]
        await asyncio.sleep(seconds)
        self._looks.append(self._look())

    def _look(self) -> _Look:
        sums = self._load.sums()
        used = self._server.usage() if self._server is not None else None
        return _Look(
            time.monotonic(), sums["acknowledged"], sums["online"], used, self._load.usage()
        )

    def document(self, idle: Usage | None, before_bytes: int) -> dict[str, Any] | None:
        """Return the figures as JSON can carry them; None when there was no such time.

        Args:
            idle: what the server used without devices.
            before_bytes: memory of the simulator's processes without devices.
        """
        if len(self._looks) < 2:
            return None
        first, last = self._looks
        seconds = last.at_s - first.at_s
        devices = max(1, last.online)
        return {
            "seconds": round(seconds, 1),
            "devices": last.online,
            "readings_per_s": round((last.acknowledged - first.acknowledged) / seconds, 1),
            "server": _cost(
                first.server, last.server, seconds, devices, idle.rss_bytes if idle else 0
            ),
            "simulator": _cost(first.devices, last.devices, seconds, devices, before_bytes),
        }


def _cost(
    first: Usage | None, last: Usage | None, seconds: float, devices: int, before_bytes: int
) -> dict[str, Any] | None:
    if first is None or last is None:
        return None
    cpu_s = last.cpu_s - first.cpu_s
    return {
        "cpu_percent": round(100 * cpu_s / seconds, 1),
        "cpu_ms_per_device_s": round(1000 * cpu_s / (devices * seconds), 4),
        "rss_bytes": last.rss_bytes,
        "rss_bytes_per_device": round(max(0, last.rss_bytes - before_bytes) / devices),
    }
