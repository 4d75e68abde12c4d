"""A small PKI for tests: every certificate that a handshake can meet, good and bad.

All keys are made when the tests run; nothing is written anywhere unless a test does so.
Certificates and keys are DER bytes, as the engine and MicroPython take them.
"""

import datetime
import functools
import ipaddress
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Days = tuple[int, int]

_VALID: Days = (-2, 300)
_EXPIRED: Days = (-20, -1)
_NOT_YET: Days = (1, 300)
_SERVER = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))


@dataclass(frozen=True)
class Pair:
    """A certificate with its private key, both DER."""

    cert: bytes
    key: bytes


@dataclass(frozen=True)
class Pki:
    """Two CAs, servers ``p256 p384 rsa expired not_yet wrong_name``, and clients.

    Clients: ``good``, ``rsa``, ``other_ca``, ``expired``, ``not_yet``, ``server_use``
    (extendedKeyUsage is serverAuth only). Their SAN is ``urn:fleetnet:device:<name>``.
    """

    ca: bytes
    other_ca: bytes
    servers: dict[str, Pair] = field(default_factory=dict)
    clients: dict[str, Pair] = field(default_factory=dict)


def _der(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class _Authority:
    def __init__(self, name: str):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = _name(name)
        builder = _builder(self.name, self.key, (-3, 1000)).issuer_name(self.name)
        builder = builder.add_extension(x509.BasicConstraints(True, 0), critical=True)
        identifier = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        builder = builder.add_extension(identifier, critical=False)
        self.cert = builder.sign(self.key, hashes.SHA256())

    def issue(
        self,
        name: str,
        names: tuple[x509.GeneralName, ...],
        use: x509.ObjectIdentifier,
        key: Key | None = None,
        days: Days = _VALID,
    ) -> Pair:
        key = key or ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name), key, days).issuer_name(self.name)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        cert = builder.sign(self.key, hashes.SHA256())
        return Pair(cert.public_bytes(serialization.Encoding.DER), _der(key))


def _builder(subject: x509.Name, key: Key, days: Days) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    start, end = (now + datetime.timedelta(days=offset) for offset in days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _rsa() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def _servers(ca: _Authority) -> dict[str, Pair]:
    use = ExtendedKeyUsageOID.SERVER_AUTH
    stranger = (x509.DNSName("elsewhere.example"),)
    return {
        "p256": ca.issue("server", _SERVER, use),
        "p384": ca.issue("server", _SERVER, use, ec.generate_private_key(ec.SECP384R1())),
        "rsa": ca.issue("server", _SERVER, use, _rsa()),
        "expired": ca.issue("server", _SERVER, use, days=_EXPIRED),
        "not_yet": ca.issue("server", _SERVER, use, days=_NOT_YET),
        "wrong_name": ca.issue("server", stranger, use),
    }


def _clients(ca: _Authority, other: _Authority) -> dict[str, Pair]:
    use = ExtendedKeyUsageOID.CLIENT_AUTH

    def device(
        issuer: _Authority,
        name: str,
        key: Key | None = None,
        days: Days = _VALID,
        use: x509.ObjectIdentifier = use,
    ) -> Pair:
        san = (x509.UniformResourceIdentifier(f"urn:fleetnet:device:{name}"),)
        return issuer.issue(name, san, use, key, days)

    return {
        "good": device(ca, "cam-01"),
        "rsa": device(ca, "cam-02", _rsa()),
        "other_ca": device(other, "cam-01"),
        "expired": device(ca, "cam-03", days=_EXPIRED),
        "not_yet": device(ca, "cam-04", days=_NOT_YET),
        "server_use": device(ca, "cam-05", use=ExtendedKeyUsageOID.SERVER_AUTH),
    }


@functools.cache
def make_pki() -> Pki:
    """Return the test run's one PKI."""
    ca, other = _Authority("test CA"), _Authority("other CA")
    der = serialization.Encoding.DER
    return Pki(
        ca.cert.public_bytes(der), other.cert.public_bytes(der), _servers(ca), _clients(ca, other)
    )
