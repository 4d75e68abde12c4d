"""Letting a fleet back in at the rate that the server can bear.

Sessions begin at ``rate`` a second. Whoever comes when there is a turn enters at once. Whoever
would have to wait a few seconds is kept waiting, with its HELLO, on the link that it has. All
others hear REFUSE with the time after which it will be their turn, behind those who were
told so before. A server that stops spreads its fleet in the same way with BYE.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

T = TypeVar("T")

# What a HELLO may wait for its WELCOME. A device gives up after 10 s, and after 6 s over a
# DTLS that may fall back to TLS (docs/device.md); less, for the way there and back.
HOLD_S = 8.0
DATAGRAM_HOLD_S = 4.5

# A second's worth of turns that nobody took is there for those who come at once.
_BURST_S = 1.0

# Devices add up to a quarter to what they are asked for (fleetnet_device/backoff.py). Asked
# for so much of a time, the last of them come 5 % after it, which leaves as much for their
# handshakes; those who are early are kept waiting.
_LATEST = 1.25
_ASKED = 1.05 / _LATEST

# Whoever was sent away and has not come so long after its time has gone elsewhere; the
# longest pause of a device's own choice.
_KEPT_S = 60.0

# Time for a restart, or the whole fleet would meet a closed port.
RESTART_S = 2.0


class Place(NamedTuple):
    """Where a device stands.

    Attributes:
        wait_s: until it may enter; 0: now. is_held: it should wait on its link.
    """

    wait_s: float
    is_held: bool = False

    @property
    def retry_after_ms(self) -> int:
        """What to ask it for, when it shall not wait on its link."""
        return max(1, int(_ASKED * self.wait_s * 1000))


_NOW = Place(0.0)


class Herd:
    """Turns for sessions, ``rate`` a second.

    Attributes:
        rate: may be changed. held, refused: how many were kept waiting, and sent away.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic):
        self.rate = rate
        self.held = 0
        self.refused = 0
        self._clock = clock
        self._last_turn = clock() - _BURST_S
        # device -> when it is no longer waited for; oldest first.
        self._away: dict[int, float] = {}

    @property
    def away(self) -> int:
        """How many were sent away and are expected back."""
        return len(self._away)

    def place(self, device_id: int, is_datagram: bool) -> Place:
        """Give a device a turn, or a time after which to ask again.

        Only for devices that are authenticated: what is kept is bounded by their number.
        """
        now = self._clock()
        self._away.pop(device_id, None)
        turn = max(self._last_turn + 1.0 / self.rate, now - _BURST_S)
        wait_s = turn - now
        if wait_s > (DATAGRAM_HOLD_S if is_datagram else HOLD_S):
            return self._send_away(device_id, wait_s, now)
        self._last_turn = turn
        if wait_s <= 0:
            return _NOW
        self.held += 1
        return Place(wait_s, True)

    def _send_away(self, device_id: int, wait_s: float, now: float) -> Place:
        """Take no turn for it: those who come meanwhile would find the server idle."""
        while self._away:
            first = next(iter(self._away))
            if self._away[first] >= now:
                break
            del self._away[first]
        wait_s += len(self._away) / self.rate
        self._away[device_id] = now + _LATEST * wait_s + _KEPT_S
        self.refused += 1
        return Place(wait_s)

    def spread(self, leaving: Iterable[T]) -> Iterator[tuple[T, int]]:
        """Give each of those who are sent away the time (ms) after which to come back.

        In random order: the same devices would be the last each time.
        """
        order = list(leaving)
        random.shuffle(order)
        # So that the last one, which adds a quarter to both, comes 5 % late at most.
        whole_s = len(order) / self.rate
        span_s = max(0.0, _ASKED * whole_s - RESTART_S * (1 - 1 / _LATEST))
        for number, one in enumerate(order):
            yield one, int((RESTART_S + span_s * number / len(order)) * 1000)
