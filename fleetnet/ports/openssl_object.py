"""One TLS or DTLS connection over memory buffers: bytes in, bytes out, no socket.

``SslObject`` calls cryptography's private binding without pyOpenSSL's wrapper, which
halves the cost of a record. The binding is looked at when this file is imported: a wheel
that lacks a name is refused with the list, not met in the middle of a connection.

Sources: OpenSSL manual SSL_read(3), BIO_s_mem(3), DTLSv1_listen(3); RFC 6347.
"""

import ipaddress
import threading
import time
from typing import Any

from cryptography.hazmat.bindings.openssl.binding import Binding

from fleetnet.errors import (
    CertificateNotYetValid,
    CredentialError,
    FleetError,
    Rejected,
    TrustError,
    Unsupported,
)
from fleetnet.ports.openssl_callbacks import (
    certificate_der,
    check_established,
    identity_text,
    running,
)
from fleetnet.ports.openssl_ciphers import to_iana
from fleetnet.ports.openssl_context import CERT_OPTIONAL, Context
from fleetnet.ports.openssl_dtls_wire import split_records
from fleetnet.ports.openssl_errors import clear_errors, map_failure, take_errors

_lib = Binding.lib
_ffi = Binding.ffi

_REQUIRED = (
    "SSL_new SSL_free SSL_set_bio SSL_set_mtu SSL_set_accept_state SSL_set_connect_state "
    "SSL_do_handshake SSL_read SSL_write SSL_shutdown SSL_get_error SSL_get_verify_result "
    "SSL_get_peer_certificate SSL_get_current_cipher SSL_CIPHER_get_name SSL_get_version "
    "SSL_set_tlsext_host_name SSL_get0_param X509_VERIFY_PARAM_set1_host "
    "X509_VERIFY_PARAM_set1_ip X509_VERIFY_PARAM_set_hostflags ERR_clear_error BIO_new "
    "BIO_s_mem BIO_read BIO_write BIO_set_mem_eof_return BIO_ADDR_new BIO_ADDR_free "
    "BIO_get_mem_data DTLSv1_listen Cryptography_DTLSv1_get_timeout DTLSv1_handle_timeout"
).split()

# SAN only, as RFC 9525 wants it: no common name, no *x.example.
_HOST_FLAGS = _lib.X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | _lib.X509_CHECK_FLAG_NEVER_CHECK_SUBJECT

_ERROR_WANT_READ = 2
_ERROR_ZERO_RETURN = 6

# What servers answer to a wrong pre-shared key or identity: bad_record_mac, decrypt_error,
# unknown_psk_identity (RFC 4279 section 2).
_KEY_ALERTS = (20, 51, 115)

_BUFFER_BYTES = 1 << 16


class _Scratch(threading.local):
    """Where OpenSSL writes to; one a thread, as cffi gives up the GIL for every call."""

    def __init__(self) -> None:
        self.buffer = _ffi.new("char[]", _BUFFER_BYTES)
        self.view = _ffi.buffer(self.buffer)
        self.start = _ffi.new("char **")
        self.seconds = _ffi.new("time_t *")
        self.microseconds = _ffi.new("long *")


_scratch = _Scratch()


def missing_names() -> list[str]:
    """Return the names of the private binding that this wheel lacks."""
    return [name for name in _REQUIRED if not hasattr(_lib, name)]


if missing_names():
    raise Unsupported(
        f"this version of cryptography lacks {', '.join(missing_names())}: "
        "install one that fleetnet was tested with (pyproject.toml names it)"
    )


# Looked up once: an attribute of the binding costs as much as a small call.
_clear_errors = _lib.ERR_clear_error
_bio_write = _lib.BIO_write
_bio_read = _lib.BIO_read
_bio_get_mem_data = _lib.BIO_get_mem_data
_ssl_read = _lib.SSL_read
_ssl_write = _lib.SSL_write


