"""How sessions and handshakes end, in words; a device imports this with its first refusal."""

from fleetnet.errors import (
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
    LinkClosed,
    ProtocolError,
    Rejected,
)
from fleetnet.events import Closed, Refused

REASONS = {
    NORMAL: "normal end",
    SHUTDOWN: "server is shutting down",
    REPLACED: "a newer session of this device took over",
    IDLE: "nothing was heard in time",
    PROTOCOL: "protocol error",
    VERSION: "protocol version not supported",
    UNKNOWN_DEVICE: "device is not registered",
    DISABLED: "device is disabled",
    REVOKED: "certificate is revoked",
    NO_IDENTITY: "certificate names no fleetnet device",
    OVERLOADED: "server is overloaded",
    LIMIT: "a limit was exceeded",
    STORE_UNAVAILABLE: "store is unavailable",
    UNKNOWN_KIND: "unknown critical frame kind",
    GOING_AWAY: "peer is going away",
}


def reason_text(code: int) -> str:
    """Name a reason code; unknown codes (a newer peer's) keep their number."""
    return REASONS.get(code) or "reason %d" % code


# BYE reasons that mean "we do not want this device", as REFUSE would.
_REFUSALS = (UNKNOWN_DEVICE, DISABLED, REVOKED, NO_IDENTITY)


def raise_ending(event: "Closed | Refused", what: str) -> None:
    """Raise what a session's end was: Rejected, LinkClosed or ProtocolError; or nothing.

    Args:
        what: "HOST:PORT" of the peer.
    """
    ending = event.ending
    text = reason_text(ending.reason)
    if ending.detail:
        text = "%s: %s" % (text, ending.detail)
    by_peer = isinstance(event, Closed) and event.by_peer
    if isinstance(event, Refused) or (by_peer and ending.reason in _REFUSALS):
        raise Rejected(
            "rejected by %s: %s" % (what, text), ending.reason, None, ending.retry_after_ms
        )
    if by_peer:
        raise LinkClosed("%s ended the session: %s" % (what, text))
    if ending.reason == IDLE:
        raise LinkClosed("%s fell silent: %s" % (what, ending.detail))
    if ending.reason and ending.detail:
        raise ProtocolError("%s: %s" % (what, ending.detail), ending.reason)


# RFC 8446 section 6 and RFC 5246 section 7.2: the alerts that a refused peer sees.
ALERTS = {
    40: "handshake failure",
    42: "bad certificate",
    43: "unsupported certificate",
    44: "certificate revoked",
    45: "certificate expired",
    46: "certificate unknown",
    47: "illegal parameter",
    48: "unknown CA",
    49: "access denied",
    51: "decrypt error",
    70: "protocol version",
    71: "insufficient security",
    80: "internal error",
    112: "unrecognized name",
    115: "unknown PSK identity",
    116: "certificate required",
}


def rejected_by_alert(alert: "int | None") -> Rejected:
    """Make the error for a fatal alert that the server sent during or after the handshake.

    ``alert`` None: TLS 1.3 on mbedTLS hides the number.
    """
    if alert is None:
        return Rejected("rejected, reason not given: see the server's log for this device")
    name = ALERTS.get(alert) or "alert %d" % alert
    return Rejected("rejected by the server: %s (TLS alert %d)" % (name, alert), alert=alert)
