"""One session of a hub: its origins, what waits for an announcement, what it is told."""

from collections import deque
from typing import TYPE_CHECKING

from fleetnet import frame as wire
from fleetnet.events import Received
from fleetnet.ports import port
from fleetnet.relay import (
    MAX_ORIGINS,
    RELAYED_FIRST,
    encode_relay,
)
from fleetnet.ticks import ticks_diff
from fleetnet_server.core.origin import Origin
from fleetnet_server.core.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Iterable

# Origins kept: those that a hub may have, and as many that it has forgotten since without a word.
_KEPT = 2 * MAX_ORIGINS

# What may wait to be said while the hub's window is full: a word for each of them.
_UNSAID = _KEPT


class Line:
    """See the module.

    Attributes:
        origins: by alias. parked: stream -> (RELAY, ticks of its arrival), oldest first.
        skipped: stream -> sequence up to which nothing is to be stored. is_over: the hub is gone.
    """

    def __init__(self, hub: Peer):
        self.hub = hub
        self.origins: dict[int, Origin] = {}
        self.parked: dict[int, deque[tuple[Received, int]]] = {}
        self.skipped: dict[int, int] = {}
        self.is_settling = False
        self.is_over = False
        self._unsaid: deque[bytes] = deque(maxlen=_UNSAID)

    def add(self, origin: Origin) -> None:
        """Keep an origin; of those without a session the one that was used longest ago goes."""
        self.origins[origin.alias] = origin
        if len(self.origins) > _KEPT:
            now = port.ticks()
            idle: Iterable[Origin] = (
                each for each in self.origins.values() if not each.is_open and each is not origin
            )
            oldest = max(idle, key=lambda each: ticks_diff(now, each.used), default=None)
            if oldest is not None:
                del self.origins[oldest.alias]

    def is_unsettled(self, alias: int) -> bool:
        """Say whether messages of this alias have to wait: for its announcement, or the store."""
        origin = self.origins.get(alias)
        return origin is None or origin.is_waiting

    def park(self, event: Received) -> None:
        """Keep a RELAY until its origin is announced; the hub's window bounds how many."""
        self.parked.setdefault(event.stream, deque()).append((event, port.ticks()))

    # -- what the hub is told ------------------------------------------------------------------

    def say(self, alias: int, kind: int, body: bytes) -> None:
        """Say something that the hub asks for again when it is lost."""
        self.hub.send_live(wire.RELAY, encode_relay(alias, kind, 0, 0, body))

    def say_again(self, origin: Origin) -> None:
        """Answer an announcement, once there is an answer."""
        if not origin.answer:
            return
        self.hub.send_live(wire.RELAY, origin.answer)

    def say_surely(self, alias: int, kind: int, body: bytes) -> None:
        """Say something once, as a message."""
        if not self.is_over:
            self._unsaid.append(encode_relay(alias, kind, 0, 0, body))
            self.speak()

    def speak(self) -> None:
        """Say what had no room."""
        while self._unsaid and self.hub.send(RELAYED_FIRST, wire.RELAY, self._unsaid[0]):
            self._unsaid.popleft()
