"""A chain of three, root, intermediate and leaf, as a public server has; made when tests run."""

import datetime
import hashlib
import ipaddress
import secrets
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fleetnet_server.identity.pki import to_pem

DAY = datetime.timedelta(days=1)
Key = ec.EllipticCurvePrivateKey


class Chain(NamedTuple):
    """Certificates as DER, the leaf's key as PEM, the SHA-256 of its public key as text."""

    root: bytes
    intermediate: bytes
    leaf: bytes
    key_pem: bytes
    pin: str

    @property
    def leaf_pem(self) -> bytes:
        return to_pem(self.leaf)

    @property
    def intermediate_pem(self) -> bytes:
        return to_pem(self.intermediate)


def make_chain(
    host: str = "localhost", address: str | None = "127.0.0.1", *, self_signed: bool = False
) -> Chain:
    """Make a chain whose leaf is for these names; ``self_signed``: a leaf that nobody signed."""
    names: list[x509.GeneralName] = [x509.DNSName(host)]
    if address:
        names.append(x509.IPAddress(ipaddress.ip_address(address)))
    root_key, middle_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    # Names of their own: OpenSSL looks issuers up by name.
    top, between = (f"{each} {secrets.token_hex(4)}" for each in ("root", "intermediate"))
    root = _certificate(top, root_key, top, root_key, ca=True)
    middle = _certificate(between, middle_key, top, root_key, ca=True)
    if self_signed:
        leaf = _certificate(host, key, host, key, ca=False, names=names)
    else:
        leaf = _certificate(host, key, between, middle_key, ca=False, names=names)
    return Chain(
        root,
        middle,
        leaf,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        pin_of(key),
    )


def pin_of(key: Key) -> str:
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _certificate(
    subject: str,
    key: Key,
    issuer: str,
    signer: Key,
    *,
    ca: bool,
    names: list[x509.GeneralName] | None = None,
) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + 30 * DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
