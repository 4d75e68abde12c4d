"""Certificates, keys, requests and revocation lists in every form that people have them in.

Reads DER and PEM: X.509, PKCS #7 bundles, private keys as SEC 1 (RFC 5915), PKCS #1 (RFC 8017)
and PKCS #8 (RFC 5958), encrypted or not, public keys, PKCS #10 requests, CRLs. A PEM file may
hold several of them. What cannot be read is said by name, with what to do.
"""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs7

from fleetnet.errors import CredentialError
from fleetnet_server.identity.recognizing import children, key_form, split_der, why_unreadable

CERTIFICATE = "certificate"
KEY = "private key"
PUBLIC = "public key"
REQUEST = "certificate request"
CRL = "revocation list"

DER, PEM = "DER", "PEM"
ENCRYPTED = "encrypted"

# A CA bundle of a system has 220 KB; a revocation list may be larger.
MAX_BYTES = 16 << 20
_LABELS = {
    "CERTIFICATE": CERTIFICATE,
    "X509 CERTIFICATE": CERTIFICATE,
    "CERTIFICATE REQUEST": REQUEST,
    "NEW CERTIFICATE REQUEST": REQUEST,
    "X509 CRL": CRL,
    "PUBLIC KEY": PUBLIC,
    "RSA PUBLIC KEY": PUBLIC,
    "PRIVATE KEY": KEY,
    "EC PRIVATE KEY": KEY,
    "RSA PRIVATE KEY": KEY,
    "DSA PRIVATE KEY": KEY,
    "ENCRYPTED PRIVATE KEY": KEY,
}
_PEM_LABELS = {kind: label for label, kind in reversed(_LABELS.items()) if kind != KEY}
_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")
# After so many that have no end it is no PEM, and looking for each end takes time.
_MAX_UNENDED = 16
# What the parser raises; the classes do not share a base.
UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
# Of what the certificate, request or list says; the parser reads each when it is asked for.
_SAID = (
    "subject", "issuer", "serial_number", "not_valid_before_utc", "not_valid_after_utc",
    "extensions", "signature_hash_algorithm", "signature_algorithm_oid", "is_signature_valid",
    "last_update_utc", "next_update_utc",
)  # fmt: skip


