"""The server's own key and certificate, as FOLDER/server holds them.

    cert.der      the leaf                       chain.pem     leaf and issuing CAs, presented
    key.der       its private key (0600)         next-key.der  the key that follows it (0600)
    pending.json  a change under way (0600)      lock          held by whoever changes them

Devices pin the public keys of both pairs, so that the key can be changed under devices that
have no date and know the server by nothing else.

A change goes into pending.json first, whole and durable; then the files are replaced one by
one; then pending.json is removed. While it is there it counts and the files do not: a power
cut at any point leaves either the old state or the new one, never a certificate with another
one's key. tests/server/identity/test_server_keys.py stops at every call to the system.
"""

import base64
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from fleetnet.errors import CredentialError
from fleetnet_server.errors import FolderError
from fleetnet_server.identity.certificate import public_key_hash
from fleetnet_server.identity.files import (
    PRIVATE,
    PUBLIC,
    make_private_folder,
    replace_file,
    sync_folder,
)
from fleetnet_server.identity.key_types import (
    key_to_der,
    make_key,
    name_of_key,
    public_to_der,
    read_private_key,
)
from fleetnet_server.identity.pki import to_pem

if TYPE_CHECKING:
    from fleetnet_server.identity.authority import Authority

FOLDER = "server"
_CERT, _KEY, _CHAIN, _NEXT = "cert.der", "key.der", "chain.pem", "next-key.der"
_PENDING, _LOCK = "pending.json", "lock"
WATCHED = (_CERT, _KEY, _CHAIN, _NEXT, _PENDING)
_MODES = {_CERT: PUBLIC, _CHAIN: PUBLIC, _KEY: PRIVATE, _NEXT: PRIVATE}

# A reader without the lock may meet a change half done; the change is then in pending.json.
_LOOKS = 5

_ISSUE_ANEW = "`fleetnet cert server` issues a new one"
_COPY = "copy server/ from where you keep the keys; a backup has them only if made --with-keys"


class _Files(NamedTuple):
    """What the folder says, as bytes; ``chain`` is PEM."""

    cert: bytes
    key: bytes
    chain: bytes
    next_key: bytes

    def by_name(self) -> dict[str, bytes]:
        return {_NEXT: self.next_key, _KEY: self.key, _CHAIN: self.chain, _CERT: self.cert}


def parts_there(folder: Path) -> list[Path]:
    """Return the files of the server's pair that exist, whatever their state."""
    places = [folder / FOLDER / name for name in (*_MODES, _PENDING)]
    return [place for place in places if place.exists()]


def refuse_existing(folder: Path) -> None:
    """Look before a first pair is made. Raises FolderError: there is one, or a part of one."""
    found, place = parts_there(folder), folder / FOLDER
    if found:
        raise FolderError(
            f"{found[0]} exists and was left alone: copy the ca/ that it belongs to from "
            f"where you keep it; or move {place} away, and every device needs a new bundle"
        )


