"""The record keys of a DTLS 1.2 session, derived from what OpenSSL agreed on.

Only AES-GCM: its key block has no MAC keys and its nonce is four secret bytes and eight that
the record shows (RFC 5288 section 3). Whether the master secret was made with the extended
label (RFC 7627) does not matter here: the session holds the final one.

Sources: RFC 5246 sections 5 (the PRF), 6.3 (key block) and 7.4.9 (Finished); RFC 5288; OpenSSL
manual SSL_get_client_random(3).
"""

import hmac
import threading
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.bindings.openssl.binding import Binding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fleetnet.ports.openssl_dtls_wire import RECORD_HEADER

_lib = Binding.lib
_ffi = Binding.ffi

_NAMES = (
    "SSL_SESSION_get_master_key",
    "SSL_get_client_random",
    "SSL_get_server_random",
    "SSL_get_session",
    "SSL_session_reused",
    "SSL_version",
)

# How the suites' names end (mbedTLS's, openssl_ciphers.py): bytes of a key, hash of the PRF.
_SUITES = {
    "-WITH-AES-128-GCM-SHA256": (16, "sha256"),
    "-WITH-AES-256-GCM-SHA384": (32, "sha384"),
}

_DTLS_1_2 = 0xFEFD
_MASTER_BYTES = 48  # RFC 5246 section 8.1
_RANDOM_BYTES = 32
SALT_BYTES = 4

EXPLICIT_BYTES = 8
TAG_BYTES = 16
SEAL_BYTES = EXPLICIT_BYTES + TAG_BYTES  # by how much a sealed record is longer than its text

_FINISHED = b"\x14\0\0\x0c"  # type 20, 12 bytes


class _Scratch(threading.local):
    """Where OpenSSL writes secrets to; overwritten after each use."""

    def __init__(self) -> None:
        self.master = _ffi.new("unsigned char[]", _MASTER_BYTES)
        self.random = _ffi.new("unsigned char[]", _RANDOM_BYTES)


_scratch = _Scratch()


class Keys(NamedTuple):
    """Of one session. The client writes with the first of a pair, the server with the second."""

    client_key: bytes
    server_key: bytes
    client_salt: bytes
    server_salt: bytes

    def __repr__(self) -> str:
        return "Keys(secret)"


def missing_names(lib: Any = _lib) -> list[str]:
    """Return the names of the private binding that this wheel lacks for it."""
    return [name for name in _NAMES if not getattr(lib, name, None)]


def suite_of(iana_name: str) -> tuple[int, str] | None:
    """Return (bytes of a key, hash) of a suite that is done here; None of every other."""
    for end, found in _SUITES.items():
        if iana_name.endswith(end):
            return found
    return None


def expand(secret: Any, label: bytes, seed: bytes, length: int, digest: str) -> bytes:
    """Return ``length`` bytes of the PRF of TLS 1.2 (RFC 5246 section 5)."""
    seed = label + seed
    out = b""
    block = seed
    while len(out) < length:
        block = hmac.digest(secret, block, digest)
        out += hmac.digest(secret, block + seed, digest)
    return out[:length]


def key_block(secret: Any, client: bytes, server: bytes, key_bytes: int, digest: str) -> Keys:
    """Cut the key block (RFC 5246 section 6.3) as AES-GCM needs it.

    Args:
        secret: the master secret, bytes-like. client, server: their randoms, 32 bytes each.
    """
    block = expand(secret, b"key expansion", server + client, 2 * (key_bytes + SALT_BYTES), digest)
    salts = 2 * key_bytes
    middle = salts + SALT_BYTES
    return Keys(block[:key_bytes], block[key_bytes:salts], block[salts:middle], block[middle:])


def derive(pointer: Any, iana_name: str) -> Keys | None:
    """Return the keys of a complete handshake; None: it is not of a kind that is done here.

    Args:
        pointer: the SSL*, whose handshake is complete.
        iana_name: its suite.
    """
    suite = suite_of(iana_name)
    # In an abbreviated handshake the client has the last word, and other keys may be cached.
    if suite is None or _lib.SSL_version(pointer) != _DTLS_1_2 or _lib.SSL_session_reused(pointer):
        return None
    master, random = _scratch.master, _scratch.random
    session = _lib.SSL_get_session(pointer)
    try:
        if _lib.SSL_SESSION_get_master_key(session, master, _MASTER_BYTES) != _MASTER_BYTES:
            return None
        if _lib.SSL_get_client_random(pointer, random, _RANDOM_BYTES) != _RANDOM_BYTES:
            return None
        client = bytes(_ffi.buffer(random))
        if _lib.SSL_get_server_random(pointer, random, _RANDOM_BYTES) != _RANDOM_BYTES:
            return None
        server = bytes(_ffi.buffer(random))
        return key_block(_ffi.buffer(master), client, server, *suite)
    finally:
        _ffi.memmove(master, bytes(_MASTER_BYTES), _MASTER_BYTES)


def opens(key: bytes, salt: bytes, record: bytes) -> bool:
    """Whether this key opens a sealed record, and there is a Finished in it.

    The server's own Finished is the proof that keys were derived as OpenSSL did it.
    """
    explicit_end = RECORD_HEADER + EXPLICIT_BYTES
    length = len(record) - RECORD_HEADER - SEAL_BYTES
    if length < len(_FINISHED):
        return False
    associated = record[3:11] + record[:3] + length.to_bytes(2, "big")
    nonce = salt + record[RECORD_HEADER:explicit_end]
    try:
        text = AESGCM(key).decrypt(nonce, record[explicit_end:], associated)
    except InvalidTag:
        return False
    return text.startswith(_FINISHED)
