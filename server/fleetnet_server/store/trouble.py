"""What SQLite's errors mean for whoever runs the server, and what helps."""

from pathlib import Path

import apsw

from fleetnet.errors import FleetError
from fleetnet_server.errors import StoreUnavailable

_BACKUP = "restore it from a backup: `fleetnet store restore`"
_REMEDIES: tuple[tuple[tuple[type[apsw.Error], ...], str], ...] = (
    (
        (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError, apsw.AuthError),
        # A reader needs -wal and -shm beside the file: it has to be able to make them.
        # No room for those two is the same error as no right to make them.
        "run this as the user that it belongs to; file and folder must be writable for it, and its "
        "disk must not be full",
    ),
    ((apsw.FullError,), "free the disk"),
    ((apsw.IOError,), "is the disk full, or failing? See `df` and the kernel's log"),
    ((apsw.BusyError, apsw.LockedError), "another program has it locked: try again"),
    ((apsw.CorruptError, apsw.NotADBError), _BACKUP),
)


def remedy_of(error: BaseException | None) -> str:
    """Return what helps against an error of SQLite; "": nothing is known."""
    return next((text for kinds, text in _REMEDIES if isinstance(error, kinds)), "")


def unavailable(path: str | Path, done: str, error: BaseException) -> StoreUnavailable:
    """Make the error that says what happened to which file, and what to do; ``done``: "read"."""
    remedy = remedy_of(error)
    return StoreUnavailable(f"{path} cannot be {done}: {error}{remedy and '; ' + remedy}")


def explained(error: FleetError) -> tuple[str, str]:
    """Split what opening a store raised into (what happened, what to do)."""
    remedy = remedy_of(error.__cause__)
    if remedy and str(error).endswith(remedy):
        return str(error).removesuffix(remedy).rstrip(":; "), remedy
    text, _, remedy = str(error).rpartition(": ")
    return (text, remedy) if text else (str(error), _BACKUP)
