"""How many lines of the log one device can cause.

A device that is broken, or hostile, is worth a line with each message that it sends. The first
few say all there is to say; a log that has each of them fills its disk, and hides the others.
"""

import logging
import time
from collections.abc import Callable

from fleetnet_server.core.rates import RateTable

_log = logging.getLogger("fleetnet.devices")

_AT_ONCE, _EVERY_S = 5, 10.0


class DeviceLines:
    """A budget of lines for each device: five at once, then one in ten seconds.

    Args:
        about: what the lines tell, for the line that says how many were left out.
        clock: seconds, monotonic.
    """

    def __init__(self, about: str, clock: Callable[[], float] = time.monotonic):
        self._about = about
        self._budgets = RateTable(1.0 / _EVERY_S, _AT_ONCE, clock=clock)
        self._left_out: dict[int, int] = {}

    def take(self, device_id: int, name: str) -> bool:
        """Say whether one more line about a device may be logged; count it otherwise.

        Before the first line that may be again, another one tells how many were left out.
        """
        if not self._budgets.take(device_id):
            self._left_out[device_id] = self._left_out.get(device_id, 0) + 1
            return False
        left_out = self._left_out.pop(device_id, 0)
        if left_out:
            _log.warning(
                "device %s: %d more lines about %s were left out", name, left_out, self._about
            )
        return True
