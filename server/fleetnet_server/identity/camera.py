"""Whether a camera can use a file, and why not.

Everything here was asked of real firmwares: MicroPython 1.25 and 1.26 with Debian's mbedTLS, and
1.29 with the configuration that boards are built with. The tests ask them again.

    load_cert_chain, load_verify_locations   ValueError("invalid cert"), ("invalid key")
    handshake                                ValueError("... unacceptable key ..."), OSError

Sources: mbedTLS library/x509_crt.c (mbedtls_x509_crt_profile_default, x509_get_crt_ext,
x509_crt_check_ee_locally_trusted), library/pkparse.c; MicroPython
extmod/mbedtls/mbedtls_config_common.h.
"""

import datetime
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID, PublicKeyAlgorithmOID, SignatureAlgorithmOID

from fleetnet_server.identity import formats
from fleetnet_server.identity.formats import Content, Item

OK, WARN, BAD = "ok", "warn", "bad"

# A device's chain above it asks for more datagrams than a board's stack keeps.
MAX_CHAIN = 1000
# What nearly every network passes in one piece (RFC 9000 section 14 relies on it, too).
MAX_DATAGRAM = 1200

# Client's last flight over DTLS in bytes, besides certificates and signature: five records
# with ECDHE on P-256 and AES-GCM. mbedTLS sends it as one datagram, whatever its size.
_FLIGHT = 226

# What mbedTLS reads; any other critical extension makes it refuse the certificate.
_KNOWN = (
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    x509.ObjectIdentifier("2.16.840.1.113730.1.1"),  # Netscape's certificate type
)
_ANY_POLICY = x509.ObjectIdentifier("2.5.29.32.0")
_GOOD_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_CONVERT = "`fleetnet cert convert IN OUT.der --camera`"
_P256 = "make a P-256 key: `fleetnet cert self-signed`, or another from your CA"
_NO_PART = {
    formats.PUBLIC: "a public key, which a camera does not load",
    formats.REQUEST: "a certificate request: have it signed first",
    formats.CRL: "a revocation list: MicroPython does not check those",
}


class Verdict(NamedTuple):
    """One finding. ``level``: "ok", "warn" (works, but) or "bad" (a camera fails with it)."""

    level: str
    text: str
    remedy: str = ""


def verdicts(
    content: Content, key: Content | None = None, now: datetime.datetime | None = None
) -> list[Verdict]:
    """Say what a camera makes of a file, and of the key that goes with it.

    Args:
        key: file with the private key of the first certificate.

    Returns:
        At least one; the bad ones first.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    found = _of_file(content)
    certificates = content.of(formats.CERTIFICATE)
    for item in content.items:
        if item.kind == formats.CERTIFICATE:
            found += _of_certificate(item, now)
        elif item.kind == formats.KEY:
            found += _of_key(item)
        else:
            found.append(Verdict(BAD, _NO_PART[item.kind]))
    found += _of_chain(certificates)
    if key is not None:
        found += _of_pair(certificates, key)
    found = list(dict.fromkeys(found)) or [Verdict(OK, "a camera can load it")]
    return sorted(found, key=lambda one: (BAD, WARN, OK).index(one.level))


def is_anchor(certificate: x509.Certificate) -> bool:
    """Whether mbedTLS can trust it: a CA, or a certificate that signed itself."""
    return is_ca(certificate) or certificate.subject == certificate.issuer


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether it may sign others."""
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except (x509.ExtensionNotFound, ValueError):
        return False
    return basic.value.ca


