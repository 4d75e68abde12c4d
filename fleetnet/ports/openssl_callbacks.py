"""What OpenSSL asks us in the middle of a handshake: is this the pinned key, who shares a key.

The callbacks are C functions made once. ``running`` tells them for which connection this
thread runs; a map from SSL* would have to be kept in step with every object that goes.

A server gives a stranger a key that nobody can know, so that an unknown identity and a wrong
key end in the same alert after the same work (RFC 4279 section 2 allows it).

Sources: OpenSSL manual SSL_CTX_set_verify(3), SSL_CTX_set_psk_client_callback(3),
SSL_CTX_use_psk_identity_hint(3); RFC 7469 section 2.4 (pins).
"""

import hashlib
import hmac
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.bindings.openssl.binding import Binding

from fleetnet import der
from fleetnet.errors import CredentialError, FleetError, TrustError, Unsupported, WrongPin
from fleetnet.ports.openssl_ciphers import is_psk

if TYPE_CHECKING:
    from fleetnet.ports.openssl_object import SslObject

_lib = Binding.lib
_ffi = Binding.ffi

Identity = str | bytes
FindKey = Callable[[bytes], "bytes | None"]

_PSK_NAMES = (
    "SSL_CTX_set_psk_client_callback",
    "SSL_CTX_set_psk_server_callback",
    "SSL_version",
)

# Under TLS 1.3 OpenSSL asks the same callback for the key of an extension (RFC 8446 section
# 4.2.11) in a handshake that certificates may still decide. No device has that.
_PSK_VERSIONS = (0x0303, 0xFEFD)  # TLS 1.2, DTLS 1.2

# A key that can be guessed is open to whoever records one handshake (RFC 9257 section 4.2);
# mbedTLS takes no longer one (MBEDTLS_PSK_MAX_LEN).
_KEY_BYTES = (16, 32)
# What every implementation takes (RFC 4279 section 5.3).
_IDENTITY_BYTES = 128

# X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_DATES = (9, 10)
_VERIFY_OK = 0
_CERT_REJECTED = 28  # X509_V_ERR_CERT_REJECTED, of which OpenSSL makes the alert bad_certificate


class _Running(threading.local):
    """The connection whose handshake this thread runs."""

    ssl: "SslObject | None" = None


running = _Running()


# -- pins ------------------------------------------------------------------------------------


def read_pins(pins: Iterable[Identity]) -> frozenset[bytes]:
    """Return the digests; each 32 bytes, or 64 hexadecimal digits. Raises CredentialError."""
    found = set()
    for pin in pins:
        try:
            digest = bytes.fromhex(pin) if isinstance(pin, str) else bytes(memoryview(pin))
        except (ValueError, TypeError):
            digest = b""
        if len(digest) != hashlib.sha256().digest_size:
            raise CredentialError("a pin is a SHA-256: 32 bytes, or 64 hexadecimal digits")
        found.add(digest)
    if not found:
        raise CredentialError("pins= is empty: give the SHA-256 of the server's public key")
    return frozenset(found)


def certificate_der(pointer: Any) -> bytes:
    """Return an X509 as DER; takes over the caller's reference.

    Raises:
        ValueError: it cannot be written, which what was read from the network always can.
    """
    memory = _lib.BIO_new(_lib.BIO_s_mem())
    try:
        if _lib.i2d_X509_bio(memory, pointer) != 1:
            _lib.ERR_clear_error()
            raise ValueError("certificate cannot be written as DER")
        start = _ffi.new("char **")
        size = _lib.BIO_get_mem_data(memory, start)
        return bytes(_ffi.buffer(start[0], size))
    finally:
        _lib.BIO_free(memory)
        _lib.X509_free(pointer)


def has_certificate(ssl: Any) -> bool:
    """Say whether the peer of an SSL* showed a certificate."""
    pointer = _lib.SSL_get_peer_certificate(ssl)
    _lib.X509_free(pointer)  # harmless for NULL
    return bool(pointer != _ffi.NULL)


def _judge(ssl: "SslObject", store: Any) -> bool:
    """Compare the leaf's key with the pins; once a handshake, as it comes once a certificate."""
    if ssl.verdict is None and not ssl.has_agreed:
        pointer = _lib.X509_STORE_CTX_get0_cert(store)
        _lib.X509_up_ref(pointer)
        digest = hashlib.sha256(der.spki(certificate_der(pointer))).digest()
        ssl.has_agreed = digest in ssl.context.pins
        if not ssl.has_agreed:
            ssl.verdict = WrongPin(
                f"{ssl.peer}: its public key {digest.hex()} is none of the "
                f"{len(ssl.context.pins)} pinned: no byte was sent"
            )
    return ssl.has_agreed


