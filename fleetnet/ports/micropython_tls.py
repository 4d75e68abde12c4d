"""MicroPython's ``tls`` module: contexts, the alert recorder, and what its errors mean.

``tls`` and never the ``ssl`` wrapper around it, which ignores pre-shared keys and
verify_callback without a word and has no set_ciphers (micropython-lib ssl.py).

Sources: extmod/modtls_mbedtls.c, extmod/mbedtls/mbedtls_config_common.h (MicroPython 1.25).
"""

import errno
import io

import tls

from fleetnet.errors import (
    CertificateExpired,
    CertificateNotYetValid,
    CredentialError,
    FleetError,
    HandshakeTimeout,
    LimitError,
    LinkClosed,
    Unreachable,
    Unsupported,
    WrongCA,
    WrongName,
    rejected_by_alert,
)

# mbedtls/ssl.h and net_sockets.h; the text of these errors differs between builds.
_FATAL_ALERT = 30592
_CONN_EOF = 29312
_NO_CA_CHAIN = 30336
_SSL_TIMEOUT = 26624
_ALLOC_FAILED = 32512

# Record types (RFC 8446 section 5.1).
_CHANGE_CIPHER_SPEC = 20
_ALERT = 21
_HANDSHAKE = 22
_APPLICATION_DATA = 23

_UNREACHABLE = (101, 110, 111, 113, 115)  # ENETUNREACH has no name in MicroPython's errno


class Context:
    """A tls.SSLContext with what fleetnet must remember about it.

    Attributes:
        native: the tls.SSLContext; one serves any number of connections (it keeps the
            parsed certificates, 4.6 KB on a 32-bit port).
        datagram: DTLS; server_side; verified: peers are authenticated.
    """

    def __init__(self, native, datagram, server_side, verified):
        self.native = native
        self.datagram = datagram
        self.server_side = server_side
        self.verified = verified


def client_context(ca=None, cert=None, key=None, datagram=False, insecure=False):
    """See fleetnet.streams.client_context."""
    if ca is None and not insecure:
        raise CredentialError(
            "no trust anchor: this board has no certificate store; pass ca= the root's DER"
        )
    native = _native("PROTOCOL_DTLS_CLIENT" if datagram else "PROTOCOL_TLS_CLIENT", datagram)
    # Set explicitly: the default differs between tls (REQUIRED) and ssl (NONE).
    native.verify_mode = tls.CERT_NONE if insecure else tls.CERT_REQUIRED
    if ca is not None:
        _load_anchors(native, ca)
    if cert is not None:
        _load_pair(native, cert, key)
    return Context(native, datagram, False, not insecure)


def server_context(cert, key, ca=None, datagram=False):
    """See fleetnet.streams.server_context."""
    native = _native("PROTOCOL_DTLS_SERVER" if datagram else "PROTOCOL_TLS_SERVER", datagram)
    native.verify_mode = tls.CERT_NONE if ca is None else tls.CERT_REQUIRED
    if ca is not None:
        _load_anchors(native, ca)
    _load_pair(native, cert, key)
    return Context(native, datagram, True, ca is not None)


def _native(protocol, datagram):
    number = getattr(tls, protocol, None)
    if number is None:
        raise Unsupported(
            "%s is missing in this firmware%s"
            % (protocol, ": DTLS came with MicroPython 1.25" if datagram else "")
        )
    return tls.SSLContext(number)


def _read(source):
    """Return the bytes of a path or of bytes; tls takes neither bytearray nor memoryview."""
    if isinstance(source, str):
        try:
            with open(source, "rb") as file:
                source = file.read()
        except OSError as error:
            raise CredentialError("cannot read %s: %r" % (source, error))
    data = bytes(source)
    if data[:10] == b"-----BEGIN":
        return data if data[-1:] == b"\0" else data + b"\0"  # mbedTLS wants the NUL
    return data


def _der_size(data):
    """Return the size of the DER value at the start of ``data`` (X.690 section 8.1.3)."""
    if len(data) < 2 or data[0] != 0x30:
        return 0
    first = data[1]
    if first < 0x80:
        return 2 + first
    count = first & 0x7F
    return 2 + count + int.from_bytes(data[2 : 2 + count], "big")


