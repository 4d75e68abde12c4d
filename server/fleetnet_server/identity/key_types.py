"""Which keys a fleet can use, and in what form they are kept.

mbedTLS decides: MicroPython builds it with P-256, P-384 and RSA, and without Ed25519, which
mbedTLS has none of. Private keys are kept as SEC 1 (RFC 5915) or PKCS #1 (RFC 8017): half the
size of PKCS #8, and what every MicroPython reads.
"""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

from fleetnet.errors import CredentialError

P256 = "p256"
P384 = "p384"
RSA2048 = "rsa2048"
KEY_TYPES = (P256, P384, RSA2048)

# Larger RSA keys cost a microcontroller seconds a signature, and its chain no longer fits
# into a handshake's buffers.
_MAX_RSA_BITS = 4096
_MIN_RSA_BITS = 2048
_CURVES: dict[str, type[ec.EllipticCurve]] = {P256: ec.SECP256R1, P384: ec.SECP384R1}

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


def make_key(key_type: str) -> PrivateKey:
    """Make a private key of one of KEY_TYPES. Raises CredentialError for another one."""
    if key_type in _CURVES:
        return ec.generate_private_key(_CURVES[key_type]())
    if key_type == RSA2048:
        return rsa.generate_private_key(65537, 2048)
    raise CredentialError(f"key type {key_type!r}: {_why_not(key_type)}use {', '.join(KEY_TYPES)}")


def check_public_key(key: object, whose: str) -> PublicKey:
    """Return the key when devices can use it.

    An elliptic point was checked to lie on its curve when it was parsed.

    Args:
        whose: for the message, as in "the request's key".

    Raises:
        CredentialError: another algorithm, curve or size; says which and what to use.
    """
    if isinstance(key, ec.EllipticCurvePublicKey):
        if isinstance(key.curve, tuple(_CURVES.values())):
            return key
        found = f"is on the curve {key.curve.name}"
    elif isinstance(key, rsa.RSAPublicKey):
        if _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS and key.public_numbers().e >= 65537:
            return key
        found = f"is RSA of {key.key_size} bits, exponent {key.public_numbers().e}"
    elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        raise CredentialError(
            f"{whose} is Ed25519 or Ed448, which mbedTLS lacks: no board could use it; take P-256"
        )
    else:
        found = "is DSA" if isinstance(key, dsa.DSAPublicKey) else f"is a {type(key).__name__}"
    raise CredentialError(
        f"{whose} {found}: use P-256, P-384, or RSA of {_MIN_RSA_BITS} to {_MAX_RSA_BITS} bits "
        "with exponent 65537"
    )


def name_of_key(key: object) -> str:
    """Return "p256", "p384", "rsa2048" (or another size), or the class's name."""
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        known = {curve: name for name, curve in _CURVES.items()}
        return known.get(type(key.curve), key.curve.name)
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        return f"rsa{key.key_size}"
    return type(key).__name__.removesuffix("PublicKey").removesuffix("PrivateKey").lower()


def key_to_der(key: PrivateKey) -> bytes:
    """Lay out a private key as SEC 1 or PKCS #1 DER, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def public_to_der(key: PublicKey) -> bytes:
    """Lay out a public key as SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7)."""
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def read_private_key(data: bytes, whose: str) -> PrivateKey:
    """Read a private key, DER or PEM, SEC 1, PKCS #1 or PKCS #8, not encrypted.

    Raises:
        CredentialError: unreadable, encrypted, or a key that check_public_key refuses. The
            message has no byte of the key.
    """
    is_pem = b"-----BEGIN" in data
    load = serialization.load_pem_private_key if is_pem else serialization.load_der_private_key
    try:
        key = load(data, password=None)
    except TypeError:
        raise CredentialError(
            f"{whose} is encrypted: decrypt it first, `fleetnet cert convert KEY PLAIN`"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CredentialError(
            f"{whose} cannot be read as a private key, DER or PEM: copy it again"
        ) from None
    check_public_key(key.public_key(), whose)
    assert isinstance(key, PrivateKey)
    return key


def read_public_key(der: bytes, whose: str) -> PublicKey:
    """Read a SubjectPublicKeyInfo. Raises CredentialError as check_public_key does."""
    try:
        key = serialization.load_der_public_key(der)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CredentialError(f"{whose} cannot be read: {error}") from error
    return check_public_key(key, whose)


def _why_not(key_type: str) -> str:
    if key_type.lower().startswith("ed"):
        return "mbedTLS lacks Ed25519 and Ed448, so no board could use it; "
    return "unknown; "
