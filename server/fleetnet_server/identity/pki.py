"""Certificates in the forms that small devices read: CAs, servers' and devices' leaves.

A root (path length 1) signs an issuing CA (path length 0) that signs leaves; `create_ca` makes
one that is both. DER throughout: MicroPython ports parse no PEM. Signatures are over SHA-256
whatever the key: every mbedTLS has it. A P-256 leaf stays below 1,000 bytes.
"""

import datetime
import secrets
from collections.abc import Iterable
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleetnet.errors import CredentialError
from fleetnet_server.identity import key_types
from fleetnet_server.identity.constraints import check_hosts, general_name
from fleetnet_server.identity.key_types import P256, PrivateKey, PublicKey
from fleetnet_server.identity.names import device_uri

# An anchor sits in devices that nobody visits: it must outlive them.
CA_DAYS = 7300
# A new issuing CA asks nothing of the devices; its end must only not come as a surprise.
ISSUING_DAYS = 3650
# The longest that Apple's and other clients' policies accept from a private CA. Devices and
# servers alike are renewed long before it by rotation; a lost device does not stay valid for
# a decade.
LEAF_DAYS = 825
# A device whose clock is a few hours behind must still accept a certificate made today. A
# short life is moved back by a tenth of it only: "a third is left" must keep its meaning.
BACKDATE = datetime.timedelta(days=1)
# Below it a certificate may end before its device has connected with it.
MIN_LIFETIME = datetime.timedelta(seconds=5)

_SECOND = datetime.timedelta(seconds=1)


class Credential(NamedTuple):
    """A certificate and its private key, both DER (RFC 5280; RFC 5915 or RFC 8017).

    Attributes:
        key: b"" where the key is in somebody else's hands: a device's own, an offline root's.
    """

    certificate: bytes
    key: bytes

    @property
    def serial(self) -> int:
        return x509.load_der_x509_certificate(self.certificate).serial_number

    @property
    def not_before_ms(self) -> int:
        """Begin of validity, unix ms."""
        begin = x509.load_der_x509_certificate(self.certificate).not_valid_before_utc
        return int(begin.timestamp() * 1000)

    @property
    def not_after_ms(self) -> int:
        """End of validity, unix ms."""
        end = x509.load_der_x509_certificate(self.certificate).not_valid_after_utc
        return int(end.timestamp() * 1000)


def create_root(name: str, key_type: str = P256, days: int = CA_DAYS) -> Credential:
    """Make a self-signed root with path length 1: it signs issuing CAs, which sign leaves."""
    return _self_signed_ca(name, key_type, days, 1, None)


def create_ca(
    name: str = "fleetnet CA",
    days: int = CA_DAYS,
    key_type: str = P256,
    constraints: x509.NameConstraints | None = None,
) -> Credential:
    """Make a self-signed CA that signs leaves only (path length 0)."""
    return _self_signed_ca(name, key_type, days, 0, constraints)


def create_issuing(
    root: Credential,
    name: str,
    key_type: str = P256,
    constraints: x509.NameConstraints | None = None,
    days: int = ISSUING_DAYS,
) -> Credential:
    """Make an issuing CA with path length 0, signed by the root.

    Raises:
        CredentialError: the root's key is not here, does not fit, or the root has ended.
    """
    key = key_types.make_key(key_type)
    builder = _below(root.certificate, _ca_name(name), key.public_key(), _days(days))
    return _sign(_as_ca(builder, 0, constraints), key, _signing_key(root))