def _load_anchors(native, ca):
    for source in ca if isinstance(ca, (list, tuple)) else (ca,):
        data = _read(source)
        # Two DER certificates in one blob load without error, and only the first counts.
        if data[:1] == b"\x30" and _der_size(data) != len(data):
            raise CredentialError(
                "anchor of %d B holds %d B of certificate: pass several anchors as a list"
                % (len(data), _der_size(data))
            )
        try:
            native.load_verify_locations(data)
        except (ValueError, OSError) as error:
            raise CredentialError("trust anchor does not load (%r): %s" % (error, _form(data)))


def _load_pair(native, cert, key):
    certificate = _read(cert)
    secret = _read(key) if key is not None else b""
    try:
        native.load_cert_chain(certificate, secret)
    except (ValueError, OSError) as error:
        raise CredentialError(
            "certificate or key does not load (%r): certificate is %s; key is %s"
            % (error, _form(certificate), _form(secret))
        )


def _form(data):
    if data[:10] == b"-----BEGIN":
        return "PEM: this firmware may take DER only (openssl x509/pkey -outform DER)"
    if data[:1] == b"\x30":
        return "DER; Ed25519 and encrypted keys are not supported, use P-256"
    return "neither DER nor PEM"


class Recorder(io.IOBase):
    """Stands between mbedTLS and the socket and remembers what mbedTLS does not tell.

    Attributes:
        alert: description of the last plaintext fatal alert received (RFC 5246 section
            7.2), or None. TLS 1.3 encrypts it.
        sealed: a client's handshake is over, as far as records tell. DTLS: a record of epoch
            1 arrived (the server's Finished). TLS 1.2: a handshake record behind
            ChangeCipherSpec (the same). TLS 1.3: an encrypted record has left (our own).
    """

    def __init__(self, sock, datagram):
        self._sock = sock
        self._datagram = datagram
        self._alert_next = False
        self._spec_changed = False
        self.alert = None
        self.sealed = False

    def readinto(self, buf):
        try:
            count = self._sock.readinto(buf)
        except OSError as error:
            # An exception must not fly through mbedTLS's C frames; a number may.
            return -abs(error.args[0])
        if count and not self.sealed:
            self._look(buf, count)
        return count

    def write(self, buf):
        if not self._datagram and buf[0] == _APPLICATION_DATA:
            self.sealed = True
        try:
            return self._sock.write(buf)
        except OSError as error:
            return -abs(error.args[0])

    def ioctl(self, request, argument):
        return 0

    def _look(self, buf, count):
        if self._datagram:
            if count >= 15 and buf[0] == _ALERT and not buf[4]:
                self.alert = buf[14]
            at = 0
            while at + 13 <= count:
                if buf[at + 4]:
                    self.sealed = True
                at += 13 + (buf[at + 11] << 8 | buf[at + 12])
        elif self._alert_next:
            # mbedTLS reads the 5-byte header of a record first, then its body.
            self._alert_next = False
            if count == 2 and buf[0] == 2:
                self.alert = buf[1]
        elif count == 5:
            self._alert_next = buf[0] == _ALERT and buf[4] == 2
            # TLS 1.3 sends ChangeCipherSpec for show, and no plain handshake record after it.
            self.sealed = self._spec_changed and buf[0] == _HANDSHAKE
            self._spec_changed = self._spec_changed or buf[0] == _CHANGE_CIPHER_SPEC


def map_error(error, recorder, what):
    """Return the fleetnet error for what the tls module or a socket raised.

    Args:
        recorder: the connection's Recorder, or None on a plain socket.
        what: "HOST:PORT", for the message.
    """
    if isinstance(error, FleetError):
        return error
    if isinstance(error, ValueError):
        return _map_verify(str(error.args[0]) if error.args else "", what)
    if isinstance(error, MemoryError):
        return LimitError("not enough heap for a connection to %s: gc.collect() first" % what)
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    number = abs(number)  # 1.25 raises OSError(-104) where others raise 104
    if number == _FATAL_ALERT or (recorder is not None and recorder.alert is not None):
        return rejected_by_alert(recorder.alert if recorder is not None else None)
    if number == _NO_CA_CHAIN:
        return WrongCA("%s: no trust anchor is loaded: pass ca=" % what)
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
        return CertificateNotYetValid(
            "%s: the certificate begins in the future: is this device's clock set?" % what
        )
    if "expired" in text:
        return CertificateExpired("%s: the certificate has expired, or the clock is ahead" % what)
    if "server_hostname" in text:
        return CredentialError("verifying %s needs server_hostname=" % what)
    return WrongCA("%s: not verified: %s" % (what, text.strip()))
