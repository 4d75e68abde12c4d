"""Another identity while the device runs, and back to the old one if the new one does not serve.

The back-end sends a certificate (CREDENTIAL). The device writes it to the flash, asks the server
on a second connection whether it would be let in with it, names it on the flash, and begins its
next session with it. The old identity stays until the back-end has seen the new one (RETIRE).
Loaded by the first CREDENTIAL, and at the start while there is an identity to fall back to.

Source: docs/protocol.md section 14.
"""

import gc

from fleetnet.credential import (
    FAILED,
    REFUSED,
    REQUEST,
    REQUESTED,
    RETIRE,
    RETIRED,
    decode_credential,
)
from fleetnet.endpoint import Endpoint, open_link
from fleetnet.errors import NORMAL, CredentialError, LimitError, LinkError, Rejected
from fleetnet.events import Opened
from fleetnet.frame import CREDENTIAL
from fleetnet.handshake import Hello
from fleetnet.ports import port
from fleetnet.session import Session
from fleetnet_device.identity import check, text_of
from fleetnet_device.identity_slots import Identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fleetnet.credential import Credential
    from fleetnet.events import Received
    from fleetnet_device.core import DeviceCore

# A probe that the network broke is repeated after these pauses.
PAUSES_MS = (2_000, 8_000)


class Part:
    """Changes the identity of one device."""

    # HELLO carries CAN_ROTATE without this module, which waits for the first CREDENTIAL.
    capability = 0
    kinds = (CREDENTIAL,)

    def __init__(self, device: "DeviceCore"):
        self._device = device
        self._identity = device.part("identity")
        self._wanted: "Credential | None" = None
        self._is_working = False

    # -- what the device calls -------------------------------------------------------

    def receive(self, event: "Received") -> None:
        """Take a CREDENTIAL. Raises ProtocolError when it is none."""
        credential = decode_credential(event.payload)
        if credential.action == RETIRE:
            self._retire(credential.number)
        elif credential.action == REFUSED:
            self._device.report(CredentialError(credential.reason), "rotation")
        else:
            self._wanted = credential  # the newest wins
            if not self._is_working:
                self._is_working = True
                self._device.spawn(self._work())

    # -- another identity --------------------------------------------------------------

    async def _work(self) -> None:
        try:
            while self._wanted is not None:
                credential = self._wanted
                self._wanted = None
                try:
                    if credential.action == REQUEST:
                        await self._request(credential.number)
                    else:
                        await self._install(credential)
                except Exception as error:
                    self._device.report(error, "rotation")
                    self._identity.say(FAILED, credential.number, text_of(error))
        finally:
            self._is_working = False

    async def _request(self, number: int) -> None:
        self._check_flash()
        csr = await self._identity.slots.request(number, self._device.name)
        self._identity.say(REQUESTED, number, "", csr)

    async def _install(self, credential: "Credential") -> None:
        """Write, probe, and begin a session with it."""
        self._check_flash()
        identity = self._complete(credential)
        if self._is_in_force(identity):
            return  # sent again: the session that began with it has answered already
        gc.collect()
        try:
            check(identity, self._device.name)
        except MemoryError:
            pass  # the trial will tell
        slots = self._identity.slots
        letter = slots.write(identity)
        try:
            is_probed = await self._is_probed(identity)
            if is_probed:
                slots.switch(letter)
        except Exception:
            self._forget(letter)
            raise
        # What came meanwhile was for a device that had the old one.
        self._wanted = None
        self._identity.begin(letter, identity, not is_probed)

    def _forget(self, letter: str) -> None:
        try:
            self._identity.slots.remove(letter)
        except OSError as error:
            self._device.report(error, "rotation")

    def _complete(self, credential: "Credential") -> Identity:
        """Return the identity that CREDENTIAL means, with its pair."""
        certificate, key, is_own = credential.certificate, credential.key, False
        if not certificate:
            now = self._identity.in_force()
            certificate, key, is_own = _load(now.certificate), _load(now.key), now.is_own
        elif not key:
            key, is_own = self._identity.slots.read_key(credential.number), True
            if not key:
                raise CredentialError("no key was made here for identity %d" % credential.number)
        return Identity(
            credential.number, certificate, key, credential.anchors, credential.pins, is_own
        )

    def _is_in_force(self, identity: Identity) -> bool:
        now: Identity = self._identity.in_force()
        return (
            now.number == identity.number
            and now.certificate == identity.certificate
            and now.anchors == identity.anchors
            and now.pins == identity.pins
        )

    async def _is_probed(self, identity: Identity) -> bool:
        """Return True when the server would let us in; False: no memory for a second connection.

        Raises:
            Whatever the server, or the check of its certificate, has against it.
        """
        tries = len(PAUSES_MS)
        for attempt in range(tries + 1):
            try:
                await self._probe(identity)
                return True
            except (MemoryError, LimitError):
                return False
            except LinkError:
                if attempt == tries:
                    raise
            await port.sleep_ms(PAUSES_MS[attempt])
        return False

    async def _probe(self, identity: Identity) -> None:
        """Ask on a connection of its own; HELLO is all that is sent."""
        device = self._device
        connection = device.connection
        server = device.credentials.servers[connection.server]
        datagram = connection.datagram
        gc.collect()
        device.progress()  # the cryptography to come stops the loop for seconds
        pinned = not device.clock.own_ms() and bool(identity.pins)
        link = await open_link(
            server.host,
            server.dtls_port if datagram else server.tls_port,
            identity.context(datagram, pinned),
            server.server_hostname,
            connection.connect_ms,
        )
        hello = Hello()
        hello.probe = 1
        hello.identity = identity.number
        hello.boot = device.clock.boot
        session = Session(port.random_bytes)
        session.open_link(port.ticks(), link.datagram, hello)

        def on_event(event: object) -> None:
            if isinstance(event, Opened):
                session.bye(port.ticks())  # it does not know probes: yes all the same

        try:
            await Endpoint(session, link, on_event, connection.connect_ms).run()
        except Rejected as error:
            if error.reason != NORMAL:
                raise

    def _retire(self, number: int) -> None:
        """The back-end has seen ``number``: the older identities are of no use any more."""
        identity = self._identity
        if number != identity.number or identity.is_stale or not identity.slots.current:
            identity.say(FAILED, number, "identity %d is in force" % identity.number)
            return
        try:
            identity.slots.retire()
        except OSError as error:
            identity.say(FAILED, number, text_of(error))
        else:
            identity.say(RETIRED, number)

    def _check_flash(self) -> None:
        if not self._device.flash:
            raise CredentialError("no flash: give Device a folder, as spool= or as its bundle")


def _load(source: "Any") -> bytes:
    """Return what a bundle names by path, or holds."""
    if isinstance(source, str):
        with open(source, "rb") as file:
            return file.read()
    if not source:
        raise CredentialError("there is no certificate in force to keep")
    return bytes(source)
