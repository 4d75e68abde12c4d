"""TLS and DTLS contexts for CPython, on the OpenSSL that the cryptography wheel carries.

One SSL_CTX serves every connection of its kind. DTLS is pinned to 1.2: a newer wheel
must not change the handshake, and with it the cookie code, by itself.

Sources: OpenSSL manual SSL_CTX_set_options(3), SSL_CTX_set_mode(3); RFC 9325.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.bindings.openssl.binding import Binding
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from OpenSSL import SSL, crypto

from fleetnet.errors import CredentialError

_lib = Binding.lib
_ffi = Binding.ffi

Source = str | bytes | Path

_DTLS_1_2 = 0xFEFD

# Forward secrecy and AEAD only (RFC 9325 section 4.2). No CHACHA20 on DTLS: mbedTLS on
# boards has AES hardware and no CHACHA20.
# AES-128 first: as safe here, and less work for a microcontroller.
_DTLS_CIPHERS = b"ECDHE+AESGCM+AES128:ECDHE+AESGCM"
_TLS_CIPHERS = _DTLS_CIPHERS + b":ECDHE+CHACHA20"
_TLS_1_3_CIPHERS = (
    b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
)

# What mbedTLS knows. OpenSSL's own list begins with a post-quantum group that no device has
# and that makes a ClientHello of 1,502 B out of 266 (measured with 4.0.3).
_GROUPS = b"P-256:X25519:P-384"

_OPTIONS = (
    SSL.OP_NO_COMPRESSION
    | SSL.OP_NO_RENEGOTIATION
    | SSL.OP_NO_TICKET
    | SSL.OP_NO_QUERY_MTU
    | SSL.OP_CIPHER_SERVER_PREFERENCE
)


@_ffi.callback("int(SSL *, unsigned char *, unsigned int *)")  # type: ignore[untyped-decorator]
def _make_cookie(_ssl: Any, _out: Any, length: Any) -> int:
    length[0] = 0
    return 1


@_ffi.callback("int(SSL *, const unsigned char *, unsigned int)")  # type: ignore[untyped-decorator]
def _check_cookie(_ssl: Any, _cookie: Any, _length: int) -> int:
    # openssl_dtls.py has checked the cookie before it made the SSL object.
    return 1


class Context:
    """An OpenSSL.SSL.Context with what fleetnet must remember about it.

    Attributes:
        native: the OpenSSL.SSL.Context.
        datagram: DTLS; server_side; verified: peers are authenticated.
    """

    def __init__(self, datagram: bool, server_side: bool, verified: bool):
        self.datagram = datagram
        self.server_side = server_side
        self.verified = verified
        method = SSL.DTLS_METHOD if datagram else SSL.TLS_METHOD
        self.native = SSL.Context(method)
        if datagram:
            self.native.set_min_proto_version(_DTLS_1_2)
            self.native.set_max_proto_version(_DTLS_1_2)
            self.native.set_cipher_list(_DTLS_CIPHERS)
        else:
            self.native.set_min_proto_version(SSL.TLS1_2_VERSION)
            self.native.set_cipher_list(_TLS_CIPHERS)
            self.native.set_tls13_ciphersuites(_TLS_1_3_CIPHERS)
        _lib.SSL_CTX_set1_curves_list(self.native._context, _GROUPS)
        self.native.set_options(_OPTIONS)
        # No resumption: devices cannot, and a cached session would outlive a revocation.
        self.native.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        # An idle connection gives its record buffers back: 66 KiB becomes 38 (TLS 1.3).
        self.native.set_mode(getattr(_lib, "SSL_MODE_RELEASE_BUFFERS", 0x10))
        if datagram and server_side:
            self._accept_checked_cookies()

    def _accept_checked_cookies(self) -> None:
        pointer = self.native._context
        _lib.SSL_CTX_set_cookie_generate_cb(pointer, _make_cookie)
        _lib.SSL_CTX_set_cookie_verify_cb(pointer, _check_cookie)

    def limit_version(self, version: int) -> None:
        """Allow nothing above ``version`` (OpenSSL.SSL.TLS1_2_VERSION), for tests of boards."""
        self.native.set_max_proto_version(version)


def client_context(
    ca: Source | Sequence[Source] | None = None,
    cert: Source | None = None,
    key: Source | None = None,
    *,
    datagram: bool = False,
    insecure: bool = False,
) -> Context:
    """See fleetnet.streams.client_context; without ``ca`` the system's store is trusted."""
    context = Context(datagram, False, not insecure)
    if not insecure:
        context.native.set_verify(SSL.VERIFY_PEER)
        if ca is None:
            context.native.set_default_verify_paths()
        else:
            _trust(context, ca)
    if cert is not None:
        _present(context, cert, key)
    elif key is not None:
        raise CredentialError("a key is of no use without its certificate: pass cert=")
    return context