def issue_server(
    ca: Credential,
    hosts: Iterable[str],
    days: float = LEAF_DAYS,
    *,
    key: bytes | None = None,
    lifetime: datetime.timedelta | None = None,
    root: bytes | None = None,
) -> Credential:
    """Make a server's certificate, and a key unless it has one.

    Args:
        hosts: DNS names and IP addresses that devices connect to, at least one.
        key: private key to certify, DER; None: a new one of the CA's type.
        root: of the issuing CA, whose name constraints count as well.

    Raises:
        CredentialError: no host, an unusable one, one that the CA may not sign for, or the
            CA's key does not fit.
    """
    names = [general_name(host) for host in dict.fromkeys(hosts)]
    if not names:
        raise CredentialError("a server certificate needs a host name: pass --host")
    check_hosts(names, [ca.certificate, *([root] if root else [])])
    private = key_types.read_private_key(key, "the server's key") if key else _key_like(ca)
    # An address as common name, without a DNS name beside it, counts as a DNS name that the
    # constraints do not permit (OpenSSL, crypto/x509/v3_ncons.c).
    short = [str(name.value) for name in names if isinstance(name, x509.DNSName)]
    common = next((name for name in short if len(name) <= 64), "fleetnet server")
    builder = _leaf(
        ca, _common_name(common), private.public_key(), ExtendedKeyUsageOID.SERVER_AUTH,
        lifetime or _days(days),
    )  # fmt: skip
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _sign(builder, private, _signing_key(ca))


def issue_device(
    ca: Credential,
    name: str,
    days: float = LEAF_DAYS,
    *,
    public_key: bytes | None = None,
    lifetime: datetime.timedelta | None = None,
) -> Credential:
    """Make a device's certificate, below 1,000 bytes; and a key unless it has its own.

    Args:
        public_key: SubjectPublicKeyInfo of the device's own key; the credential then has none.

    Raises:
        IdentityError: no device name. CredentialError: a key that devices cannot use, or the
            CA's does not fit.
    """
    uri = x509.UniformResourceIdentifier(device_uri(name))
    private = None if public_key else _key_like(ca)
    if private is not None:
        public = private.public_key()
    else:
        public = key_types.read_public_key(public_key or b"", f"the key of device {name!r}")
    builder = _leaf(
        ca, _device_subject(name), public, ExtendedKeyUsageOID.CLIENT_AUTH, lifetime or _days(days)
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
    return _sign(builder, private, _signing_key(ca))


def self_signed(
    hosts: Iterable[str] = (), key_type: str = P256, days: float = 365, name: str = ""
) -> Credential:
    """Make a pair that is its own anchor: for two devices that know each other's certificate.

    It is no CA, so that the key signs nothing else, and good for a server and for a client.

    Args:
        hosts: names and addresses that clients connect to; none is enough for a client.
        name: common name; without it the first host.

    Raises:
        CredentialError: neither host nor name, an unusable host, or an unknown key type.
    """
    names = [general_name(host) for host in dict.fromkeys(hosts)]
    common = name or next((str(found.value) for found in names), "")
    if not common:
        raise CredentialError("a certificate needs a host or a name: pass --host or --name")
    key = key_types.make_key(key_type)
    subject = _common_name(common[:64])
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = _as_leaf(_builder(subject, subject, key.public_key(), _days(days)), usages)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _sign(builder, key, key)


def to_pem(certificate: bytes) -> bytes:
    """Turn a DER certificate into PEM, for tools that want it."""
    return x509.load_der_x509_certificate(certificate).public_bytes(serialization.Encoding.PEM)


def authority_key(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Return the extension that names a CA's key; an imported CA may lack an identifier."""
    try:
        found = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = key_types.check_public_key(issuer.public_key(), "the CA's key")
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found)


def is_issued_by(certificate: bytes, issuer: bytes) -> bool:
    """Tell whether ``issuer`` has signed a certificate; both DER."""
    below = x509.load_der_x509_certificate(certificate)
    try:
        below.verify_directly_issued_by(x509.load_der_x509_certificate(issuer))
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def _self_signed_ca(
    name: str,
    key_type: str,
    days: int,
    path_length: int,
    constraints: x509.NameConstraints | None,
) -> Credential:
    key = key_types.make_key(key_type)
    subject = _ca_name(name)
    builder = _builder(subject, subject, key.public_key(), _days(days)).add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
    )
    return _sign(_as_ca(builder, path_length, constraints), key, key)


