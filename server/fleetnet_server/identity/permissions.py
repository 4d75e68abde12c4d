"""Who else can read a fleet's keys: asked before the server opens a port.

A key that other users of the machine can read is no secret, and a folder that they can write
is not ours. `fleetnet init` makes everything private; a copy, a backup or a wrong umask may
have undone it.
"""

import os
import stat
from pathlib import Path

from fleetnet_server.errors import FolderError

# Folders with keys, and the store: it holds pre-shared keys and the log of who did what.
_PRIVATE = ("ca", "server", "devices", "hubs", "psk")
_STORE_SUFFIXES = (".db", ".db-wal", ".db-shm")

_NOT_OWNER = 0o077  # mode bits of group and others: a key is for its owner only

# Names in one message.
_SHOWN = 3


def check_folder(folder: Path) -> None:
    """Look at every private file below ``folder``; a few stat calls for each.

    Raises:
        FolderError: others can read a key, or write to the folder; with the remedy.
    """
    if _mode(folder) & stat.S_IWOTH:
        raise FolderError(
            f"{folder} can be written by every user of this machine: "
            f"chmod o-w {folder}, and see whether its files are still yours"
        )
    if not _mode(folder) & stat.S_IXOTH:
        return  # nobody else gets as far as the files
    open_files = [path for path in _private_files(folder) if _mode(path) & stat.S_IROTH]
    if open_files:
        shown = ", ".join(str(path) for path in open_files[:_SHOWN])
        more = f" and {len(open_files) - _SHOWN} more" if len(open_files) > _SHOWN else ""
        raise FolderError(
            f"every user of this machine can read {shown}{more}: {close_it(folder)}; "
            "if others were on this machine, replace these keys"
        )


def close_it(folder: Path) -> str:
    """Return the command that makes a folder its owner's alone."""
    return f"chmod -R go-rwx {folder}"


def loose_keys(folder: Path) -> list[tuple[Path, int]]:
    """Return private keys with a mode that relies on their folder's, and the mode."""
    keys = [*folder.glob("ca/**/*key.der"), *folder.glob("server/*key.der"),
            *folder.glob("devices/*/key.der"), folder / "secret.key"]  # fmt: skip
    modes = ((path, stat.S_IMODE(_mode(path))) for path in keys)
    return [(path, mode) for path, mode in modes if mode & _NOT_OWNER]


def _private_files(folder: Path) -> list[Path]:
    found = [p for p in folder.iterdir() if p.name.endswith(_STORE_SUFFIXES)]
    found.extend(p for p in folder.iterdir() if p.suffix in (".key", ".password"))
    for name in _PRIVATE:
        found.extend(_reachable(folder / name))
    return sorted(path for path in found if path.suffix != ".pem" or "key" in path.name)


def _reachable(folder: Path) -> list[Path]:
    """Keys below a folder that other users may enter."""
    if not folder.is_dir() or not _mode(folder) & stat.S_IXOTH:
        return []
    found = []
    for entry in os.scandir(folder):
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            found.extend(_reachable(path))
        elif "key" in entry.name or "psk" in entry.name or "claim" in entry.name:
            found.append(path)
    return found


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0
