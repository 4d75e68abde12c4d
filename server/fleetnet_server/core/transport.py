"""What core wants of a link, and what a listener hands the link's bytes to."""

from collections.abc import Callable
from typing import Protocol

from fleetnet.errors import FleetError

# Every kind of link that a listener makes. Metrics show each, also before the first came.
LINKS = ("tls", "dtls")


class Transport(Protocol):
    """One authenticated link to a client.

    Attributes:
        kind: one of LINKS.
        datagram: True: a datagram each, some are lost (DTLS); False: a stream (TLS).
        address: (host, port) of the client. Admission counts by the host: where many clients
            have the same one, they share what one address may have.
        psk_identity: by which the client named itself; None: it showed a certificate.
    """

    kind: str
    datagram: bool
    address: tuple[str, int]

    @property
    def psk_identity(self) -> bytes | None: ...

    def send(self, data: bytes) -> None:
        """Send a piece of the stream, or one datagram's payload; never blocks."""

    def close(self, linger_s: float = 1.0) -> None:
        """Flush, say close_notify, and end after ``linger_s`` at the latest."""

    def abort(self) -> None:
        """End at once."""


class LinkHandler(Protocol):
    """What core attaches to a link."""

    def receive_data(self, data: bytes) -> None:
        """Take a piece of the stream, or one datagram's payload."""

    def link_lost(self, error: FleetError | None) -> None:
        """The link is gone; called once, never after the handler closed it itself."""


class _Nobody:
    """The handler of a link that was closed at once."""

    def receive_data(self, data: bytes) -> None:
        """See LinkHandler."""

    def link_lost(self, error: FleetError | None) -> None:
        """See LinkHandler."""


NOBODY: LinkHandler = _Nobody()

# Called with the transport and the client's leaf certificate (DER); b"" with a shared key.
Accept = Callable[[Transport, bytes], LinkHandler]
# Called with kind, address and the reason of a handshake that failed.
Refused = Callable[[str, tuple[str, int], FleetError], None]
