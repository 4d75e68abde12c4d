"""What helps against each error of fleetnet.errors; see doctor.py."""

from fleetnet.errors import (
    DISABLED,
    NO_IDENTITY,
    OVERLOADED,
    REVOKED,
    SHUTDOWN,
    STORE_UNAVAILABLE,
    UNKNOWN_DEVICE,
    VERSION,
    CertificateExpired,
    CertificateNotYetValid,
    FleetError,
    HandshakeTimeout,
    LimitError,
    LinkError,
    ProtocolError,
    Rejected,
    TrustError,
    Unreachable,
    WrongCA,
    WrongName,
    WrongPin,
)

# The first class that fits counts.
_ERRORS = (
    (WrongCA, "is this the right server? Then make the bundle again there: ca.der is another's"),
    (CertificateExpired, "is this clock right? Then renew the server's: `fleetnet cert server`"),
    (CertificateNotYetValid, 'set the clock, or have "pins" or "ntp" in config.json'),
    (
        WrongName,
        "server_hostname in config.json has to be a name of the server's certificate: "
        "`fleetnet cert server --host NAME`",
    ),
    (WrongPin, "is this the right server? Then make the bundle again there: its key is another"),
    (TrustError, "what answers there is no server of this fleet"),
    (Unreachable, "is the server running, are address and port right, do firewalls let it pass?"),
    (HandshakeTimeout, "something accepts and says nothing: is it fleetnet's port, not a proxy?"),
    (
        LinkError,
        "the other end hung up: is it fleetnet's port? If so its log (`fleetnet audit`) says why",
    ),
    (ProtocolError, "what answers there is not fleetnet, or another version: install the same"),
    (LimitError, "too little memory: connect before the program fills the heap (docs/memory.md)"),
    (FleetError, ""),
)

_LOG = "the server's log says why (`fleetnet audit --device %s`)"
_NEW = "give it a new bundle (`fleetnet device add %s --again`)"

_REASONS = {
    UNKNOWN_DEVICE: "is this the right server? Then register it there: `fleetnet device add %s`",
    DISABLED: "`fleetnet device enable %s` on the server",
    REVOKED: _NEW,
    NO_IDENTITY: "the certificate was not made for a device: " + _NEW,
    OVERLOADED: "try again later",
    SHUTDOWN: "try again when the server is up",
    STORE_UNAVAILABLE: "the server's disk is full or damaged: its log says more",
    VERSION: "install the library and the server of the same version",
}

_ALERTS = {
    42: _NEW,
    44: _NEW,
    45: "its certificate has expired by the server's clock: " + _NEW,
    48: "the server trusts another CA: make the bundle again there",
    115: "the server does not know this PSK: `fleetnet psk add %s`",
    116: "the bundle lacks cert.der and key.der",
}


def for_error(error: Exception, name: str) -> str:
    """Return what helps; "" where the error's own text says it."""
    for kind, remedy in _ERRORS:
        if isinstance(error, kind):
            return remedy
    return _LOG % name


def for_rejected(error: Rejected, name: str) -> str:
    """Return what helps against a refusal, by reason code or TLS alert."""
    if error.reason is not None:
        remedy = _REASONS.get(error.reason, _LOG)
    else:
        remedy = _ALERTS.get(error.alert or 0, _LOG)
    return remedy % name if "%s" in remedy else remedy
