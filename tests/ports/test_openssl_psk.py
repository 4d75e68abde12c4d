"""Pre-shared keys between two of our own ends, over memory buffers."""

import types

import pytest

from fleetnet.errors import CredentialError, FleetError, Rejected, TrustError, Unsupported
from fleetnet.ports import openssl_callbacks
from fleetnet.ports.openssl_callbacks import missing_psk_names, share_keys
from fleetnet.ports.openssl_context import Context, client_context, server_context
from fleetnet.ports.openssl_object import SslObject
from pki import Pki
from wires import dtls_shake, shake

KEY = bytes(range(16))
PLAIN = "TLS-PSK-WITH-AES-128-GCM-SHA256"
FORWARD = "TLS-ECDHE-PSK-WITH-CHACHA20-POLY1305-SHA256"

every_kind = pytest.mark.parametrize("datagram", [False, True], ids=["tls", "dtls"])


def meet(client: Context, server: Context) -> tuple[SslObject, SslObject]:
    ends = SslObject(client, "localhost"), SslObject(server)
    (dtls_shake if client.datagram else shake)(*ends)
    return ends


@every_kind
@pytest.mark.parametrize(
    ("offered", "expected"), [(None, FORWARD), ([PLAIN], PLAIN), ([PLAIN, FORWARD], FORWARD)]
)
def test_the_same_key(datagram: bool, offered: list[str] | None, expected: str) -> None:
    context = client_context(psk=("cam-1", KEY), datagram=datagram, ciphers=offered)
    keys = {"cam-0": KEY[::-1], b"cam-1": KEY}
    client, server = meet(context, server_context(psk=keys, datagram=datagram))
    version = "DTLSv1.2" if datagram else "TLSv1.2"
    assert client.cipher() == server.cipher() == (expected, version)
    assert client.psk_identity == server.psk_identity == b"cam-1"
    assert client.verified and server.verified
    assert server.peer_certificate() is None
    client.write(b"up")
    server.feed(client.output())
    assert server.read() == b"up"
    assert (context.mode, context.verify_mode) == ("psk", 0)


@every_kind
def test_a_function_finds_the_key(datagram: bool) -> None:
    asked = []

    def find(identity: bytes) -> bytes | None:
        asked.append(identity)
        return KEY if identity == "кам".encode() else None

    server = server_context(psk=find, datagram=datagram)
    _, end = meet(client_context(psk=("кам", KEY), datagram=datagram), server)
    assert end.psk_identity == "кам".encode()
    assert asked == ["кам".encode()]


class Failing:
    """A key store that is down."""

    def __call__(self, identity: bytes) -> bytes:
        raise OSError("store is gone")


def attempt(client: Context, server: Context) -> tuple[FleetError, FleetError, list[int]]:
    """Let a TLS handshake fail; return both ends' errors and the sizes of the server's answers."""
    one, other = SslObject(client, "localhost"), SslObject(server)
    sizes = []
    one.handshake()
    while True:
        other.feed(one.output())
        try:
            other.handshake()
        except FleetError as error:
            servers = error
            break
        answer = other.output()
        sizes.append(len(answer))
        one.feed(answer)
        one.handshake()
    alert = other.output()
    one.feed(alert)
    with pytest.raises(Rejected) as caught:
        one.handshake()
    assert not one.is_established and not other.is_established
    return caught.value, servers, [*sizes, len(alert)]


def test_a_wrong_key_and_an_unknown_identity_look_the_same() -> None:
    server = server_context(psk={"cam-1": KEY})
    known = attempt(client_context(psk=("cam-1", bytes(16))), server)
    unknown = attempt(client_context(psk=("cam-2", KEY)), server)
    assert known[0].alert == unknown[0].alert == 20  # type: ignore[attr-defined]
    assert known[2] == unknown[2]
    assert str(known[0]).replace("cam-1", "cam-2") == str(unknown[0])
    assert "does not hold this pre-shared key" in str(known[0])
    # The operator is told the difference.
    assert isinstance(known[1], TrustError) and "wrong pre-shared key of 'cam-1'" in str(known[1])
    assert isinstance(unknown[1], TrustError) and "unknown PSK identity 'cam-2'" in str(unknown[1])


