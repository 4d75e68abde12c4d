"""Pre-shared keys: their names, how they are kept, and which one a handshake is made with.

An identity is NAME.NUMBER, so that two keys of one device can be told apart while it goes from
one to the other. Kept is: nonce (12 B), then AES-256-GCM of the key under FOLDER/secret.key
with the identity as associated data. A row that was moved to another identity does not open.

Sources: NIST SP 800-38D; RFC 4279 section 5.4 (identities).
"""

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fleetnet.errors import CredentialError
from fleetnet_server.identity.secret import FILE_NAME, SECRET_BYTES, load_secret

KEY_BITS = (128, 256)

# NIST SP 800-38D section 5.2.1.1.
_NONCE_BYTES = 12


def name_identity(device_name: str, number: int) -> str:
    """Return the PSK identity of a device's key; authenticate.psk_name is the way back."""
    return f"{device_name}.{number}"


def number_of(identity: str) -> int:
    """Return NUMBER of an identity that the store holds."""
    return int(identity.rpartition(".")[2])


def new_key(bits: int = 256) -> bytes:
    """Return a random key of 128 or 256 bits."""
    if bits not in KEY_BITS:
        raise ValueError(f"a pre-shared key has {KEY_BITS[0]} or {KEY_BITS[1]} bits, not {bits}")
    return secrets.token_bytes(bits // 8)


def encrypt(secret: bytes, identity: str, key: bytes) -> bytes:
    """Return what the store keeps of a key."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(secret).encrypt(nonce, key, identity.encode())


def decrypt(secret: bytes, identity: str, sealed: bytes) -> bytes:
    """Return the key. Raises CredentialError: another secret, another identity, damaged."""
    try:
        return AESGCM(secret).decrypt(
            sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], identity.encode()
        )
    except (InvalidTag, ValueError):
        raise CredentialError(
            f"the pre-shared key {identity} in the store does not open with {FILE_NAME}: put the "
            "file back from a backup, or `fleetnet psk remove` the device's keys and add new ones"
        ) from None


class FindKey:
    """What a server context asks for keys; see fleetnet.server_context.

    Runs on the event loop, in the middle of a handshake: one seek in the store and one
    decryption of 48 bytes, for a stranger as for a device, so that the time tells nothing.

    Args:
        find: function(identity) -> what the store keeps, or None. One seek.
    """

    def __init__(self, folder: Path, find: Callable[[str], bytes | None]):
        self._folder = folder
        self._find = find
        self._secret = b""
        self._nobodys_secret = os.urandom(SECRET_BYTES)
        self._nobodys_row = encrypt(self._nobodys_secret, "", new_key())

    def __call__(self, identity: bytes) -> bytes | None:
        """Return the key of an identity, None when there is none.

        Raises:
            StoreUnavailable, CredentialError: nobody is let in.
        """
        # Another name after decoding would be another device's.
        name = identity.decode("ascii", "replace")
        sealed = self._find(name)
        if sealed is None:
            decrypt(self._nobodys_secret, "", self._nobodys_row)
            return None
        if self._secret:
            # The file may have been put back meanwhile.
            with contextlib.suppress(CredentialError):
                return decrypt(self._secret, name, sealed)
        secret = load_secret(self._folder, create=False)
        key = decrypt(secret, name, sealed)
        self._secret = secret
        return key