def flight_bytes(chain: list[x509.Certificate]) -> int:
    """Return the size of the DTLS datagram in which a MicroPython client proves who it is."""
    key = chain[0].public_key()
    if isinstance(key, rsa.RSAPublicKey):
        signature = key.key_size // 8
    else:
        bits = getattr(key, "key_size", 256)
        signature = 2 * ((bits + 7) // 8) + 8
    return _FLIGHT + signature + chain_bytes(chain) + 3 * (len(chain) - 1)


def chain_bytes(chain: list[x509.Certificate]) -> int:
    """Return the bytes of the certificates themselves."""
    return sum(len(one.public_bytes(Encoding.DER)) for one in chain)


# -- files ---------------------------------------------------------------------------------


def _of_file(content: Content) -> list[Verdict]:
    found = []
    if content.encoding == formats.PEM:
        text = "PEM: not every firmware reads it, and it takes a third more room"
        found.append(Verdict(WARN, text, _CONVERT))
    elif len(content.items) > 1 and content.items[0].form != "PKCS #7":
        text = f"{len(content.items)} in one DER file: the first counts alone, without an error"
        found.append(Verdict(BAD, text, "one file for each: `fleetnet cert convert --pick N`"))
    if any(item.form == "PKCS #7" for item in content.items):
        found.append(Verdict(BAD, "PKCS #7, which no camera reads", _CONVERT))
    return found


def _of_chain(items: list[Item]) -> list[Verdict]:
    chain = [item.value for item in items]
    if not chain or is_ca(chain[0]):
        return []
    size, flight = chain_bytes(chain), flight_bytes(chain)
    if size <= MAX_CHAIN and flight <= MAX_DATAGRAM:
        return []
    text = (
        f"a device that shows it over DTLS sends a datagram of about {flight} B "
        f"(certificates: {size} B): above {MAX_DATAGRAM} B networks may drop it"
    )
    return [Verdict(WARN, text, "one P-256 leaf, without its issuers; or transport tls")]


def _of_pair(certificates: list[Item], key: Content) -> list[Verdict]:
    keys = key.of(formats.KEY)
    if not keys:
        return [Verdict(BAD, "the file given as key holds none", "name the file with the key")]
    found = []
    if certificates and keys[0].value is not None:
        mine, theirs = keys[0].value.public_key(), certificates[0].value.public_key()
        if mine != theirs:
            text = "the key is not this certificate's: it loads, and every handshake fails"
            found.append(Verdict(BAD, text, "take both from the same bundle"))
    return found


# -- keys ----------------------------------------------------------------------------------


def _of_key(item: Item) -> list[Verdict]:
    if item.is_encrypted:
        return [Verdict(BAD, "the key is encrypted, and a camera knows no password", _CONVERT)]
    if PSS_KEY in item.raw:
        return [Verdict(BAD, "the key is for RSA-PSS alone, which mbedTLS cannot load", _P256)]
    found = _of_public(item.value.public_key(), "the key")
    if not found and _is_explicit(item.value.public_key(), item.raw):
        found = [Verdict(BAD, "the key spells out its curve's parameters", _CONVERT)]
    return found


PSS_KEY = bytes.fromhex("06092a864886f70d01010a")
CURVE_OIDS = {
    ec.SECP256R1: bytes.fromhex("06082a8648ce3d030107"),
    ec.SECP384R1: bytes.fromhex("06052b81040022"),
    ec.SECP521R1: bytes.fromhex("06052b81040023"),
}


def _is_explicit(key: Any, raw: bytes) -> bool:
    """Whether a curve is given by its numbers instead of its name."""
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    oid = CURVE_OIDS.get(type(key.curve))
    return oid is not None and oid not in raw


def _of_public(key: Any, whose: str) -> list[Verdict]:
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return [Verdict(BAD, f"{whose} is Ed25519 or Ed448, which mbedTLS lacks", _P256)]
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < 2048:
            text = f"{whose} is RSA of {key.key_size} bits: every handshake refuses it"
            return [Verdict(BAD, text, _P256)]
        return []
    if isinstance(key, ec.EllipticCurvePublicKey):
        if isinstance(key.curve, _GOOD_CURVES):
            return []
        return [Verdict(BAD, f"{whose} is on {key.curve.name}, {_curve(key)}", _P256)]
    return [Verdict(BAD, f"{whose} is a {type(key).__name__}, which mbedTLS lacks", _P256)]


def _curve(key: ec.EllipticCurvePublicKey) -> str:
    if key.curve.name.startswith("brainpool"):
        return "which boards' firmware leaves out (Debian's build has it)"
    return "which every handshake refuses"


# -- certificates --------------------------------------------------------------------------


def _of_certificate(item: Item, now: datetime.datetime) -> list[Verdict]:
    certificate: x509.Certificate = item.value
    if certificate.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS:
        return [Verdict(BAD, "its key is for RSA-PSS alone, which mbedTLS cannot load", _P256)]
    try:
        key: Any = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        return [Verdict(BAD, f"its key cannot be read: {error}", _P256)]
    found = _of_public(key, "its key")
    if not found and _is_explicit(key, certificate.tbs_certificate_bytes):
        found.append(Verdict(BAD, "its key spells out its curve's parameters", _P256))
    return [*found, *_of_signature(certificate), *_of_extensions(certificate), *_of_dates(
        certificate, now
    )]  # fmt: skip


def _of_signature(certificate: x509.Certificate) -> list[Verdict]:
    again = "have it issued again with ECDSA or RSA PKCS #1 v1.5, over SHA-256"
    if certificate.signature_algorithm_oid == SignatureAlgorithmOID.RSASSA_PSS:
        text = "it is signed with RSA-PSS, which boards' firmware leaves out (Debian's has it)"
        return [Verdict(BAD, text, again)]
    if isinstance(certificate.signature_hash_algorithm, hashes.SHA1 | hashes.MD5):
        name = certificate.signature_hash_algorithm.name.upper()
        if certificate.subject == certificate.issuer:
            # mbedTLS does not check an anchor's own signature.
            return [Verdict(WARN, f"it is signed over {name}: of use as an anchor alone", again)]
        return [Verdict(BAD, f"it is signed over {name}: every handshake refuses it", again)]
    return []


def _of_extensions(certificate: x509.Certificate) -> list[Verdict]:
    try:
        extensions = list(certificate.extensions)
    except (ValueError, x509.DuplicateExtension) as error:
        return [Verdict(BAD, f"its extensions cannot be read: {error}", "have it issued again")]
    found = []
    for one in extensions:
        if one.critical and not _is_known(one):
            name = getattr(one.oid, "_name", "") or one.oid.dotted_string
            text = f"its extension {name} is critical, and mbedTLS does not know it"
            found.append(Verdict(BAD, text, "have it issued with that extension not critical"))
    oids = {one.oid for one in extensions}
    if is_ca(certificate):
        usage = next((one.value for one in extensions if one.oid == ExtensionOID.KEY_USAGE), None)
        if isinstance(usage, x509.KeyUsage) and not usage.key_cert_sign:
            text = "it is a CA whose key usage lacks keyCertSign: it is no trust anchor"
            found.append(Verdict(BAD, text, "have it issued again"))
    elif ExtensionOID.SUBJECT_ALTERNATIVE_NAME not in oids:
        text = "it has no subject alternative name: MicroPython takes the common name alone"
        found.append(Verdict(WARN, text, "have it issued with its names in the SAN"))
    return found


def _is_known(extension: x509.Extension[x509.ExtensionType]) -> bool:
    """Whether mbedTLS takes it when it is critical; of policies only the one that says "any"."""
    if isinstance(extension.value, x509.CertificatePolicies):
        return all(one.policy_identifier == _ANY_POLICY for one in extension.value)
    return extension.oid in _KNOWN


def _of_dates(certificate: x509.Certificate, now: datetime.datetime) -> list[Verdict]:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if end < now:
        return [Verdict(BAD, f"it ended on {end:%Y-%m-%d}", "have it renewed")]
    if begin > now:
        return [Verdict(BAD, f"it begins on {begin:%Y-%m-%d}", "wait, or check the clock")]
    return []
