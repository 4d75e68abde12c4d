"""A hardware watchdog that is fed only while the connection makes progress.

    device.part("watchdog").start(timeout_ms=30_000)

A frozen loop is not fed and the board restarts after ``timeout_ms``. A loop that runs while
nothing comes of it (a task that waits for ever) is noticed by the connection's own signs of
life: attempts, events of the session, pauses between attempts. Cryptography stops the loop
for seconds on a microcontroller: the watchdog is fed right before each connection, and its
timeout may not be shorter than that step.

Source: MicroPython docs, machine.WDT; ports differ in the longest timeout (rp2: 8,388 ms).
"""

from fleetnet.errors import LinkError, Unsupported
from fleetnet.ports import port
from fleetnet.ticks import ticks_diff
from fleetnet_device.limits import PATIENCE_MS

# A P-256 handshake takes up to 2 s on a Cortex-M; with less than this the watchdog bites.
_SHORTEST_MS = 5_000

_FEED_MS = 1_000

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fleetnet_device.device import Device


class Part:
    """See the module's docstring; made by ``device.part("watchdog")``.

    Attributes:
        fed: how often the watchdog was fed.
    """

    capability = 0
    kinds = ()

    def __init__(self, device: "Device"):
        self._device = device
        self._watchdog: "Any" = None
        self._until = port.ticks()
        self._patience_ms = PATIENCE_MS
        self.fed = 0

    def start(self, timeout_ms: int = 30_000, watchdog: "Any" = None) -> None:
        """Start the board's watchdog; it cannot be stopped again. Call in a running loop.

        Args:
            watchdog: an object with ``feed()`` in place of machine.WDT.

        Raises:
            ValueError: timeout_ms is shorter than the cryptography may take.
            Unsupported: the port has no machine.WDT.
        """
        if timeout_ms < _SHORTEST_MS:
            raise ValueError("watchdog of %d ms: a handshake alone takes up to 2 s, use %d or more"
                             % (timeout_ms, _SHORTEST_MS))  # fmt: skip
        if watchdog is None:
            try:
                from machine import WDT  # type: ignore[import-not-found,unused-ignore]
            except ImportError:
                raise Unsupported("this port has no machine.WDT: leave the watchdog out")
            watchdog = WDT(timeout=timeout_ms)
        self._watchdog = watchdog
        self.progress()
        self._device.spawn(self._feed_for_ever())

    def progress(self, pause_ms: int = 0) -> None:
        """The connection lives; ``pause_ms``: how long it now stays silent on purpose."""
        self._until = port.ticks()
        self._patience_ms = PATIENCE_MS + pause_ms
        self._feed()

    def _feed(self) -> None:
        if self._watchdog is not None:
            self._watchdog.feed()
            self.fed += 1

    async def _feed_for_ever(self) -> None:
        while ticks_diff(port.ticks(), self._until) < self._patience_ms:
            self._feed()
            await port.sleep_ms(_FEED_MS)
        raise LinkError("no progress for %d s: the watchdog restarts this board"
                        % (self._patience_ms // 1000))  # fmt: skip
