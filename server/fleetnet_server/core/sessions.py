"""The table of live sessions: one a device, the newest wins."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from fleetnet import errors
from fleetnet import frame as wire
from fleetnet.errors import FleetError
from fleetnet.events import Gap
from fleetnet.handshake import Hello
from fleetnet.limits import WINDOW
from fleetnet.reasons import reason_text
from fleetnet_server.core.peer import Peer
from fleetnet_server.core.ports import MessageStore
from fleetnet_server.core.router import Router
from fleetnet_server.core.services import Services
from fleetnet_server.core.timers import Timers
from fleetnet_server.core.transport import Transport
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.identity.authenticate import (
    Authenticated,
    LinkIdentity,
    Refusal,
    authenticate,
)
from fleetnet_server.identity.registry import Registry

_log = structlog.get_logger("fleetnet.sessions")

_STORED_KINDS = frozenset((wire.READINGS, wire.RAW, wire.EVENT, wire.LOG))


class Sessions:
    """Makes a Peer for each authenticated link and keeps the newest of each device.

    Args:
        services: what is done with messages besides storing them.
        keepalive_ms: what devices are asked for; datagram_keepalive_ms: the same over DTLS;
        ack_delay_ms: how long an acknowledgement may wait for others; max_frame: largest
            payload taken, bytes.

    Attributes:
        stored_kinds: frame kinds that go to the store; other critical ones end a session.
    """

    def __init__(
        self,
        registry: Registry,
        store: MessageStore,
        router: Router,
        services: Services | None = None,
        *,
        keepalive_ms: int = 60_000,
        datagram_keepalive_ms: int = 25_000,
        ack_delay_ms: int = 100,
        max_frame: int = 8192,
    ):
        self.registry = registry
        self.store = store
        self.router = router
        self.services = services or Services(())
        self.stored_kinds = _STORED_KINDS | self.services.kinds
        router.services = self.services
        self.timers = Timers()
        self.keepalive_ms = keepalive_ms
        # Many home routers forget an idle UDP mapping after 30 s (RFC 4787 asks for 120).
        self.datagram_keepalive_ms = datagram_keepalive_ms
        self.ack_delay_ms = ack_delay_ms
        self.max_frame = max_frame
        self.live: dict[int, Peer] = {}
        self._draining: dict[int, set[Peer]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._nobody: asyncio.Event | None = None
        router.on_shut = self._on_shut

    # -- what the listeners call -----------------------------------------------------

    def accept(self, transport: Transport, certificate: bytes) -> Peer:
        """Take an authenticated link; a device that may not come in gets REFUSE later."""
        who: Authenticated | Refusal
        try:
            link = LinkIdentity(certificate, transport.psk_identity)
            who = authenticate(link, self.registry)
        except StoreUnavailable as error:
            who = Refusal(errors.STORE_UNAVAILABLE, str(error))
        return Peer(self, transport, who)

    def handshake_refused(self, kind: str, address: tuple[str, int], error: FleetError) -> None:
        """Log a TLS or DTLS handshake that failed."""
        _log.warning("handshake refused", link=kind, address=address[0], reason=str(error))

    # -- what the peers call -----------------------------------------------------------

    def enter(self, peer: Peer) -> bool:
        """Make ``peer`` the device's session; True when older messages are not durable yet."""
        old = self.live.get(peer.device_id)
        self.live[peer.device_id] = peer
        if old is not None and old is not peer:
            _log.info("session replaced", device=peer.name)
            old.bye(errors.REPLACED)
            if old.is_open:
                old.is_open = False
                self.services.closed(old)
            self._drain(old)
        return peer.device_id in self._draining

    def leave(self, peer: Peer, why: str) -> None:
        """Forget a peer whose session or link is over."""
        was_open = peer.is_open
        peer.is_open = False
        if was_open:
            self.services.closed(peer)
        self._drain(peer)
        if self.live.get(peer.device_id) is peer:
            del self.live[peer.device_id]
            if not self.live and self._nobody is not None:
                self._nobody.set()
            if was_open:
                _log.info("session ended", device=peer.name, why=why)

    def _drain(self, peer: Peer) -> None:
        if peer.pending:
            self._draining.setdefault(peer.device_id, set()).add(peer)

    def drained(self, peer: Peer) -> None:
        """All messages of a closed peer are durable."""
        others = self._draining.get(peer.device_id)
        if others is not None:
            others.discard(peer)
            if not others:
                del self._draining[peer.device_id]

    def opened(self, peer: Peer, hello: Hello, transport: Transport | None) -> None:
        """Log a session that was accepted."""
        _log.info(
            "session opened",
            device=peer.name,
            link=transport.kind if transport else "none",
            address=transport.address[0] if transport else "",
            epoch=hello.epoch.hex(),
            software=hello.software,
        )

    def refused(self, peer: Peer, refusal: Refusal) -> None:
        """Log a device that got REFUSE."""
        reason = reason_text(refusal.reason)
        _log.warning("device refused", device=peer.name, reason=reason, why=refusal.message)

    def noted_gap(self, peer: Peer, gap: Gap) -> None:
        """Log messages that a device gave up."""
        _log.warning(
            "device gave up messages",
            device=peer.name, stream=gap.stream, first=gap.first, last=gap.last,
        )  # fmt: skip

    def window(self) -> int:
        """Return the window that new sessions are granted."""
        return 0 if self.router.is_shut else WINDOW

    async def flush(self) -> None:
        """Wait until everything received is durable."""
        assert self.router.writer is not None
        await self.router.writer.flush()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a short piece of work that waits, kept until it is done."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_shut(self, is_shut: bool) -> None:
        for peer in list(self.live.values()):
            peer.set_window(0 if is_shut else WINDOW)

    # -- the end -----------------------------------------------------------------------

    async def close(self, retry_after_ms: int, timeout_s: float = 3.0) -> None:
        """Say BYE to everybody and wait for the answers, ``timeout_s`` at most.

        Everything received should be durable by now, see Backend.stop.
        """
        for peer in list(self.live.values()):
            peer.acknowledge_now()
            peer.bye(errors.SHUTDOWN, retry_after_ms)
        if self.live:
            self._nobody = asyncio.Event()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._nobody.wait()
            except TimeoutError:
                _log.warning("devices did not answer BYE", count=len(self.live))
        for peer in list(self.live.values()):
            peer.drop()
        self.live.clear()
        for task in list(self._tasks):
            task.cancel()
        self.timers.close()
