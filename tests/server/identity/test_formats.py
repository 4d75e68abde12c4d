"""Whatever the bytes: a file is understood, or refused by a CredentialError."""

import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from fleetnet.errors import CredentialError
from fleetnet_server.identity import anchoring, camera, converting, crl, formats, inspecting, pki
from server.identity.chains import authority, make_key, server

ROUNDS = 500


def private(key: Any, form: str, encoding: str = "DER", password: bytes = b"") -> bytes:
    hiding: Any = serialization.NoEncryption()
    if password:
        hiding = serialization.BestAvailableEncryption(password)
    return bytes(
        key.private_bytes(
            getattr(serialization.Encoding, encoding),
            getattr(serialization.PrivateFormat, form),
            hiding,
        )
    )


def samples() -> dict[str, bytes]:
    root = authority("Root")
    leaf = server(root, ["a.example", "192.0.2.1", "urn:fleetnet:device:cam-1"], issuer_url="u:x")
    constraints = x509.NameConstraints([x509.DNSName("a.example")], None)
    ca = pki.create_ca("Test", constraints=constraints)
    key, rsa = make_key(), make_key("rsa2048")
    request = (
        x509.CertificateSigningRequestBuilder().subject_name(root.certificate.subject)
        .sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    )  # fmt: skip
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    return {
        "certificate": leaf.der,
        "ca": ca.certificate,
        "pem": leaf.pem,
        "request": request,
        "list": crl.make_crl(ca, [], None),
        "sec1": private(key, "TraditionalOpenSSL"),
        "pkcs1": private(rsa, "TraditionalOpenSSL"),
        "pkcs8": private(key, "PKCS8"),
        "key pem": private(key, "PKCS8", "PEM"),
        "locked": private(key, "PKCS8", "DER", b"secret"),
        "public": key.public_key().public_bytes(serialization.Encoding.DER, spki),
    }


SAMPLES = samples()


def understand(data: bytes) -> None:
    """Do with bytes what the commands do."""
    content = formats.read(data, "file")
    camera.verdicts(content, content)
    for item in content.items:
        inspecting.describe(item)
        if item.kind == formats.CERTIFICATE:
            way = anchoring.find_way([item.value], [item.value])
            anchoring.problems([item.value], way, "a.example")
        for convert in (converting.to_der, lambda item: converting.to_camera(item, "file")):
            try:
                convert(item)
            except CredentialError:
                pass


@pytest.mark.parametrize("name", SAMPLES)
def test_damage_of_any_kind(name: str) -> None:
    """One to four bytes are changed, left out, or put in; or the end is cut off."""
    whole, dice = SAMPLES[name], random.Random(name)
    understand(whole)
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cryptography grumbles about what it will refuse one day
        for _ in range(ROUNDS):
            data = bytearray(whole)
            for _ in range(dice.randint(1, 4)):
                _damage(data, dice)
            try:
                understand(bytes(data))
            except CredentialError as error:
                refused += 1
                assert len(str(error)) < 400
    assert refused > ROUNDS // 10


def _damage(data: bytearray, dice: random.Random) -> None:
    at = dice.randrange(len(data))
    kinds: list[Callable[[], object]] = [
        lambda: data.__setitem__(at, dice.randrange(256)),
        lambda: data.__delitem__(at),
        lambda: data.insert(at, dice.randrange(256)),
        lambda: data.__delitem__(slice(max(at, 1), None)) if dice.random() < 0.1 else None,
    ]
    dice.choice(kinds)()


def test_the_structure_tells_what_it_is() -> None:
    kinds = {
        "certificate": formats.CERTIFICATE, "ca": formats.CERTIFICATE, "pem": formats.CERTIFICATE,
        "request": formats.REQUEST, "list": formats.CRL, "sec1": formats.KEY,
        "pkcs1": formats.KEY, "pkcs8": formats.KEY, "key pem": formats.KEY, "locked": formats.KEY,
        "public": formats.PUBLIC,
    }  # fmt: skip
    found = {name: formats.read(data, "x").items[0].kind for name, data in SAMPLES.items()}
    assert found == kinds


def test_begins_without_an_end_cost_no_time() -> None:
    data = b"-----BEGIN CERTIFICATE-----\n" * 500_000  # minutes, if each were looked up
    with pytest.raises(CredentialError, match="cut off"):
        formats.read(data, "file")
    few = b"-----BEGIN CERTIFICATE-----\n" * 3
    with pytest.raises(CredentialError):
        formats.read(few + SAMPLES["pem"], "file")


def test_a_key_never_shows_in_a_message() -> None:
    key = SAMPLES["sec1"]
    with pytest.raises(CredentialError) as caught:
        formats.read(key[:40] + key[41:] + b"\0", "file")
    assert key[8:16].hex() not in str(caught.value)
    assert repr(key[8:16])[2:-1] not in str(caught.value)