@pytest.mark.parametrize("find", [Failing(), lambda _: b"", lambda _: "text", lambda _: bytes(99)])
def test_a_store_that_fails_lets_nobody_in(find: object) -> None:
    server = server_context(psk=find)  # type: ignore[arg-type]
    client, error, _ = attempt(client_context(psk=("cam-1", KEY)), server)
    assert client.alert == 20  # type: ignore[attr-defined]
    assert "looking for the key of 'cam-1'" in str(error)


def test_nobody_can_guess_the_key_of_a_stranger() -> None:
    server = server_context(psk={"cam-1": KEY})
    for key in (bytes(16), bytes(32), KEY):
        attempt(client_context(psk=("stranger", key)), server)


@every_kind
def test_certificates_and_keys_do_not_meet(pki: Pki, datagram: bool) -> None:
    by_key = client_context(psk=("cam-1", KEY), datagram=datagram)
    by_certificate = client_context(pki.ca.certificate, datagram=datagram)
    with pytest.raises(FleetError):
        meet(by_key, server_context(*pki.server, datagram=datagram))
    with pytest.raises(FleetError):
        meet(by_certificate, server_context(psk={"cam-1": KEY}, datagram=datagram))


@every_kind
def test_a_suite_without_shared_key_is_found_out(pki: Pki, datagram: bool) -> None:
    context = client_context(psk=("cam-1", KEY), datagram=datagram)
    context.native.set_cipher_list(b"ECDHE+AESGCM")  # as a bug would
    with pytest.raises(TrustError, match="uses no pre-shared key"):
        meet(context, server_context(*pki.server, datagram=datagram))


def test_what_cannot_be_a_shared_key(pki: Pki) -> None:
    for psk in ("cam-1", ("cam-1",), ("", KEY), ("a\0b", KEY), ("x" * 129, KEY), (b"\0", KEY)):
        with pytest.raises(CredentialError, match=r"(?i)psk"):
            client_context(psk=psk)  # type: ignore[arg-type]
    for key in (b"", KEY[:-1], bytes(33), "0" * 16, None):
        with pytest.raises(CredentialError, match="16 to 32 random bytes"):
            client_context(psk=("cam-1", key))  # type: ignore[arg-type]
        with pytest.raises(CredentialError, match="16 to 32 random bytes"):
            server_context(psk={"cam-1": key})  # type: ignore[dict-item]
    for keys in ({}, [("cam-1", KEY)], "cam-1"):
        with pytest.raises(CredentialError, match="identity"):
            server_context(psk=keys)  # type: ignore[arg-type]
    with pytest.raises(CredentialError, match="takes the place"):
        client_context(pki.ca.certificate, psk=("cam-1", KEY))
    with pytest.raises(CredentialError, match="takes the place"):
        server_context(*pki.server, psk={"cam-1": KEY})
    with pytest.raises(CredentialError, match="cert= and key=, or psk="):
        server_context()


def test_no_error_shows_the_key() -> None:
    with pytest.raises(CredentialError) as caught:
        client_context(psk=("cam-1", b"SECRET"))
    assert "SECRET" not in str(caught.value)


def test_a_wheel_without_the_names_is_named() -> None:
    lib = types.SimpleNamespace(SSL_CTX_set_psk_client_callback=None)  # what a culled wheel has
    assert missing_psk_names(lib) == list(openssl_callbacks._PSK_NAMES)
    assert missing_psk_names() == []
    with pytest.raises(Unsupported, match="SSL_CTX_set_psk_server_callback"):
        share_keys(client_context(insecure=True).native, True, lib)
