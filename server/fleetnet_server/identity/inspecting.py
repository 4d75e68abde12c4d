"""What a certificate, key, request or revocation list says, for people and programs."""

import datetime
import hashlib
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import (
    AuthorityInformationAccessOID,
    PublicKeyAlgorithmOID,
    SignatureAlgorithmOID,
)

from fleetnet_server.identity import formats
from fleetnet_server.identity.camera import flight_bytes, is_ca
from fleetnet_server.identity.formats import Item
from fleetnet_server.identity.key_types import name_of_key
from fleetnet_server.identity.names import URI_PREFIX

_DAY = datetime.timedelta(days=1)
# Around the certificates in the TLS message that carries them: type, length, length of the
# list, and a length for each (RFC 5246 section 7.4.2); TLS 1.3 adds 3 and 2 for each.
_MESSAGE, _EACH = 7, 3


def describe(item: Item, now: datetime.datetime | None = None) -> dict[str, Any]:
    """Return what there is to say about one item; keys as `fleetnet cert inspect --json`."""
    now = now or datetime.datetime.now(datetime.UTC)
    about: dict[str, Any] = {"kind": item.kind, "form": item.form, "encoding": item.encoding}
    if item.kind == formats.CERTIFICATE:
        about |= _certificate(item.value, now)
    elif item.kind == formats.KEY:
        about |= _private_key(item)
    elif item.kind == formats.PUBLIC:
        about |= {"key": key_name(item.value), "pin": pin_of(item.value)}
    elif item.kind == formats.REQUEST:
        about |= _request(item.value)
    else:
        about |= _revocations(item.value)
    return about


def key_name(key: Any) -> str:
    """Return "P-256", "P-384", "RSA 2048", "Ed25519" or the curve's name."""
    name = name_of_key(key)
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        return f"RSA {key.key_size}"
    return {
        "p256": "P-256", "p384": "P-384", "secp521r1": "P-521", "ed25519": "Ed25519",
        "ed448": "Ed448",
    }.get(name, name)  # fmt: skip


def certificate_key_name(certificate: x509.Certificate) -> str:
    """As key_name, for the key in a certificate, which may be one that is not understood."""
    try:
        name = key_name(certificate.public_key())
    except (ValueError, UnsupportedAlgorithm):
        return "unknown"
    is_pss = certificate.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS
    return f"{name} (PSS)" if is_pss else name


def pin_of(public_key: Any) -> str:
    """Return the SHA-256 of a public key's SubjectPublicKeyInfo, hexadecimal (RFC 7469)."""
    info = public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(info).hexdigest()


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate's DER, hexadecimal."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def signature_name(signed: Any) -> str:
    """Return "ecdsa with SHA256" and the like, of a certificate, request or list."""
    hash_name = getattr(signed.signature_hash_algorithm, "name", "").upper()
    oid = signed.signature_algorithm_oid
    if oid == SignatureAlgorithmOID.RSASSA_PSS:
        return f"RSA-PSS with {hash_name}"
    kind = str(getattr(oid, "_name", "") or oid.dotted_string)
    if not hash_name:
        return kind
    return f"{'ECDSA' if kind.startswith('ecdsa') else 'RSA'} with {hash_name}"


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """Return DNS names and addresses of the subject alternative name."""
    return [name for kind, name in names_of(certificate) if kind in ("DNS", "IP")]


def names_of(signed: Any) -> list[tuple[str, str]]:
    """Return (kind, name) of the subject alternative name: DNS, IP, URI or email."""
    try:
        found = signed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError, x509.DuplicateExtension):
        return []
    kinds: dict[type, str] = {
        x509.DNSName: "DNS", x509.IPAddress: "IP", x509.UniformResourceIdentifier: "URI",
        x509.RFC822Name: "email",
    }  # fmt: skip
    return [(kinds.get(type(one), "other"), str(one.value)) for one in found]


def device_of(signed: Any) -> str:
    """Return the fleetnet device that it names, or ""."""
    found = [name for kind, name in names_of(signed) if kind == "URI"]
    names = [uri.removeprefix(URI_PREFIX) for uri in found if uri.startswith(URI_PREFIX)]
    return names[0] if len(names) == 1 else ""