class SslObject:
    """See the module's docstring. Methods raise the errors of fleetnet only.

    Attributes:
        context; peer: what messages call it; is_established: the handshake is complete.
        has_agreed, verdict: whether the pin agreed; why the peer is refused.
        psk_identity: bytes by which the client named itself, or None.

    Args:
        context: what client_context or server_context made.
        server_hostname: client only: the name or IP address that the peer's certificate
            must carry, also sent as SNI.
        peer: name of the peer for messages.
        mtu: DTLS: largest datagram, bytes.
    """

    __slots__ = (
        "_in",
        "_out",
        "_ssl",
        "context",
        "has_agreed",
        "is_established",
        "out_of_date",
        "peer",
        "psk_identity",
        "verdict",
    )

    def __init__(
        self,
        context: Context,
        server_hostname: str | None = None,
        peer: str = "peer",
        mtu: int = 1200,
    ):
        if context.mode == "verified" and not context.server_side:
            _check_verifiable(server_hostname, peer)
        self.context = context  # keeps the SSL_CTX alive
        self.peer = peer
        self.is_established = False
        self.has_agreed = False
        self.verdict: FleetError | None = None
        self.out_of_date = b""
        self.psk_identity: bytes | None = None
        ssl = self._ssl = _lib.SSL_new(context.native._context)
        memory = _lib.BIO_s_mem()
        self._in = _lib.BIO_new(memory)
        self._out = _lib.BIO_new(memory)
        _lib.BIO_set_mem_eof_return(self._in, -1)
        _lib.BIO_set_mem_eof_return(self._out, -1)
        _lib.SSL_set_bio(ssl, self._in, self._out)
        if context.datagram:
            _lib.SSL_set_mtu(ssl, mtu)
        if context.server_side:
            _lib.SSL_set_accept_state(ssl)
        else:
            _lib.SSL_set_connect_state(ssl)
            if server_hostname:
                self._expect(server_hostname, context.mode == "verified")

    def _expect(self, server_hostname: str, verified: bool) -> None:
        """Send the name as SNI, and let OpenSSL compare it with the certificate's."""
        parameters = _lib.SSL_get0_param(self._ssl)
        try:
            packed = ipaddress.ip_address(server_hostname).packed
        except ValueError:
            name = _dns_name(server_hostname)
            done = True
            _lib.SSL_set_tlsext_host_name(self._ssl, name)
            if verified:
                _lib.X509_VERIFY_PARAM_set_hostflags(parameters, _HOST_FLAGS)
                done = _lib.X509_VERIFY_PARAM_set1_host(parameters, name, len(name)) == 1
        else:
            done = _lib.X509_VERIFY_PARAM_set1_ip(parameters, packed, len(packed)) == 1
        if not done:
            # Going on would mean not to check the name at all.
            raise CredentialError(f"server_hostname {server_hostname!r} cannot be checked")

    def feed(self, data: bytes) -> None:
        """Take bytes from the network; on DTLS exactly one datagram, then read until None."""
        if data:
            _bio_write(self._in, data, len(data))

    def listen(self) -> bool:
        """DTLS server: take the fed ClientHello, whose cookie the caller has checked."""
        address = _lib.BIO_ADDR_new()
        clear_errors()
        try:
            return bool(_lib.DTLSv1_listen(self._ssl, address) == 1)
        finally:
            _lib.BIO_ADDR_free(address)
            clear_errors()

    @property
    def pointer(self) -> Any:
        """The SSL*, until ``free``."""
        return self._ssl

    @property
    def verify_result(self) -> int:
        """What OpenSSL found of the peer's chain: X509_V_OK (0), or X509_V_ERR_*."""
        return int(_lib.SSL_get_verify_result(self._ssl))

    def handshake(self) -> bool:
        """Go on with the handshake; True once it is complete.

        Raises:
            TrustError family, Rejected, LinkClosed: it failed; ``output`` holds our alert.
        """
        if self.is_established:
            return True
        clear_errors()
        running.ssl = self
        result = _lib.SSL_do_handshake(self._ssl)
        running.ssl = None
        if result == 1:
            check_established(self)
            self.is_established = True
            return True
        if _lib.SSL_get_error(self._ssl, result) == _ERROR_WANT_READ:
            return False
        raise self._failure()

    def read(self) -> bytes | None:
        """Return one record's plaintext; None: more input needed; b"": close_notify.

        Raises:
            Rejected: a fatal alert arrived. LinkClosed: anything else that ends it.
        """
        # An error that another connection left in this thread's queue would be taken for ours.
        _clear_errors()
        scratch = _scratch
        count = _ssl_read(self._ssl, scratch.buffer, _BUFFER_BYTES)
        if count > 0:
            return scratch.view[:count]  # type: ignore[no-any-return]
        error = _lib.SSL_get_error(self._ssl, count)
        if error == _ERROR_WANT_READ:
            return None
        if error == _ERROR_ZERO_RETURN:
            return b""
        raise self._failure()

    def has_input(self) -> bool:
        """Say whether there is more to read, behind a ``read`` that returned data.

        That one took its record whole, so what is left, if anything, is where ``feed`` put it:
        OpenSSL reads no further than a record unless told to (SSL_CTX_set_read_ahead(3)). Asking
        costs a third of a ``read`` that finds nothing.
        """
        return bool(_bio_get_mem_data(self._in, _scratch.start) > 0)

    def write(self, data: bytes) -> None:
        """Encrypt ``data``, bytes-like; the result waits in ``output``.

        Raises:
            LinkClosed: the connection is over.
        """
        if type(data) is not bytes:
            data = bytes(data)  # cffi passes nothing else as a pointer
        left = len(data)
        count = _ssl_write(self._ssl, data, left) if left else 0
        while 0 < count < left:
            # pyOpenSSL's contexts allow partial writes: one record of 16 KiB a call.
            left -= count
            count = _ssl_write(self._ssl, _ffi.from_buffer(data) + (len(data) - left), left)
        if count <= 0 and left:
            raise self._failure()

    def output(self) -> bytes:
        """Return what must go to the network now; b"" when nothing."""
        scratch = _scratch
        buffer = scratch.buffer
        count = _bio_read(self._out, buffer, _BUFFER_BYTES)
        if count <= 0:
            return b""
        data: bytes = scratch.view[:count]
        if count < _BUFFER_BYTES:
            return data
        pieces = [data]
        while (count := _bio_read(self._out, buffer, _BUFFER_BYTES)) > 0:
            pieces.append(scratch.view[:count])
        return b"".join(pieces)

    def seal(self, data: bytes) -> bytes:
        """Return ``data`` as records for the network. Raises LinkClosed: see write."""
        self.write(data)
        return self.output()

    def datagrams(self, mtu: int = 1200) -> list[bytes]:
        """DTLS: return the output as datagrams of whole records, each at most ``mtu``."""
        return split_records(self.output(), mtu)

    def close_notify(self) -> None:
        """Say that no more data will come (RFC 8446 section 6.1)."""
        if self.is_established:
            clear_errors()
            _lib.SSL_shutdown(self._ssl)
            clear_errors()

    def goodbye(self) -> bytes:
        """Return a record that says close_notify."""
        self.close_notify()
        return self.output()

    def timeout(self) -> float | None:
        """DTLS: return seconds until handle_timeout is due; None without a timer."""
        seconds, microseconds = _scratch.seconds, _scratch.microseconds
        if _lib.Cryptography_DTLSv1_get_timeout(self._ssl, seconds, microseconds):
            return float(seconds[0] + microseconds[0] / 1e6)
        return None

    def handle_timeout(self) -> None:
        """DTLS: retransmit the last flight if its timer has run out."""
        clear_errors()
        if _lib.DTLSv1_handle_timeout(self._ssl) < 0:
            raise self._failure()

    def peer_certificate(self) -> bytes | None:
        """Return the peer's leaf certificate as DER, or None."""
        pointer = _lib.SSL_get_peer_certificate(self._ssl)
        return None if pointer == _ffi.NULL else certificate_der(pointer)

    @property
    def verified(self) -> bool:
        """Whether this peer is authenticated; ask when the handshake is complete."""
        if self.context.verify_mode == CERT_OPTIONAL:
            # One that is given and does not verify ends the handshake.
            return self.peer_certificate() is not None
        return self.context.verified

    def cipher(self) -> tuple[str, str]:
        """Return (mbedTLS's name of the suite, protocol version such as "TLSv1.3")."""
        cipher = _lib.SSL_get_current_cipher(self._ssl)
        name = _ffi.string(_lib.SSL_CIPHER_get_name(cipher)).decode()
        return to_iana(name), _ffi.string(_lib.SSL_get_version(self._ssl)).decode()

    def free(self) -> None:
        """Give the memory back now; the object is unusable afterwards."""
        ssl = self._ssl
        if ssl is not None:
            self._ssl = None
            _lib.SSL_free(ssl)

    def __del__(self) -> None:
        if getattr(self, "_ssl", None) is not None and _lib is not None:
            self.free()

    def wrong_key(self) -> FleetError:
        """Server: return why a client whose records cannot be read is refused."""
        return self.verdict or TrustError(
            f"{self.peer}: wrong pre-shared key of {identity_text(self.psk_identity or b'')}"
        )

    def _failure(self) -> FleetError:
        errors = take_errors()
        error = map_failure(
            self.verify_result, errors, self.peer, is_server=self.context.server_side
        )
        if isinstance(error, TrustError):
            error.certificate = self.out_of_date
        if self.is_established:
            return error
        if self.psk_identity is None:
            return self.verdict or error
        if self.context.server_side:
            # Unless the client gave up, the first thing under its key could not be read.
            return self.wrong_key() if self.verdict or not isinstance(error, Rejected) else error
        if isinstance(error, Rejected) and error.alert in _KEY_ALERTS:
            return Rejected(
                f"{self.peer} does not hold this pre-shared key for {_shown(self.psk_identity)} "
                f"(TLS alert {error.alert}): check both identity and key",
                alert=error.alert,
            )
        return error


def _shown(identity: bytes) -> str:
    return repr(identity.decode("utf-8", "backslashreplace"))


def _check_verifiable(server_hostname: str | None, peer: str) -> None:
    """Raise for a verification that could not mean anything."""
    if not server_hostname:
        # Without a name any certificate of this CA would do, a device's own included.
        raise CredentialError("a verified connection needs server_hostname: name the server")
    if time.gmtime().tm_year < 2024:
        raise CertificateNotYetValid(
            f"{peer}: this machine's clock was never set (year {time.gmtime().tm_year}), so no "
            "date can be checked: set it, or use pins= or psk="
        )


def _dns_name(server_hostname: str) -> bytes:
    """Return the name as certificates carry it; IDNA, no final dot."""
    try:
        name = server_hostname.removesuffix(".").encode("idna")
    except UnicodeError as error:
        raise CredentialError(f"server_hostname {server_hostname!r}: {error}") from error
    if not name or b"\0" in name:
        raise CredentialError(f"server_hostname {server_hostname!r} is no DNS name")
    return name
