"""Certificates and keys for an OpenSSL context, and what is wrong with them.

Sources: pyOpenSSL SSL.Context; RFC 7468 (PEM).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from OpenSSL import SSL, crypto

from fleetnet.errors import CredentialError

Source = str | bytes | Path

_DER = serialization.Encoding.DER
_SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


def _read(source: Source, what: str) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise CredentialError(f"cannot read {what} {source}: {error.strerror}") from error


def _certificates(source: Source, what: str) -> list[x509.Certificate]:
    """Read one DER certificate, or every certificate of a PEM file."""
    data = _read(source, what)
    try:
        if b"-----BEGIN" in data:
            return x509.load_pem_x509_certificates(data)
        return [x509.load_der_x509_certificate(data)]
    except ValueError as error:
        remedy = "is it a key, or several DER files in one? Pass several anchors as a list"
        raise CredentialError(f"{what} is neither DER nor PEM ({error}): {remedy}") from error


def _private_key(source: Source) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    data = _read(source, "key")
    try:
        if b"-----BEGIN" in data:
            key = serialization.load_pem_private_key(data, None)
        else:
            key = serialization.load_der_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CredentialError(
            f"key is no unencrypted DER or PEM private key ({error}): convert it without a "
            "pass phrase"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise CredentialError(
            f"key type {type(key).__name__} is not understood by mbedTLS on boards: use P-256"
        )
    return key


def trust(native: SSL.Context, ca: Source | Sequence[Source], announce: bool) -> None:
    """Load trust anchors.

    Args:
        announce: server: name them to clients that are asked for a certificate.
    """
    sources: Iterable[Source] = ca if isinstance(ca, list | tuple) else [ca]  # type: ignore[list-item]
    if not sources:
        raise CredentialError("no trust anchor was given: pass the CA's certificate")
    store = native.get_cert_store()
    if store is None:
        raise CredentialError("this OpenSSL gives no certificate store to fill")
    for source in sources:
        for certificate in _certificates(source, "trust anchor"):
            store.add_cert(crypto.X509.from_cryptography(certificate))
            if announce:
                native.add_client_ca(certificate)
    # As on mbedTLS, whatever is given is an anchor: a leaf or an intermediate, too.
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)


def present(native: SSL.Context, cert: Source | None, key: Source | None) -> None:
    """Load this side's certificate, with the chain that a PEM file holds, and its key."""
    if cert is None:
        raise CredentialError("a key is of no use without its certificate: pass cert=")
    if key is None:
        raise CredentialError("a certificate needs its private key: pass key=")
    chain = _certificates(cert, "certificate")
    secret = _private_key(key)
    theirs = chain[0].public_key().public_bytes(_DER, _SPKI)
    if theirs != secret.public_key().public_bytes(_DER, _SPKI):
        raise CredentialError(
            f"key does not match the certificate of {chain[0].subject.rfc4514_string()}: "
            "they were made at different times?"
        )
    try:
        native.use_certificate(chain[0])
        for issuer in chain[1:]:
            native.add_extra_chain_cert(issuer)
        native.use_privatekey(secret)
    except SSL.Error as error:
        raise CredentialError(
            f"OpenSSL refuses the certificate or its key ({error}): use P-256, or RSA with 2048 "
            "bits or more, and SHA-256"
        ) from error