def text_of(name: x509.Name) -> str:
    """Return a distinguished name for people: CN=..., O=... (RFC 4514)."""
    return name.rfc4514_string() or "(empty)"


def _certificate(certificate: x509.Certificate, now: datetime.datetime) -> dict[str, Any]:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    state = "expired" if end < now else "not yet valid" if begin > now else "valid"
    size = len(certificate.public_bytes(serialization.Encoding.DER))
    about = {
        "subject": text_of(certificate.subject),
        "issuer": text_of(certificate.issuer),
        "self_signed": certificate.subject == certificate.issuer,
        "serial": f"{certificate.serial_number:x}",
        "names": [f"{kind}:{name}" for kind, name in names_of(certificate)],
        "device": device_of(certificate),
        "not_before": f"{begin:%Y-%m-%dT%H:%M:%SZ}",
        "not_after": f"{end:%Y-%m-%dT%H:%M:%SZ}",
        "days_left": (end - now) // _DAY,
        "state": state,
        "key": certificate_key_name(certificate),
        "signature": signature_name(certificate),
        "bytes": size,
        "wire_bytes": _MESSAGE + _EACH + size,
        "sha256": fingerprint(certificate),
    }
    try:
        about["pin"] = pin_of(certificate.public_key())
        about["dtls_flight_bytes"] = flight_bytes([certificate])
    except (ValueError, UnsupportedAlgorithm):
        pass
    return about | _extensions(certificate)


def _extensions(certificate: x509.Certificate) -> dict[str, Any]:
    """Return what restricts a certificate's use."""
    about: dict[str, Any] = {"ca": is_ca(certificate)}
    try:
        extensions = list(certificate.extensions)
    except (ValueError, x509.DuplicateExtension) as error:
        return about | {"extensions": f"unreadable: {error}"}
    for one in extensions:
        value = one.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            about["path_length"] = value.path_length
        elif isinstance(value, x509.ExtendedKeyUsage):
            about["purposes"] = [getattr(oid, "_name", oid.dotted_string) for oid in value]
        elif isinstance(value, x509.KeyUsage):
            about["key_usage"] = [name for name in _USAGES if getattr(value, name)]
        elif isinstance(value, x509.NameConstraints):
            about["permitted"] = _general(value.permitted_subtrees)
            about["excluded"] = _general(value.excluded_subtrees)
        elif isinstance(value, x509.AuthorityInformationAccess):
            about["issuer_at"] = issuer_urls(certificate)
    about["critical"] = [
        getattr(one.oid, "_name", one.oid.dotted_string) for one in extensions if one.critical
    ]
    return about


_USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
    "key_agreement", "key_cert_sign", "crl_sign",
)  # fmt: skip


def issuer_urls(certificate: x509.Certificate) -> list[str]:
    """Return where the issuer's certificate can be fetched (RFC 5280 section 4.2.2.1)."""
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess)
    except (x509.ExtensionNotFound, ValueError, x509.DuplicateExtension):
        return []
    return [
        str(one.access_location.value)
        for one in access.value
        if one.access_method == AuthorityInformationAccessOID.CA_ISSUERS
    ]


def _general(names: Any) -> list[str]:
    return [str(name.value) for name in names or ()]


def _private_key(item: Item) -> dict[str, Any]:
    about: dict[str, Any] = {"encrypted": item.is_encrypted}
    if item.value is not None:
        about |= {"key": key_name(item.value), "pin": pin_of(item.value.public_key())}
    return about


def _request(request: x509.CertificateSigningRequest) -> dict[str, Any]:
    return {
        "subject": text_of(request.subject),
        "names": [f"{kind}:{name}" for kind, name in names_of(request)],
        "device": device_of(request),
        "key": key_name(request.public_key()),
        "signature": signature_name(request),
        "signature_valid": request.is_signature_valid,
        "pin": pin_of(request.public_key()),
    }


def _revocations(revoked: x509.CertificateRevocationList) -> dict[str, Any]:
    following = revoked.next_update_utc
    return {
        "issuer": text_of(revoked.issuer),
        "last_update": f"{revoked.last_update_utc:%Y-%m-%dT%H:%M:%SZ}",
        "next_update": f"{following:%Y-%m-%dT%H:%M:%SZ}" if following else None,
        "revoked": [f"{one.serial_number:x}" for one in revoked],
        "signature": signature_name(revoked),
    }
