"""What every device of a fleet should hold now: the anchors, the server's pins, and who signs.

Read from FOLDER/ca and FOLDER/server; read again when these change, so that `fleetnet ca
rotate` and `fleetnet cert server` reach devices through a running server.
"""

import hashlib
import logging
from datetime import timedelta
from functools import cached_property
from pathlib import Path

from fleetnet.errors import CredentialError
from fleetnet_server.identity.authority import Authority, Issued
from fleetnet_server.identity.requests import requested_key
from fleetnet_server.identity.server_keys import FOLDER, WATCHED, ServerKeys

_log = logging.getLogger("fleetnet.rotation")


class FleetTrust:
    """A snapshot; see core/rotation_ports.py Wanted. Raises CredentialError when made."""

    def __init__(self, folder: Path, lifetime_s: float):
        self._authority = Authority.load(folder)
        self._lifetime = timedelta(seconds=lifetime_s)
        self.marks = self._authority.marks
        self.generation = self._authority.generation
        self.anchors = tuple(self._authority.anchors)
        self.pins = " ".join(ServerKeys(folder).pins())

    @cached_property
    def pin_values(self) -> list[bytes]:
        """The pins as 32 bytes each."""
        return [bytes.fromhex(pin) for pin in self.pins.split()]

    def issue(self, name: str) -> Issued:
        """Make a key and a certificate for a device. Raises CredentialError."""
        return self._authority.issue_device(name, lifetime=self._lifetime)

    def sign(self, csr: bytes, name: str) -> Issued:
        """Answer a device's CSR. Raises CredentialError."""
        return self._authority.sign_request(csr, name, self._lifetime)

    def key_of(self, csr: bytes) -> str:
        """Return the SHA-256 of a CSR's key, hexadecimal. Raises CredentialError."""
        return hashlib.sha256(requested_key(csr)).hexdigest()


class TrustFolder:
    """Keeps the newest FleetTrust of a folder that could be read."""

    def __init__(self, folder: Path, lifetime_s: float):
        self._folder = folder
        self._lifetime_s = lifetime_s
        self._watched = [folder / "ca" / "authority.json", folder / "ca" / "ca.der"]
        self._watched += [folder / FOLDER / name for name in WATCHED]
        self._stamp: tuple[object, ...] = ()
        self._trust: FleetTrust | None = None

    def current(self) -> FleetTrust | None:
        """Return what is wanted, the same object until something changed.

        A folder that cannot be read keeps what was read before, and says so in the log once.
        """
        # A key that was taken away, or brought back, changes the folder of its CA.
        authorities = sorted((self._folder / "ca").glob("[0-9]*"))
        stamp = tuple(_stamp(path) for path in (*self._watched, *authorities))
        if stamp == self._stamp:
            return self._trust
        self._stamp = stamp
        try:
            found = FleetTrust(self._folder, self._lifetime_s)
        except (CredentialError, OSError) as error:
            # Before the first one the server does not start, and says why itself.
            level = logging.DEBUG if self._trust is None else logging.ERROR
            _log.log(level, "identities stay as they are: %s", error)
            return self._trust
        self._trust = found
        return found


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_mtime_ns, status.st_size)
