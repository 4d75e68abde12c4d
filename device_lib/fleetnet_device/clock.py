"""The device's idea of time: its own clock, else the server's, else uptime.

A camera without a battery wakes in 1970 or 2000. Until it knows better its readings carry
the uptime and the number of this boot, and the server dates them (docs/protocol.md
section 3.2). The first session's time then sets the board's clock, where it has one, so
that certificates can be checked from then on.
"""

from fleetnet.ticks import ticks_diff

# The server's time replaces an own clock that is off by more than this.
_TRUST_MS = 2_000

# So far from the server's time it has jumped; ticks may have stood still for a night's sleep.
_JUMP_MS = 86_400_000


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Clock:
    """Uptime that survives the wrap of ticks, and offsets to unix time and server time.

    Args:
        port: fleetnet.ports.port.
        floor_ms: unix ms before which a clock cannot be right (when the bundle was made).

    Attributes:
        boot: random number of this boot, 1 to 2**30-1.
        floor_ms: see above.
    """

    def __init__(self, port: "Any", floor_ms: int = 0):
        self._port = port
        self.floor_ms = floor_ms
        self.boot = (int.from_bytes(port.random_bytes(4), "big") & 0x3FFFFFFF) or 1
        self._last = port.ticks()
        self._uptime_ms = 0
        self._offset_ms = 0
        self._server_offset_ms = 0

    def uptime_ms(self) -> int:
        """Return ms since this object was made; call at least every six days."""
        now = self._port.ticks()
        self._uptime_ms += ticks_diff(now, self._last)
        self._last = now
        return self._uptime_ms

    def own_ms(self) -> int:
        """Return what the board's clock says, unix ms; 0 when it cannot be right.

        That is before its floor, or far from what the server said: it has jumped.
        """
        now: int = self._port.unix_ms()
        server_ms = self.server_ms()
        if now < self.floor_ms or (server_ms and abs(now - server_ms) > _JUMP_MS):
            return 0
        return now

    def unix_ms(self) -> int:
        """Return unix time in ms, 0 while unknown."""
        uptime_ms = self.uptime_ms()  # whatever clock is asked: ticks must not wrap unseen
        if self._offset_ms:
            return self._offset_ms + uptime_ms
        return self.own_ms()

    def server_ms(self) -> int:
        """Return the server's unix time in ms as of its last word, 0 before its first."""
        uptime_ms = self.uptime_ms()
        return self._server_offset_ms + uptime_ms if self._server_offset_ms else 0

    def stamp(self) -> "tuple[int, int]":
        """Return (time in ms, 0), or (uptime in ms, boot) while the time is unknown."""
        now = self.unix_ms()
        if now:
            return now, 0
        return self.uptime_ms(), self.boot

    def learn(self, server_unix_ms: int, waited_ms: int) -> None:
        """Take the server's time when the own clock is unset or far off.

        Args:
            waited_ms: since it was asked. Its answer may be as old, where it got lost and came
                again, so that a clock which is ahead by so much is not off.
        """
        if not server_unix_ms:
            return
        latest_ms = server_unix_ms + waited_ms + _TRUST_MS
        self._server_offset_ms = server_unix_ms - self.uptime_ms()
        if not server_unix_ms - _TRUST_MS <= self.unix_ms() <= latest_ms:
            self._offset_ms = self._server_offset_ms
        if not server_unix_ms - _TRUST_MS <= self.own_ms() <= latest_ms:
            try:
                from fleetnet_device.unset_clock import set_board_clock
            except MemoryError:
                return  # readings are dated by the server's; the next session sets the board's
            set_board_clock(server_unix_ms)
