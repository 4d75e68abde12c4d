"""fleetnet: the secure wire between MicroPython fleets and their back-end.

This package is the part that both ends share. The names below load on first use, so
that a device pays only for what it touches.

Memory: importing this file alone allocates a few strings.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fleetnet.errors import (
        BlobRefused,
        CertificateExpired,
        CertificateNotYetValid,
        CredentialError,
        FleetError,
        HandshakeTimeout,
        LimitError,
        LinkClosed,
        LinkError,
        ProtocolError,
        Rejected,
        TrustError,
        Unreachable,
        Unsupported,
        WrongCA,
        WrongName,
        WrongPin,
    )
    from fleetnet.session import Session
    from fleetnet.streams import (
        client_context,
        open_connection,
        open_dtls,
        serve_dtls,
        server_context,
        start_server,
    )
    from fleetnet.wrapping import CERT_NONE, CERT_OPTIONAL, CERT_REQUIRED, wrap_socket

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # MicroPython asks here for submodules, too, before it looks for their files.
    if name[0] != "_":
        try:
            if not name[0].isupper():  # FAT would find session.py for Session
                return __import__("fleetnet." + name, None, None, (name,))
        except ImportError:
            pass
        from fleetnet.names import find

        return find(name)
    raise AttributeError("module 'fleetnet' has no attribute %r" % name)