@_ffi.callback("int(int, X509_STORE_CTX *)", error=0)  # type: ignore[untyped-decorator]
def _verify(_ok: int, store: Any) -> int:
    # Proof that the peer holds the key is part of every handshake; dates, names and issuers,
    # which OpenSSL complains about here, are not what a pinned peer is known by.
    ssl = running.ssl
    agreed = False
    if ssl is not None:
        try:
            agreed = _judge(ssl, store)
        except FleetError as error:
            ssl.verdict = WrongPin(f"{ssl.peer}: its certificate cannot be read ({error})")
    _lib.X509_STORE_CTX_set_error(store, _VERIFY_OK if agreed else _CERT_REJECTED)
    return int(agreed)


@_ffi.callback("int(int, X509_STORE_CTX *)", error=0)  # type: ignore[untyped-decorator]
def _note_dates(ok: int, store: Any) -> int:
    # OpenSSL's verdict stands. It looks at a certificate's dates after its signature: what is
    # out of date at depth 0 is a leaf that a CA of ours made, and its name can be believed.
    ssl = running.ssl
    if not ok and ssl is not None and _lib.X509_STORE_CTX_get_error_depth(store) == 0:
        if _lib.X509_STORE_CTX_get_error(store) in _DATES:
            pointer = _lib.X509_STORE_CTX_get0_cert(store)
            _lib.X509_up_ref(pointer)
            try:
                ssl.out_of_date = certificate_der(pointer)
            except ValueError:
                pass  # nothing to be named by
    return int(ok)


def note_dates(native: Any, flags: int) -> None:
    """Have ``SslObject.out_of_date`` say which client came with an expired certificate."""
    _lib.SSL_CTX_set_verify(native._context, flags, _note_dates)


def check_pins(native: Any) -> None:
    """Have the peer's key compared with the pins of the context."""
    _lib.SSL_CTX_set_verify(native._context, _lib.SSL_VERIFY_PEER, _verify)


# -- pre-shared keys -------------------------------------------------------------------------


def _octets(identity: Identity) -> bytes:
    data = identity.encode() if isinstance(identity, str) else bytes(identity)
    if not 0 < len(data) <= _IDENTITY_BYTES or b"\0" in data:
        raise CredentialError(
            f"a PSK identity has 1 to {_IDENTITY_BYTES} bytes and no NUL, not {data[:40]!r}"
        )
    return data


def identity_text(identity: bytes) -> str:
    """Return an identity for a message: text in quotes, escaped; what is no text as bytes."""
    try:
        return repr(identity.decode())
    except UnicodeDecodeError:
        return repr(identity)


def _check_key(identity: bytes, key: object) -> bytes:
    least, most = _KEY_BYTES
    if not isinstance(key, bytes | bytearray | memoryview) or not least <= len(key) <= most:
        whose = identity_text(identity)
        raise CredentialError(
            f"the pre-shared key of {whose} must be {least} to {most} random bytes: "
            "secrets.token_bytes(16)"
        )
    return bytes(key)


def read_client_key(psk: tuple[Identity, bytes]) -> tuple[bytes, bytes]:
    """Return (identity, key) of a client. Raises CredentialError."""
    if not isinstance(psk, tuple | list) or len(psk) != 2:
        raise CredentialError("psk= of a client is (identity, key)")
    identity = _octets(psk[0])
    return identity, _check_key(identity, psk[1])


def read_server_keys(psk: "Mapping[Identity, bytes] | FindKey") -> FindKey:
    """Return function(identity) -> key or None. Raises CredentialError."""
    if callable(psk):
        return psk
    if not isinstance(psk, Mapping) or not psk:
        raise CredentialError("psk= of a server is {identity: key} or function(identity) -> key")
    keys = {_octets(name): _check_key(_octets(name), key) for name, key in psk.items()}
    return keys.get


def _stranger_key(identity: bytes) -> bytes:
    return hmac.digest(_SECRET, identity, "sha256")


_SECRET = os.urandom(32)


