"""Where the CA's generations lie, and which of them count.

    FOLDER/ca/authority.json   the ledger; a change of it is what begins and ends a rollover
    FOLDER/ca/N/               root.der root.pem root-key.der issuing.der issuing.pem
                               issuing-key.der; a flat CA's issuing.der is its root.der
    FOLDER/ca/ca.der ca.pem    the newest root that devices trust, for people and tools

A folder of the first layout has ca/ca.der and ca/key.der only: that CA is generation 1, which
is its own root. Every file is written whole; the ledger last.
"""

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import NamedTuple

from fleetnet.errors import CredentialError
from fleetnet_server.errors import FolderError
from fleetnet_server.identity import pki
from fleetnet_server.identity.files import (
    PRIVATE,
    PUBLIC,
    make_private_folder,
    move_folder_into_place,
    replace_file,
    write_new_file,
)

LEDGER = "authority.json"

# A backup has no keys unless it was told to: it is no place to send anybody to.
COPY_KEYS = "copy ca/ and server/ from where you keep them"
AS_OWNER = "run this as the user that it belongs to"


class Ledger(NamedTuple):
    """FOLDER/ca/authority.json.

    Attributes:
        issuing: the generation that signs devices. server: the one that signs the server.
        trusted: generations of this fleet that count, the newest first.
        accepted: imported CAs whose devices may come in; devices do not trust them.
    """

    issuing: int
    server: int
    trusted: tuple[int, ...]
    accepted: tuple[int, ...] = ()


class Generation(NamedTuple):
    """One CA: a root, and the issuing CA below it (the root itself when it is flat).

    Attributes:
        root: certificate, DER. issuing: certificate, and its key where it is here.
    """

    number: int
    root: bytes
    issuing: pki.Credential

    @property
    def is_flat(self) -> bool:
        return self.root == self.issuing.certificate

    def chain(self, leaf: bytes) -> bytes:
        """Return what a server presents, PEM: the leaf, and the issuing CA unless it is flat."""
        issuing = b"" if self.is_flat else pki.to_pem(self.issuing.certificate)
        return pki.to_pem(leaf) + issuing


def has_authority(folder: Path) -> bool:
    """Whether there is a CA, whatever its state."""
    return (folder / "ca" / LEDGER).exists() or (folder / "ca" / "ca.der").exists()


