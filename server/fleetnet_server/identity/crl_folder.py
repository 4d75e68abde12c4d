"""What imported CAs revoke, FOLDER/ca/crls, for a running server."""

from pathlib import Path

from fleetnet.errors import CredentialError
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.crl import revoked_serials


class CrlFolder:
    """FOLDER/ca/crls, read again when it changes; a list that cannot be read changes nothing.

    Attributes:
        revoked: (issuer_hash, serial number), see identity/crl.py.
        problem: what is wrong with the lists now; "": nothing.

    Raises:
        CredentialError: a list cannot be read or is nobody's; names it.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._seen = self._stat()
        self.revoked = self._read()
        self.problem = ""

    def refresh(self) -> bool:
        """Look for changes, a system call for each list; True: ``revoked`` is another one."""
        fresh = self._stat()
        if fresh == self._seen:
            return False
        self._seen = fresh
        try:
            revoked = self._read()
        except CredentialError as error:
            self.problem = str(error)
            return False
        self.problem = ""
        is_other = revoked != self.revoked
        self.revoked = revoked
        return is_other

    def _read(self) -> frozenset[tuple[bytes, int]]:
        if not self._seen:
            return frozenset()
        return revoked_serials(self._folder, Authority.load(self._folder).client_anchors)

    def _stat(self) -> tuple[tuple[str, int, int], ...]:
        try:
            paths = sorted((self._folder / "ca" / "crls").iterdir())
            found = [(path.name, path.stat()) for path in paths]
        except OSError:
            return ()
        return tuple((name, one.st_mtime_ns, one.st_size) for name, one in found)
