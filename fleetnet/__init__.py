"""fleetnet: the secure wire between MicroPython fleets and their back-end.

This package is the part that both ends share. The names below load on first use, so
that a device pays only for what it touches.

Memory: importing this file alone allocates two small dicts.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fleetnet.errors import (
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
    )
    from fleetnet.session import Session
    from fleetnet.streams import (
        client_context,
        open_connection,
        open_dtls,
        server_context,
        start_server,
    )

__version__ = "0.1.0"

_HOME = {
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
    "client_context": "streams",
    "open_connection": "streams",
    "open_dtls": "streams",
    "server_context": "streams",
    "start_server": "streams",
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
