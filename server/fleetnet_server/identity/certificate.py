"""Reading the identity out of a client certificate that TLS has already verified."""

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID

from fleetnet.errors import FleetError, TrustError
from fleetnet_server.errors import IdentityError
from fleetnet_server.identity.names import URI_PREFIX, is_device_name

# The parser's own errors do not share a base.
_UNREADABLE = (
    ValueError,
    TypeError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


def device_name(der: bytes) -> str:
    """Return the device that a certificate names.

    Args:
        der: one X.509 certificate.

    Raises:
        IdentityError: unreadable, or not exactly one SAN URI `urn:fleetnet:device:<name>`.
            Nothing else.
    """
    return identity(der)[0]


def refused_name(error: FleetError) -> str | None:
    """Return whose certificate failed a handshake by its date; None: nobody was proved."""
    if not isinstance(error, TrustError) or not error.certificate:
        return None
    try:
        return device_name(error.certificate)
    except IdentityError:
        return None


def public_key_hash(der: bytes) -> bytes:
    """Return the SHA-256 of a certificate's SubjectPublicKeyInfo, which devices pin.

    Source: RFC 7469 section 2.4.
    """
    key = x509.load_der_x509_certificate(der).public_key()
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(info).digest()


def identity(der: bytes) -> tuple[str, int]:
    """Return (device name, serial number); as device_name."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        serial = certificate.serial_number
        names = certificate.extensions.get_extension_for_oid(
            ExtensionOID.SUBJECT_ALTERNATIVE_NAME
        ).value
        is_ca = _is_ca(certificate)
    except x509.ExtensionNotFound:
        raise IdentityError("certificate has no subject alternative name") from None
    except _UNREADABLE as error:
        raise IdentityError(f"certificate cannot be read: {error}") from error
    if is_ca:
        # OpenSSL takes a CA's certificate for a client's; who can sign would be anybody.
        raise IdentityError("certificate is a certificate authority's, not a device's")
    if not isinstance(names, x509.SubjectAlternativeName):
        raise IdentityError("certificate has no readable subject alternative name")
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    # RFC 8141 section 2: case does not count in "urn:" and the namespace. Another program may
    # take the name that is spelt so for the one that counts.
    found = [uri for uri in uris if uri[: len(URI_PREFIX)].lower() == URI_PREFIX]
    if len(found) != 1:
        raise IdentityError(f"certificate names {len(found)} fleetnet devices, not one")
    if not found[0].startswith(URI_PREFIX):
        raise IdentityError(f"certificate spells {found[0][:80]!r}: {URI_PREFIX} is in lower case")
    name = found[0].removeprefix(URI_PREFIX)
    if serial <= 0:
        raise IdentityError(f"certificate has serial number {serial}, which RFC 5280 forbids")
    if not is_device_name(name):
        raise IdentityError(f"certificate names {name[:80]!r}, which is no device name")
    return name, serial


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_oid(
            ExtensionOID.BASIC_CONSTRAINTS
        ).value
    except x509.ExtensionNotFound:
        return False
    return not isinstance(constraints, x509.BasicConstraints) or constraints.ca
