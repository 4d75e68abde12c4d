"""The service that looks after sessions with pre-shared keys.

It notes when a key was used, off the event loop, which retires the device's older ones; and it
ends the session of a key that was removed or retired, within one look of the Lookout.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from fleetnet.errors import REVOKED
from fleetnet.events import Received
from fleetnet.handshake import Hello
from fleetnet.ports import port
from fleetnet_server.core.bodies import Message
from fleetnet_server.errors import StoreUnavailable

if TYPE_CHECKING:
    from fleetnet_server.core.peer import Peer

_log = logging.getLogger("fleetnet.psks")


class PskStore(Protocol):
    """What the service needs of the store (store/psks.py)."""

    def find(self, identity: str) -> bytes | None: ...

    def newest(self) -> int: ...

    def news_after(self, number: int) -> tuple[int, bool]: ...

    def note_used(self, used: Mapping[str, int]) -> list[str]: ...


class Psks:
    """The service (core/services.py); made on a running loop, looked after by a Lookout.

    Attributes:
        live: the sessions by device, set by whoever makes them.
    """

    capability = 0
    kinds: frozenset[int] = frozenset()
    live_kinds: frozenset[int] = frozenset()

    def __init__(self, store: PskStore):
        self._store = store
        self.live: Mapping[int, Peer] = {}
        self._used: dict[str, int] = {}
        self._noting: asyncio.Task[None] | None = None
        self._seen = store.newest()

    # -- see Service ---------------------------------------------------------------------

    def opened(self, peer: "Peer", hello: Hello) -> None:
        """Note the use of a key; one that ended since the handshake opens no session."""
        if not peer.psk_identity:
            return
        if self._store.find(peer.psk_identity) is None:
            self._end(peer)
        else:
            self._used[peer.psk_identity] = port.unix_ms()

    def received(self, peer: "Peer", event: Received) -> None:
        """No kind is this service's."""

    def durable(self, peer: "Peer", message: Message) -> None:
        """No kind is this service's."""

    def closed(self, peer: "Peer") -> None:
        """The session is over."""

    # -- see Looking ---------------------------------------------------------------------

    def look(self) -> None:
        """Write down what was used, and end what lives on a key that is gone."""
        if self._used and self._noting is None:
            used, self._used = self._used, {}
            self._noting = asyncio.get_running_loop().create_task(self._note(used))
        self._seen, ended = self._store.news_after(self._seen)
        if ended:
            for peer in list(self.live.values()):
                if peer.psk_identity and self._store.find(peer.psk_identity) is None:
                    self._end(peer)

    async def stop(self) -> None:
        """Write down what is still to be noted."""
        if self._noting is not None:
            await self._noting
        if self._used:
            await self._note(self._used)

    def _end(self, peer: "Peer") -> None:
        _log.warning("device %s: its pre-shared key %s ended", peer.name, peer.psk_identity)
        peer.bye(REVOKED)

    async def _note(self, used: dict[str, int]) -> None:
        try:
            for identity in await asyncio.to_thread(self._store.note_used, used):
                _log.info("pre-shared key %s retired: a newer one was seen", identity)
        except StoreUnavailable:
            # A use that was noted since then is newer.
            self._used = {**used, **self._used}
        finally:
            self._noting = None
