"""A cadence that does not drift.

    @device.every(1000)
    def sample():
        return {"temperature": read_temperature(), "light": read_light()}

Samples lie on a grid that begins with the first one: a sample that takes long, or a busy
loop, delays one sample and not all that follow. A sample whose time has passed altogether
is left out and counted, never made up for in a burst.
"""

from fleetnet.ports import port
from fleetnet.ticks import ticks_add, ticks_diff
from fleetnet_device.limits import MAX_PERIOD_MS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fleetnet_device.device import Device


class Sampler:
    """Sends what ``read`` returns, every ``period_ms``.

    Args:
        read: function, or coroutine function, that returns {channel: value}, or None for
            nothing this time. Its exceptions are reported and cost one sample.
        period_ms: 1 to one day.

    Attributes:
        taken, missed: samples sent and samples whose time had passed.

    Raises:
        ValueError: the period is out of range.
    """

    def __init__(self, device: "Device", period_ms: int, read: "Callable[[], Any]"):
        if not 0 < period_ms <= MAX_PERIOD_MS:
            raise ValueError("period of %d ms is not 1 ms to one day" % period_ms)
        self._device = device
        self._period_ms = period_ms
        self._read = read
        self.taken = 0
        self.missed = 0

    async def run(self) -> None:
        """Sample until cancelled."""
        due = port.ticks()
        while True:
            try:
                await self._sample()
            except Exception as error:
                self._device.report(error, "sampler")
            due = ticks_add(due, self._period_ms)
            left_ms = ticks_diff(due, port.ticks())
            if left_ms < 0:
                late = -left_ms // self._period_ms
                self.missed += late
                due = ticks_add(due, late * self._period_ms)
                left_ms = max(0, ticks_diff(due, port.ticks()))
            # Even without time to spare the others of this loop get their turn.
            await port.sleep_ms(left_ms)

    async def _sample(self) -> None:
        values = self._read()
        if hasattr(values, "send"):
            values = await values
        if values:
            for channel in values:
                await self._device.send(channel, values[channel])
            self.taken += 1


def every(device: "Device", period_ms: int) -> "Callable[[Any], Sampler]":
    """See Device.every."""

    def decorate(read: "Callable[[], Any]") -> Sampler:
        sampler = Sampler(device, period_ms, read)
        device.spawn(sampler.run())
        return sampler

    return decorate
