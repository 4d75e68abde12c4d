"""Contexts take credentials in every form that tools write, and explain what they refuse."""

import time
from pathlib import Path

import pytest

from fleetnet.errors import CertificateNotYetValid, CredentialError, FleetError, WrongCA
from fleetnet.ports.openssl_context import (
    CERT_NONE,
    CERT_OPTIONAL,
    CERT_REQUIRED,
    Context,
    client_context,
    server_context,
)
from fleetnet.ports.openssl_object import SslObject
from fleetnet_server.identity.pki import Credential, to_pem
from pki import Pki, key_pem
from wires import shake


def works(client: Context, server: Context) -> bool:
    """Whether a handshake between the two ends well."""
    return shake(SslObject(client, "localhost"), SslObject(server))


@pytest.mark.parametrize("form", ["der", "pem", "path", "text path"])
def test_every_form_of_a_credential_works(pki: Pki, tmp_path: Path, form: str) -> None:
    def give(name: str, der: bytes, pem: bytes) -> bytes | str | Path:
        if form in ("der", "pem"):
            return der if form == "der" else pem
        path = tmp_path / name
        path.write_bytes(der)
        return path if form == "path" else str(path)

    def pair(credential: Credential, name: str) -> list[bytes | str | Path]:
        return [
            give(f"{name}.crt", credential.certificate, to_pem(credential.certificate)),
            give(f"{name}.key", credential.key, key_pem(credential.key)),
        ]

    anchor = give("ca.crt", pki.ca.certificate, to_pem(pki.ca.certificate))
    server = server_context(*pair(pki.server, "server"), anchor)
    assert works(client_context(anchor, *pair(pki.device, "device")), server)


@pytest.mark.parametrize("name", ["server_p384", "server_rsa"])
def test_other_key_types_of_public_cas_work(pki: Pki, name: str) -> None:
    server = server_context(*getattr(pki, name))
    assert works(client_context(pki.ca.certificate), server)


def test_several_anchors_as_list_or_as_one_pem_file(pki: Pki) -> None:
    server = server_context(*pki.server_of_other_ca)
    both = [pki.ca.certificate, pki.other_ca.certificate]
    assert works(client_context(both), server)
    assert works(client_context(b"".join(map(to_pem, both))), server)


def test_a_chain_is_sent_whole(pki: Pki) -> None:
    chain = to_pem(pki.server.certificate) + to_pem(pki.ca.certificate)
    server = SslObject(server_context(chain, pki.server.key))
    client = SslObject(client_context(pki.ca.certificate), "localhost")
    client.handshake()
    server.feed(client.output())
    server.handshake()
    alone = SslObject(server_context(*pki.server))
    client = SslObject(client_context(pki.ca.certificate), "localhost")
    client.handshake()
    alone.feed(client.output())
    alone.handshake()
    assert len(server.output()) > len(alone.output()) + len(pki.ca.certificate) - 50


def test_a_leaf_may_be_its_own_anchor(pki: Pki) -> None:
    assert works(client_context(pki.server.certificate), server_context(*pki.server))


def test_what_a_context_says_about_itself(pki: Pki) -> None:
    assert client_context(pki.ca.certificate).verified
    assert not client_context(insecure=True).verified
    assert not server_context(*pki.server).verified
    context = server_context(*pki.server, pki.ca.certificate, datagram=True)
    assert context.verified and context.datagram and context.server_side


