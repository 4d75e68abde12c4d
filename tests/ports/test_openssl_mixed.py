"""One server context for certificates and pre-shared keys: who is taken for whom."""

import asyncio

import pytest
from OpenSSL import SSL

from fleetnet.errors import CredentialError, FleetError, Rejected, TrustError
from fleetnet.ports.cpython import open_datagram, open_stream
from fleetnet.ports.openssl_callbacks import share_keys
from fleetnet.ports.openssl_context import Context, client_context, server_context
from fleetnet.ports.openssl_object import SslObject
from fleetnet_server.core.transport import Transport
from fleetnet_server.net.dtls import DtlsListener
from fleetnet_server.net.tls import TlsListener
from listening import HOST, Handler, until
from pki import Pki
from wires import dtls_shake, shake

KEY = bytes(range(16))
IDENTITY = b"cam-1.1"
PLAIN = "TLS-PSK-WITH-AES-128-GCM-SHA256"
FORWARD = "TLS-ECDHE-PSK-WITH-CHACHA20-POLY1305-SHA256"
BY_CERTIFICATE = b"ECDHE-ECDSA-AES128-GCM-SHA256"
BY_KEY = b"ECDHE-PSK-CHACHA20-POLY1305:PSK-AES128-GCM-SHA256"

every_kind = pytest.mark.parametrize("datagram", [False, True], ids=["tls", "dtls"])


class Keys:
    """A server's keys, and who was asked for."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def __call__(self, identity: bytes) -> bytes | None:
        self.asked.append(identity)
        return KEY if identity == IDENTITY else None


def mixed(pki: Pki, keys: Keys | None = None, datagram: bool = False) -> Context:
    return server_context(
        *pki.server, pki.ca.certificate, psk=keys or Keys(), datagram=datagram
    )


def offering_both(pki: Pki, ciphers: bytes, *pair: bytes, datagram: bool = False) -> Context:
    """A client that has a key, and with ``pair`` a certificate of press-7."""
    context = client_context(pki.ca.certificate, *pair, datagram=datagram)
    context.own_key = (IDENTITY, KEY)
    share_keys(context.native, False)
    context.native.set_cipher_list(ciphers)
    return context


def meet(client: Context, server: Context) -> tuple[SslObject, SslObject]:
    ends = SslObject(client, "localhost"), SslObject(server)
    (dtls_shake if client.datagram else shake)(*ends)
    return ends


@every_kind
@pytest.mark.parametrize(
    ("offered", "expected"), [(None, FORWARD), ([PLAIN], PLAIN), ([PLAIN, FORWARD], FORWARD)]
)
def test_a_client_with_a_key(
    pki: Pki, datagram: bool, offered: list[str] | None, expected: str
) -> None:
    context = client_context(psk=(IDENTITY, KEY), datagram=datagram, ciphers=offered)
    _, server = meet(context, mixed(pki, datagram=datagram))
    assert server.cipher() == (expected, "DTLSv1.2" if datagram else "TLSv1.2")
    assert server.psk_identity == IDENTITY
    assert server.peer_certificate() is None and server.verified


@every_kind
@pytest.mark.parametrize("newest", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_a_client_with_a_certificate(pki: Pki, datagram: bool, newest: int) -> None:
    keys = Keys()
    context = client_context(pki.ca.certificate, *pki.device, datagram=datagram)
    if not datagram:
        context.limit_version(newest)
    _, server = meet(context, mixed(pki, keys, datagram))
    assert server.peer_certificate() == pki.device.certificate
    assert server.psk_identity is None and server.verified and keys.asked == []


@every_kind
@pytest.mark.parametrize(
    "name", ["device_of_other_ca", "device_self_signed", "device_expired", "device_wrong_usage"]
)
def test_a_bad_certificate_is_refused_as_ever(pki: Pki, datagram: bool, name: str) -> None:
    context = client_context(pki.ca.certificate, *getattr(pki, name), datagram=datagram)
    with pytest.raises(TrustError):
        meet(context, mixed(pki, datagram=datagram))


@every_kind
@pytest.mark.parametrize("newest", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_a_client_with_neither(pki: Pki, datagram: bool, newest: int) -> None:
    context = client_context(pki.ca.certificate, datagram=datagram)
    if not datagram:
        context.limit_version(newest)
    with pytest.raises(TrustError, match="sent no certificate"):
        meet(context, mixed(pki, datagram=datagram))


@every_kind
@pytest.mark.parametrize(
    "order", [BY_CERTIFICATE + b":" + BY_KEY, BY_KEY + b":" + BY_CERTIFICATE]
)
def test_a_client_with_both_is_its_certificate(pki: Pki, datagram: bool, order: bytes) -> None:
    """Certificate of one, key of another: whatever the client puts first."""
    keys = Keys()
    context = offering_both(pki, order, *pki.device, datagram=datagram)
    if not datagram:
        context.limit_version(SSL.TLS1_2_VERSION)
    _, server = meet(context, mixed(pki, keys, datagram))
    assert not server.cipher()[0].count("PSK")
    assert server.peer_certificate() == pki.device.certificate
    assert server.psk_identity is None and keys.asked == []


@every_kind
def test_a_key_does_not_stand_in_for_a_certificate(pki: Pki, datagram: bool) -> None:
    """It offers suites of both kinds and has no certificate: no second way in."""
    context = offering_both(pki, BY_KEY + b":" + BY_CERTIFICATE, datagram=datagram)
    if not datagram:
        context.limit_version(SSL.TLS1_2_VERSION)
    with pytest.raises(TrustError, match="sent no certificate"):
        meet(context, mixed(pki, datagram=datagram))


def test_the_key_as_an_extension_of_tls_1_3_opens_nothing(pki: Pki) -> None:
    """OpenSSL asks the same callback there (RFC 8446 section 4.2.11)."""
    keys = Keys()
    context = offering_both(pki, BY_KEY + b":" + BY_CERTIFICATE)
    client, server = SslObject(context, "localhost"), SslObject(mixed(pki, keys))
    with pytest.raises(TrustError, match="sent no certificate"):
        shake(client, server)
    assert client.psk_identity == IDENTITY  # it did send the extension
    assert keys.asked == [] and server.psk_identity is None


def test_the_extension_beside_a_certificate_of_another_device(pki: Pki) -> None:
    keys = Keys()
    client, server = meet(offering_both(pki, BY_KEY, *pki.device), mixed(pki, keys))
    assert server.cipher()[1] == "TLSv1.3" and client.psk_identity == IDENTITY
    assert server.peer_certificate() == pki.device.certificate
    assert server.psk_identity is None and keys.asked == []


@every_kind
def test_a_name_that_was_noted_does_not_outlive_the_suite(pki: Pki, datagram: bool) -> None:
    """As a bug would leave it there."""
    ends = (
        SslObject(client_context(pki.ca.certificate, *pki.device, datagram=datagram), "localhost"),
        SslObject(mixed(pki, datagram=datagram)),
    )
    ends[1].psk_identity = IDENTITY
    (dtls_shake if datagram else shake)(*ends)
    assert ends[1].psk_identity is None


@every_kind
def test_verification_turned_off_behind_its_back(pki: Pki, datagram: bool) -> None:
    server = mixed(pki, datagram=datagram)
    server.native.set_verify(SSL.VERIFY_NONE)
    with pytest.raises(TrustError, match="neither a certificate nor a pre-shared key"):
        meet(client_context(pki.ca.certificate, datagram=datagram), server)


def test_what_such_a_context_refuses(pki: Pki) -> None:
    server = mixed(pki)
    for number in (0, 1):
        with pytest.raises(CredentialError, match="required of everybody else"):
            server.verify_mode = number
    assert server.verify_mode == 2 and server.mode == "verified"
    with pytest.raises(CredentialError, match="needs a suite of pre-shared keys"):
        server.set_ciphers(["TLS1-3-AES-128-GCM-SHA256"])
    names = server.get_ciphers()
    assert names[-3:] == [FORWARD, PLAIN, "TLS-PSK-WITH-AES-256-GCM-SHA384"]
    server.set_ciphers(names)
    for given in (pki.server[:1], pki.server[:2]):
        with pytest.raises(CredentialError, match="given cert=, key=, ca= and psk="):
            server_context(*given, psk={IDENTITY: KEY})
    with pytest.raises(CredentialError, match="of no use"):
        server_context(*pki.server, pki.ca.certificate).set_ciphers([PLAIN, *names])


class Serving:
    """A listener of either kind with a mixed context."""

    def __init__(self, pki: Pki, datagram: bool):
        self.handlers: list[Handler] = []
        self.refused: list[FleetError] = []
        make = DtlsListener if datagram else TlsListener
        self.listener = make(
            mixed(pki, datagram=datagram), self._accept, lambda *last: self.refused.append(last[2])
        )
        self._connect = open_datagram if datagram else open_stream

    def _accept(self, transport: Transport, certificate: bytes) -> Handler:
        self.handlers.append(Handler(transport, certificate))
        return self.handlers[-1]

    async def alert(self, client: Context) -> int:
        """Return the alert that ends this client's attempt."""
        with pytest.raises(Rejected) as caught:
            link = await self._connect(
                HOST, self.listener.port, client, "localhost", timeout_ms=30_000
            )
            await link.read(100)
        return caught.value.alert or 0


