"""The moment at which keys take the place of OpenSSL's object.

Everything is compared before OpenSSL's object is given up: the server's Finished, which OpenSSL
has just sealed, has to open under the keys that were derived here.
"""

from fleetnet.errors import Unsupported
from fleetnet.ports.openssl_compact import KeptAeads, Session
from fleetnet.ports.openssl_compact_keys import derive, missing_names, opens
from fleetnet.ports.openssl_dtls_wire import (
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    RECORD_HEADER,
    sealed,
    split,
)
from fleetnet.ports.openssl_object import SslObject

_EPOCH_1 = b"\xfe\xfd\0\x01"

# One tuple a suite, not one a session.
_ciphers: dict[tuple[str, str], tuple[str, str]] = {}


def may_meet(record: bytes) -> bool:
    """Whether the nonce of a record that OpenSSL sealed could be one of ours.

    Its explicit part is drawn at random there (RFC 5288 section 3 leaves that to the sender);
    ours is epoch 1 and a number below 2**32. One handshake in 2**32 stays with OpenSSL for it.
    """
    return record[RECORD_HEADER : RECORD_HEADER + 4] == b"\0\x01\0\0"


def take_over(ssl: SslObject, flight: bytes, kept: KeptAeads, now: float) -> Session | None:
    """Return the session of a complete handshake; None: of its kind OpenSSL keeps the records.

    Args:
        ssl: still whole afterwards; nothing was read from it behind the handshake.
        flight: what the server sent last, ``now``; whole records.

    Raises:
        Unsupported: what should have worked did not; ``ssl`` can be used all the same.
    """
    if missing := missing_names():
        raise Unsupported(f"this version of cryptography lacks {', '.join(missing)}")
    cipher = ssl.cipher()
    keys = derive(ssl.pointer, cipher[0])
    if keys is None:
        return None
    # An earlier flight stands in front of it when its timer ran out in the same call.
    last = list(split(flight))[-2:]
    kinds = [record[0] for record in last]
    finished = last[-1] if last else b""
    if (
        kinds != [CHANGE_CIPHER_SPEC, HANDSHAKE]
        or len(sealed(flight)) != 1
        or finished[1:5] != _EPOCH_1
    ):
        raise Unsupported("this version of cryptography ends its handshakes in another way")
    if not opens(keys.server_key, keys.server_salt, finished):
        raise Unsupported("the keys derived are not those of this version of cryptography")
    if may_meet(finished):
        return None
    # OpenSSL has sealed up to here; the next text gets the next number.
    first = int.from_bytes(finished[5:11], "big") + 1
    session = Session(keys, _ciphers.setdefault(cipher, cipher), first, b"".join(last), kept, now)
    session.knows(ssl.peer, ssl.verified, ssl.psk_identity, ssl.peer_certificate())
    return session
