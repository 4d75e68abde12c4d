"""TLS records reach their owner as soon as they are whole, however they are cut and joined."""

import asyncio
import random
from collections.abc import Sequence

import pytest
from OpenSSL import SSL

from fleetnet.ports.openssl_context import client_context, server_context
from fleetnet.ports.openssl_object import SslObject
from fleetnet.ports.openssl_protocol import SecureProtocol
from pki import Pki


class Wire(asyncio.Transport):
    """The way to a client in the same program."""

    def __init__(self, client: SslObject):
        super().__init__({"peername": ("192.0.2.1", 40000)})
        self.client = client

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.client.feed(bytes(data))


class Taker(SecureProtocol):
    """Keeps what came."""

    taken = b""

    def on_data(self, data: bytes) -> None:
        self.taken += data


def connected(pki: Pki, version: int) -> tuple[SslObject, Taker]:
    context = client_context(pki.ca.certificate, *pki.device)
    context.limit_version(version)
    client = SslObject(context, "localhost")
    server = Taker(server_context(*pki.server, pki.ca.certificate))
    server.connection_made(Wire(client))
    while not client.handshake():
        server.data_received(client.output())
    server.data_received(client.output())
    return client, server


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize(
    "pieces", [[1], [2], [3], [4], [5], [6], [9999], range(1, 7), range(1, 1200)], ids=str
)
async def test_no_whole_record_waits_for_more(
    pki: Pki, version: int, pieces: Sequence[int]
) -> None:
    """What stayed behind would wait for the device's next message, perhaps for hours."""
    client, server = connected(pki, version)
    choice = random.Random(7)
    sent = b""
    for texts in ([b"alone"], [b"two", b"of them"], [b"x", b"y" * 700, b"", b"z", b"end"]):
        records = b""
        for text in texts:
            client.write(text)
            records += client.output()
            sent += text
        while records:
            length = choice.choice(pieces)
            server.data_received(records[:length])
            records = records[length:]
        assert server.taken == sent
    server.connection_lost(None)


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
async def test_nor_behind_what_only_looks_like_one_record(pki: Pki, version: int) -> None:
    """The rest of a record and a whole one, together as long as bytes inside the first one say."""
    client, server = connected(pki, version)
    client.write(b"a")
    overhead = len(client.output()) - 1
    client, server = connected(pki, version)
    client.write(b"a" * 9000)
    first = client.output()
    for cut in range(1, len(first) - 100):
        length = 5 + int.from_bytes(first[cut + 3 : cut + 5], "big")
        rest = length - (len(first) - cut) - overhead
        if 0 < rest < 9000:
            break
    client.write(b"b" * rest)
    server.data_received(first[:cut])
    piece = first[cut:] + client.output()
    assert len(piece) == 5 + int.from_bytes(piece[3:5], "big")
    server.data_received(piece)
    assert server.taken == b"a" * 9000 + b"b" * rest
    server.connection_lost(None)
