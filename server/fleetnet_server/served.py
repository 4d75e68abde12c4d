"""Which server uses a fleet's folder: FOLDER/serve.lock says it, and its lock proves it.

The server holds a lock on the file while it lives, however it ends, and writes its process and
its real ports there. Every layer may import this module.
"""

import errno
import fcntl
import json
import os
import time
from pathlib import Path
from typing import IO, NamedTuple

from fleetnet_server.errors import ConfigError, FolderError

FILE_NAME = "serve.lock"

# Whoever looks holds a shared lock for an instant; a server that starts waits that out.
_TRIES, _PAUSE_S = 5, 0.02

# The workers of a server that was killed end as soon as they notice, and hold the lock until then.
_ENDING_S = 5.0

# The file is ours and short; whatever else is there is not read to its end.
_MOST_BYTES = 4096


class Served(NamedTuple):
    """A server that runs.

    Attributes:
        pid: its process; 0: not known. ports: real ones by the setting's name; empty while it
            starts.
    """

    pid: int
    ports: dict[str, int]

    def __str__(self) -> str:
        said = [f"pid {self.pid}"] if self.pid else []
        return ", ".join([*said, *(f"{key} {number}" for key, number in self.ports.items())])


def take_lock(folder: Path) -> IO[bytes]:
    """Lock FOLDER for this process: two servers would give the same numbers to two epochs.

    Returns:
        The file that holds the lock until it is closed; ``write_ports`` takes it.

    Raises:
        FolderError: another server uses the folder. OSError.
    """
    file = (folder / FILE_NAME).open("a+b", buffering=0)
    until = time.monotonic() + _TRIES * _PAUSE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            said, now = _read(file), time.monotonic()
            if now < until or (now < until + _ENDING_S and _has_died(said.pid)):
                time.sleep(_PAUSE_S)
                continue
            file.close()
            who = f" ({said})" if str(said) else ""
            raise FolderError(
                f"another `fleetnet serve`{who} uses {folder}: stop it, or use another folder"
            ) from None
        break
    write_ports(file, {})
    return file


def write_ports(file: IO[bytes], ports: dict[str, int]) -> None:
    """Write which process this is, and its ports. A full disk is none of a server's ends."""
    try:
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), **ports}).encode())
    except OSError:
        return


def find_server(folder: Path) -> Served | None:
    """Return the server that uses FOLDER; None: there is none, or it cannot be seen."""
    try:
        with (folder / FILE_NAME).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _read(file)
    except OSError:
        return None
    return None


def is_served(folder: Path) -> bool:
    """Say whether a server uses FOLDER."""
    return find_server(folder) is not None


def is_surely_idle(folder: Path) -> bool:
    """Say whether no server uses FOLDER; False as well for who may not read the lock."""
    path = folder / FILE_NAME
    return not is_served(folder) and (os.access(path, os.R_OK) or not path.exists())


def _has_died(pid: int) -> bool:
    """Say whether a process that is known has ended."""
    if not pid:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # somebody else's, and alive
    return False


def _read(file: IO[bytes]) -> Served:
    try:
        file.seek(0)
        found = json.loads(file.read(_MOST_BYTES))
        ports = {str(key): int(number) for key, number in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return Served(0, {})
    return Served(ports.pop("pid", 0), ports)


def why_no_port(
    bind: str, key: str, number: int, error: OSError, name: str = "TCP"
) -> tuple[str, str]:
    """Return what happened and what to do, when a port cannot be opened."""
    # asyncio puts a sentence of its own around the system's; getaddrinfo's numbers are negative.
    code = error.errno or 0
    text = os.strerror(code) if code > 0 else error.strerror or str(error)
    remedy = f"stop what has it, or choose another {key}"
    if code == errno.EADDRNOTAVAIL or code <= 0:
        # Not the port: this machine has no such address, or no name server knows the name.
        setting = "web_bind" if key == "web_port" else "bind"
        remedy = f"{setting} has to be an address of this machine (`ip address` lists them)"
    elif code in (errno.EACCES, errno.EPERM):
        remedy = f"ports below 1024 are for root: choose another {key}"
    return f"{name} port {number} of {bind} cannot be had: {text}", remedy


def port_error(bind: str, key: str, number: int, error: OSError, name: str = "TCP") -> ConfigError:
    """Return the same as an error."""
    return ConfigError(": ".join(why_no_port(bind, key, number, error, name)))
