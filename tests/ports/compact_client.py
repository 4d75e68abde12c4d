"""The client's end of a compact session, by its keys: it says what no OpenSSL would say."""

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dtls_world import World
from fleetnet.ports.openssl_compact import Session
from fleetnet.ports.openssl_dtls_state import Association
from fleetnet.ports.openssl_dtls_wire import ALERT, APPLICATION, sealed, split

ALL_KEYS = ("client_key", "server_key", "client_salt", "server_salt")


def session_of(association: Association) -> Session:
    assert type(association.ssl) is Session
    return association.ssl


class Insider:
    """Knows the keys of a session; its records are authentic unless it is told otherwise."""

    def __init__(self, association: Association):
        keys = session_of(association)._keys
        assert keys is not None
        self.keys = keys
        self.number = 100

    def seal(
        self,
        text: bytes,
        kind: int = APPLICATION,
        number: int | None = None,
        epoch: int = 1,
        version: bytes = b"\xfe\xfd",
    ) -> bytes:
        if number is None:
            self.number += 1
            number = self.number
        numbered = (epoch << 48 | number).to_bytes(8, "big")
        head = bytes((kind,)) + version
        associated = numbered + head + len(text).to_bytes(2, "big")
        body = AESGCM(self.keys.client_key).encrypt(
            self.keys.client_salt + numbered, text, associated
        )
        return head + numbered + (8 + len(body)).to_bytes(2, "big") + numbered + body

    def read(self, record: bytes) -> tuple[int, int, bytes]:
        """Return (kind, sequence number, text) of a record of the server."""
        length = len(record) - 37
        associated = record[3:11] + record[:3] + length.to_bytes(2, "big")
        nonce = self.keys.server_salt + record[13:21]
        text = AESGCM(self.keys.server_key).decrypt(nonce, record[21:], associated)
        return record[0], int.from_bytes(record[5:11], "big"), text


def nonces(world: World) -> dict[bytes, set[bytes]]:
    """Return, by nonce, what the server sealed under it; of one session."""
    found: dict[bytes, set[bytes]] = {}
    for datagram, _ in world.sent:
        for record in sealed(datagram):
            found.setdefault(record[13:21], set()).add(record)
    return found


def kinds(datagram: bytes) -> list[int]:
    return [record[0] for record in split(datagram)]


GOODBYE = b"\x01\x00"
__all__ = ["ALERT", "GOODBYE", "Insider", "kinds", "nonces", "session_of"]
