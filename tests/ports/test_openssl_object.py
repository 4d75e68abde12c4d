"""TLS 1.2, TLS 1.3 and DTLS 1.2 over memory buffers."""

import inspect
import re
import threading
from collections.abc import Callable

import pytest
from OpenSSL import SSL

from fleetnet.errors import (
    CertificateExpired,
    CertificateNotYetValid,
    FleetError,
    LinkClosed,
    Rejected,
    TrustError,
    WrongCA,
    WrongName,
)
from fleetnet.ports import openssl_errors, openssl_object
from fleetnet.ports.openssl_context import Context, client_context, server_context
from fleetnet.ports.openssl_object import SslObject, missing_names, split_records
from fleetnet_server.identity.pki import Credential
from pki import Pki
from wires import dtls_shake, shake

Pair = tuple[SslObject, SslObject]
VERSIONS = ["TLSv1.2", "TLSv1.3"]


def contexts(pki: Pki, version: str, server: Credential | None = None) -> tuple[Context, Context]:
    datagram = version == "DTLSv1.2"
    client = client_context(pki.ca.certificate, *pki.device, datagram=datagram)
    if version == "TLSv1.2":
        client.limit_version(SSL.TLS1_2_VERSION)
    credential = server or pki.server
    return client, server_context(*credential, pki.ca.certificate, datagram=datagram)


@pytest.fixture
def pair(pki: Pki) -> Callable[[str], Pair]:
    def make(version: str) -> Pair:
        client_side, server_side = contexts(pki, version)
        client, server = SslObject(client_side, "localhost"), SslObject(server_side)
        if version == "DTLSv1.2":
            dtls_shake(client, server)
        else:
            assert shake(client, server)
        return client, server

    return make


def read_all(ssl: SslObject) -> bytes:
    data = b""
    while piece := ssl.read():
        data += piece
    return data


@pytest.mark.parametrize("version", [*VERSIONS, "DTLSv1.2"])
def test_records_both_ways(pki: Pki, pair: Callable[[str], Pair], version: str) -> None:
    client, server = pair(version)
    assert client.cipher()[1] == server.cipher()[1] == version
    assert "GCM" in client.cipher()[0]
    assert server.peer_certificate() == pki.device.certificate
    assert client.peer_certificate() == pki.server.certificate
    for sender, receiver in ((client, server), (server, client)):
        assert receiver.read() is None
        sender.write(b"hello")
        receiver.feed(sender.output())
        assert receiver.read() == b"hello"
        assert receiver.read() is None


@pytest.mark.parametrize("version", VERSIONS)
def test_bytes_may_come_one_by_one(pki: Pki, version: str) -> None:
    client_side, server_side = contexts(pki, version)
    client, server = SslObject(client_side, "localhost"), SslObject(server_side)
    assert shake(client, server, step=1)
    client.write(b"slow")
    sealed = client.output()
    for byte in sealed[:-1]:
        server.feed(bytes((byte,)))
        assert server.read() is None
    server.feed(sealed[-1:])
    assert server.read() == b"slow"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_big_write_arrives_whole(pair: Callable[[str], Pair], version: str) -> None:
    client, server = pair(version)
    data = bytes(range(251)) * 4000
    client.write(data)
    server.feed(client.output())
    assert read_all(server) == data


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_write_takes_every_bytes_like(pair: Callable[[str], Pair], kind: type) -> None:
    client, server = pair("TLSv1.3")
    client.write(kind(b"abc"))
    client.write(kind(b""))
    server.feed(client.output())
    assert read_all(server) == b"abc"


@pytest.mark.parametrize("version", [*VERSIONS, "DTLSv1.2"])
def test_close_notify_is_seen_after_the_data(pair: Callable[[str], Pair], version: str) -> None:
    client, server = pair(version)
    client.write(b"last")
    data = client.output()
    client.close_notify()
    server.feed(data)
    assert server.read() == b"last"
    server.feed(client.output())
    assert server.read() == b""


def test_no_session_is_offered_for_resumption(pair: Callable[[str], Pair]) -> None:
    client, server = pair("TLSv1.2")
    client.write(b"x")
    assert not server.output() and len(client.output()) < 64


