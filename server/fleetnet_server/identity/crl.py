"""Certificate revocation lists (RFC 5280 section 5): made for our CAs, read of imported ones."""

import datetime
import hashlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization

from fleetnet.errors import CredentialError
from fleetnet_server.identity import key_types
from fleetnet_server.identity.files import PUBLIC, make_private_folder, replace_file
from fleetnet_server.identity.pki import Credential, authority_key

# How long other programs may go on with a list; the server writes a new one far more often.
NEXT_UPDATE = datetime.timedelta(days=30)

# A list of 100,000 serial numbers has some 4 MB.
_MAX_CRL = 64 << 20

_REASONS = {reason.value.lower(): reason for reason in x509.ReasonFlags}


class Revoked(NamedTuple):
    """A certificate that is no longer accepted.

    Attributes:
        revoked_ms: unix ms.
        reason: one of RFC 5280's ("keyCompromise", "superseded", "cessationOfOperation", ...);
            any other text is kept in our own tables only and stands for none.
        generation: the CA that issued it; None: not known, every list carries it.
    """

    serial: int
    revoked_ms: int
    reason: str = ""
    generation: int | None = None


def make_crl(issuing: Credential, revoked: Iterable[Revoked], previous: bytes | None) -> bytes:
    """Sign a list.

    Args:
        previous: the list before it, DER, whose number this one exceeds; None: there is none
            (the number begins with the time, so that a lost list does not restart it).

    Raises:
        CredentialError: the CA's key is not here or does not fit.
    """
    if not issuing.key:
        raise CredentialError("the issuing CA's key is not here: no revocation list can be signed")
    key = key_types.read_private_key(issuing.key, "the issuing CA's key")
    ca = x509.load_der_x509_certificate(issuing.certificate)
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    number = max(int(time.time()), 0 if previous is None else number_of(previous) + 1)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.subject)
        .last_update(now)
        .next_update(now + NEXT_UPDATE)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(authority_key(ca), critical=False)
    )
    for one in sorted({one.serial: one for one in revoked}.values()):
        builder = builder.add_revoked_certificate(_entry(one))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def number_of(crl: bytes) -> int:
    """Return a list's CRL number; 0 when it has none or cannot be read."""
    try:
        found = x509.load_der_x509_crl(crl).extensions.get_extension_for_class(x509.CRLNumber)
    except (ValueError, x509.ExtensionNotFound):
        return 0
    return found.value.crl_number


def crl_to_pem(crl: bytes) -> bytes:
    """Turn a DER list into PEM."""
    return x509.load_der_x509_crl(crl).public_bytes(serialization.Encoding.PEM)


def issuer_hash(certificate: bytes) -> bytes:
    """Return the SHA-256 of a certificate's issuer name, the first half of what is looked up
    in ``revoked_serials``."""
    issuer = x509.load_der_x509_certificate(certificate).issuer
    return hashlib.sha256(issuer.public_bytes()).digest()


def subject_hash(authority: bytes) -> bytes:
    """Return what issuer_hash is for the certificates that this CA issues."""
    subject = x509.load_der_x509_certificate(authority).subject
    return hashlib.sha256(subject.public_bytes()).digest()


def revoked_serials(folder: Path, authorities: Iterable[bytes]) -> frozenset[tuple[bytes, int]]:
    """Read the lists of imported CAs, FOLDER/ca/crls/*.{der,pem,crl}.

    A list past its next update still counts: what it revokes stays revoked.

    Args:
        folder: the fleet's. authorities: CA certificates, DER, whose lists are believed.

    Returns:
        (issuer_hash, serial number) of each revoked certificate.

    Raises:
        CredentialError: a list that cannot be read or is signed by none of the CAs; names the
            file. Taking less than what is revoked would open a closed door.
    """
    known = [x509.load_der_x509_certificate(der) for der in authorities]
    found: set[tuple[bytes, int]] = set()
    place = folder / "ca" / "crls"
    try:
        paths = sorted(place.iterdir())
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise CredentialError(f"{place} cannot be read: {error}") from error
    for path in paths:
        if path.suffix in (".der", ".pem", ".crl"):
            crl = read_crl(path)
            check_signed_by(crl, known, str(path))
            issuer = hashlib.sha256(crl.issuer.public_bytes()).digest()
            found.update((issuer, one.serial_number) for one in crl)
    return frozenset(found)


def kept_crl(folder: Path, number: int) -> Path:
    """Return where the list is kept that was imported with a CA."""
    return folder / "ca" / "crls" / f"imported-{number}.crl"


def keep_crl(folder: Path, number: int, data: bytes) -> None:
    """Put the list of an imported CA into FOLDER/ca/crls. Raises OSError."""
    place = kept_crl(folder, number)
    if not place.parent.exists():
        make_private_folder(place.parent)
    replace_file(place, data, PUBLIC)


def check_signed_by(
    crl: x509.CertificateRevocationList, authorities: Iterable[x509.Certificate], whose: str
) -> None:
    """Refuse a list that none of the CAs has signed. Raises CredentialError."""
    for authority in authorities:
        key = key_types.check_public_key(authority.public_key(), "the CA's key")
        try:
            if crl.issuer == authority.subject and crl.is_signature_valid(key):
                return
        except (InvalidSignature, UnsupportedAlgorithm, TypeError):
            continue
    raise CredentialError(
        f"{whose}: signed by no CA that this fleet accepts ({crl.issuer.rfc4514_string()}): "
        "`fleetnet ca import` its CA, or remove the file"
    )


def _entry(one: Revoked) -> x509.RevokedCertificate:
    at = datetime.datetime.fromtimestamp(one.revoked_ms // 1000, datetime.UTC)
    builder = x509.RevokedCertificateBuilder().serial_number(one.serial).revocation_date(at)
    reason = _REASONS.get(one.reason.lower().replace("-", "").replace("_", "").replace(" ", ""))
    # RFC 5280 section 5.3.1: "unspecified" is left out; the last is for delta lists only.
    if reason not in (None, x509.ReasonFlags.unspecified, x509.ReasonFlags.remove_from_crl):
        assert reason is not None
        builder = builder.add_extension(x509.CRLReason(reason), critical=False)
    return builder.build()


def read_crl(path: Path) -> x509.CertificateRevocationList:
    """Read a list, DER or PEM. Raises CredentialError, which names the file."""
    try:
        if path.stat().st_size > _MAX_CRL:
            raise CredentialError(f"{path} is longer than {_MAX_CRL} bytes: is it a list?")
        data = path.read_bytes()
        if b"-----BEGIN" in data:
            return x509.load_pem_x509_crl(data)
        return x509.load_der_x509_crl(data)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise CredentialError(f"{path} is no readable revocation list: {error}") from error
