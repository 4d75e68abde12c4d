"""From HELLO to the store's word on where a device goes on: at once, or after a wait.

A file answers at once. A store that several servers share takes a lease for the device, which is
a round trip or two; and a device whose earlier session still has messages on their way waits
for these, as the resume points must not miss them. The waits are bounded, and a device's
sessions begin one after the other.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from fleetnet import errors
from fleetnet.errors import FleetError
from fleetnet.handshake import Hello
from fleetnet_server.core.ports import MessageStore, SessionAbout, SessionStart
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.identity.authenticate import Stranger

if TYPE_CHECKING:
    from fleetnet_server.core.peer import Peer
    from fleetnet_server.core.sessions import Sessions

_log = logging.getLogger("fleetnet.sessions")

# How long a device may wait for the store, all together: it gives up its HELLO after 10 s, and
# over a DTLS that may fall back to TLS after 6 s.
_WAIT_S = 5.0

# A store is away for seconds.
STORE_RETRY_MS = 5_000

# Of what a device says of itself, characters that others are told.
_SOFTWARE = 64

Then = Callable[[SessionStart | None], None]


class Entering:
    """Begins and ends sessions at the store, for one table of sessions.

    Attributes:
        is_shut: nobody is let in, see ``send_away``.
        taken_count: sessions that ended because another server has the device.
    """

    def __init__(self, sessions: "Sessions"):
        self._sessions = sessions
        self.is_shut = False
        self.taken_count = 0
        self._draining: dict[int, set[Peer]] = {}
        sessions.store.on_lost = self._on_lost
        sessions.router.on_taken = self.taken
        self._under_way: dict[int, asyncio.Future[None]] = {}

    @property
    def _store(self) -> MessageStore:
        return self._sessions.store

    def begin(
        self,
        peer: "Peer",
        hello: Hello,
        link: str,
        must_flush: bool,
        then: Then,
        is_here: bool = True,
    ) -> None:
        """Call ``then`` with what the session begins with; None: the store is unavailable.

        Args:
            link: "tls", "dtls" or "hub". is_here: see SessionAbout.
            must_flush: older messages of the device are on their way to the store.
        """
        epoch = hello.epoch
        about = SessionAbout(link, peer.address, hello.software[:_SOFTWARE], is_here)
        before = self._under_way.get(peer.device_id)
        begun: SessionStart | Awaitable[SessionStart] | None = None
        if before is None and not must_flush:
            try:
                begun = self._store.begin(peer.device_id, epoch, about)
            except StoreUnavailable as error:
                self._failed(peer, error)
                then(None)
                return
            if isinstance(begun, SessionStart):
                then(begun)
                return
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._under_way[peer.device_id] = over
        self._sessions.spawn(self._later(peer, epoch, about, must_flush, begun, before, over, then))

    async def _later(
        self,
        peer: "Peer",
        epoch: bytes,
        about: SessionAbout,
        must_flush: bool,
        begun: SessionStart | Awaitable[SessionStart] | None,
        before: "asyncio.Future[None] | None",
        over: "asyncio.Future[None]",
        then: Then,
    ) -> None:
        device_id = peer.device_id
        start: SessionStart | None = None
        asked: asyncio.Future[SessionStart] | None = None
        try:
            async with asyncio.timeout(_WAIT_S):
                if before is not None:
                    await asyncio.wait((before,))
                if must_flush:
                    await self._sessions.flush()
                if begun is None and self._is_wanted(peer, about):
                    begun = self._store.begin(device_id, epoch, about)
                if isinstance(begun, SessionStart):
                    start = begun
                elif begun is not None:
                    # Not cancelled by the time-out: what it takes has to be given back.
                    asked = asyncio.ensure_future(begun)
                    start = await asyncio.shield(asked)
        except Exception as error:
            # Whatever it is: a device that hears nothing would wait for its own time-out.
            self._failed(peer, error)
        finally:
            if asked is not None and not asked.done():
                asked.add_done_callback(lambda done: self._came_late(device_id, done, over))
            else:
                self._is_over(device_id, over)
        then(start)
        if start is not None:
            self.release(device_id)

    def _is_wanted(self, peer: "Peer", about: SessionAbout) -> bool:
        """Whether its link did not go meanwhile, and no newer session took its place."""
        return not about.is_here or self._sessions.live.get(peer.device_id) is peer

    def _came_late(
        self, device_id: int, done: "asyncio.Future[SessionStart]", over: "asyncio.Future[None]"
    ) -> None:
        self._is_over(device_id, over)
        if not done.cancelled() and done.exception() is None:
            self.release(device_id)

    def _is_over(self, device_id: int, over: "asyncio.Future[None]") -> None:
        if self._under_way.get(device_id) is over:
            del self._under_way[device_id]
        if not over.done():
            over.set_result(None)

    def release(self, device_id: int) -> None:
        """Give a device back when it has neither a session here nor messages under way."""
        sessions = self._sessions
        if not (
            device_id in sessions.live
            or device_id in self._under_way
            or device_id in self._draining
        ):
            self._store.end(device_id)

    # -- messages that are under way when a session is over -----------------------------------

    def drain(self, peer: "Peer") -> None:
        """A session is over, whatever of it the store still has to write."""
        if peer.pending:
            self._draining.setdefault(peer.device_id, set()).add(peer)

    def drained(self, peer: "Peer") -> None:
        """All messages of a closed peer are durable, or lost for this server."""
        others = self._draining.get(peer.device_id)
        if others is not None:
            others.discard(peer)
            if not others:
                del self._draining[peer.device_id]
                self.release(peer.device_id)

    def is_draining(self, device_id: int) -> bool:
        """Say whether messages of a session that is over are on their way to the store."""
        return device_id in self._draining

    # -- other servers at the same store -------------------------------------------------------

    def taken(self, peer: "Peer") -> None:
        """Another server has the device now: what is not durable here it sends there."""
        if self._sessions.live.get(peer.device_id) is peer:
            self.taken_count += peer.is_open
            self._sessions.dismiss(peer, errors.REPLACED)

    def _on_lost(self, device_id: int) -> None:
        peer = self._sessions.live.get(device_id)
        if peer is not None:
            self.taken(peer)

    def send_away(self) -> None:
        """Let nobody in, and send everybody to another server for a time."""
        self.is_shut = True
        sessions = self._sessions
        for peer, retry_after_ms in sessions.gate.herd.spread(list(sessions.live.values())):
            sessions.dismiss(peer, errors.STORE_UNAVAILABLE, retry_after_ms)

    # -- strangers -----------------------------------------------------------------------------

    async def register(self, stranger: Stranger) -> bool:
        """Make a stranger a device, as the policy wants; False: the store is unavailable."""
        who = (stranger.name, stranger.state, stranger.serial, stranger.policy)
        try:
            await asyncio.to_thread(self._sessions.registry.admit, *who)
        except StoreUnavailable:
            return False
        return True

    def _failed(self, peer: "Peer", error: Exception) -> None:
        why = str(error) or "the store did not answer in time"
        is_known = isinstance(error, FleetError | TimeoutError)
        _log.warning(
            "%s cannot begin its session now: %s", peer.name, why,
            exc_info=None if is_known else error,
        )  # fmt: skip
