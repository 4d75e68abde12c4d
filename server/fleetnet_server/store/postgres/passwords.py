"""FOLDER/postgres.password: the password of the database's user, on the first line."""

import os
import stat
from pathlib import Path

from fleetnet_server.errors import ConfigError

# Whatever anybody but the owner may do.
_OTHERS = 0o077
# More is no password but another file.
_MAX_BYTES = 4096


def read_password(path: Path) -> str:
    """Return the first line of a password's file.

    Raises:
        ConfigError: others may read it, it is empty, or it cannot be read; with the remedy.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & _OTHERS:
                raise ConfigError(f"{path} can be read by others: chmod 600 {path}")
            text = file.read(_MAX_BYTES).decode().partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not text:
        raise ConfigError(f"{path} is empty: write the database user's password to it")
    return text
