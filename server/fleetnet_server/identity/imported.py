"""What a CA of somebody else's must be before this fleet uses it: every refusal has its reason."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from fleetnet.errors import CredentialError
from fleetnet_server.identity import pki
from fleetnet_server.identity.key_types import (
    check_public_key,
    key_to_der,
    read_private_key,
)

# What mbedTLS 3.6 reads; any other critical extension makes it refuse the certificate
# (library/x509_crt.c, x509_get_crt_ext).
_KNOWN_TO_MBEDTLS = (
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
)


def read_certificates(data: bytes, whose: str) -> list[x509.Certificate]:
    """Read one DER certificate, or every certificate of a PEM text. Raises CredentialError."""
    try:
        if b"-----BEGIN" in data:
            return x509.load_pem_x509_certificates(data)
        return [x509.load_der_x509_certificate(data)]
    except ValueError as error:
        raise CredentialError(f"{whose} is no certificate, DER or PEM: {error}") from error


def imported_pairs(
    cert: bytes, key: bytes | None, root: bytes | None
) -> tuple[pki.Credential, pki.Credential]:
    """Check a CA, and return (its root, the CA with its key); the same twice when it is a root.

    Args:
        cert: the CA that signs, DER or PEM; further certificates of a PEM text are taken for
            the root when ``root`` is None.
        key: its private key, DER or PEM; None: it is only asked whom it has signed.
        root: who signed it and what devices shall trust; needs not be self-signed.

    Raises:
        CredentialError: says what is wrong and what would be right.
    """
    found = read_certificates(cert, "the CA")
    issuing, is_ours = found[0], key is not None
    _check_ca(issuing, "the CA", is_ours)
    anchor = issuing
    if root is not None:
        anchor = read_certificates(root, "the root")[0]
    elif not _is_issued_by(issuing, issuing):
        if len(found) < 2:
            raise CredentialError(
                f"the CA was signed by {issuing.issuer.rfc4514_string()}: give that one with --root"
            )
        anchor = found[-1]
    private = b""
    if key is not None:
        own = read_private_key(key, "the CA's key")
        if own.public_key() != issuing.public_key():
            raise CredentialError("the key is not the CA's: give the pair that belongs together")
        private = key_to_der(own)
    pair = pki.Credential(_der(issuing), private)
    if anchor == issuing:
        return pair, pair
    _check_root(issuing, anchor, is_ours)
    return pki.Credential(_der(anchor), b""), pair


def _check_root(issuing: x509.Certificate, root: x509.Certificate, is_ours: bool) -> None:
    if not _is_issued_by(issuing, root):
        raise CredentialError(
            f"the CA was signed by {issuing.issuer.rfc4514_string()}, not by the root "
            f"{root.subject.rfc4514_string()}: give its own signer; devices can trust that one "
            "even if it is no root itself"
        )
    _check_ca(root, "the root", is_ours)
    length = root.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    if length == 0:
        raise CredentialError(
            "the root has path length 0, so no CA may stand below it: import the root itself with "
            "its key, or take a root with path length 1 or more"
        )


def _check_ca(certificate: x509.Certificate, whose: str, is_ours: bool) -> None:
    """Check what a CA must be; what only our devices need, when it will sign for them."""
    check_public_key(certificate.public_key(), f"{whose}'s key")
    now = datetime.datetime.now(datetime.UTC)
    if certificate.not_valid_after_utc <= now:
        raise CredentialError(f"{whose} ended on {certificate.not_valid_after_utc:%Y-%m-%d}")
    if certificate.not_valid_before_utc > now:
        raise CredentialError(
            f"{whose} begins on {certificate.not_valid_before_utc:%Y-%m-%d}: is the clock right?"
        )
    try:
        extensions = {one.oid: one for one in certificate.extensions}
    except (ValueError, x509.DuplicateExtension) as error:
        raise CredentialError(f"{whose} has unreadable extensions: {error}") from error
    _check_usage(extensions, whose)
    if not isinstance(
        certificate.signature_hash_algorithm, hashes.SHA256 | hashes.SHA384 | hashes.SHA512
    ):
        raise CredentialError(f"{whose} is signed over a broken hash: it needs SHA-256")
    if not is_ours:
        return
    for one in extensions.values():
        if one.critical and one.oid not in _KNOWN_TO_MBEDTLS:
            raise CredentialError(
                f"{whose} has the critical extension {one.oid.dotted_string}, which mbedTLS does "
                "not know: no MicroPython could load it; have it issued with that not critical"
            )


def _check_usage(
    extensions: dict[x509.ObjectIdentifier, x509.Extension[x509.ExtensionType]], whose: str
) -> None:
    basic = extensions.get(ExtensionOID.BASIC_CONSTRAINTS)
    if basic is None or not isinstance(basic.value, x509.BasicConstraints) or not basic.value.ca:
        raise CredentialError(f"{whose} is no CA: its basic constraints lack CA:TRUE")
    usage = extensions.get(ExtensionOID.KEY_USAGE)
    # Without the extension every usage is allowed: many CAs were made by `openssl req -x509`.
    if usage is not None and isinstance(usage.value, x509.KeyUsage):
        for name, is_there in (
            ("keyCertSign", usage.value.key_cert_sign),
            ("cRLSign", usage.value.crl_sign),
        ):
            if not is_there:
                raise CredentialError(
                    f"{whose}'s key usage lacks {name}: it may not sign "
                    + ("certificates" if name == "keyCertSign" else "revocation lists")
                )
    purposes = extensions.get(ExtensionOID.EXTENDED_KEY_USAGE)
    if purposes is not None and isinstance(purposes.value, x509.ExtendedKeyUsage):
        missing = {
            ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
            ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
        }
        for oid, name in missing.items():
            wanted = (oid, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
            if not any(one in purposes.value for one in wanted):
                raise CredentialError(
                    f"{whose} is limited by its extended key usage and lacks {name}"
                )


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    return pki.is_issued_by(_der(certificate), _der(issuer))


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
