"""The errors of fleetnet: one family, whose members a device program can act on.

FleetError
  LinkError               the way is broken; trying again may help
    Unreachable           nobody answers there, or the network is down
    HandshakeTimeout      somebody may be there, but the secure handshake did not end in time
    LinkClosed            an open link ended without BYE
  TrustError              the server is not to be trusted; nothing was sent to it
    WrongCA               its chain does not lead to one of our anchors
    CertificateExpired    its certificate has ended (or our clock is far ahead)
    CertificateNotYetValid  it begins in the future: almost always our clock is unset
    WrongName             it is somebody's certificate, but not this server's
    WrongPin              its public key is none of those that were pinned
  Rejected                the server does not accept us; see ``reason`` and ``alert``
  ProtocolError           the peer broke the rules of docs/protocol.md; see ``reason``
  BlobRefused             the server will not keep a blob; see ``reason``
  LimitError              a ceiling of limits.py was met
  CredentialError         a key, a certificate or an anchor cannot be used
  Unsupported             this interpreter lacks the feature

Single inheritance only, and no attributes on built-in exceptions: MicroPython can do
neither. Errors carry what happened first, what to do next behind it.
"""

from fleetnet.codes import (
    DISABLED,
    GOING_AWAY,
    IDLE,
    LIMIT,
    NO_IDENTITY,
    NORMAL,
    OVERLOADED,
    PROTOCOL,
    REPLACED,
    REVOKED,
    SHUTDOWN,
    STORE_UNAVAILABLE,
    UNKNOWN_DEVICE,
    UNKNOWN_KIND,
    VERSION,
)

__all__ = (
    "DISABLED",
    "GOING_AWAY",
    "IDLE",
    "LIMIT",
    "NORMAL",
    "NO_IDENTITY",
    "OVERLOADED",
    "PROTOCOL",
    "REPLACED",
    "REVOKED",
    "SHUTDOWN",
    "STORE_UNAVAILABLE",
    "UNKNOWN_DEVICE",
    "UNKNOWN_KIND",
    "VERSION",
    "BlobRefused",
    "CertificateExpired",
    "CertificateNotYetValid",
    "CredentialError",
    "FleetError",
    "HandshakeTimeout",
    "LimitError",
    "LinkClosed",
    "LinkError",
    "ProtocolError",
    "Rejected",
    "TrustError",
    "Unreachable",
    "Unsupported",
    "WrongCA",
    "WrongName",
    "WrongPin",
)

TYPE_CHECKING = False


class FleetError(Exception):
    """Base of everything fleetnet raises on purpose."""


class LinkError(FleetError):
    """The way to the peer is broken; trying again may help."""


class Unreachable(LinkError):
    """No route, nobody listening, or the name does not resolve."""


class HandshakeTimeout(LinkError):
    """The TLS, DTLS or fleetnet handshake did not end within its deadline."""


class LinkClosed(LinkError):
    """An open link ended without BYE: reset, end of file, or silence."""


class TrustError(FleetError):
    """The server could not be verified. No application byte was sent.

    Attributes:
        certificate: at a server, a device's certificate (DER) that our CA signed and whose
            dates are not now; b"" for everything else.
    """

    certificate = b""


class WrongCA(TrustError):
    """The server's chain does not lead to a configured trust anchor."""


class CertificateExpired(TrustError):
    """The server's certificate is past its end date."""


class CertificateNotYetValid(TrustError):
    """The server's certificate begins in the future; check this device's clock."""


class WrongName(TrustError):
    """The server's certificate carries another name than the one asked for."""


class WrongPin(TrustError):
    """The server's public key is none of the pinned ones."""


class Rejected(FleetError):
    """The server does not accept this device.

    Attributes:
        reason: reason code of REFUSE or BYE (docs/protocol.md section 9), or None when
            the refusal came from the TLS layer.
        alert: TLS alert description number (RFC 8446 section 6), or None when the peer
            or this interpreter does not disclose it.
        retry_after_ms: how long the server asks us to stay away; 0 when it did not say.
    """

    def __init__(
        self,
        message: str,
        reason: "int | None" = None,
        alert: "int | None" = None,
        retry_after_ms: int = 0,
    ):
        super().__init__(message)
        self.reason = reason
        self.alert = alert
        self.retry_after_ms = retry_after_ms


class ProtocolError(FleetError):
    """The peer broke the protocol.

    Attributes:
        reason: the code that goes into our BYE (PROTOCOL, LIMIT, VERSION, UNKNOWN_KIND).
    """

    def __init__(self, message: str, reason: int = PROTOCOL):
        super().__init__(message)
        self.reason = reason


class BlobRefused(FleetError):
    """The server will not keep this blob; sending it again does not help.

    Attributes:
        reason: of docs/protocol.md section 13.5; 0: it takes no blobs at all.
    """

    def __init__(self, message: str, reason: int = 0):
        super().__init__(message)
        self.reason = reason


class LimitError(FleetError):
    """A ceiling of limits.py was met; the message names it and its value."""


class CredentialError(FleetError):
    """A key, certificate or trust anchor cannot be used; the message says the remedy."""


class Unsupported(FleetError):
    """This interpreter or firmware lacks the feature; the message names what has it."""


if TYPE_CHECKING:
    pass
else:

    def __getattr__(name):
        # A compiled file holds no codes; a program that asks for one gets it from there.
        from fleetnet import codes

        return getattr(codes, name)
