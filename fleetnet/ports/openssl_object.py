"""One TLS or DTLS connection over memory buffers: bytes in, bytes out, no socket.

``SslObject`` calls cryptography's private binding without pyOpenSSL's wrapper, which
halves the cost of a record. The binding is looked at when this file is imported: a wheel
that lacks a name is refused with the list, not met in the middle of a connection.

Sources: OpenSSL manual SSL_read(3), BIO_s_mem(3), DTLSv1_listen(3); RFC 6347.
"""

import ipaddress
from typing import Any

from cryptography import x509
from cryptography.hazmat.bindings.openssl.binding import Binding
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto

from fleetnet.errors import FleetError, Unsupported
from fleetnet.ports.openssl_context import Context
from fleetnet.ports.openssl_errors import clear_errors, map_failure, take_errors

_lib = Binding.lib
_ffi = Binding.ffi

_REQUIRED = (
    "SSL_new SSL_free SSL_set_bio SSL_set_mtu SSL_set_accept_state SSL_set_connect_state "
    "SSL_do_handshake SSL_read SSL_write SSL_shutdown SSL_get_error SSL_get_verify_result "
    "SSL_get_peer_certificate SSL_get_current_cipher SSL_CIPHER_get_name SSL_get_version "
    "SSL_set_tlsext_host_name SSL_get0_param X509_VERIFY_PARAM_set1_host "
    "X509_VERIFY_PARAM_set1_ip BIO_new BIO_s_mem BIO_read BIO_write BIO_set_mem_eof_return "
    "BIO_ADDR_new BIO_ADDR_free DTLSv1_listen Cryptography_DTLSv1_get_timeout "
    "DTLSv1_handle_timeout"
).split()

_ERROR_WANT_READ = 2
_ERROR_ZERO_RETURN = 6

RECORD_HEADER = 13  # RFC 6347 section 4.1

_BUFFER_BYTES = 1 << 16
_buffer = _ffi.new("char[]", _BUFFER_BYTES)
_view = _ffi.buffer(_buffer)
_seconds = _ffi.new("time_t *")
_microseconds = _ffi.new("long *")

def missing_names() -> list[str]:
    """Return the names of the private binding that this wheel lacks."""
    return [name for name in _REQUIRED if not hasattr(_lib, name)]


if missing_names():
    raise Unsupported(
        f"this version of cryptography lacks {', '.join(missing_names())}: "
        "install one that fleetnet was tested with (pyproject.toml names it)"
    )


# Looked up once: an attribute of the binding costs as much as a small call.
_bio_write = _lib.BIO_write
_bio_read = _lib.BIO_read
_ssl_read = _lib.SSL_read
_ssl_write = _lib.SSL_write