@pytest.mark.parametrize("version", [*VERSIONS, "DTLSv1.2"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("server_expired", CertificateExpired),
        ("server_future", CertificateNotYetValid),
        ("server_elsewhere", WrongName),
        ("server_common_name_only", WrongName),
        ("server_of_other_ca", WrongCA),
        ("device_self_signed", WrongCA),
        ("device", TrustError),
    ],
)
def test_a_server_that_must_not_be_trusted(
    pki: Pki, version: str, name: str, expected: type[FleetError]
) -> None:
    client_side, server_side = contexts(pki, version, getattr(pki, name))
    client, server = SslObject(client_side, "localhost"), SslObject(server_side)
    with pytest.raises(expected):
        (dtls_shake if version == "DTLSv1.2" else shake)(client, server)
    assert not client.is_established
    server.feed(client.output())
    with pytest.raises(Rejected) as caught:
        server.handshake()
    assert caught.value.alert in (42, 43, 45, 46, 48)


def test_names_and_addresses(pki: Pki) -> None:
    client_side, server_side = contexts(pki, "TLSv1.3")
    for name in ("localhost", "LOCALHOST", "localhost.", "127.0.0.1"):
        assert shake(SslObject(client_side, name), SslObject(server_side))
    for name in ("127.0.0.2", "::1", "local", "a.localhost"):
        with pytest.raises(WrongName):
            shake(SslObject(client_side, name), SslObject(server_side))


def test_damage_in_a_tls_record_ends_the_connection(pair: Callable[[str], Pair]) -> None:
    client, server = pair("TLSv1.3")
    client.write(b"hello")
    sealed = bytearray(client.output())
    sealed[-1] ^= 1
    server.feed(bytes(sealed))
    with pytest.raises(LinkClosed):
        server.read()
    client.feed(server.output())
    with pytest.raises(Rejected) as caught:
        client.read()
    assert caught.value.alert == 20  # bad_record_mac


def test_an_error_of_one_connection_does_not_hurt_another(pair: Callable[[str], Pair]) -> None:
    client, server = pair("TLSv1.3")
    lib = openssl_errors._lib
    # Fails, and leaves its reason in the thread's queue as a careless library would.
    lib.SSL_CTX_set_cipher_list(server.context.native._context, b"NO-SUCH-CIPHER")
    assert lib.ERR_peek_error()
    assert server.read() is None
    lib.SSL_CTX_set_cipher_list(server.context.native._context, b"NO-SUCH-CIPHER")
    client.write(b"x")
    record = client.output()
    server.feed(record[:-1] + bytes((record[-1] ^ 1,)))
    with pytest.raises(LinkClosed) as caught:
        server.read()
    assert "cipher" not in str(caught.value)


def test_threads_do_not_share_buffers(pair: Callable[[str], Pair]) -> None:
    wrong: list[bytes] = []

    def run(pattern: bytes, client: SslObject, server: SslObject) -> None:
        for _ in range(1500):
            client.write(pattern)
            server.feed(client.output())
            if (got := server.read()) != pattern:
                wrong.append(got or b"")
                return

    threads = [
        threading.Thread(target=run, args=(bytes((n,)) * 12000, *pair("TLSv1.3"))) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def record(size: int) -> bytes:
    return b"\x16\xfe\xfd\0\0\0\0\0\0\0\0" + size.to_bytes(2, "big") + bytes(size)


def test_records_are_packed_into_datagrams() -> None:
    sizes = [500, 500, 100, 1187, 1, 1300, 5]
    packed = split_records(b"".join(map(record, sizes)), 1200)
    assert b"".join(packed) == b"".join(map(record, sizes))
    expected = [[500, 500, 100], [1187], [1], [1300], [5]]
    assert [len(each) for each in packed] == [sum(n + 13 for n in group) for group in expected]
    assert split_records(b"", 1200) == []


def test_the_binding_has_every_name_that_is_used() -> None:
    assert missing_names() == []
    text = inspect.getsource(openssl_object)
    used = set(re.findall(r"_lib\.(\w+)", text))
    assert len(used) > 30
    assert {name for name in used if not name.startswith("X509_CHECK_FLAG")} == set(
        openssl_object._REQUIRED
    )
