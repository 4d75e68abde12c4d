"""Chains as real servers have them: roots, intermediates, cross-signs, and what goes wrong.

    root = authority("Root")
    middle = authority("Middle", root)
    leaf = server(middle, ["localhost"])
    chain_pem(leaf, middle)
"""

import datetime
import ipaddress
import secrets
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
DAY = datetime.timedelta(days=1)


class Party(NamedTuple):
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def name(self) -> str:
        return self.certificate.subject.rfc4514_string()

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def key_der(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )


def make_key(kind: str = "p256") -> Key:
    """Make a key: "p256", another curve's class name as "SECP384R1", or "rsa2048"."""
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, int(kind[3:]))
    curve = ec.SECP256R1 if kind == "p256" else getattr(ec, kind)
    return ec.generate_private_key(curve())


def authority(
    name: str,
    signer: Party | None = None,
    *,
    kind: str = "p256",
    key: Key | None = None,
    start: float = -1,
    end: float = 30,
    subject: x509.Name | None = None,
    path_length: int | None = None,
    hash_: hashes.HashAlgorithm | None = None,
) -> Party:
    """Make a CA, self-signed without ``signer``; ``start`` and ``end`` are days from now.

    For a cross-sign pass the ``key`` and ``subject`` of the CA that is signed a second time.
    """
    key = key or make_key(kind)
    subject = subject or _name(f"{name} {secrets.token_hex(3)}")
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = _builder(subject, signer, key, start, end).add_extension(
        x509.BasicConstraints(ca=True, path_length=path_length), critical=True
    )
    return _sign(builder.add_extension(usage, critical=True), key, signer, hash_)


def server(
    signer: Party | None,
    hosts: list[str],
    *,
    kind: str = "p256",
    start: float = -1,
    end: float = 30,
    hash_: hashes.HashAlgorithm | None = None,
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
    issuer_url: str = "",
) -> Party:
    """Make a leaf for names, addresses and URNs.

    Args:
        issuer_url: where the issuer's certificate is said to be.
    """
    key = make_key(kind)
    builder = (
        _builder(_name(hosts[0][:64]), signer, key, start, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_host(each) for each in hosts]), critical=False)
    )
    if issuer_url:
        where = x509.AccessDescription(
            AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier(issuer_url)
        )
        builder = builder.add_extension(x509.AuthorityInformationAccess([where]), critical=False)
    return _sign(builder, key, signer, hash_)


def chain_pem(*parties: Party) -> bytes:
    """Lay certificates one behind the other, as a server's chain file has them."""
    return b"".join(party.pem for party in parties)


def _builder(
    subject: x509.Name, signer: Party | None, key: Key, start: float, end: float
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    above = (signer.key if signer else key).public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.certificate.subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + start * DAY)
        .not_valid_after(now + end * DAY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(above), critical=False)
    )


def _sign(
    builder: x509.CertificateBuilder,
    key: Key,
    signer: Party | None,
    hash_: hashes.HashAlgorithm | None,
) -> Party:
    by = signer.key if signer else key
    return Party(builder.sign(by, hash_ or hashes.SHA256()), key)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host(text: str) -> x509.GeneralName:
    if text.startswith("urn:"):
        return x509.UniformResourceIdentifier(text)
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