class SslObject:
    """See the module's docstring. Methods raise the errors of fleetnet only.

    Args:
        context: what client_context or server_context made.
        server_hostname: client only: the name or IP address that the peer's certificate
            must carry, also sent as SNI.
        peer: name of the peer for messages.
        mtu: DTLS: largest datagram, bytes.
    """

    __slots__ = ("_context", "_in", "_out", "_ssl", "is_established", "peer")

    def __init__(
        self, context: Context, server_hostname: str | None = None, peer: str = "peer", mtu: int = 1200
    ):
        self._context = context  # keeps the SSL_CTX alive
        self.peer = peer
        self.is_established = False
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
            if server_hostname and context.verified:
                self._expect(server_hostname)

    def _expect(self, server_hostname: str) -> None:
        name = server_hostname.encode("idna" if not server_hostname.isascii() else "ascii")
        parameters = _lib.SSL_get0_param(self._ssl)
        try:
            packed = ipaddress.ip_address(server_hostname).packed
        except ValueError:
            _lib.X509_VERIFY_PARAM_set1_host(parameters, name, len(name))
            _lib.SSL_set_tlsext_host_name(self._ssl, name)
        else:
            _lib.X509_VERIFY_PARAM_set1_ip(parameters, packed, len(packed))

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

    def handshake(self) -> bool:
        """Go on with the handshake; True once it is complete.

        Raises:
            TrustError family, Rejected, LinkClosed: it failed; ``output`` holds our alert.
        """
        if self.is_established:
            return True
        clear_errors()
        result = _lib.SSL_do_handshake(self._ssl)
        if result == 1:
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
        count = _ssl_read(self._ssl, _buffer, _BUFFER_BYTES)
        if count > 0:
            return _view[:count]  # type: ignore[no-any-return]
        error = _lib.SSL_get_error(self._ssl, count)
        if error == _ERROR_WANT_READ:
            return None
        if error == _ERROR_ZERO_RETURN:
            return b""
        raise self._failure()

    def write(self, data: bytes) -> None:
        """Encrypt ``data``; the result waits in ``output``."""
        if _ssl_write(self._ssl, data, len(data)) <= 0:
            raise self._failure()

    def output(self) -> bytes:
        """Return what must go to the network now; b"" when nothing."""
        count = _bio_read(self._out, _buffer, _BUFFER_BYTES)
        if count <= 0:
            return b""
        data: bytes = _view[:count]
        while count == _BUFFER_BYTES:
            count = _bio_read(self._out, _buffer, _BUFFER_BYTES)
            if count > 0:
                data += _view[:count]
        return data

    def datagrams(self, mtu: int = 1200) -> list[bytes]:
        """DTLS: return the output as datagrams of whole records, each at most ``mtu``."""
        return split_records(self.output(), mtu)

    def close_notify(self) -> None:
        """Say that no more data will come (RFC 8446 section 6.1)."""
        if self.is_established:
            clear_errors()
            _lib.SSL_shutdown(self._ssl)
            clear_errors()

    def timeout(self) -> float | None:
        """DTLS: return seconds until handle_timeout is due; None without a timer."""
        if _lib.Cryptography_DTLSv1_get_timeout(self._ssl, _seconds, _microseconds):
            return float(_seconds[0] + _microseconds[0] / 1e6)
        return None

    def handle_timeout(self) -> None:
        """DTLS: retransmit the last flight if its timer has run out."""
        clear_errors()
        if _lib.DTLSv1_handle_timeout(self._ssl) < 0:
            raise self._failure()

    def peer_certificate(self) -> bytes | None:
        """Return the peer's leaf certificate as DER, or None."""
        pointer = _lib.SSL_get_peer_certificate(self._ssl)
        if pointer == _ffi.NULL:
            return None
        certificate = crypto.X509._from_raw_x509_ptr(pointer)
        converted: x509.Certificate = certificate.to_cryptography()
        return converted.public_bytes(Encoding.DER)

    def cipher(self) -> tuple[str, str]:
        """Return (OpenSSL's cipher name, protocol version such as "TLSv1.3")."""
        cipher = _lib.SSL_get_current_cipher(self._ssl)
        name = _ffi.string(_lib.SSL_CIPHER_get_name(cipher)).decode()
        return name, _ffi.string(_lib.SSL_get_version(self._ssl)).decode()

    def free(self) -> None:
        """Give the memory back now; the object is unusable afterwards."""
        ssl = self._ssl
        if ssl is not None:
            self._ssl = None
            _lib.SSL_free(ssl)

    def __del__(self) -> None:
        if getattr(self, "_ssl", None) is not None and _lib is not None:
            self.free()

    def _failure(self) -> FleetError:
        return map_failure(_lib.SSL_get_verify_result(self._ssl), take_errors(), self.peer)


def split_records(data: bytes, mtu: int) -> list[bytes]:
    """Pack concatenated DTLS records into datagrams of whole records, at most ``mtu`` bytes.

    A memory BIO keeps no boundaries; each record's length is in bytes 11 and 12 of its
    header (RFC 6347 section 4.1).
    """
    if len(data) <= mtu:
        return [data] if data else []
    datagrams = []
    start = at = 0
    while at < len(data):
        end = at + RECORD_HEADER + (data[at + 11] << 8 | data[at + 12])
        if end - start > mtu and at > start:
            datagrams.append(data[start:at])
            start = at
        at = end
    datagrams.append(data[start:])
    return datagrams