def server_context(
    cert: Source,
    key: Source,
    ca: Source | Sequence[Source] | None = None,
    *,
    datagram: bool = False,
) -> Context:
    """See fleetnet.streams.server_context; ``ca`` makes a client certificate mandatory."""
    context = Context(datagram, True, ca is not None)
    if ca is not None:
        context.native.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        _trust(context, ca)
    _present(context, cert, key)
    return context


def _read(source: Source, what: str) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise CredentialError(f"cannot read {what} {source}: {error.strerror}") from error


def _certificates(source: Source, what: str) -> list[x509.Certificate]:
    """Read one DER certificate, or every certificate of a PEM file."""
    data = _read(source, what)
    try:
        if b"-----BEGIN" in data:
            return x509.load_pem_x509_certificates(data)
        return [x509.load_der_x509_certificate(data)]
    except ValueError as error:
        remedy = "is it a key, or several DER files in one? Pass several anchors as a list"
        raise CredentialError(f"{what} is neither DER nor PEM ({error}): {remedy}") from error


def _private_key(source: Source) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    data = _read(source, "key")
    try:
        if b"-----BEGIN" in data:
            key = serialization.load_pem_private_key(data, None)
        else:
            key = serialization.load_der_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CredentialError(
            f"key is no unencrypted DER or PEM private key ({error}): convert it without a "
            "pass phrase"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise CredentialError(
            f"key type {type(key).__name__} is not understood by mbedTLS on boards: use P-256"
        )
    return key


def _trust(context: Context, ca: Source | Sequence[Source]) -> None:
    sources: Iterable[Source] = ca if isinstance(ca, list | tuple) else [ca]  # type: ignore[list-item]
    if not sources:
        raise CredentialError("no trust anchor was given: pass the CA's certificate")
    store = context.native.get_cert_store()
    if store is None:
        raise CredentialError("this OpenSSL gives no certificate store to fill")
    for source in sources:
        for certificate in _certificates(source, "trust anchor"):
            store.add_cert(crypto.X509.from_cryptography(certificate))
            if context.server_side:
                context.native.add_client_ca(certificate)
    # As on mbedTLS, whatever is given is an anchor: a leaf or an intermediate, too.
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)


def _present(context: Context, cert: Source, key: Source | None) -> None:
    if key is None:
        raise CredentialError("a certificate needs its private key: pass key=")
    chain = _certificates(cert, "certificate")
    secret = _private_key(key)
    public = serialization.PublicFormat.SubjectPublicKeyInfo
    der = serialization.Encoding.DER
    if chain[0].public_key().public_bytes(der, public) != secret.public_key().public_bytes(
        der, public
    ):
        raise CredentialError(
            f"key does not match the certificate of {chain[0].subject.rfc4514_string()}: "
            "they were made at different times?"
        )
    try:
        context.native.use_certificate(chain[0])
        for issuer in chain[1:]:
            context.native.add_extra_chain_cert(issuer)
        context.native.use_privatekey(secret)
    except SSL.Error as error:
        raise CredentialError(
            f"OpenSSL refuses the certificate or its key ({error}): use P-256, or RSA with 2048 "
            "bits or more, and SHA-256"
        ) from error
