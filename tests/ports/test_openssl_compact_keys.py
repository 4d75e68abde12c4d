"""When keys take the place of OpenSSL's object, that they are the right ones, and when not."""

import pytest
from OpenSSL import SSL

from dtls_world import HERE, Client, World
from fleetnet.ports import openssl_compact_handover as handover
from fleetnet.ports.openssl_ciphers import DTLS, PSK
from fleetnet.ports.openssl_compact import Session
from fleetnet.ports.openssl_compact_keys import (
    Keys,
    _scratch,
    expand,
    key_block,
    missing_names,
    suite_of,
)
from fleetnet.ports.openssl_context import Context, client_context, server_context
from fleetnet.ports.openssl_dtls_wire import limits_records
from fleetnet.ports.openssl_object import SslObject, _ffi, _lib
from pki import Pki

KEY = bytes(range(16))

# The vectors that were posted to the TLS working group's list for the PRF of TLS 1.2.
PRF = {
    "sha256": (
        "9bbe436ba940f017b17652849a71db35",
        "a0ba9f936cda311827a6f796ffd5198c",
        "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791e90d35c9c9a46b4e14"
        "baf9af0fa022f7077def17abfd3797c0564bab4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e"
        "5a5110fff70187347b66",
    ),
    "sha384": (
        "b80b733d6ceefcdc71566ea48e5567df",
        "cd665cf6a8447dd6ff8b27555edb7465",
        "7b0c18e9ced410ed1804f2cfa34a336a1c14dffb4900bb5fd7942107e81c83cde9ca0faa60be9fe34f82b1233c"
        "9146a0e534cb400fed2700884f9dc236f80edd8bfa961144c9e8d792eca722a7b32fc3d416d473ebc2c5fd4abf"
        "dad05d9184259b5bf8cd4d90fa0d31e2dec479e4f1a26066f2eea9a69236a3e52655c9e9aee691c8f3a2685430"
        "8d5eaa3be85e0990703d73e56f",
    ),
}


@pytest.mark.parametrize("digest", PRF)
def test_the_pseudorandom_function(digest: str) -> None:
    secret, seed, wanted = (bytes.fromhex(text) for text in PRF[digest])
    assert expand(secret, b"test label", seed, len(wanted), digest) == wanted


def test_a_key_block_is_cut_in_the_order_of_the_standard() -> None:
    keys = key_block(bytes(48), b"c" * 32, b"s" * 32, 16, "sha256")
    whole = expand(bytes(48), b"key expansion", b"s" * 32 + b"c" * 32, 40, "sha256")
    assert b"".join(keys) == whole
    assert [len(part) for part in keys] == [16, 16, 4, 4]


def test_keys_do_not_show_themselves() -> None:
    assert repr(Keys(b"1", b"2", b"3", b"4")) == f"{Keys(b'1', b'2', b'3', b'4')}" == "Keys(secret)"


def talk(world: World, client: Client) -> None:
    """Data, both ways, in turn."""
    association = world.acceptor.associations[HERE]
    for number in range(3):
        client.say(b"up %d" % number)
        assert world.data[-1] == (HERE, b"up %d" % number)
        world.acceptor.send(association, b"down %d" % number)
        client.ssl.feed(world.sent[-1][0])
        assert client.ssl.read() == b"down %d" % number


def psk_contexts(suite: str) -> tuple[Context, Context]:
    return (
        server_context(psk={"cam-1": KEY}, datagram=True, ciphers=[suite]),
        client_context(psk=("cam-1", KEY), datagram=True, ciphers=[suite]),
    )


OTHERS = ("TLS-PSK-WITH-AES-128-CCM", "TLS-PSK-WITH-CHACHA20-POLY1305-SHA256")


@pytest.mark.parametrize("suite", [*PSK, *OTHERS])
def test_suites_of_pre_shared_keys(pki: Pki, suite: str) -> None:
    ours, theirs = psk_contexts(suite)
    world = World(pki, context=ours)
    client = world.client(context=theirs)
    ssl = client.connect().ssl
    assert isinstance(ssl, Session) is ("GCM" in suite)
    assert ssl.psk_identity == b"cam-1" and ssl.verified and ssl.peer_certificate() is None
    assert ssl.cipher() == (suite, "DTLSv1.2") and ssl.peer == "192.0.2.7:4000"
    talk(world, client)


@pytest.mark.parametrize("suite", [name for name in DTLS if "ECDSA" in name])
def test_suites_of_certificates(pki: Pki, suite: str) -> None:
    world = World(pki)
    context = client_context(pki.ca.certificate, *pki.device, datagram=True, ciphers=[suite])
    client = world.client(context=context)
    ssl = client.connect().ssl
    assert isinstance(ssl, Session)
    assert ssl.peer_certificate() == pki.device.certificate and ssl.verified
    assert ssl.psk_identity is None and ssl.cipher() == (suite, "DTLSv1.2")
    talk(world, client)


def test_what_is_done_here() -> None:
    assert all(suite_of(name) for name in DTLS)
    for other in (*OTHERS, "TLS-ECDHE-ECDSA-WITH-AES-128-CCM", "TLS1-3-AES-128-GCM-SHA256"):
        assert suite_of(other) is None
    assert not missing_names()
    assert "SSL_get_session" in missing_names(object())


def test_the_master_secret_does_not_stay(pki: Pki) -> None:
    World(pki).client().connect()
    assert bytes(_ffi.buffer(_scratch.master)) == bytes(48)


