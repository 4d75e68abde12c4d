"""A certificate authority for one test run, and the odd certificates that it must refuse.

Good credentials come from fleetnet's own identity/pki.py. What that refuses to make (expired,
other keys, a wrong purpose) is signed here with the same CA key.
"""

import datetime
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleetnet_server.identity.pki import Credential, create_ca, issue_device, issue_server

DAY = datetime.timedelta(days=1)
HOSTS = ("localhost", "127.0.0.1")

_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


class Pki(NamedTuple):
    """Credentials by what is wrong with them; all DER."""

    ca: Credential
    other_ca: Credential
    server: Credential
    server_expired: Credential
    server_future: Credential
    server_elsewhere: Credential
    server_of_other_ca: Credential
    server_common_name_only: Credential
    server_p384: Credential
    server_rsa: Credential
    device: Credential
    device_of_other_ca: Credential
    device_expired: Credential
    device_future: Credential
    device_wrong_usage: Credential
    device_self_signed: Credential
    ed25519: Credential
    rsa_1024: Credential


def make_pki() -> Pki:
    """Make everything; about half a second, most of it RSA."""
    ca, other = create_ca("test CA"), create_ca("other CA")
    server, client = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
    return Pki(
        ca=ca,
        other_ca=other,
        server=issue_server(ca, HOSTS),
        server_expired=odd(ca, server, start=-3, end=-1),
        server_future=odd(ca, server, start=1, end=3),
        server_elsewhere=issue_server(ca, ["elsewhere.example", "192.0.2.1"]),
        server_of_other_ca=issue_server(other, HOSTS),
        server_common_name_only=odd(ca, server, hosts=()),
        server_p384=odd(ca, server, key=ec.generate_private_key(ec.SECP384R1())),
        server_rsa=odd(ca, server, key=rsa.generate_private_key(65537, 2048)),
        device=issue_device(ca, "press-7"),
        device_of_other_ca=issue_device(other, "press-7"),
        device_expired=odd(ca, client, start=-3, end=-1),
        device_future=odd(ca, client, start=1, end=3),
        device_wrong_usage=odd(ca, server),
        device_self_signed=odd(None, client),
        ed25519=odd(ca, client, key=ed25519.Ed25519PrivateKey.generate()),
        rsa_1024=odd(ca, client, key=rsa.generate_private_key(65537, 1024)),  # noqa: S505
    )


def odd(
    ca: Credential | None,
    usage: x509.ObjectIdentifier,
    *,
    start: int = -1,
    end: int = 30,
    key: _Key | None = None,
    hosts: tuple[str, ...] = ("localhost",),
) -> Credential:
    """Sign a leaf; ``start`` and ``end``: days from now. ``ca`` None: signed by itself."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.load_der_x509_certificate(ca.certificate).subject if ca else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + start * DAY)
        .not_valid_after(now + end * DAY)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    )
    if hosts:
        names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    signer = serialization.load_der_private_key(ca.key, None) if ca else key
    certificate = builder.sign(signer, hashes.SHA256())  # type: ignore[arg-type]
    return Credential(certificate.public_bytes(serialization.Encoding.DER), key_der(key))


def key_der(key: _Key) -> bytes:
    """Lay out a private key as PKCS #8."""
    return key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def key_pem(der: bytes, password: bytes | None = None) -> bytes:
    """Turn a DER key into PEM, encrypted when a password is given."""
    key = serialization.load_der_private_key(der, None)
    hiding = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hiding)
