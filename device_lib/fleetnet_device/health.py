"""Readings about the device itself, at a cadence.

    device.part("health").start(60_000)

Channels: health.heap_free and health.heap_used (bytes, MicroPython only), health.loop_lag_ms
(worst delay of the event loop since the last report), health.rssi (dBm, WLAN only),
health.connects, health.errors, health.dropped, health.uptime_s.
"""

import gc

from fleetnet.ports import port
from fleetnet.ticks import ticks_diff
from fleetnet_device.sampler import Sampler

# The loop is asked so often how late it is.
_PROBE_MS = 250

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fleetnet_device.device import Device


class Part:
    """See the module's docstring; made by ``device.part("health")``."""

    capability = 0
    kinds = ()

    def __init__(self, device: "Device"):
        self._device = device
        self._lag_ms = 0
        self._is_started = False

    def start(self, period_ms: int = 60_000) -> None:
        """Report every ``period_ms`` from now on; call within a running loop."""
        if not self._is_started:
            self._is_started = True
            self._device.spawn(self._watch_loop())
            self._device.spawn(Sampler(self._device, period_ms, self.values).run())

    def values(self) -> "dict[str, Any]":
        """Return the channels and their values now; the worst lag begins anew."""
        device = self._device
        found: "dict[str, Any]" = {
            "health.uptime_s": device.clock.uptime_ms() // 1000,
            "health.loop_lag_ms": self._lag_ms,
            "health.connects": device.connects,
            "health.errors": device.errors,
            "health.dropped": device.dropped,
        }
        self._lag_ms = 0
        if hasattr(gc, "mem_free"):
            found["health.heap_free"] = gc.mem_free()
            found["health.heap_used"] = gc.mem_alloc()  # type: ignore[attr-defined,unused-ignore]
        network = device.loaded("network")
        if network is not None and network.rssi() is not None:
            found["health.rssi"] = network.rssi()
        return found

    async def _watch_loop(self) -> None:
        while True:
            began = port.ticks()
            await port.sleep_ms(_PROBE_MS)
            self._lag_ms = max(self._lag_ms, ticks_diff(port.ticks(), began) - _PROBE_MS)