def _key_for(ssl: "SslObject", identity: bytes) -> bytes:
    """Return the key of ``identity``, or one that nobody can know; note what was found."""
    nobodys = _stranger_key(identity)
    ssl.psk_identity = identity
    assert ssl.context.find_key is not None
    try:
        key = ssl.context.find_key(identity)
        checked = _check_key(identity, nobodys if key is None else key)  # the same work for both
    except Exception as error:
        # It would otherwise end in cffi, which prints it and goes on.
        whose = identity_text(identity)
        ssl.verdict = TrustError(f"{ssl.peer}: looking for the key of {whose}: {error!r}")
        return nobodys
    if key is None:
        ssl.verdict = TrustError(f"{ssl.peer}: unknown PSK identity {identity_text(identity)}")
    return checked


@_ffi.callback(  # type: ignore[untyped-decorator]
    "unsigned int(SSL *, const char *, unsigned char *, unsigned int)", error=0
)
def _server_psk(pointer: Any, identity: Any, out: Any, room: int) -> int:
    ssl = running.ssl
    if ssl is None or _lib.SSL_version(pointer) not in _PSK_VERSIONS:
        return 0
    key = _key_for(ssl, _ffi.string(identity) if identity != _ffi.NULL else b"")
    if len(key) > room:
        return 0
    _ffi.memmove(out, key, len(key))
    return len(key)


@_ffi.callback(  # type: ignore[untyped-decorator]
    "unsigned int(SSL *, const char *, char *, unsigned int, unsigned char *, unsigned int)",
    error=0,
)
def _client_psk(_ssl: Any, _hint: Any, name: Any, name_room: int, out: Any, room: int) -> int:
    ssl = running.ssl
    if ssl is None or ssl.context.own_key is None:
        return 0
    identity, key = ssl.context.own_key
    if len(identity) + 1 > name_room or len(key) > room:
        return 0
    _ffi.memmove(name, identity + b"\0", len(identity) + 1)
    _ffi.memmove(out, key, len(key))
    ssl.psk_identity = identity
    return len(key)


def missing_psk_names(lib: Any = _lib) -> list[str]:
    """Return the names for pre-shared keys that this wheel's private binding lacks."""
    return [name for name in _PSK_NAMES if not getattr(lib, name, None)]


def share_keys(native: Any, server_side: bool, lib: Any = _lib) -> None:
    """Have OpenSSL ask for pre-shared keys. Raises Unsupported: this wheel cannot."""
    missing = missing_psk_names(lib)
    if missing:
        raise Unsupported(
            f"this version of cryptography has no pre-shared keys ({', '.join(missing)} missing): "
            "use certificates or pins=, or a version that fleetnet was tested with"
        )
    if server_side:
        lib.SSL_CTX_set_psk_server_callback(native._context, _server_psk)
    else:
        lib.SSL_CTX_set_psk_client_callback(native._context, _client_psk)


def check_established(ssl: "SslObject") -> None:
    """Assert, now that the handshake is over, that what the context rests on did happen.

    Raises:
        WrongPin: no certificate was ever compared. TrustError: a suite without shared key, or
            neither that nor a certificate, or a chain that OpenSSL found bad while somebody had
            told it not to mind.
    """
    context = ssl.context
    if context.mode == "verified" and ssl.verify_result != _VERIFY_OK:
        raise TrustError(f"{ssl.peer}: verification was turned off behind a context that verifies")
    if context.mode == "pinned" and not ssl.has_agreed:
        raise ssl.verdict or WrongPin(f"{ssl.peer}: the pin was not checked")
    if context.shares_keys:
        _check_shared_key(ssl)


def _check_shared_key(ssl: "SslObject") -> None:
    """A peer is known by its key or by its certificate, by what the suite says, never by both."""
    if ssl.verdict is not None:
        raise ssl.verdict
    name = ssl.cipher()[0]
    is_shown = has_certificate(ssl._ssl)
    if is_psk(name):
        if ssl.psk_identity is None or is_shown:
            raise TrustError(f"{ssl.peer}: suite {name}, but no identity, or a certificate")
        return
    if ssl.context.mode == "psk":
        raise TrustError(f"{ssl.peer}: suite {name} uses no pre-shared key")
    # Whatever it called itself: nothing of this handshake was made with that key.
    ssl.psk_identity = None
    if not is_shown:
        raise TrustError(f"{ssl.peer}: showed neither a certificate nor a pre-shared key")
