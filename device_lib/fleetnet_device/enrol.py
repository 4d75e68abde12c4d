"""The first identity of a device whose bundle holds a one-time token in the place of one.

config.json: {"claim": {"token": "...", "port": 8885}, "pins": [...], ...}, which
`fleetnet device claim NAME` writes.

The device knows the server by its pins, makes a key, keeps it on the flash, and asks for a
certificate over TLS on the claim's port. The answer's time sets the clock, so that the next
connection, to the server's usual ports, verifies everything. Nothing of the key leaves the
device. Where the board was set up without p256 and csr the server makes the key.

Source: docs/protocol.md section 14.6.
"""

import gc

from fleetnet.credential import (
    INSTALL,
    REFUSED,
    REQUESTED,
    Credential,
    CredentialState,
    decode_credential,
    encode_credential_state,
)
from fleetnet.endpoint import Endpoint, open_link
from fleetnet.errors import CredentialError, HandshakeTimeout, Rejected
from fleetnet.events import Opened, Received
from fleetnet.frame import COMMANDS, CREDENTIAL, CREDENTIAL_STATE, OPTIONAL
from fleetnet.handshake import CAN_MAKE_KEY, CAN_ROTATE, Hello
from fleetnet.ports import port
from fleetnet.session import Session
from fleetnet_device.identity import check
from fleetnet_device.identity_slots import Identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fleetnet_device.core import DeviceCore
    from fleetnet_device.credentials import Server

# The first identity; the bundle's, which is not there, would be 0.
_NUMBER = 1

# For the server to sign, behind connecting and its greeting.
_ANSWER_MS = 30_000


async def run(device: "DeviceCore", server: "Server") -> None:
    """Fetch the identity of a claim, keep it, and put it in force.

    Raises:
        CredentialError: the claim cannot be used as it stands.
        Rejected: the server does not grant it.
        Unreachable, HandshakeTimeout, LinkClosed, WrongPin: as open_link; try again.
        OSError: the flash failed; nothing was asked for.
    """
    credentials = device.credentials
    claim = credentials.claim or {}
    _check(claim, bool(credentials.pins), device.flash)
    try:
        csr = await device.part("identity").slots.request(_NUMBER, device.name)
    except ImportError:
        csr = b""  # set up without p256 and csr
    gc.collect()
    timeout_ms = device.connection.connect_ms
    link = await open_link(
        server.host,
        claim["port"],
        port.client_context(None, pins=credentials.pins),
        server.server_hostname,
        timeout_ms,
    )
    state = CredentialState(REQUESTED, _NUMBER, csr, "", claim["token"])
    request = _Request(device, encode_credential_state(state))
    endpoint = request.endpoint = Endpoint(request.session, link, request.take, timeout_ms)
    try:
        await port.wait_for_ms(endpoint.run(), timeout_ms + _ANSWER_MS)
    except Exception:
        # BYE may be lost, or crossed by the server's: what came before counts.
        if request.answer is None:
            raise
    _install(device, request.answer)
    gc.collect()  # the next connection needs as much again


def _check(claim: "dict[str, Any]", has_pins: bool, flash: str) -> None:
    """Raise CredentialError for a claim that cannot be made."""
    if not claim.get("token") or not claim.get("port") or not has_pins:
        raise CredentialError(
            'config.json: "claim" needs a token, a port, and "pins": '
            "`fleetnet device claim` writes them"
        )
    if not flash:
        raise CredentialError("a claim needs flash: give Device a folder, as spool= or bundle")


class _Request:
    """One session that asks once and takes one answer."""

    endpoint: "Endpoint"

    def __init__(self, device: "DeviceCore", body: bytes):
        self._device = device
        self._body = body
        self.answer: "Credential | None" = None
        self.session = Session(port.random_bytes)
        clock = device.clock
        hello = Hello()
        hello.capabilities = CAN_ROTATE | CAN_MAKE_KEY
        hello.boot = clock.boot
        hello.uptime_ms = self._greeted_ms = clock.uptime_ms()
        self.session.open_link(port.ticks(), False, hello)

    def take(self, event: object) -> None:
        """Take an event of the session."""
        self._device.progress()
        session = self.session
        if isinstance(event, Opened):
            clock = self._device.clock
            clock.learn(event.welcome.unix_ms, clock.uptime_ms() - self._greeted_ms)
            session.send(COMMANDS, CREDENTIAL_STATE, self._body)
        elif isinstance(event, Received):
            if event.kind & ~OPTIONAL == CREDENTIAL:
                self.answer = decode_credential(event.payload)
                session.bye(port.ticks())
            session.acknowledge(event.stream, event.seq, port.ticks())
        else:
            return
        self.endpoint.wake()


def _install(device: "DeviceCore", answer: "Credential | None") -> None:
    """Keep what the server answered."""
    if answer is None:
        raise HandshakeTimeout("the server ended the claim without an answer")
    if answer.action == REFUSED:
        raise Rejected("claim refused: %s" % answer.reason)
    if answer.action != INSTALL or not answer.certificate:
        raise CredentialError("the server answered the claim with something else")
    part = device.part("identity")
    key = answer.key or part.slots.read_key(_NUMBER)
    identity = Identity(
        answer.number, answer.certificate, key, answer.anchors, answer.pins, not answer.key
    )
    check(identity, device.name)
    letter = part.slots.write(identity)
    part.slots.switch(letter)
    part.begin(letter, identity)