def _as_ca(
    builder: x509.CertificateBuilder,
    path_length: int,
    constraints: x509.NameConstraints | None,
) -> x509.CertificateBuilder:
    builder = builder.add_extension(
        x509.BasicConstraints(ca=True, path_length=path_length), critical=True
    ).add_extension(_key_usage(signs_certificates=True), critical=True)
    if constraints is None:
        return builder
    # Why not critical: identity/constraints.py.
    return builder.add_extension(constraints, critical=False)


def _as_leaf(
    builder: x509.CertificateBuilder, usages: list[x509.ObjectIdentifier]
) -> x509.CertificateBuilder:
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    )


def _leaf(
    ca: Credential,
    subject: x509.Name,
    public_key: PublicKey,
    usage: x509.ObjectIdentifier,
    lifetime: datetime.timedelta,
) -> x509.CertificateBuilder:
    return _as_leaf(_below(ca.certificate, subject, public_key, lifetime), [usage])


def _below(
    issuer_der: bytes, subject: x509.Name, public_key: PublicKey, lifetime: datetime.timedelta
) -> x509.CertificateBuilder:
    """Begin a certificate that ends no later than its issuer's."""
    issuer = x509.load_der_x509_certificate(issuer_der)
    return _builder(
        subject, issuer.subject, public_key, lifetime, issuer.not_valid_after_utc
    ).add_extension(authority_key(issuer), critical=False)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: PublicKey,
    lifetime: datetime.timedelta,
    latest: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    if lifetime < MIN_LIFETIME:
        raise CredentialError(
            f"a life of {lifetime.total_seconds():g} s is too short: take 5 s or more"
        )
    # Whole seconds are all that a certificate has; the end is not before the asked one.
    now = datetime.datetime.now(datetime.UTC)
    begin = (now - min(BACKDATE, lifetime / 10)).replace(microsecond=0)
    end = (now + lifetime + _SECOND).replace(microsecond=0)
    if latest is not None and latest < now + MIN_LIFETIME:
        raise CredentialError(
            f"the CA {issuer.rfc4514_string()} ended on {latest:%Y-%m-%d}: `fleetnet ca rotate`"
        )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end if latest is None else min(end, latest))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _sign(
    builder: x509.CertificateBuilder, key: PrivateKey | None, signer: PrivateKey
) -> Credential:
    certificate = builder.sign(signer, hashes.SHA256())
    return Credential(
        certificate.public_bytes(serialization.Encoding.DER),
        b"" if key is None else key_types.key_to_der(key),
    )


def _signing_key(ca: Credential) -> PrivateKey:
    if not ca.key:
        raise CredentialError("the CA's key is not here: bring it back, or `fleetnet ca rotate`")
    key = key_types.read_private_key(ca.key, "the CA's key")
    if key.public_key() != x509.load_der_x509_certificate(ca.certificate).public_key():
        raise CredentialError("the CA's key does not belong to its certificate: restore the pair")
    return key


def _key_like(ca: Credential) -> PrivateKey:
    """A fleet has one type of key: who asks for RSA has peers that read nothing else."""
    public = x509.load_der_x509_certificate(ca.certificate).public_key()
    name = key_types.name_of_key(public)
    return key_types.make_key(key_types.RSA2048 if name.startswith("rsa") else name)


def _device_subject(name: str) -> x509.Name:
    """A common name that looks like a DNS name falls under the name constraints when the
    certificate has no DNS name (OpenSSL, crypto/x509/v3_ncons.c): cam.1 would be refused."""
    kind = NameOID.SERIAL_NUMBER if "." in name else NameOID.COMMON_NAME
    return x509.Name([x509.NameAttribute(kind, name)])


def _ca_name(name: str) -> x509.Name:
    """A random suffix keeps two CAs apart: OpenSSL looks issuers up by name."""
    return _common_name(f"{name[:50]} {secrets.token_hex(4)}")


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _days(days: float) -> datetime.timedelta:
    return datetime.timedelta(days=days)


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
