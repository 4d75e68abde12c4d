"""The device's idea of time: its own clock, else the server's, else uptime.

A camera without a battery wakes in 1970 or 2000. Until it knows better its readings carry
the uptime and the number of this boot, and the server dates them (docs/protocol.md
section 3.2).
"""

from fleetnet.ticks import ticks_diff

# The server's time replaces an own clock that is off by more than this.
_TRUST_MS = 2_000


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Clock:
    """Uptime that survives the wrap of ticks, and the offset to unix time.

    Attributes:
        boot: random number of this boot, 1 to 2**30-1.
    """

    def __init__(self, port: "Any"):
        self._port = port
        self.boot = (int.from_bytes(port.random_bytes(4), "big") & 0x3FFFFFFF) or 1
        self._last = port.ticks()
        self._uptime_ms = 0
        self._offset_ms = 0

    def uptime_ms(self) -> int:
        """Return ms since this object was made; call at least every six days."""
        now = self._port.ticks()
        self._uptime_ms += ticks_diff(now, self._last)
        self._last = now
        return self._uptime_ms

    def unix_ms(self) -> int:
        """Return unix time in ms, 0 while unknown."""
        uptime_ms = self.uptime_ms()  # whatever clock is asked: ticks must not wrap unseen
        if self._offset_ms:
            return self._offset_ms + uptime_ms
        now: int = self._port.unix_ms()
        return now

    def stamp(self) -> "tuple[int, int]":
        """Return (time in ms, 0), or (uptime in ms, boot) while the time is unknown."""
        now = self.unix_ms()
        if now:
            return now, 0
        return self.uptime_ms(), self.boot

    def learn(self, server_unix_ms: int) -> None:
        """Take the server's time when the own clock is unset or far off."""
        if server_unix_ms and abs(server_unix_ms - self.unix_ms()) > _TRUST_MS:
            self._offset_ms = server_unix_ms - self.uptime_ms()
