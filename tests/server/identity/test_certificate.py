"""device_name on certificates that nobody of ours would issue, and on damaged ones."""

import datetime
import random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fleetnet.errors import CertificateExpired, LinkClosed
from fleetnet_server.errors import IdentityError
from fleetnet_server.identity import pki
from fleetnet_server.identity.certificate import device_name, refused_name

PREFIX = "urn:fleetnet:device:"


def certificate(*uris: str) -> bytes:
    """A self-signed certificate with these SAN URIs; TLS, not device_name, checks chains."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cam-1")])
    now = datetime.datetime(2026, 1, 1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    names: list[x509.GeneralName] = [x509.DNSName("cam-1")]
    names += [x509.UniformResourceIdentifier(uri) for uri in uris]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_one_uri_among_others_is_the_name() -> None:
    assert device_name(certificate("https://example.org/", PREFIX + "cam-1")) == "cam-1"


@pytest.mark.parametrize(
    "uris",
    [
        (),
        ("https://example.org/",),
        (PREFIX + "cam-1", PREFIX + "cam-2"),
        (PREFIX + "cam-1", PREFIX + "cam-1"),
        (PREFIX,),
        (PREFIX + "Cam-1",),
        (PREFIX + "cam-1/../cam-2",),
        ("URN:fleetnet:device:cam-1",),
    ],
)
def test_anything_but_one_good_name_is_an_error(uris: tuple[str, ...]) -> None:
    with pytest.raises(IdentityError):
        device_name(certificate(*uris))


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_damaged_certificates_raise_one_error_only() -> None:
    der = pki.issue_device(pki.create_ca(), "cam-1").certificate
    draw = random.Random(11)
    refused = 0
    for _round in range(1_500):
        damaged = bytearray(der)
        for _byte in range(draw.randint(1, 3)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            device_name(bytes(damaged))
        except IdentityError:
            refused += 1
    assert refused > 100


def test_whose_date_failed_a_handshake() -> None:
    expired = CertificateExpired("ended in 2020")
    assert refused_name(expired) is None, "nobody was proved"
    expired.certificate = certificate(PREFIX + "cam-1")
    assert refused_name(expired) == "cam-1"
    expired.certificate = certificate()
    assert refused_name(expired) is None, "our CA's, and no device's"
    assert refused_name(LinkClosed("it hung up")) is None
