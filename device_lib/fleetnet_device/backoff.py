"""How long to stay away between connections: decorrelated jitter.

Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: the next pause is
random between the base and three times the last one, so that a fleet that lost its server
in one moment does not return in one.
"""

from fleetnet_device.limits import MAX_PAUSE_MS

_BASE_MS = 500

# A device that was told to go away may be let in again by an operator: look rarely. The first alert
# in a handshake is forgiven: it is not authentic, and one damaged datagram makes one.
_REFUSED_MS = 60_000

# Time online pays a pause back at this rate, so that the longest one is forgotten after 30 s:
# a device that is kicked at once stays away longer and longer, one that worked does not.
_PAY_BACK = 2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Backoff:
    """Gives the next pause; ``random_bytes`` is the only source of chance."""

    def __init__(
        self,
        random_bytes: "Callable[[int], bytes]",
        base_ms: int = _BASE_MS,
        cap_ms: int = MAX_PAUSE_MS,
    ):
        self._random_bytes = random_bytes
        self._base_ms = base_ms
        self._cap_ms = cap_ms
        self._last_ms = base_ms
        self._refused = 0

    def after(self, lasted_ms: int, retry_after_ms: int = 0, refused: int = 0) -> int:
        """Return the pause in ms after a link that was up for ``lasted_ms``.

        Args:
            retry_after_ms: what the server asked for; it knows when it has room, so this
                counts, and not a pause of our own.
            refused: 1: by an alert in the handshake, from the second in a row the device looks
                once a minute; 2: in a session, it does so at once. 0: it was not.
        """
        last_ms = max(self._base_ms, self._last_ms - _PAY_BACK * lasted_ms)
        span = max(1, 3 * last_ms - self._base_ms)
        chance = int.from_bytes(self._random_bytes(3), "big")
        pause_ms = min(self._cap_ms, self._base_ms + chance % span)
        self._last_ms = pause_ms
        before, self._refused = self._refused, refused
        if retry_after_ms > self._base_ms:
            # Spread by a quarter, or everybody would come at its end.
            return retry_after_ms + chance % (retry_after_ms // 4 + 1)
        return pause_ms + _REFUSED_MS if refused and refused + before > 1 else pause_ms