def test_a_nonce_that_openssl_may_have_used_is_not_used_again(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = bytes.fromhex("16fefd00010000000000000028")
    assert handover.may_meet(header + bytes.fromhex("0001000000000007") + bytes(32))
    assert not handover.may_meet(header + bytes.fromhex("0001000100000007") + bytes(32))
    monkeypatch.setattr(handover, "may_meet", lambda _record: True)
    world = World(pki)
    client = world.client()
    assert isinstance(client.connect().ssl, SslObject)
    talk(world, client)


def test_it_can_be_turned_off(pki: Pki) -> None:
    world = World(pki, compact=False)
    client = world.client()
    assert isinstance(client.connect().ssl, SslObject)
    talk(world, client)


def wrong_keys(_pointer: object, name: str) -> Keys:
    return key_block(bytes(48), bytes(32), bytes(32), *suite_of(name))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("missing_names", lambda: ["SSL_get_session"], "lacks SSL_get_session"),
        ("derive", wrong_keys, "not those of this version"),
        ("sealed", lambda _flight: [], "ends its handshakes in another way"),
    ],
)
def test_an_openssl_that_is_not_understood_keeps_its_records(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, name: str, value: object, text: str
) -> None:
    monkeypatch.setattr(handover, name, value)
    world = World(pki)
    told: list[str] = []
    world.acceptor.on_fallback = told.append
    for _ in range(3):
        client = world.client()
        client.connect()
        assert isinstance(world.acceptor.associations[HERE].ssl, SslObject)
        talk(world, client)
    assert len(told) == 1 and text in told[0]  # once


def test_an_abbreviated_handshake_stays_with_openssl(pki: Pki) -> None:
    """There the client has the last word. Our contexts offer none; this one is made to."""
    ours = server_context(*pki.server, pki.ca.certificate, datagram=True)
    ours.native.set_session_cache_mode(SSL.SESS_CACHE_SERVER)
    ours.native.set_session_id(b"fleetnet")
    theirs = client_context(pki.ca.certificate, *pki.device, datagram=True)
    # An object that is given up takes its session out of the cache: this one is kept.
    before = World(pki, context=ours, compact=False)
    first = before.client(context=theirs)
    first.connect()
    world = World(pki, context=ours)
    kept = _lib.SSL_get1_session(first.ssl.pointer)
    told: list[str] = []
    world.acceptor.on_fallback = told.append
    again = world.client(context=theirs)
    assert _lib.SSL_set_session(again.ssl.pointer, kept) == 1
    association = again.connect()
    assert _lib.SSL_session_reused(again.ssl.pointer)
    _lib.SSL_SESSION_free(kept)
    assert isinstance(association.ssl, SslObject) and not told
    talk(world, again)


def hello_of(extensions: bytes, session: bytes = b"") -> bytes:
    body = b"\xfe\xfd" + bytes(32) + bytes((len(session),)) + session + b"\xc0\x2b\0" + extensions
    message = b"\x02" + len(body).to_bytes(3, "big") + bytes(5) + len(body).to_bytes(3, "big")
    size = len(message + body).to_bytes(2, "big")
    return b"\x16\xfe\xfd\0\0" + bytes(6) + size + message + body + b"the rest of the flight"


def block(*extensions: bytes) -> bytes:
    return len(b"".join(extensions)).to_bytes(2, "big") + b"".join(extensions)


RENEGOTIATION = b"\xff\x01\0\x01\0"
MAX_FRAGMENT = b"\0\x01\0\x01\x02"
SIZE_LIMIT = b"\0\x1c\0\x02\x02\0"


def test_who_wants_smaller_records_is_left_to_openssl() -> None:
    for free in (b"", block(), block(RENEGOTIATION), block(RENEGOTIATION, RENEGOTIATION)):
        assert not limits_records(hello_of(free))
        assert not limits_records(hello_of(free, bytes(32)))
    for limited in (block(MAX_FRAGMENT), block(RENEGOTIATION, SIZE_LIMIT), block(b"\0\x05\0")):
        assert limits_records(hello_of(limited))
    whole = hello_of(block(RENEGOTIATION))
    for end in range(60):
        assert limits_records(whole[:end])
    assert limits_records(b"\x15" + whole[1:])


def with_extension(hello: bytes, extension: bytes) -> bytes:
    """Add an extension to a ClientHello of one record."""
    at = 25 + 2 + 32
    at += 1 + hello[at]  # session id
    at += 1 + hello[at]  # cookie
    at += 2 + (hello[at] << 8 | hello[at + 1])  # suites
    at += 1 + hello[at]  # compression
    extensions = block(hello[at + 2 :], extension)
    body = hello[25:at] + extensions
    size = len(body).to_bytes(3, "big")
    message = hello[13:14] + size + hello[17:22] + size + body
    return hello[:11] + len(message).to_bytes(2, "big") + message


@pytest.mark.parametrize(("extension", "is_free"), [(b"", True), (MAX_FRAGMENT, False)])
def test_openssl_agrees_to_smaller_records(pki: Pki, extension: bytes, is_free: bool) -> None:
    """max_fragment_length (RFC 6066 section 4): what OpenSSL answers is seen in its flight."""
    world = World(pki)
    client = world.client()
    [request] = world.give(with_extension(client.hello(), extension))
    client.take(request)
    [hello] = client.ssl.datagrams()
    assert len(world.give(with_extension(hello, extension))) >= 1
    assert world.acceptor.half_open[HERE].may_compact is is_free
