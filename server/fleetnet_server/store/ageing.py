"""The time by which stored things are too old: not every clock is believed at once.

A clock that is set to 2100, by a bad time source or an empty battery, would make everything too
old within one pass, and nothing brings it back. So a time is only believed when it is where the
last one that was believed has come meanwhile. Another one counts after it has stood for a day;
until then the earlier of both does, and the log says so. What was believed last is in
FOLDER/retention.clock, so that a restart does not believe what the server before it did not.
"""

import logging
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fleetnet_server.identity.files import replace_file

_log = logging.getLogger("fleetnet.store")

FILE_NAME = "retention.clock"

# Clocks are corrected by seconds; a pass more or less of what is kept for hours is no loss.
_JUMP_MS = 3_600_000
# Servers are off for a holiday, a restored backup is some days old.
_OFF_MS = 30 * 86_400_000
# Time for somebody, or for NTP, to set a wrong clock right.
_DOUBT_S = 86_400.0
# Between two writings of the file.
_KEEP_S = 300.0


def steady_s() -> float:
    """Return seconds that nobody sets; they go on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class AgeClock:
    """Unix ms for what ends things by their age; call it on one thread.

    Args:
        folder: of the fleet. newest_ms: when the newest message was received, None without
            one; it counts where the file is missing.
    """

    def __init__(
        self, folder: Path, newest_ms: int | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        steady: Callable[[], float] = steady_s,
    ):  # fmt: skip
        self._path = folder / FILE_NAME
        self._newest_ms = newest_ms
        self._clock_ms = clock_ms
        self._steady = steady
        # Unix ms at the steady clock's 0: what is believed, what is doubted.
        self._believed: float | None = None
        self._doubted: float | None = None
        self._doubted_s = self._kept_s = 0.0

    def now_ms(self) -> int:
        """Return the time, or an earlier one while the clock is not believed."""
        wall, steady = self._clock_ms(), self._steady()
        zero = wall - steady * 1000
        if self._believed is None:
            self._begin(zero, steady)
        believed = self._believed if self._believed is not None else zero
        if abs(zero - believed) <= _JUMP_MS or self._has_stood(zero, believed, steady):
            self._believed, self._doubted = zero, None
            self._keep(wall, steady)
            return wall
        return min(wall, int(believed + steady * 1000))

    def _begin(self, zero: float, steady: float) -> None:
        """Believe a clock that is not far behind the last time that is known."""
        known = self._known()
        self._believed = zero
        if known is not None:
            ahead = zero + steady * 1000 - known
            if not -_JUMP_MS <= ahead <= _OFF_MS:
                self._believed = known - steady * 1000

    def _known(self) -> int | None:
        with suppress(OSError):
            if found := re.fullmatch(rb"(\d{1,14})\n", self._path.read_bytes()):
                return int(found[1])
        return self._newest_ms

    def _has_stood(self, zero: float, believed: float, steady: float) -> bool:
        """Say whether a clock that jumped was left there for a day."""
        if self._doubted is None or abs(zero - self._doubted) > _JUMP_MS:
            self._doubted, self._doubted_s = zero, steady
            _log.error(
                "the clock jumped by %.1f h; for a day nothing is ended by a later time than "
                "before: set the clock right, or leave it",
                (zero - believed) / 3_600_000,
            )
        return steady - self._doubted_s >= _DOUBT_S

    def _keep(self, wall: int, steady: float) -> None:
        if not self._kept_s or steady - self._kept_s >= _KEEP_S:
            self._kept_s = steady
            with suppress(OSError):  # a full disk: the file is a little older
                replace_file(self._path, b"%d\n" % wall)
