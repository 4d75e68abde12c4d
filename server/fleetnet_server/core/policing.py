"""The policy at work on messages: which are taken as they are, and how many.

What a group may do is in identity/policy.py. A peer knows the rules of its group; without
rules nothing here is called.
"""

import asyncio
import time
from collections.abc import Callable

from fleetnet.frame import OPTIONAL
from fleetnet.limits import MAX_STREAM, WINDOW
from fleetnet_server.core.bodies import DATA_KINDS, POLICY, Inspected, Tally, inspect_body
from fleetnet_server.identity.policy import Rules

# What a device may have under way when its windows close. One that sends more does not obey them.
_MOST_OVERDRAWN = MAX_STREAM * WINDOW

# A bucket that ran empty is used again when so much of it is full: fewer and larger windows.
_REFILL = 0.25


# A group of one message an hour pays back for years; a device asks again after an hour.
_LONGEST_BAR_MS = 3_600_000


def inspect_restricted(
    rules: Rules,
    kind: int,
    body: bytes,
    offset_of_boot: Callable[[int], int | None],
    received_ms: int,
    tally: Tally | None = None,
) -> Inspected:
    """Inspect a body as core/bodies.py does, and under its group's rules.

    What is forbidden becomes a problem: the message is stored as it came and acknowledged, so
    that the device does not send it for ever, and no reader of readings sees it.
    """
    most = rules.max_message
    if most is not None and len(body) > most and kind & ~OPTIONAL in DATA_KINDS:
        problem = f"{POLICY}more than {most} B, the most that its group may send"
        return Inspected(received_ms, received_ms, problem, body)
    return inspect_body(kind, body, offset_of_boot, received_ms, rules.channels, tally)


class Bucket:
    """A token bucket: ``rate`` messages a second, and as many at once.

    It may be overdrawn by what was under way when it ran empty; that is paid back before it
    opens again, so the rate holds over any longer time.

    Args:
        clock: seconds, monotonic.

    Attributes:
        is_barred: its device did not obey; it may not come before the bucket is used again.
    """

    __slots__ = ("_at", "_clock", "is_barred", "level", "rate", "size")

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic):
        self.rate = rate
        self.size = max(1.0, rate)
        self.level = self.size
        self.is_barred = False
        self._clock = clock
        self._at = clock()

    def take(self) -> bool:
        """Count one message; False: the next one has to wait."""
        self.refill()
        self.level -= 1.0
        return self.level >= 1.0

    def refill(self) -> float:
        """Return how many messages there is room for now."""
        now = self._clock()
        self.level = min(self.size, self.level + (now - self._at) * self.rate)
        self._at = now
        return self.level

    def wait_s(self) -> float:
        """Return after how many seconds a bucket that ran empty is to be used again."""
        goal = max(1.0, _REFILL * self.size)
        return max(0.0, (goal - self.refill()) / self.rate)


class Pace:
    """Holds one session to its bucket, by the window that it is offered.

    Args:
        changed: called when ``room`` may be another one.

    Attributes:
        is_over: the device does not obey its windows; nothing more is taken of this session.
    """

    __slots__ = ("_bucket", "_changed", "_is_held", "is_over")

    def __init__(self, bucket: Bucket, changed: Callable[[], None]):
        self._bucket = bucket
        self._changed = changed
        self._is_held = self.is_over = False
        if bucket.refill() < 1.0:
            # Of an earlier session: to connect again is no way round.
            self._hold()

    def count(self) -> None:
        """A message came: halt the device when it sends too fast."""
        if self._bucket.take():
            return
        if not self._is_held:
            self._hold()
            self._changed()
        if self._bucket.level < -_MOST_OVERDRAWN:
            self.is_over = self._bucket.is_barred = True

    def _hold(self) -> None:
        self._is_held = True
        asyncio.get_running_loop().call_later(self._bucket.wait_s(), self._let_go)

    def room(self, window: int) -> int:
        """Return how many messages a stream may be under way, ``window`` at most; 0: none.

        As many as the bucket has room for; what is too much, on several streams, is paid back.
        """
        return 0 if self._is_held else min(window, max(1, int(self._bucket.refill())))

    def _let_go(self) -> None:
        wait_s = self._bucket.wait_s()
        if wait_s > 0:
            asyncio.get_running_loop().call_later(wait_s, self._let_go)
        else:
            self._is_held = False
            self._changed()


class Buckets:
    """The buckets of all devices; they outlive sessions, or to connect again were a way round."""

    def __init__(self) -> None:
        self._of: dict[int, Bucket] = {}

    def of(self, device_id: int, rules: Rules | None) -> Bucket | None:
        """Return the bucket of a device under the rules of its group; None: it needs none."""
        rate = None if rules is None else rules.max_rate
        if rate is None:
            self._of.pop(device_id, None)
            return None
        bucket = self._of.get(device_id)
        if bucket is None or bucket.rate != rate:
            bucket = self._of[device_id] = Bucket(rate)
        return bucket

    def barred_ms(self, device_id: int, rules: Rules | None) -> int:
        """Return for how long a device that did not obey has to stay away; 0: it may come."""
        bucket = self.of(device_id, rules)
        if bucket is None or not bucket.is_barred:
            return 0
        wait_s = bucket.wait_s()
        bucket.is_barred = wait_s > 0
        return min(int(wait_s * 1000), _LONGEST_BAR_MS)