@every_kind
async def test_on_one_port(pki: Pki, datagram: bool) -> None:
    serving = Serving(pki, datagram)
    await serving.listener.start(HOST, 0)
    by_key = client_context(psk=(IDENTITY, KEY), datagram=datagram)
    by_certificate = client_context(pki.ca.certificate, *pki.device, datagram=datagram)
    try:
        connect = open_datagram if datagram else open_stream
        links = [
            await connect(HOST, serving.listener.port, context, "localhost")
            for context in (by_key, by_certificate)
        ]
        await until(lambda: len(serving.handlers) == 2)
        seen = [(each.transport.psk_identity, each.certificate) for each in serving.handlers]
        assert seen == [(IDENTITY, b""), (None, pki.device.certificate)]
        wrong = client_context(psk=(IDENTITY, KEY[::-1]), datagram=datagram)
        stranger = client_context(psk=(b"cam-9.1", KEY), datagram=datagram)
        alerts = [await serving.alert(each) for each in (wrong, stranger)]
        # bad_record_mac; over DTLS, where OpenSSL keeps silent, our decrypt_error.
        assert alerts == ([51, 51] if datagram else [20, 20])
        assert "wrong pre-shared key" in str(serving.refused[0])
        assert "unknown PSK identity" in str(serving.refused[1])
        assert len(serving.handlers) == 2
        for link in links:
            link.close()
    finally:
        serving.listener.close()
        await asyncio.sleep(0.01)
