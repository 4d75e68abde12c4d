"""A server that is known by its public key: no CA, no clock, no name; zero bytes to others."""

import hashlib
from typing import Any

import pytest
from OpenSSL import SSL

from fleetnet.der import spki
from fleetnet.errors import CredentialError, Rejected, WrongPin
from fleetnet.ports import openssl_callbacks
from fleetnet.ports.openssl_context import CERT_REQUIRED, Context, client_context, server_context
from fleetnet.ports.openssl_object import SslObject
from fleetnet_server.identity.pki import Credential, to_pem
from pki import Pki
from wires import dtls_shake, shake

VERSIONS = ["TLSv1.2", "TLSv1.3", "DTLSv1.2"]


def pin_of(credential: Credential) -> bytes:
    return hashlib.sha256(spki(credential.certificate)).digest()


def pinned(pins: Any, version: str, *pair: bytes) -> Context:
    datagram = version == "DTLSv1.2"
    context = client_context(None, *pair, pins=pins, datagram=datagram)
    if version == "TLSv1.2":
        context.limit_version(SSL.TLS1_2_VERSION)
    return context


def meet(client: SslObject, server: SslObject) -> None:
    (dtls_shake if client.context.datagram else shake)(client, server)


def server_of(credential: Credential, version: str, ca: bytes | None = None) -> SslObject:
    return SslObject(server_context(*credential, ca, datagram=version == "DTLSv1.2"))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "name",
    [
        "server",
        "server_expired",
        "server_future",
        "server_elsewhere",
        "server_of_other_ca",
        "device_self_signed",
        "server_p384",
        "server_rsa",
    ],
)
def test_only_the_key_counts(pki: Pki, version: str, name: str) -> None:
    credential = getattr(pki, name)
    context = pinned([bytes(32), pin_of(credential).hex()], version)
    client = SslObject(context, "localhost")
    meet(client, server_of(credential, version))
    assert client.is_established and client.has_agreed and client.verified
    assert client.cipher()[1] == version
    assert client.peer_certificate() == credential.certificate
    assert (context.mode, context.verify_mode) == ("pinned", CERT_REQUIRED)


@pytest.mark.parametrize("version", VERSIONS)
def test_another_key_gets_an_alert_and_not_a_byte(pki: Pki, version: str) -> None:
    client = SslObject(pinned([pin_of(pki.other_ca), pin_of(pki.device)], version), "localhost")
    server = server_of(pki.server, version)
    with pytest.raises(WrongPin, match=pin_of(pki.server).hex()):
        meet(client, server)
    assert not client.is_established
    server.feed(client.output())
    with pytest.raises(Rejected) as caught:
        server.handshake()
    assert caught.value.alert == 42  # bad_certificate
    with pytest.raises(WrongPin):
        client.write(b"secret")
    assert not client.output()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_key_of_an_issuer_is_not_the_key_of_the_server(pki: Pki, version: str) -> None:
    chain = to_pem(pki.server.certificate) + to_pem(pki.ca.certificate)
    server = SslObject(server_context(chain, pki.server.key, datagram=version == "DTLSv1.2"))
    with pytest.raises(WrongPin):
        meet(SslObject(pinned([pin_of(pki.ca)], version), "localhost"), server)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_pin_goes_with_mutual_tls(pki: Pki, version: str) -> None:
    client = SslObject(pinned([pin_of(pki.server)], version, *pki.device))
    server = server_of(pki.server, version, pki.ca.certificate)
    meet(client, server)
    assert server.peer_certificate() == pki.device.certificate and server.verified


@pytest.mark.parametrize("version", VERSIONS)
def test_a_check_that_never_ran_is_found_out(pki: Pki, version: str) -> None:
    context = pinned([pin_of(pki.server)], version)
    lib, ffi = openssl_callbacks._lib, openssl_callbacks._ffi
    lib.SSL_CTX_set_verify(context.native._context, lib.SSL_VERIFY_NONE, ffi.NULL)
    client = SslObject(context, "localhost")
    with pytest.raises(WrongPin, match="not checked"):
        meet(client, server_of(pki.server, version))
    assert not client.is_established


def test_what_is_no_pin(pki: Pki) -> None:
    for pins in ([], ["00" * 31], [b"\0" * 31], ["x" * 64], [b"0" * 64], "00" * 32, bytes(32)):
        with pytest.raises(CredentialError, match=r"SHA-256"):
            client_context(pins=pins)


def test_a_pin_excludes_other_ways(pki: Pki) -> None:
    pins = [pin_of(pki.server)]
    for more in ({"ca": pki.ca.certificate}, {"insecure": True}, {"psk": ("a", bytes(16))}):
        with pytest.raises(CredentialError, match=r"pins|psk"):
            client_context(pins=pins, **more)  # type: ignore[arg-type]
    context = client_context(pins=pins)
    for number in (0, 1, 2):
        with pytest.raises(CredentialError, match="verify_mode"):
            context.verify_mode = number
