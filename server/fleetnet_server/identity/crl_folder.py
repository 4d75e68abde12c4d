"""What imported CAs revoke, FOLDER/ca/crls, for a running server."""

from pathlib import Path

from fleetnet.errors import CredentialError
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.crl import revoked_serials

# What cannot be looked at; () would mean that there is nothing.
_UNSEEN = ("", -1, -1)


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
        """Return what changes with the lists; () only where there is no folder of them.

        A folder or a list that cannot be looked at is no empty one: reading it says so.
        """
        try:
            paths = sorted((self._folder / "ca" / "crls").iterdir())
        except FileNotFoundError:
            return ()
        except OSError:
            return (_UNSEEN,)
        return tuple(map(_mark, paths))


def _mark(path: Path) -> tuple[str, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (path.name, *_UNSEEN[1:])
    return path.name, found.st_mtime_ns, found.st_size
