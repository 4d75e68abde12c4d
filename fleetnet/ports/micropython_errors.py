"""What the errors of MicroPython's tls module and of its sockets mean.

Only the numbers count: the text of an OSError differs between builds. ValueError carries the
verdict on a certificate as text of mbedTLS's own. Loaded by the first error.

Sources: mbedtls/ssl.h, mbedtls/net_sockets.h, extmod/modtls_mbedtls.c.
"""

import errno
import time

from fleetnet.errors import (
    CertificateExpired,
    CertificateNotYetValid,
    CredentialError,
    FleetError,
    HandshakeTimeout,
    LimitError,
    LinkClosed,
    TrustError,
    Unreachable,
    Unsupported,
    WrongCA,
    WrongName,
)
from fleetnet.ports.micropython_channel import Again
from fleetnet.reasons import rejected_by_alert

_SSL_TIMEOUT = 26624
_HELLO_VERIFY_REQUIRED = 27264
_CONN_EOF = 29312
_BAD_CERTIFICATE = 31232
_NO_CLIENT_CERTIFICATE = 29824
_NO_CA_CHAIN = 30336
_FATAL_ALERT = 30592
_ALLOC_FAILED = 32512

_UNREACHABLE = (101, 110, 111, 113, 115)  # ENETUNREACH has no name in MicroPython's errno


def map_error(error, recorder, what):
    """Return the fleetnet error for what the tls module or a socket raised.

    Args:
        recorder: the connection's Recorder, or None on a plain socket.
        what: "HOST:PORT", for the message.
    """
    if isinstance(error, FleetError):
        return error
    if recorder is not None and recorder.verdict is not None:
        return recorder.verdict
    if isinstance(error, ValueError):
        return _map_verify(str(error.args[0]) if error.args else "", what)
    if isinstance(error, TypeError):  # client_id is no argument of its wrap_socket
        return Unsupported("this firmware has no DTLS server: it came with MicroPython 1.26")
    if isinstance(error, MemoryError):
        return LimitError("not enough heap for a connection to %s: gc.collect() first" % what)
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    number = abs(number)  # 1.25 raises OSError(-104) where others raise 104
    if number == _FATAL_ALERT or (recorder is not None and recorder.alert is not None):
        return rejected_by_alert(recorder.alert if recorder is not None else None)
    if number == _HELLO_VERIFY_REQUIRED:
        return Again("%s: cookie sent" % what)
    if number == _BAD_CERTIFICATE:
        # What mbedTLS says of usages; everything else comes as ValueError with words.
        return TrustError(
            "%s: the certificate is not meant for this use: its keyUsage or extendedKeyUsage" % what
        )
    if number == _NO_CA_CHAIN:
        return WrongCA("%s: no trust anchor is loaded: pass ca=" % what)
    if number == _NO_CLIENT_CERTIFICATE:
        return WrongCA("%s shows no certificate, and this side asks for one" % what)
    if number == _SSL_TIMEOUT:
        return HandshakeTimeout("%s: no DTLS answer" % what)
    if number in (_ALLOC_FAILED, errno.ENOMEM):
        return LimitError("not enough memory for a connection to %s" % what)
    if number in _UNREACHABLE:
        return Unreachable("%s does not answer (errno %d)" % (what, number))
    if number == _CONN_EOF:
        return LinkClosed("%s closed the connection during the handshake" % what)
    return LinkClosed("%s: connection broke (%r)" % (what, error))


def _map_verify(text, what):
    """The texts begin with a newline and may hold several lines; look for the words."""
    if "signed by the trusted" in text:
        return WrongCA("%s: its certificate does not lead to our trust anchor" % what)
    if "Common Name" in text:
        return WrongName("%s: the certificate is for another name: check server_hostname" % what)
    if "in the future" in text:
        year = time.gmtime()[0]
        return CertificateNotYetValid(
            "%s: the certificate begins in the future: this board's clock says %d%s"
            % (what, year, ": set it, or pass pins=" if year < 2024 else "")
        )
    if "expired" in text:
        return CertificateExpired("%s: the certificate has expired, or the clock is ahead" % what)
    if "server_hostname" in text:
        return CredentialError("verifying %s needs server_hostname=" % what)
    return WrongCA("%s: not verified: %s" % (what, text.strip()))