def read_ledger(folder: Path) -> Ledger:
    """Read FOLDER/ca/authority.json, or conclude it from the first layout.

    Raises:
        CredentialError: there is no CA, or the file is damaged.
    """
    path = folder / "ca" / LEDGER
    try:
        document = json.loads(path.read_text())
        issuing = int(document["issuing"])
        return Ledger(
            issuing,
            int(document.get("server", issuing)),
            tuple(sorted(map(int, document["trusted"]), reverse=True)),
            tuple(map(int, document.get("accepted", ()))),
        )
    except FileNotFoundError:
        if (folder / "ca" / "ca.der").exists():
            return Ledger(1, 1, (1,))
        raise CredentialError(
            f"{folder} has no certificate authority: {COPY_KEYS}; a fleet without devices gets "
            "one by `fleetnet ca init`"
        ) from None
    except OSError as error:
        raise CredentialError(f"{path} cannot be read: {error.strerror}; {AS_OWNER}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CredentialError(f"{path} is damaged ({error!r}): {COPY_KEYS}") from error


def write_ledger(folder: Path, ledger: Ledger) -> None:
    """Make a ledger the one that counts, then bring the copies up to date. Raises OSError."""
    text = json.dumps(ledger._asdict()) + "\n"
    replace_file(folder / "ca" / LEDGER, text.encode(), PUBLIC)
    refresh_copies(folder, ledger)


def refresh_copies(folder: Path, ledger: Ledger) -> None:
    """Write ca.der and ca.pem anew where they are not the newest root."""
    root = read_generation(folder, ledger.trusted[0]).root
    copy = folder / "ca" / "ca.der"
    if not copy.exists() or copy.read_bytes() != root:
        replace_file(copy, root, PUBLIC)
        replace_file(folder / "ca" / "ca.pem", pki.to_pem(root), PUBLIC)


def read_generation(folder: Path, number: int) -> Generation:
    """Read one generation; a missing issuing key is b"".

    Raises:
        CredentialError: a file is missing or is no certificate; names it.
    """
    place = folder / "ca" / str(number)
    if not place.exists() and number == 1 and not (folder / "ca" / LEDGER).exists():
        certificate = _certificate(folder / "ca" / "ca.der")
        return Generation(1, certificate, _pair(certificate, folder / "ca" / "key.der"))
    issuing = _certificate(place / "issuing.der")
    root = _certificate(place / "root.der")
    return Generation(number, root, _pair(issuing, place / "issuing-key.der"))


def read_root(folder: Path, number: int, key_file: Path | None = None) -> pki.Credential:
    """Return a generation's root with its key, from ``key_file`` where it is kept offline.

    Raises:
        CredentialError: the key is not here, or the file is not its key.
    """
    generation = read_generation(folder, number)
    path = key_file or folder / "ca" / str(number) / "root-key.der"
    key = _read(path)
    if not key and generation.is_flat and key_file is None:
        key = generation.issuing.key
    if not key:
        raise CredentialError(
            f"the root's key is not in {path}: name the file that you keep offline with "
            "--root-key, or begin a new root with `fleetnet ca rotate`"
        )
    return pki.Credential(generation.root, key)


def write_generation(
    folder: Path, root: pki.Credential, issuing: pki.Credential, root_key_file: Path | None = None
) -> Generation:
    """Put a new CA beside the others; it counts once it is in the ledger.

    Args:
        root_key_file: where the root's key goes instead of the folder; must not exist.

    Raises:
        FolderError: ``root_key_file`` exists; disk full, no permission.
    """
    number = 1 + max(_numbers(folder), default=0)
    place = folder / "ca" / str(number)
    temporary = folder / "ca" / f".{number}.{secrets.token_hex(4)}"
    elsewhere = None
    try:
        make_private_folder(temporary)
        for name, certificate in (("root", root.certificate), ("issuing", issuing.certificate)):
            write_new_file(temporary / f"{name}.der", certificate, PUBLIC)
            write_new_file(temporary / f"{name}.pem", pki.to_pem(certificate), PUBLIC)
        if issuing.key:
            write_new_file(temporary / "issuing-key.der", issuing.key)
        if root.key and root_key_file is not None:
            _write_elsewhere(root_key_file, root.key)
            elsewhere = root_key_file
        elif root.key and root != issuing:
            write_new_file(temporary / "root-key.der", root.key)
        move_folder_into_place(temporary, place)
    except BaseException as error:
        if elsewhere is not None and not place.exists():
            elsewhere.unlink(missing_ok=True)  # the key of a CA that never was
        if isinstance(error, OSError):
            raise FolderError(f"{place} cannot be made: {error}") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Generation(number, root.certificate, issuing)


def adopt_first_layout(folder: Path) -> None:
    """Turn ca/ca.der and ca/key.der into generation 1. A folder of today is left alone.

    Raises:
        CredentialError: there is no CA. OSError: disk full, no permission.
    """
    if (folder / "ca" / LEDGER).exists():
        (folder / "ca" / "key.der").unlink(missing_ok=True)
        return
    ledger = read_ledger(folder)
    if not (folder / "ca" / "1").exists():
        first = read_generation(folder, 1)
        write_generation(folder, first.issuing, first.issuing)
    write_ledger(folder, ledger)
    (folder / "ca" / "key.der").unlink(missing_ok=True)


def _write_elsewhere(path: Path, data: bytes) -> None:
    """Write a new file where hard links may not exist: a root's key goes to a memory stick."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    except FileExistsError:
        raise FolderError(f"{path} exists and was left alone: name another file") from None
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _numbers(folder: Path) -> list[int]:
    return [int(path.name) for path in (folder / "ca").iterdir() if path.name.isdecimal()]


def _certificate(path: Path) -> bytes:
    data = _read(path)
    if not data:
        raise CredentialError(f"{path} is missing: {COPY_KEYS}")
    try:
        pki.to_pem(data)
    except ValueError as error:
        raise CredentialError(f"{path} is no certificate ({error}): {COPY_KEYS}") from error
    return data


def _pair(certificate: bytes, key: Path) -> pki.Credential:
    return pki.Credential(certificate, _read(key))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise CredentialError(f"{path} cannot be read: {error.strerror}; {AS_OWNER}") from error
