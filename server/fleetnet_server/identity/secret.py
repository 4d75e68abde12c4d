"""FOLDER/secret.key: 32 random bytes under which the store keeps what it must give back.

Only pre-shared keys so far. It is no part of the store: a copy of the store alone opens nothing.
"""

import os
import stat
from pathlib import Path

from fleetnet.errors import CredentialError
from fleetnet_server.errors import FolderError
from fleetnet_server.identity.files import write_new_file

FILE_NAME = "secret.key"
# AES-256.
SECRET_BYTES = 32

# Whatever anybody but the owner may do.
_OTHERS = 0o077


def load_secret(folder: Path, create: bool = True) -> bytes:
    """Return the 32 bytes of FOLDER/secret.key, which is made, 0600, when there is none.

    Args:
        create: False: there are rows that only the file itself opens, another one is of no use.

    Raises:
        CredentialError: missing, readable by others, of another size, no file; with the remedy.
        FolderError: it cannot be written.
    """
    path = folder / FILE_NAME
    try:
        return _read(path)
    except FileNotFoundError:
        if not create:
            raise CredentialError(
                f"{path} is missing and the pre-shared keys in the store open with nothing else: "
                "put the file back from a backup, or `fleetnet psk remove` each and add it again"
            ) from None
    try:
        write_new_file(path, os.urandom(SECRET_BYTES))
    except FolderError:
        pass  # another program was faster: the file is whole when it has its name
    except OSError as error:
        raise FolderError(f"{path} cannot be written: {error}") from error
    try:
        return _read(path)
    except FileNotFoundError:
        raise CredentialError(f"{path} was taken away again: who else works here?") from None


def _read(path: Path) -> bytes:
    """Raises CredentialError; FileNotFoundError when there is no such name."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CredentialError(f"{path} cannot be read: {error.strerror}") from error
    try:
        # Of the open file, so that nobody changes it between the look and the reading.
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CredentialError(f"{path} is no file: put the real one there from a backup")
        if status.st_mode & _OTHERS:
            raise CredentialError(
                f"{path} can be read by others (mode {stat.S_IMODE(status.st_mode):o}): "
                f"chmod 600 {path}; if somebody may have read it, change every pre-shared key"
            )
        data = os.read(descriptor, SECRET_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) != SECRET_BYTES:
        raise CredentialError(
            f"{path} has {status.st_size} bytes, not {SECRET_BYTES}: put it back from a backup"
        )
    return data
