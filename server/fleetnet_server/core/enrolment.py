"""The first certificate of a device that has a claim token and nothing else.

A listener of its own, over TLS without client certificates: whoever comes is nobody until the
token says otherwise. One session asks one thing:

    HELLO -> WELCOME (with the time) -> CREDENTIAL_STATE with token and CSR -> CREDENTIAL

Nothing that comes here is stored as a message, and the token is in no log. The same token with
the same key is answered again until the device has had a session with its certificate: an answer
may be lost. Source: docs/protocol.md section 14.
"""

import asyncio
import ipaddress
import logging
import os
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from fleetnet import credential as wire
from fleetnet import errors, events
from fleetnet.acceptor import AcceptorSession, HelloReceived
from fleetnet.credential import Credential, CredentialState
from fleetnet.errors import CredentialError, FleetError, ProtocolError
from fleetnet.frame import COMMANDS, CREDENTIAL, CREDENTIAL_STATE
from fleetnet.handshake import CAN_MAKE_KEY, CAN_ROTATE, Hello, Welcome
from fleetnet.ports import port
from fleetnet_server.core.enrolment_ports import ClaimStore
from fleetnet_server.core.rotation_ports import Audit, WantedSource
from fleetnet_server.core.transport import Transport
from fleetnet_server.errors import StoreUnavailable

_log = logging.getLogger("fleetnet.enrolment")

# A link costs 60 KB and is there for a signature: 64 of them are an installer's busy day.
MAX_LINKS = 64
DEADLINE_S = 60.0  # a small board takes seconds to sign its request
WRONG_TOKENS = 5
BRAKE_S = 60.0

# Addresses that sent wrong tokens lately; the oldest is forgotten for one more.
_MAX_ADDRESSES = 4096
_MAX_MESSAGE = 4096
_RETRY_MS = 5_000

# The claim is bound to its first key; where the server makes it, to that.
_OUR_KEY = "made by the server"


