"""Writing key material: whole or not at all, private; over something else only when asked."""

import os
import secrets
from pathlib import Path

from fleetnet_server.errors import FolderError

# Modes: keys are their owner's alone, certificates everybody's.
PRIVATE = 0o600
PUBLIC = 0o644
PRIVATE_FOLDER = 0o700


def write_new_file(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Write a file that does not exist yet; it appears whole, and is on the disk on return.

    Raises:
        FolderError: there is a file of that name; it was left alone.
        OSError: disk full, no permission; no file of that name was left.
    """
    temporary = hidden_beside(path)
    try:
        _write(temporary, data, mode)
        # A rename would replace an existing file; a link never does.
        os.link(temporary, path)
    except FileExistsError:
        raise FolderError(f"{path} exists and was left alone: remove it first") from None
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace_file(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Write a file over what is there; a power cut leaves the old or the new one, whole.

    Raises:
        OSError: disk full, no permission; the old one was left alone.
    """
    temporary = hidden_beside(path)
    try:
        _write(temporary, data, mode)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def hidden_beside(path: Path) -> Path:
    """Return the name in the same folder that a file or folder has until it is whole.

    Known before there is anything of it, so that it goes at whatever moment a command is
    interrupted; what is left of one that was killed is found by it (doctor/preflight.py).
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a new file; it is on the disk on return."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def make_private_folder(path: Path) -> None:
    """Create a folder that only its owner can enter. Raises FileExistsError."""
    path.mkdir(mode=PRIVATE_FOLDER)


def move_folder_into_place(temporary: Path, path: Path) -> None:
    """Rename a finished folder to its name; POSIX lets it replace an empty folder only.

    Raises:
        FolderError: there is something of that name; it was left alone.
    """
    try:
        os.rename(temporary, path)
    except (FileExistsError, NotADirectoryError):
        raise FolderError(f"{path} exists and was left alone: remove it first") from None
    except OSError as error:
        if path.is_dir() and any(path.iterdir()):
            raise FolderError(f"{path} is not empty and was left alone") from error
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
