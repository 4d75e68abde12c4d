"""The table of live sessions: one a device, the newest wins."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from fleetnet import errors
from fleetnet.errors import FleetError
from fleetnet.handshake import Hello
from fleetnet.limits import WINDOW
from fleetnet.reasons import reason_text
from fleetnet.receiver import Gap
from fleetnet_server.config import Settings
from fleetnet_server.core.audit_ports import AuditLog
from fleetnet_server.core.bodies import DATA_KINDS, POLICY
from fleetnet_server.core.device_lines import DeviceLines
from fleetnet_server.core.duplicates import Duplicates
from fleetnet_server.core.entering import STORE_RETRY_MS, Entering
from fleetnet_server.core.gate import SILENCE, Gate
from fleetnet_server.core.peer import Peer
from fleetnet_server.core.policing import Buckets, Pace
from fleetnet_server.core.ports import MessageStore
from fleetnet_server.core.presence import Presence
from fleetnet_server.core.relay_ports import NoRelays, RelayPort
from fleetnet_server.core.router import Router
from fleetnet_server.core.services import Services
from fleetnet_server.core.timers import Timers
from fleetnet_server.core.transport import NOBODY, LinkHandler, Transport
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.identity.authenticate import (
    Authenticated,
    LinkIdentity,
    Refusal,
    Stranger,
    as_other_ca,
    authenticate,
    is_revoked_elsewhere,
    judge,
)
from fleetnet_server.identity.certificate import refused_name
from fleetnet_server.identity.crl import issuer_hash
from fleetnet_server.identity.policy import Policy
from fleetnet_server.identity.registry import Registry

_log = structlog.get_logger("fleetnet.sessions")

_STRANGER = "unknown PSK identity"  # fleetnet/ports/openssl_callbacks.py



class Sessions:
    """Makes a Peer for each authenticated link and keeps the newest of each device.

    Args:
        services: what is done with messages besides storing them.
        audit: hears of refusals and the like. presence: hears of sessions.
        gate: how often, how many, how fast.
        keepalive_ms: what devices are asked for; datagram_keepalive_ms: the same over DTLS;
        ack_delay_ms: how long an acknowledgement may wait for others; max_frame: largest
            payload taken, bytes.

    Attributes:
        stored_kinds: frame kinds that go to the store; other critical ones end a session.
        policy: in force, see use_policy.
        changes: grows when the registry changed; links that were let in before are judged again.
        relays: of hubs, see core/relays.py. entering: their starts and
            ends at the store, see core/entering.py.
    """

    relays: RelayPort = NoRelays()

    def __init__(
        self,
        registry: Registry,
        store: MessageStore,
        router: Router,
        services: Services | None = None,
        *,
        audit: AuditLog | None = None,
        gate: Gate | None = None,
        presence: Presence | None = None,
        keepalive_ms: int = 60_000,
        datagram_keepalive_ms: int = 25_000,
        ack_delay_ms: int = 100,
        max_frame: int = 8192,
    ):
        self.registry = registry
        self.store = store
        self.router = router
        self.services = services or Services(())
        self.stored_kinds = DATA_KINDS | self.services.kinds
        router.services = self.services
        self.timers = Timers()
        self.keepalive_ms = keepalive_ms
        # Many home routers forget an idle UDP mapping after 30 s (RFC 4787 asks for 120).
        self.datagram_keepalive_ms = datagram_keepalive_ms
        self.ack_delay_ms = ack_delay_ms
        self.max_frame = max_frame
        self.audit = audit
        self.gate = gate or Gate.of(Settings.model_construct())
        self.policy = Policy()
        self.changes = 0
        self.presence = presence or Presence()
        self.live: dict[int, Peer] = {}
        self.entering = Entering(self)
        self._duplicates, self._buckets = Duplicates(), Buckets()
        self._gap_lines = DeviceLines("messages that it gave up")
        self._revoked_elsewhere: frozenset[tuple[bytes, int]] = frozenset()
        self._ours: frozenset[bytes] | None = None
        self._accepted: frozenset[bytes] = frozenset()
        self._foreign: set[tuple[int, int]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._nobody: asyncio.Event | None = None
        router.on_shut = self._on_shut
        router.on_denied = self.denied
        router.on_too_fast = self.too_fast

    # -- what the listeners call -----------------------------------------------------

    def accept(self, transport: Transport, certificate: bytes) -> LinkHandler:
        """Take an authenticated link; a device that may not come in gets REFUSE later."""
        self.presence.handshake_done(transport.kind)
        who: Authenticated | Stranger | Refusal
        try:
            link = LinkIdentity(certificate, transport.psk_identity)
            who = authenticate(
                link, self.registry, self.policy.unknown, self._revoked_elsewhere, self._accepted
            )
            if isinstance(who, Authenticated):
                who = self.gate.admit(who.device.id, who.device.name) or who
        except StoreUnavailable as error:
            who = Refusal(errors.STORE_UNAVAILABLE, str(error))
        if who is SILENCE:
            transport.abort()
            return NOBODY
        return Peer(self, transport, who, certificate)

    def handshake_refused(self, kind: str, address: tuple[str, int], error: FleetError) -> None:
        """Log a TLS or DTLS handshake that failed; the same again once a minute, with a count."""
        self.presence.handshake_refused(kind, error)
        name = refused_name(error)
        if self.audit is not None:
            # The address is the actor; its port, which an error may name, is another each time.
            reason = str(error).replace(f"{address[0]}:{address[1]}", address[0])
            # What a stranger calls itself would be another row each time; the log has it.
            reason, strange, _ = reason.partition(_STRANGER)
            reason += strange
            detail = {"link": kind, "reason": reason}
            if not self.audit.note_repeated(address[0], "handshake-refused", name, detail):
                return
        known = {"device": name} if name else {}
        _log.warning(
            "handshake refused", **known, link=kind, address=address[0], reason=str(error)
        )

    def address_limited(self, network: str) -> None:
        """Log an address whose handshakes are not even begun, as it comes too often."""
        _log.warning("address comes too often: not let in for now", address=network)
        if self.audit is not None:
            self.audit.note_repeated(network, "address-limited", None, {})

    # -- what the peers call -----------------------------------------------------------

    def judge(self, peer: Peer) -> Authenticated | Stranger | Refusal:
        """Decide again on a link, whose device may have been changed since it was let in."""
        if self.is_revoked_elsewhere(peer):
            return Refusal(errors.REVOKED, "its CA revoked it", peer.name)
        if peer.foreign and self._ours is not None:
            issuer = issuer_hash(peer.foreign)
            if issuer not in self._ours | self._accepted:
                return Refusal(errors.REVOKED, "its CA is no longer accepted here", peer.name)
        try:
            who = judge(
                peer.name, peer.serial, peer.psk_identity, self.registry, self.policy.unknown
            )
            return as_other_ca(who, peer.foreign, self.registry, self._accepted)
        except StoreUnavailable as error:
            return Refusal(errors.STORE_UNAVAILABLE, str(error), peer.name)

    def ask(self, peer: Peer, hello: Hello, transport: Transport | None) -> None:
        """Ask the gate whether a session may begin."""
        if self.entering.is_shut:
            peer.turn_away(errors.STORE_UNAVAILABLE, STORE_RETRY_MS)
        elif barred_ms := self._barred_ms(peer):
            # It would begin with a closed window, and that is what the device does not obey.
            self.refused(peer, Refusal(errors.OVERLOADED, "sent too fast", peer.name))
            peer.turn_away(errors.OVERLOADED, barred_ms)
        elif transport is not None:
            self.gate.ask(
                peer, hello, lambda: len(self.live) - (peer.device_id in self.live),
                transport.datagram,
            )  # fmt: skip

    def enter(self, peer: Peer) -> bool:
        """Make ``peer`` the device's session; True when older messages are not durable yet."""
        old = self.live.get(peer.device_id)
        self.live[peer.device_id] = peer
        if old is not None and old is not peer:
            self._replaced(old, peer)
            old.bye(errors.REPLACED)
            self._shut(old, reason_text(errors.REPLACED))
        return self.entering.is_draining(peer.device_id)

    def _replaced(self, old: Peer, new: Peer) -> None:
        _log.info("session replaced", device=new.name)
        where = {"old": old.address, "new": new.address}
        if self.audit is not None:
            self.audit.note_repeated("server", "session-replaced", new.name, where)
        if not self._duplicates.replaces(new.device_id, old.boot, new.boot):
            return
        if self.audit is None or self.audit.note_repeated(
            "server", "duplicate-identity", new.name, {"addresses": sorted(where.values())}
        ):
            _log.warning(
                "two devices use one identity: revoke it and give both new ones",
                device=new.name, addresses=sorted(where.values()),
            )  # fmt: skip

    def dismiss(self, peer: Peer, reason: int, retry_after_ms: int = 0) -> None:
        """End a session: what is durable is acknowledged, then BYE; no service has it more."""
        if self.live.get(peer.device_id) is not peer:
            return
        _log.warning("session ended", device=peer.name, why=reason_text(reason))
        peer.bye(reason, retry_after_ms)
        self._shut(peer, reason_text(reason))

    def _shut(self, peer: Peer, why: str) -> None:
        """No more acknowledgements and no more services for a session that said BYE."""
        if peer.is_open:
            peer.is_open = False
            self.presence.ended(peer, why)
            if not peer.is_quarantined:
                self.services.closed(peer)
        self.entering.drain(peer)

    def leave(self, peer: Peer, why: str) -> None:
        """Forget a peer whose session or link is over."""
        was_open = peer.is_open
        self.gate.forget(peer)
        self._shut(peer, why)
        if self.live.get(peer.device_id) is peer:
            del self.live[peer.device_id]
            self._duplicates.ended(peer.device_id)
            if not self.live and self._nobody is not None:
                self._nobody.set()
            if was_open:
                _log.info("session ended", device=peer.name, why=why)
        if peer.epoch_id:
            self.entering.release(peer.device_id)

    def opened(self, peer: Peer, hello: Hello, transport: Transport | None) -> None:
        """Log a session that was accepted, and let the services have it."""
        self.presence.opened(peer, hello, transport)
        _log.info(
            "session opened",
            device=peer.name,
            link=transport.kind if transport else f"via {peer.via}",
            address=transport.address[0] if transport else "",
            epoch=hello.epoch.hex(),
            software=hello.software,
            quarantined=peer.is_quarantined,
        )
        if peer.foreign and (peer.device_id, peer.serial) not in self._foreign:
            # Otherwise nobody could revoke it with the rest of the device's.
            self._foreign.add((peer.device_id, peer.serial))
            if self.audit is not None:
                detail = {"serial": f"{peer.serial:x}"}
                self.audit.note("server", "foreign-certificate", peer.name, detail)
        if not peer.is_quarantined:
            self.services.opened(peer, hello)

    def refused(self, peer: Peer, refusal: Refusal) -> None:
        """Log a device that got REFUSE."""
        reason = reason_text(refusal.reason)
        self.presence.refused(peer, refusal)
        _log.warning(
            "device refused", device=refusal.name or peer.name, address=peer.address,
            reason=reason, why=refusal.message,
        )  # fmt: skip
        if self.audit is not None:
            detail = {"reason": reason}
            if peer.serial:
                detail["serial"] = f"{peer.serial:x}"
            self.audit.note_repeated(peer.address, "device-refused", refusal.name or None, detail)

    def is_revoked_elsewhere(self, peer: Peer) -> bool:
        """Say whether an imported CA has the certificate of a link in its list."""
        return bool(peer.foreign) and is_revoked_elsewhere(peer.foreign, self._revoked_elsewhere)

    def use_lists(self, revoked: frozenset[tuple[bytes, int]]) -> None:
        """Refuse what imported CAs revoked from now on; Watch ends what lives."""
        self._revoked_elsewhere = revoked
        self.changes += 1

    def use_issuers(self, ours: frozenset[bytes], accepted: frozenset[bytes]) -> None:
        """Take certificates of these CAs only from now on (identity/authenticate.py)."""
        self._ours, self._accepted = ours, accepted
        self.changes += 1

    # -- the policy --------------------------------------------------------------------

    def use_policy(self, policy: Policy) -> None:
        """Put a policy in force, for the sessions that live as well."""
        self.policy = policy
        for peer in list(self.live.values()):
            self.restrict(peer)

    def restrict(self, peer: Peer) -> None:
        """Give a session the rules of its device's group."""
        rules = self.policy.rules(peer.group)
        bucket = self._buckets.of(peer.device_id, rules)
        pace = None if bucket is None else Pace(bucket, peer.update_window)
        peer.use_rules(rules, pace)

    def denied(self, peer: Peer, problem: str) -> None:
        """A message that the policy does not allow was stored with its problem."""
        if self.audit is None or self.audit.note_repeated(
            f"device:{peer.name}", "policy-denied", peer.name, {"why": problem}
        ):
            _log.warning("message not allowed", device=peer.name, why=problem)

    def too_fast(self, peer: Peer) -> None:
        """A device sends although its windows are closed: its session ends."""
        if peer.is_open:
            self.denied(peer, f"{POLICY}it does not keep to the rate of its group")
            self.dismiss(peer, errors.OVERLOADED, self._barred_ms(peer))

    def _barred_ms(self, peer: Peer) -> int:
        return self._buckets.barred_ms(peer.device_id, self.policy.rules(peer.group))

    def noted_gap(self, peer: Peer, gap: Gap) -> None:
        """Log messages that a device gave up."""
        self.presence.gave_up(peer, gap)
        if self._gap_lines.take(peer.device_id, peer.name):
            _log.warning(
                "device gave up messages",
                device=peer.name, stream=gap.stream, first=gap.first, last=gap.last,
            )  # fmt: skip

    def window(self) -> int:
        """Return the window that sessions are granted, as far as the store goes."""
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
            peer.update_window()

    # -- the end -----------------------------------------------------------------------

    async def close(self, timeout_s: float = 3.0) -> None:
        """Say BYE to everybody and wait for the answers, ``timeout_s`` at most.

        Each is asked to come back at a time of its own, at the rate of the gate. Everything
        received should be durable by now, see Backend.stop.
        """
        waiting = set(self.gate.close())
        for peer, retry_after_ms in self.gate.herd.spread([*self.live.values(), *waiting]):
            if peer in waiting:
                peer.turn_away(errors.SHUTDOWN, retry_after_ms)
                continue
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