class Item(NamedTuple):
    """One thing that a file holds.

    Attributes:
        kind: CERTIFICATE, KEY, PUBLIC, REQUEST or CRL.
        form: "X.509", "PKCS #7", "SEC 1", "PKCS #1", "PKCS #8", "PKCS #10", "SPKI".
        encoding: "DER" or "PEM", of the file.
        value: the object of the cryptography package; None: a key that is encrypted, and
            no password was given.
        is_encrypted: the file protects it by a password.
        raw: DER as the file has it; b"" of an encrypted key.
    """

    kind: str
    form: str
    encoding: str
    value: Any
    is_encrypted: bool = False
    raw: bytes = b""

    @property
    def der(self) -> bytes:
        """The item as DER; of a private key raises CredentialError: see key_to_der."""
        if self.kind == PUBLIC:
            return bytes(
                self.value.public_bytes(
                    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
                )
            )
        if self.kind == KEY:
            raise CredentialError("a private key has several DER forms: choose one")
        return bytes(self.value.public_bytes(serialization.Encoding.DER))

    @property
    def pem(self) -> bytes:
        """The item as PEM; of a private key as PKCS #8, not encrypted."""
        if self.kind == KEY:
            return bytes(
                self.value.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
        return _pem(_PEM_LABELS[self.kind], self.der)


class Content(NamedTuple):
    """A file's items in their order; ``size`` in bytes; ``rest``: bytes behind the last."""

    items: tuple[Item, ...]
    encoding: str
    size: int
    rest: int = 0

    def of(self, kind: str) -> list[Item]:
        return [item for item in self.items if item.kind == kind]


def read_file(path: Path, password: bytes | None = None) -> Content:
    """Read a file. Raises CredentialError: cannot be opened; as read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CredentialError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise CredentialError(f"{path} is above {MAX_BYTES >> 20} MiB: no certificate file")
    return read(data, str(path), password)


def read(data: bytes, whose: str, password: bytes | None = None) -> Content:
    """Read what a file holds.

    Args:
        whose: names it in messages.
        password: of encrypted keys; None: they are recognized, and not opened.

    Raises:
        CredentialError: says what the bytes are and what to do. It has no byte of a key.
    """
    if b"-----BEGIN" in data:
        return Content(_read_pem(data, whose, password), PEM, len(data))
    parts, rest = split_der(data)
    if not parts:
        raise CredentialError(f"{whose} {why_unreadable(data)}")
    items: list[Item] = []
    for part in parts:
        items += _read_der(part, whose, password)
    return Content(tuple(items), DER, len(data), rest)


def check_readable(value: Any) -> None:
    """Ask a certificate, request or list for all that it says: nothing may fail later.

    Raises:
        ValueError and its kin: something of it cannot be read, or its key is of a kind unknown
            here; use it within ``read``, or catch UNREADABLE.
    """
    for name in _SAID:
        getattr(value, name, None)
    if hasattr(value, "public_key"):
        value.public_key()
    if isinstance(value, x509.CertificateRevocationList):
        for one in value:
            one.extensions  # noqa: B018


def _words(error: Exception) -> str:
    """The parser's words, on one line; copying again is what mostly helps."""
    return " ".join(str(error).split())[:200] + "; copy it again"


# -- PEM -----------------------------------------------------------------------------------


def _read_pem(data: bytes, whose: str, password: bytes | None) -> tuple[Item, ...]:
    items: list[Item] = []
    others: list[str] = []
    for label, block in _blocks(data):
        if label in ("PKCS7", "CMS"):
            items += _pkcs7(block, whose, PEM)
        elif label == "TRUSTED CERTIFICATE":
            raise CredentialError(
                f"{whose} is a certificate with OpenSSL's own trust settings: "
                "`openssl x509 -in IN -out OUT` leaves them out"
            )
        elif label in _LABELS:
            items.append(_read_block(label, block, whose, password))
        elif label != "EC PARAMETERS":  # `openssl ecparam -genkey` puts them before the key
            others.append(label)
    if not items:
        if others:
            raise CredentialError(f"{whose} {why_unreadable(data, others[0])}")
        raise CredentialError(
            f"{whose} begins as PEM and is cut off or damaged: copy it again, whole"
        )
    return tuple(items)


def _blocks(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (label, block) of a PEM text; in one pass, whatever it holds (RFC 7468)."""
    at, unended = 0, 0
    while (found := _BEGIN.search(data, at)) and unended < _MAX_UNENDED:
        foot = b"-----END " + found[1] + b"-----"
        end = data.find(foot, found.end())
        if end < 0:
            at, unended = found.end(), unended + 1
            continue
        at = end + len(foot)
        yield found[1].decode(), data[found.start() : at]


def _read_block(label: str, block: bytes, whose: str, password: bytes | None) -> Item:
    kind = _LABELS[label]
    load: Any = {
        CERTIFICATE: x509.load_pem_x509_certificate,
        REQUEST: x509.load_pem_x509_csr,
        CRL: x509.load_pem_x509_crl,
        PUBLIC: serialization.load_pem_public_key,
    }.get(kind)
    if kind == KEY:
        is_encrypted = b"ENCRYPTED" in block
        form = {"EC PRIVATE KEY": "SEC 1", "RSA PRIVATE KEY": "PKCS #1"}.get(label, "PKCS #8")
        value = _load_key(block, whose, password, is_encrypted)
        return Item(KEY, form, PEM, value, is_encrypted, b"" if is_encrypted else _unwrap(block))
    try:
        value = load(block)
        check_readable(value)
        return Item(kind, _FORMS[kind], PEM, value, raw=_unwrap(block))
    except UNREADABLE as error:
        raise CredentialError(f"{whose} holds a damaged {kind}: {_words(error)}") from error


_FORMS = {CERTIFICATE: "X.509", REQUEST: "PKCS #10", CRL: "X.509", PUBLIC: "SPKI"}


# -- DER -----------------------------------------------------------------------------------


def _read_der(data: bytes, whose: str, password: bytes | None) -> list[Item]:
    """Tell by the structure what it is, then let the library read it."""
    form = key_form(data)
    if form:
        is_encrypted = form == ENCRYPTED
        value = _load_key(data, whose, password, is_encrypted)
        if is_encrypted:
            return [Item(KEY, "PKCS #8", DER, value, True)]
        return [Item(KEY, form, DER, value, raw=data)]
    tags = [tag for tag, _ in children(data)]
    if tags == [0x06, 0xA0]:
        return _pkcs7(data, whose, DER)
    if tags in ([0x30, 0x03], [0x02, 0x02]):
        kind, load = PUBLIC, serialization.load_der_public_key
    elif tags == [0x30, 0x30, 0x03]:
        kind, load = _signed(data)
    else:
        raise CredentialError(f"{whose} {why_unreadable(data)}")
    try:
        value = load(data)
        check_readable(value)
        return [Item(kind, _FORMS[kind], DER, value, raw=data)]
    except UNREADABLE as error:
        text = f"{whose} looks like a {kind} and is damaged: {_words(error)}"
        raise CredentialError(text) from error


def _signed(data: bytes) -> tuple[str, Any]:
    """Tell a certificate, a request and a revocation list apart by what is signed."""
    inner = [tag for tag, _ in children(children(data)[0][1])]
    if inner[:1] == [0x02] and 0xA0 in inner and len(inner) == 4:
        return REQUEST, x509.load_der_x509_csr
    # A CRL has a time where a certificate has the sequence of two.
    if 0x17 in inner or 0x18 in inner:
        return CRL, x509.load_der_x509_crl
    return CERTIFICATE, x509.load_der_x509_certificate


def _pkcs7(data: bytes, whose: str, encoding: str) -> list[Item]:
    load: Any = {
        PEM: pkcs7.load_pem_pkcs7_certificates,
        DER: pkcs7.load_der_pkcs7_certificates,
    }[encoding]
    try:
        found = load(data)
        for one in found:
            check_readable(one)
    except UNREADABLE as error:
        raise CredentialError(
            f"{whose} is PKCS #7 without readable certificates: {_words(error)}; export them again"
        ) from error
    return [
        Item(
            CERTIFICATE, "PKCS #7", encoding, one,
            raw=one.public_bytes(serialization.Encoding.DER),
        )
        for one in found
    ]  # fmt: skip


def _load_key(data: bytes, whose: str, password: bytes | None, is_encrypted: bool) -> Any:
    """Return the key, or None: encrypted, and there is no password."""
    if is_encrypted and password is None:
        return None
    is_pem = b"-----BEGIN" in data
    load = serialization.load_pem_private_key if is_pem else serialization.load_der_private_key
    try:
        return load(data, password if is_encrypted else None)
    except (ValueError, TypeError, OverflowError):
        what = "does not open with that password" if is_encrypted else "is a damaged private key"
        raise CredentialError(f"{whose} {what}: try again") from None
    except UnsupportedAlgorithm as error:
        raise CredentialError(
            f"{whose} is a private key that cannot be used here: {error}; make a P-256 one"
        ) from None


def _unwrap(block: bytes) -> bytes:
    """Return what stands between the lines BEGIN and END of a PEM block (RFC 7468)."""
    return base64.b64decode(block.split(b"-----")[2])


def _pem(label: str, der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    name = label.encode()
    head, foot = b"-----BEGIN " + name + b"-----", b"-----END " + name + b"-----"
    return b"\n".join([head, *lines, foot]) + b"\n"
