"""The DTLS listener: associations of ports/cpython_dtls_server.py as core's transports."""

import structlog

from fleetnet.errors import FleetError
from fleetnet.ports.cpython_dtls_server import DtlsSocket
from fleetnet.ports.openssl_compact import Session
from fleetnet.ports.openssl_context import Context
from fleetnet.ports.openssl_dtls_state import Address, Association
from fleetnet_server.core.transport import Accept, LinkHandler, Refused
from fleetnet_server.net.admission import Admission, Door

_log = structlog.get_logger("fleetnet.dtls")


def _tell_fallback(reason: str) -> None:
    _log.warning("DTLS sessions keep OpenSSL's objects, 80 KB each", reason=reason)


class DtlsLink:
    """The Transport of one association."""

    __slots__ = ("_association", "_listener", "address", "handler")
    kind = "dtls"
    datagram = True

    def __init__(self, listener: "DtlsListener", association: Association):
        self._listener = listener
        self._association: Association | None = association
        self.address = (association.address[0], association.address[1])
        self.handler: LinkHandler | None = None

    @property
    def psk_identity(self) -> bytes | None:
        """By which the client named itself; None: it showed a certificate."""
        return self._association.ssl.psk_identity if self._association is not None else None

    def send(self, data: bytes) -> None:
        """See Transport.send; a datagram that finds no room is lost, as on the wire."""
        if self._association is not None:
            try:
                self._listener.acceptor.send(self._association, data)
            except FleetError as error:
                # The session that sends is in the middle of its work.
                self._listener.soon(self._listener.acceptor.lose, self._association, error)

    def close(self, linger_s: float = 1.0) -> None:
        """See Transport.close. UDP has nothing to linger for."""
        association = self._association
        self._association = None
        self.handler = None
        if association is not None:
            self._listener.acceptor.close(association)

    def abort(self) -> None:
        """See Transport.abort; close_notify costs nothing here."""
        self.close()

    def lost(self, error: FleetError | None) -> None:
        """The association ended by itself."""
        handler = self.handler
        self._association = None
        self.handler = None
        if handler is not None:
            handler.link_lost(error)


class DtlsListener(DtlsSocket):
    """Accepts DTLS associations and hands the authenticated ones to ``accept``.

    Args, Attributes: see TlsListener. The door is asked when a cookie has proved the address.
    """

    def __init__(
        self,
        context: Context,
        accept: Accept,
        refused: Refused,
        *,
        handshake_timeout_s: float = 10.0,
        max_handshakes: int = 1000,
        admission: Admission | None = None,
        cookie_key: bytes = b"",
        compact: bool = True,
    ):
        super().__init__(
            context,
            handshake_timeout_s=handshake_timeout_s,
            max_handshakes=max_handshakes,
            cookie_key=cookie_key,
            compact=compact,
        )
        self.soon = self._loop.call_soon
        self.acceptor.on_fallback = _tell_fallback
        self._accept = accept
        self._report = refused
        self.door = Door(max_handshakes, admission)
        self.acceptor.admit = self._admit
        self.acceptor.settled = self.door.leave

    def use_timeout(self, handshake_timeout_s: float) -> None:
        """Give new handshakes so long."""
        self.acceptor.handshake_timeout_s = handshake_timeout_s

    def _admit(self, address: Address) -> bool:
        return self.door.enter(address, address[0], lambda: self.acceptor.abandon(address))

    def on_open(self, association: Association) -> None:
        link = association.owner = DtlsLink(self, association)
        if not self.acceptor.is_accepting:
            link.close()
            return
        certificate = association.ssl.peer_certificate() or b""
        try:
            handler = self._accept(link, certificate)
        except BaseException:
            link.close()  # nobody would ever end it
            raise
        if link._association is not None:
            link.handler = handler
        if isinstance(association.ssl, Session):
            association.ssl.forget_certificate()  # core holds it where it matters

    def on_data(self, association: Association, payload: bytes) -> None:
        link: DtlsLink = association.owner
        if not payload:
            link_handler = link.handler
            link.close()
            if link_handler is not None:
                link_handler.link_lost(None)
        elif link.handler is not None:
            link.handler.receive_data(payload)

    def on_lost(self, association: Association, error: FleetError | None) -> None:
        if association.owner is not None:
            association.owner.lost(error)

    def on_refused(self, address: Address, error: FleetError) -> None:
        self._report("dtls", (address[0], address[1]), error)