def refusal(*arguments: object, **options: object) -> str:
    with pytest.raises(CredentialError) as caught:
        client_context(*arguments, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_refusals_name_the_remedy(pki: Pki, tmp_path: Path) -> None:
    ca, cert, key = pki.ca.certificate, pki.device.certificate, pki.device.key
    assert "cannot read trust anchor" in refusal(tmp_path / "none.der")
    assert "neither DER nor PEM" in refusal(b"garbage")
    assert "neither DER nor PEM" in refusal(b"")
    assert "neither DER nor PEM" in refusal(b"-----BEGIN CERTIFICATE-----\nAAAA\n")
    assert "Pass several anchors as a list" in refusal(ca + pki.other_ca.certificate)
    assert "no trust anchor" in refusal([])
    assert "pass key=" in refusal(ca, cert)
    assert "pass cert=" in refusal(ca, None, key)
    assert "does not match" in refusal(ca, cert, pki.server.key)
    assert "without a pass phrase" in refusal(ca, cert, key_pem(key, b"secret"))
    assert "no unencrypted" in refusal(ca, cert, cert)
    assert "use P-256" in refusal(ca, *pki.ed25519)
    assert "2048 bits or more" in refusal(ca, *pki.rsa_1024)


def test_a_refusal_shows_no_byte_of_the_key(pki: Pki) -> None:
    text = refusal(pki.ca.certificate, pki.device.certificate, pki.device.key[:-4])
    assert pki.device.key[20:24].hex() not in text
    assert repr(pki.device.key[20:30])[2:-1] not in text


def test_a_client_that_verifies_wants_a_name(pki: Pki) -> None:
    context = client_context(pki.ca.certificate)
    for name in (None, "", ".", "a..b", "x" * 70):
        with pytest.raises(CredentialError, match="server_hostname"):
            SslObject(context, name)
    SslObject(client_context(insecure=True))


def test_verify_mode_of_a_client(pki: Pki) -> None:
    context = client_context(pki.ca.certificate)
    bad = server_context(*pki.server_of_other_ca)
    assert (context.verify_mode, context.mode) == (CERT_REQUIRED, "verified")
    for number in (CERT_OPTIONAL, CERT_REQUIRED):  # the stricter reading of OPTIONAL
        context.verify_mode = number
        assert context.verify_mode == CERT_REQUIRED
        with pytest.raises(WrongCA):
            works(context, bad)
    context.verify_mode = CERT_NONE
    assert (context.verified, context.mode) == (False, "insecure")
    assert works(context, bad)
    insecure = client_context(insecure=True)
    assert insecure.verify_mode == CERT_NONE
    with pytest.raises(CredentialError, match="needs a trust anchor"):
        insecure.verify_mode = CERT_REQUIRED
    with pytest.raises(CredentialError, match="verify_mode is"):
        context.verify_mode = 3


def test_verify_mode_of_a_server(pki: Pki) -> None:
    """OPTIONAL asks; who shows a certificate must be good, and then counts as verified."""
    server = server_context(*pki.server, pki.ca.certificate)
    assert server.verify_mode == CERT_REQUIRED and server.verified
    server.verify_mode = CERT_OPTIONAL
    assert server.verify_mode == CERT_OPTIONAL and not server.verified

    def meet(*pair: bytes) -> SslObject:
        end = SslObject(server)
        shake(SslObject(client_context(pki.ca.certificate, *pair), "localhost"), end)
        return end

    assert not meet().verified and meet().peer_certificate() is None
    known = meet(*pki.device)
    assert known.verified and known.peer_certificate() == pki.device.certificate
    for bad in (pki.device_of_other_ca, pki.device_expired, pki.device_wrong_usage):
        with pytest.raises(FleetError):
            meet(*bad)
    server.verify_mode = CERT_NONE
    assert meet(*pki.device).peer_certificate() is None
    server.verify_mode = CERT_REQUIRED
    with pytest.raises(FleetError, match="sent no certificate"):
        meet()
    with pytest.raises(CredentialError, match="needs a trust anchor"):
        server_context(*pki.server).verify_mode = CERT_OPTIONAL


@pytest.mark.parametrize("datagram", [False, True])
def test_an_unset_clock_is_named(pki: Pki, datagram: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    context = client_context(pki.ca.certificate, datagram=datagram)
    monkeypatch.setattr(time, "gmtime", lambda: time.struct_time((2000, 1, 1, 0, 0, 0, 5, 1, 0)))
    with pytest.raises(CertificateNotYetValid, match=r"clock was never set \(year 2000\)"):
        SslObject(context, "localhost")
    # These need no clock.
    SslObject(client_context(pins=[bytes(32)], datagram=datagram), "localhost")
    SslObject(client_context(psk=("a", bytes(16)), datagram=datagram), "localhost")
    SslObject(server_context(*pki.server, pki.ca.certificate, datagram=datagram))


def test_two_ways_to_know_a_server_are_one_too_many(pki: Pki) -> None:
    with pytest.raises(CredentialError, match="not by two"):
        client_context(pki.ca.certificate, insecure=True)
