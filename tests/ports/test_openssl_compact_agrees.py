"""The same datagrams through OpenSSL's object and through keys alone: the same payloads.

A client writes to a server that keeps OpenSSL's object. A copy of the keys in a compact session
gets the same datagrams, in another order, twice, damaged, cut and joined.
"""

import random

import pytest

from dtls_world import HERE, Client, World
from fleetnet.ports.openssl_compact import Session
from fleetnet.ports.openssl_compact_keys import derive
from fleetnet.ports.openssl_context import client_context, server_context
from fleetnet.ports.openssl_dtls_state import Association
from pki import Pki

SUITES = (
    "TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256",
    "TLS-ECDHE-ECDSA-WITH-AES-256-GCM-SHA384",
    "TLS-PSK-WITH-AES-128-GCM-SHA256",
    "TLS-PSK-WITH-AES-256-GCM-SHA384",
)
KEY = bytes(range(16))


def pair(pki: Pki, suite: str) -> tuple[World, World, Client]:
    """One handshake; a world with OpenSSL's object and one with its keys."""
    if "PSK" in suite:
        ours = server_context(psk={"cam": KEY}, datagram=True)
        theirs = client_context(psk=("cam", KEY), datagram=True, ciphers=[suite])
    else:
        ours = server_context(*pki.server, pki.ca.certificate, datagram=True)
        theirs = client_context(pki.ca.certificate, *pki.device, datagram=True, ciphers=[suite])
    plain = World(pki, context=ours, compact=False)
    client = plain.client(context=theirs)
    ssl = client.connect().ssl
    assert not isinstance(ssl, Session)
    assert ssl.cipher()[0] == suite
    keys = derive(ssl.pointer, suite)
    assert keys is not None
    compact = World(pki)
    session = Session(keys, ssl.cipher(), 1, b"", compact.acceptor.kept, compact.now)
    compact.acceptor.associations[HERE] = Association(HERE, session, b"")
    return plain, compact, client


def damaged(chance: random.Random, datagram: bytes) -> bytes:
    """One datagram as a bad network or a stranger may deliver it."""
    match chance.randrange(6):
        case 0:
            changed = bytearray(datagram)
            # Not the first byte: what is no data record is another question.
            changed[chance.randrange(1, len(changed))] ^= 1 << chance.randrange(8)
            return bytes(changed)
        case 1:
            return datagram[: chance.randrange(len(datagram))]
        case 2:
            return datagram + chance.randbytes(chance.randrange(1, 30))
        case 3:
            # Its number in front of everything that is authentic.
            return datagram[:5] + chance.randbytes(6) + datagram[11:]
        case _:
            return datagram


def delivered(chance: random.Random, records: list[bytes]) -> list[bytes]:
    """Order, copies, damage; some datagrams hold several records."""
    found: list[tuple[float, bytes]] = []
    at = 0
    while at < len(records):
        count = chance.choice((1, 1, 1, 2, 3))
        datagram = b"".join(records[at : at + count])
        late = chance.choice((0, 0, 0, 3, 20, 60, 90))
        found.append((at + chance.random() * late, datagram))
        for _ in range(chance.choice((0, 0, 1, 3))):
            found.append((at + chance.random() * 100, damaged(chance, datagram)))
        at += count
    return [datagram for _, datagram in sorted(found)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("suite", SUITES)
def test_they_agree(pki: Pki, suite: str, seed: int) -> None:
    plain, compact, client = pair(pki, suite)
    chance = random.Random(seed)
    records = []
    for number in range(250):
        client.ssl.write(b"%d " % number + chance.randbytes(chance.choice((0, 1, 50, 900))))
        records.append(client.ssl.output())
    for datagram in delivered(chance, records):
        plain.give(datagram)
        compact.give(datagram)
        assert compact.data == plain.data, (suite, seed, len(plain.data))
    assert len(plain.data) > 100
    assert not plain.lost and not compact.lost
    assert len(compact.data) == len(set(compact.data))


def test_the_comparison_would_notice(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known bad: a session without its replay window gives a copy twice."""
    plain, compact, client = pair(pki, SUITES[0])
    monkeypatch.setattr("fleetnet.ports.openssl_compact._WINDOW", 1 << 62)
    session = compact.acceptor.associations[HERE].ssl
    assert isinstance(session, Session)
    client.ssl.write(b"once")
    record = client.ssl.output()
    for _ in range(2):
        session._seen = 0
        plain.give(record)
        compact.give(record)
    assert len(plain.data) == 1 and len(compact.data) == 2
