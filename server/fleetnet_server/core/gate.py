"""The gate between an authenticated link and a session: how often, how many, how fast.

What is asked here is cheap and is asked before a session costs anything that lasts: has the
device opened too many links lately, is there room for one more, is it its turn (core/herd.py).
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import structlog

from fleetnet import errors
from fleetnet.handshake import Hello
from fleetnet_server.core.herd import Herd
from fleetnet_server.core.rates import RateTable
from fleetnet_server.identity.authenticate import Refusal

if TYPE_CHECKING:
    from fleetnet_server.core.peer import Peer

_log = structlog.get_logger("fleetnet.sessions")

# When every session is taken, somebody has to leave first: minutes rather than seconds.
_FULL_RETRY_MS = 60_000

# A device that opens too many links is told so once in this time; after that its links are
# closed without a word, for which nothing is allocated.
_TOLD_EVERY_S = 10.0

# A herd is one event, not a line in the log for each of its devices.
_LOGGED_EVERY_S = 10.0

# The link is to be closed without a word.
SILENCE = Refusal(errors.OVERLOADED, "opens too many links")


class Limits(Protocol):
    """The numbers of config.Settings, where their reasons are."""

    @property
    def device_sessions_per_s(self) -> float: ...
    @property
    def device_sessions_burst(self) -> int: ...
    @property
    def sessions_per_s(self) -> float: ...
    @property
    def max_sessions(self) -> int: ...


class Gate:
    """Decides on links and sessions of devices that are authenticated.

    Args:
        herd: the slots of sessions. links: a bucket for each device's links.
        max_sessions: open at once.

    Attributes:
        links, herd, max_sessions: as given; may be changed.
        full: sessions refused because there are so many. silenced: links closed without a word.
    """

    def __init__(self, herd: Herd, links: RateTable, max_sessions: int):
        self.herd = herd
        self.links = links
        self.max_sessions = max_sessions
        self.full = 0
        self.silenced = 0
        self._told = RateTable(1.0 / _TOLD_EVERY_S, 1)
        self._logged = RateTable(1.0 / _LOGGED_EVERY_S, 1, 4)
        self._waiting: dict[Peer, asyncio.TimerHandle] = {}

    @classmethod
    def of(cls, limits: "Limits") -> "Gate":
        """Make a gate with the numbers of the settings."""
        links = RateTable(limits.device_sessions_per_s, limits.device_sessions_burst)
        return cls(Herd(limits.sessions_per_s), links, limits.max_sessions)

    def use(self, limits: "Limits") -> None:
        """Let other numbers hold from now on."""
        self.links.use(limits.device_sessions_per_s, limits.device_sessions_burst)
        self.herd.rate = limits.sessions_per_s
        self.max_sessions = limits.max_sessions

    def admit(self, device_id: int, name: str) -> Refusal | None:
        """Count a link of a device.

        Returns:
            None: it may go on. SILENCE: it was told just now. Another refusal: tell it.
        """
        if self.links.take(device_id):
            return None
        if not self._told.take(device_id):
            self.silenced += 1
            return SILENCE
        wait_ms = int(max(self.links.wait_s(device_id), _TOLD_EVERY_S) * 1000)
        return Refusal(errors.OVERLOADED, f"{name} opens too many links", name, wait_ms)

    def ask(
        self, peer: "Peer", hello: Hello, live: Callable[[], int], is_datagram: bool
    ) -> None:
        """Let a session begin now or a little later, or send the device away for a time.

        Args:
            live: returns how many sessions are open, without this device's.
        """
        if self._is_full(peer, live()):
            return
        place = self.herd.place(peer.device_id, is_datagram)
        if not place.wait_s:
            peer.enter(hello)
        elif place.is_held:
            loop = asyncio.get_running_loop()
            self._waiting[peer] = loop.call_later(place.wait_s, self._turn, peer, hello, live)
        else:
            self._say("more devices than sessions_per_s: they come later", wait_s=place.wait_s)
            peer.turn_away(errors.OVERLOADED, place.retry_after_ms)

    def _turn(self, peer: "Peer", hello: Hello, live: Callable[[], int]) -> None:
        del self._waiting[peer]
        # Asked again: all who were kept waiting found the same room.
        if not self._is_full(peer, live()):
            peer.enter(hello)

    def _is_full(self, peer: "Peer", live: int) -> bool:
        """Send a device away when every session is taken."""
        if live < self.max_sessions:
            return False
        self.full += 1
        self._say("no room for more sessions: raise max_sessions", sessions=live)
        peer.turn_away(errors.OVERLOADED, _FULL_RETRY_MS)
        return True

    def forget(self, peer: "Peer") -> None:
        """The link of one who may be waiting is gone."""
        handle = self._waiting.pop(peer, None)
        if handle is not None:
            handle.cancel()

    def close(self) -> "list[Peer]":
        """Let nobody in any more; return who was waiting."""
        waiting = list(self._waiting)
        for handle in self._waiting.values():
            handle.cancel()
        self._waiting.clear()
        return waiting

    def _say(self, what: str, **detail: object) -> None:
        if self._logged.take(what):
            _log.warning(what, held=self.herd.held, refused=self.herd.refused, **detail)