class Brake:
    """Counts wrong tokens by address; an IPv6 network of 64 bits is one address."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._wrong: OrderedDict[str, list[float]] = OrderedDict()

    def closed_for_s(self, address: str) -> float:
        """Return for how long nobody there is heard; 0: come in."""
        times = self._wrong.get(_network(address), [])
        if len(times) < WRONG_TOKENS:
            return 0.0
        return max(0.0, times[-1] + BRAKE_S - self._clock())

    def wrong(self, address: str) -> None:
        """Note a wrong token."""
        now = self._clock()
        network = _network(address)
        times = [at for at in self._wrong.pop(network, ()) if at > now - BRAKE_S]
        self._wrong[network] = [*times, now][-WRONG_TOKENS:]
        if len(self._wrong) > _MAX_ADDRESSES:
            self._wrong.popitem(last=False)


class Enrolment:
    """Answers claims; ``accept`` is the listener's callback.

    Attributes:
        answered, refused: counters of claims.
    """

    def __init__(self, claims: ClaimStore, source: WantedSource, audit: Audit | None = None):
        self._claims = claims
        self._source = source
        self._audit = audit
        self._links: dict[EnrolLink, str] = {}  # their networks, the oldest first
        self._tasks: set[asyncio.Task[None]] = set()
        self.brake = Brake()
        self.repeats = Brake()  # counts by token, whoever has it
        self.answered = self.refused = 0

    def accept(self, transport: Transport, certificate: bytes) -> "EnrolLink":
        """Take a link whose handshake is over; beyond MAX_LINKS another one has to go."""
        link = EnrolLink(self, transport)
        if len(self._links) >= MAX_LINKS:
            self._make_room()
        self._links[link] = _network(link.address)
        return link

    def _make_room(self) -> None:
        """End the oldest link of the network that has most; one that has asked goes last."""
        crowd, _ = Counter(self._links.values()).most_common(1)[0]
        theirs = [link for link, network in self._links.items() if network == crowd]
        next((link for link in theirs if not link.has_asked), theirs[0]).end()

    def forget(self, link: "EnrolLink") -> None:
        """A link is over."""
        self._links.pop(link, None)

    def ask(self, link: "EnrolLink", state: CredentialState) -> None:
        """Decide on what a device asks for; the answer goes to ``link``."""
        task = asyncio.get_running_loop().create_task(self._answer(link, state))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def look(self) -> None:
        """See Looking; nothing is looked for."""

    async def stop(self) -> None:
        """Drop what is connected, and wait for what commits."""
        for link in list(self._links):
            link.end()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, link: "EnrolLink", state: CredentialState) -> None:
        try:
            answer = await self._decide(link.address, state)
        except (StoreUnavailable, CredentialError) as error:
            _log.error("claim from %s waits: %s", link.address, error)
            link.leave(errors.STORE_UNAVAILABLE, _RETRY_MS)
        except Exception:
            _log.exception("claim from %s", link.address)
            link.leave(errors.STORE_UNAVAILABLE, _RETRY_MS)
        else:
            link.answer(wire.encode_credential(answer))

    async def _decide(self, address: str, state: CredentialState) -> Credential:
        number = state.number
        if self.brake.closed_for_s(address):
            # Those before it are noted; who goes on shall not fill the log.
            return Credential(wire.REFUSED, number, reason="too many wrong tokens: wait a minute")
        claim = self._claims.find(state.token) if state.token else None
        if claim is None:
            self.brake.wrong(address)
            return self._refuse(address, None, number, "no such token: is it the newest one?")
        if self.repeats.closed_for_s(claim.token):
            return Credential(wire.REFUSED, number, reason="asked too often: wait a minute")
        self.repeats.wrong(claim.token)
        wanted = self._source.current()
        if wanted is None:
            raise CredentialError("the CA cannot be read")
        try:
            public_key = wanted.key_of(state.csr) if state.csr else _OUR_KEY
        except CredentialError as error:
            return self._refuse(address, claim.device, number, str(error))
        objection = claim.objection(public_key, _now_ms())
        if objection:
            return self._refuse(address, claim.device, number, objection)
        if state.csr:
            issued = await asyncio.to_thread(wanted.sign, state.csr, claim.device)
        else:
            issued = await asyncio.to_thread(wanted.issue, claim.device)
        is_noted = await asyncio.to_thread(
            self._claims.answer, claim, public_key, number, wanted, issued
        )
        if not is_noted:
            return self._refuse(address, claim.device, number, "the claim is no longer open")
        self.answered += 1
        self._note(address, "claim-answered", claim.device, serial=f"{issued.serial:x}")
        return Credential(
            wire.INSTALL, number, issued.certificate, issued.key, wanted.anchors, wanted.pin_values
        )

    def _refuse(self, address: str, device: str | None, number: int, why: str) -> Credential:
        self.refused += 1
        self._note(address, "claim-refused", device, why=why)
        return Credential(wire.REFUSED, number, reason=why)

    def _note(self, address: str, action: str, device: str | None, **detail: str) -> None:
        _log.log(
            logging.WARNING if "why" in detail else logging.INFO,
            "%s: device %s at %s %s", action, device or "unknown", address, detail,
        )  # fmt: skip
        if self._audit is not None:
            self._audit.note(address, action, device, dict(detail))


class EnrolLink:
    """LinkHandler of one device that asks."""

    def __init__(self, owner: Enrolment, transport: Transport):
        self.address = transport.address[0]
        self._owner = owner
        self._transport: Transport | None = transport
        self.has_asked = False
        self._session = AcceptorSession(os.urandom, max_message=_MAX_MESSAGE, wall_ms=port.unix_ms)
        self._session.open_link(port.ticks(), False)
        self._deadline = asyncio.get_running_loop().call_later(DEADLINE_S, self.end)

    def receive_data(self, data: bytes) -> None:
        """See LinkHandler."""
        now = port.ticks()
        self._session.receive_data(data, now)
        for event in self._session.take_events():
            if isinstance(event, HelloReceived):
                self._hello(event.hello, now)
            elif isinstance(event, events.Received):
                self._received(event)
            elif isinstance(event, events.Closed):
                self._flush()
                self.end()
        self._flush()

    def link_lost(self, error: FleetError | None) -> None:
        """See LinkHandler."""
        self._transport = None
        self.end()

    def answer(self, body: bytes) -> None:
        """Send the answer; the device ends the session."""
        if self._transport is not None:
            self._session.send(COMMANDS, CREDENTIAL, body)
            self._flush()

    def leave(self, reason: int, retry_after_ms: int = 0) -> None:
        """End the session without an answer."""
        if self._transport is not None:
            self._session.bye(port.ticks(), reason, retry_after_ms)
            self._flush()

    def end(self) -> None:
        """Let go of the link; harmless when it is gone."""
        self._deadline.cancel()
        self._owner.forget(self)
        transport = self._transport
        self._transport = None
        if transport is not None:
            transport.close()

    def _hello(self, hello: Hello, now: int) -> None:
        closed_s = self._owner.brake.closed_for_s(self.address)
        if closed_s:
            self._session.refuse(
                errors.OVERLOADED, int(closed_s * 1000), "too many wrong tokens from your address"
            )
            self._flush()
            self.end()
            return
        welcome = Welcome()
        welcome.session_id = os.urandom(8)
        welcome.capabilities = CAN_ROTATE | CAN_MAKE_KEY
        self._session.welcome(welcome, hello, {}, now)

    def _received(self, event: events.Received) -> None:
        try:
            if not event.seq or event.kind != CREDENTIAL_STATE or self.has_asked:
                raise ProtocolError("this port takes one request")
            state = wire.decode_credential_state(event.payload)
            if state.state != wire.REQUESTED:
                raise ProtocolError("this port takes one request")
        except ProtocolError as error:
            self.leave(error.reason)
            return
        self.has_asked = True
        self._owner.ask(self, state)

    def _flush(self) -> None:
        now = port.ticks()
        while self._transport is not None and (chunks := self._session.data_to_send(now)):
            for chunk in chunks:
                self._transport.send(chunk)


def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