class ServerKeys:
    """The pair that the server presents now, and the key that follows; immutable.

    Args:
        folder: of the fleet.

    Attributes:
        cert, key: DER. chain: PEM, leaf first. next_key: DER; b"": the folder has none yet.

    Raises:
        CredentialError: a file is missing or unreadable, or the files do not belong together;
            the message names the file and the remedy.
    """

    def __init__(self, folder: Path):
        self._fleet = folder
        self._place = folder / FOLDER
        self.cert, self.key, self.chain, self.next_key = _read(self._place)

    @classmethod
    def create(
        cls,
        folder: Path,
        authority: "Authority",
        hosts: Iterable[str],
        lifetime: timedelta | None = None,
    ) -> "ServerKeys":
        """Make the first pair and the key that will follow it.

        Raises:
            FolderError: there is a pair; it was left alone. CredentialError: as
            Authority.issue_server. OSError.
        """
        place = folder / FOLDER
        if not place.is_dir():
            make_private_folder(place)
        with _locked(place):
            refuse_existing(folder)
            issued = authority.issue_server(tuple(hosts), lifetime=lifetime)
            _write(place, _files(authority, issued.certificate, issued.key, _key_like(issued.key)))
        return cls(folder)

    @classmethod
    def repair(
        cls,
        folder: Path,
        authority: "Authority",
        hosts: Iterable[str],
        lifetime: timedelta | None = None,
    ) -> "ServerKeys":
        """Make a certificate for key.der, whatever the files beside it say.

        Raises:
            CredentialError: there is no usable key.der; as Authority.issue_server. OSError.
        """
        place = folder / FOLDER
        with _locked(place):
            key = _read_file(place / _KEY)
            _key_hash(key, place / _KEY)
            try:
                following = _read_file(place / _NEXT)
                _key_hash(following, place / _NEXT)
            except CredentialError:
                following = _key_like(key)
            issued = authority.issue_server(tuple(hosts), key=key, lifetime=lifetime)
            _write(place, _files(authority, issued.certificate, key, following))
        return cls(folder)

    # -- what it says ----------------------------------------------------------------------

    def pins(self) -> list[str]:
        """Return what devices pin: SHA-256 of the public keys, current and next, hexadecimal."""
        pins = [public_key_hash(self.cert).hex()]
        if self.next_key:
            pins.append(_key_hash(self.next_key, self._place / _NEXT))
        return pins

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names and addresses that the certificate is for."""
        try:
            names = self._leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            return ()
        return tuple(
            str(name.value)
            for name in names.value
            if isinstance(name, x509.DNSName | x509.IPAddress)
        )

    @property
    def serial(self) -> int:
        """Serial number of the certificate."""
        return self._leaf.serial_number

    @property
    def not_before_ms(self) -> int:
        """Begin of validity, unix ms."""
        return int(self._leaf.not_valid_before_utc.timestamp() * 1000)

    @property
    def not_after_ms(self) -> int:
        """End of validity, unix ms."""
        return int(self._leaf.not_valid_after_utc.timestamp() * 1000)

    @property
    def next_made_ms(self) -> int:
        """When the key that follows was made, unix ms; 0: there is none."""
        try:
            return (self._place / _NEXT).stat().st_mtime_ns // 1_000_000
        except FileNotFoundError:
            return 0

    def was_issued_by(self, certificate: bytes) -> bool:
        """Whether the certificate is signed by this CA (DER)."""
        try:
            self._leaf.verify_directly_issued_by(x509.load_der_x509_certificate(certificate))
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    @property
    def _leaf(self) -> x509.Certificate:
        return x509.load_der_x509_certificate(self.cert)

    # -- changes ---------------------------------------------------------------------------

    def renew(
        self,
        authority: "Authority",
        hosts: Iterable[str] = (),
        *,
        change_key: bool = False,
        lifetime: timedelta | None = None,
    ) -> "ServerKeys":
        """Put a new certificate into force; return what the folder then holds.

        Args:
            hosts: what it shall be for; none: the same as now.
            change_key: take the next key into use, and make another next one.

        Raises:
            CredentialError: as Authority.issue_server, or no next key to change to.
            OSError: disk full, no permission; the old pair stays in force.
        """
        with _locked(self._place):
            now = ServerKeys(self._fleet)  # somebody may have changed it before the lock
            key, following = now.key, now.next_key or _key_like(now.key)
            if change_key:
                if not now.next_key:
                    raise CredentialError(
                        f"{self._place / _NEXT} is missing, so no device knows the key to change "
                        "to: `fleetnet cert server` makes one; change once devices have its pin"
                    )
                key, following = now.next_key, _key_like(now.next_key)
            wanted = tuple(hosts) or now.hosts
            issued = authority.issue_server(wanted, key=key, lifetime=lifetime)
            _write(self._place, _files(authority, issued.certificate, key, following))
            return ServerKeys(self._fleet)

    def finish(self) -> None:
        """Complete a change that was cut short; harmless when there is none. Raises OSError."""
        if (self._place / _PENDING).exists():
            with _locked(self._place):
                if (self._place / _PENDING).exists():
                    _write(self._place, _read(self._place))


# -- reading -------------------------------------------------------------------------------


def _read(place: Path) -> _Files:
    """Return what is in force. Raises CredentialError."""
    looks = _LOOKS
    while True:
        looks -= 1
        try:
            files = _read_pending(place) or _read_files(place)
            _check(files, place)
            return files
        except CredentialError:
            if not looks:
                raise


def _read_pending(place: Path) -> _Files | None:
    path = place / _PENDING
    try:
        found = json.loads(path.read_bytes())
        return _Files(*(base64.b64decode(found[name]) for name in (_CERT, _KEY, _CHAIN, _NEXT)))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CredentialError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        # It is renamed into place whole, so this is no power cut.
        raise CredentialError(f"{path} is damaged: remove it, the files beside it count") from None


def _read_files(place: Path) -> _Files:
    cert, key = _read_file(place / _CERT), _read_file(place / _KEY)
    next_key = _read_file(place / _NEXT) if (place / _NEXT).exists() else b""
    if (place / _CHAIN).exists():
        return _Files(cert, key, _read_file(place / _CHAIN), next_key)
    _certificate_hash(cert, place / _CERT)
    return _Files(cert, key, to_pem(cert), next_key)  # a folder of the first layout


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        remedy = _COPY if path.name in (_KEY, _NEXT) else _ISSUE_ANEW
        if isinstance(error, PermissionError):
            remedy = "run this as the user that it belongs to"
        raise CredentialError(f"cannot read {path}: {error.strerror}; {remedy}") from error


def _check(files: _Files, place: Path) -> None:
    """Refuse files that do not belong together."""
    pin = _certificate_hash(files.cert, place / _CERT)
    if _key_hash(files.key, place / _KEY) != pin:
        raise CredentialError(
            f"{place / _KEY} is not the key of {place / _CERT}: restore the pair from one backup"
        )
    try:
        leaf = x509.load_pem_x509_certificates(files.chain)[0]
    except ValueError as error:
        raise CredentialError(
            f"{place / _CHAIN} holds no certificates in PEM: {error}; {_ISSUE_ANEW}"
        ) from error
    if leaf.public_bytes(serialization.Encoding.DER) != files.cert:
        raise CredentialError(
            f"{place / _CHAIN} does not begin with {place / _CERT}: put the leaf first in it, or "
            f"{_ISSUE_ANEW}"
        )
    if files.next_key:
        _key_hash(files.next_key, place / _NEXT)


def _certificate_hash(der: bytes, path: Path) -> str:
    try:
        return public_key_hash(der).hex()
    except ValueError as error:
        raise CredentialError(
            f"{path} is no certificate in DER: {error}; {_ISSUE_ANEW}"
        ) from error


def _key_hash(der: bytes, path: Path) -> str:
    key = read_private_key(der, str(path))
    return hashlib.sha256(public_to_der(key.public_key())).hexdigest()


# -- writing -------------------------------------------------------------------------------


def _files(authority: "Authority", cert: bytes, key: bytes, next_key: bytes) -> _Files:
    return _Files(cert, key, authority.server_chain(cert), next_key)


def _key_like(key: bytes) -> bytes:
    """Make a key of the same type."""
    return key_to_der(make_key(name_of_key(read_private_key(key, "the server's key"))))


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Hold the folder against other processes and threads that want to change it."""
    descriptor = os.open(place / _LOCK, os.O_RDWR | os.O_CREAT, PRIVATE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(place: Path, files: _Files) -> None:
    """Put all files into force as one step, see the top of this file."""
    named = files.by_name()
    for name in (*named, _PENDING):
        for left in place.glob(f".{name}.*"):
            left.unlink()  # of a change that was cut short
    pending = {name: base64.b64encode(data).decode() for name, data in named.items()}
    replace_file(place / _PENDING, json.dumps(pending).encode(), PRIVATE)
    for name, data in named.items():
        path = place / name
        if data and not (path.exists() and path.read_bytes() == data):
            replace_file(path, data, _MODES[name])
    os.unlink(place / _PENDING)
    sync_folder(place)
