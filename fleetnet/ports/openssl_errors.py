"""What OpenSSL's numbers mean, as the errors of fleetnet.

Sources: openssl/x509_vfy.h (verify results), openssl/ssl.h (SSL_AD_REASON_OFFSET),
RFC 8446 section 6.
"""

from cryptography.hazmat.bindings.openssl.binding import Binding

from fleetnet.errors import (
    CertificateExpired,
    CertificateNotYetValid,
    FleetError,
    LinkClosed,
    Rejected,
    TrustError,
    WrongCA,
    WrongName,
)
from fleetnet.reasons import ALERTS, rejected_by_alert

_lib = Binding.lib
_ffi = Binding.ffi

_ALERT_OFFSET = 1000  # SSL_AD_REASON_OFFSET: reason of an alert that was received
_LIB_SHIFT = 23
_LIB_SSL = 20

_OK = 0
_NOT_YET_VALID = 9
_EXPIRED = 10
_NAMES = (62, 64)  # HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH
_PURPOSE = 26


def clear_errors() -> None:
    """Empty this thread's queue, so that the next failure is not blamed on an old one."""
    _lib.ERR_clear_error()


def take_errors() -> list[tuple[int, str]]:
    """Return and remove (reason, text) of this thread's queued SSL errors, oldest first."""
    found = []
    while code := _lib.ERR_get_error():
        pointer = _lib.ERR_reason_error_string(code)
        text = _ffi.string(pointer).decode() if pointer != _ffi.NULL else f"error {code:#x}"
        library = (code >> _LIB_SHIFT) & 0xFF
        found.append((_lib.ERR_GET_REASON(code) if library == _LIB_SSL else 0, text))
    return found


def map_failure(
    verify_result: int, errors: list[tuple[int, str]], peer: str, is_server: bool = False
) -> FleetError:
    """Return the error for a handshake or read that failed.

    Args:
        verify_result: SSL_get_verify_result's number; 0 is fine.
        errors: what take_errors returned.
        peer: "HOST:PORT" or another name, for the message.
        is_server: this side is the server, and the peer a device.
    """
    for reason, _ in errors:
        if _ALERT_OFFSET < reason < _ALERT_OFFSET + 256:
            alert = reason - _ALERT_OFFSET
            return _rejected_by_device(alert) if is_server else rejected_by_alert(alert)
    texts = ", ".join(text for _, text in errors) or "no reason given"
    if verify_result != _OK and "certificate verify failed" in texts:
        return map_verify(verify_result, peer)
    if "did not return a certificate" in texts:
        return TrustError(f"{peer}: sent no certificate: give it one that our CA has issued")
    return LinkClosed(f"{peer}: handshake or connection failed: {texts}")


def _rejected_by_device(alert: int) -> Rejected:
    name = ALERTS.get(alert) or f"alert {alert}"
    return Rejected(f"the device rejected this server: {name} (TLS alert {alert})", alert=alert)


def map_verify(result: int, peer: str) -> FleetError:
    """Return the error for a certificate that did not verify."""
    if result == _NOT_YET_VALID:
        return CertificateNotYetValid(
            f"{peer}: the certificate begins in the future: is this machine's clock set?"
        )
    if result == _EXPIRED:
        return CertificateExpired(f"{peer}: the certificate has expired, or the clock is ahead")
    if result in _NAMES:
        return WrongName(f"{peer}: the certificate is for another name: check server_hostname")
    if result == _PURPOSE:
        return TrustError(
            f"{peer}: the certificate is not meant for this use: its keyUsage or extendedKeyUsage"
        )
    text = _ffi.string(_lib.X509_verify_cert_error_string(result)).decode()
    return WrongCA(f"{peer}: the certificate does not lead to our trust anchor ({text})")
