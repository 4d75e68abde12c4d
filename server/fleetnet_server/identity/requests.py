"""Certificate requests (PKCS #10, RFC 2986) of devices that keep their own key."""

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

from fleetnet.errors import CredentialError
from fleetnet_server.identity.key_types import check_public_key, public_to_der

# An RSA-4096 request with a long subject takes less than 2 KiB.
MAX_REQUEST = 4096


def requested_key(csr: bytes) -> bytes:
    """Return the key that a request asks to certify, as SubjectPublicKeyInfo.

    Only the key is taken: who the device is and what the certificate is good for is the
    server's to say, so subject and extensions of the request are not looked at. The signature
    proves that the sender has the private key.

    Args:
        csr: PKCS #10, DER.

    Raises:
        CredentialError: too long, unreadable, not signed by its own key, signed over a broken
            hash, a point that is not on its curve, or a key that devices cannot use.
    """
    if len(csr) > MAX_REQUEST:
        raise CredentialError(f"certificate request of {len(csr)} bytes: {MAX_REQUEST} at most")
    try:
        request = x509.load_der_x509_csr(csr)
        key = request.public_key()
        hash_algorithm = request.signature_hash_algorithm
        is_signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise CredentialError(f"certificate request cannot be read: {error}") from error
    public = check_public_key(key, "the request's key")
    if not is_signed:
        raise CredentialError("certificate request is not signed by its own key: make it again")
    if not isinstance(hash_algorithm, hashes.SHA256 | hashes.SHA384 | hashes.SHA512):
        raise CredentialError("certificate request is signed over a broken hash: use SHA-256")
    return public_to_der(public)
