"""The fleet's own certificate authority, in the forms that small devices read.

P-256 throughout: mbedTLS on microcontrollers has it in every build, and a leaf stays below
1,000 bytes. DER throughout: MicroPython ports parse no PEM. Private keys are SEC 1
(RFC 5915), half the size of PKCS #8.
"""

import datetime
import ipaddress
import secrets
from collections.abc import Iterable
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleetnet.errors import CredentialError
from fleetnet_server.identity.names import device_uri

# An anchor sits in devices that nobody visits: it must outlive them.
CA_DAYS = 7300
# The longest that Apple's and other clients' policies accept from a private CA. Devices and
# servers alike are renewed long before it by rotation; a lost device does not stay valid for
# a decade.
LEAF_DAYS = 825
# A device whose clock is a few hours behind must still accept a certificate made today.
BACKDATE = datetime.timedelta(days=1)


class Credential(NamedTuple):
    """A certificate and its private key, both DER (RFC 5280, RFC 5915)."""

    certificate: bytes
    key: bytes

    @property
    def serial(self) -> int:
        return x509.load_der_x509_certificate(self.certificate).serial_number

    @property
    def not_after_ms(self) -> int:
        """End of validity, unix ms."""
        end = x509.load_der_x509_certificate(self.certificate).not_valid_after_utc
        return int(end.timestamp() * 1000)


def create_ca(name: str = "fleetnet CA", days: int = CA_DAYS) -> Credential:
    """Make a self-signed CA that signs leaves only (path length 0).

    A random suffix keeps two CAs apart: OpenSSL looks issuers up by name.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _common_name(f"{name[:50]} {secrets.token_hex(4)}")
    builder = (
        _builder(subject, subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
    )
    return _sign(builder, key, key)


def issue_server(ca: Credential, hosts: Iterable[str], days: int = LEAF_DAYS) -> Credential:
    """Make a server's key and certificate.

    Args:
        hosts: DNS names and IP addresses that devices connect to, at least one.

    Raises:
        CredentialError: no host, an unusable one, or the CA's key does not fit.
    """
    names = [_general_name(host) for host in dict.fromkeys(hosts)]
    if not names:
        raise CredentialError("a server certificate needs a host name: pass --host")
    first = str(names[0].value)
    builder, key = _leaf(
        ca, first if len(first) <= 64 else "fleetnet server", days, ExtendedKeyUsageOID.SERVER_AUTH
    )
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _sign(builder, key, _ca_key(ca))


def issue_device(ca: Credential, name: str, days: int = LEAF_DAYS) -> Credential:
    """Make a device's key and certificate; the certificate is below 1,000 bytes.

    Raises:
        IdentityError: no device name. CredentialError: the CA's key does not fit.
    """
    uri = x509.UniformResourceIdentifier(device_uri(name))
    builder, key = _leaf(ca, name, days, ExtendedKeyUsageOID.CLIENT_AUTH)
    builder = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
    return _sign(builder, key, _ca_key(ca))


def to_pem(certificate: bytes) -> bytes:
    """Turn a DER certificate into PEM, for tools that want it."""
    return x509.load_der_x509_certificate(certificate).public_bytes(serialization.Encoding.PEM)


def _leaf(
    ca: Credential, name: str, days: int, usage: x509.ObjectIdentifier
) -> tuple[x509.CertificateBuilder, ec.EllipticCurvePrivateKey]:
    issuer = x509.load_der_x509_certificate(ca.certificate)
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(_common_name(name), issuer.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
    )
    return builder, key


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _sign(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
) -> Credential:
    certificate = builder.sign(signer, hashes.SHA256())
    return Credential(
        certificate.public_bytes(serialization.Encoding.DER),
        key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ),
    )


def _ca_key(ca: Credential) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_der_private_key(ca.key, password=None)
        public = x509.load_der_x509_certificate(ca.certificate).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CredentialError(f"the CA's key cannot be read: restore it ({error})") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != public:
        raise CredentialError("the CA's key does not belong to its certificate: restore the pair")
    return key


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.removesuffix(".").split(".")
    good = all(
        0 < len(label) <= 63 and label.isascii() and label.replace("-", "").isalnum()
        for label in labels
    )
    if not good or len(host) > 253:
        raise CredentialError(f"{host!r} is neither a DNS name nor an IP address")
    return x509.DNSName(host.lower())
