"""fleetnet: the secure wire between MicroPython fleets and their back-end.

This package is the part that both ends share. The names below load on first use, so
that a device pays only for what it touches.

Memory: importing this file alone allocates two small dicts.
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

_HOME = {
    "CERT_NONE": "wrapping",
    "CERT_OPTIONAL": "wrapping",
    "CERT_REQUIRED": "wrapping",
    "BlobRefused": "errors",
    "CertificateExpired": "errors",
    "CertificateNotYetValid": "errors",
    "CredentialError": "errors",
    "FleetError": "errors",
    "HandshakeTimeout": "errors",
    "LimitError": "errors",
    "LinkClosed": "errors",
    "LinkError": "errors",
    "ProtocolError": "errors",
    "Rejected": "errors",
    "Session": "session",
    "TrustError": "errors",
    "Unreachable": "errors",
    "Unsupported": "errors",
    "WrongCA": "errors",
    "WrongName": "errors",
    "WrongPin": "errors",
    "client_context": "streams",
    "open_connection": "streams",
    "open_dtls": "streams",
    "serve_dtls": "streams",
    "server_context": "streams",
    "start_server": "streams",
    "wrap_socket": "wrapping",
}


def __getattr__(name: str) -> object:
    # MicroPython asks here for submodules, too, before it looks for their files.
    if name[0] != "_":
        home = _HOME.get(name, name)
        try:
            module = __import__("fleetnet." + home, None, None, (name,))
            return module if home == name else getattr(module, name)
        except ImportError as error:
            if home != name:
                raise
            raise AttributeError("fleetnet has no %r (%s)" % (name, error))
    raise AttributeError("module 'fleetnet' has no attribute %r" % name)
