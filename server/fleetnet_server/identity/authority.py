"""The fleet's certificate authority: what FOLDER/ca says now, and what it signs.

    authority = Authority.load(folder)
    issued = authority.issue_device("cam-1")

An Authority is a snapshot: after a change of the folder load another one. Devices trust roots
and get one leaf; the server presents its leaf and the issuing CA (identity/generations.py).
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from fleetnet_server.identity import pki
from fleetnet_server.identity.constraints import name_constraints
from fleetnet_server.identity.crl import Revoked, crl_to_pem, make_crl, subject_hash
from fleetnet_server.identity.files import PUBLIC, make_private_folder, replace_file
from fleetnet_server.identity.generations import (
    Generation,
    Ledger,
    read_generation,
    read_ledger,
    write_generation,
    write_ledger,
)
from fleetnet_server.identity.key_types import P256
from fleetnet_server.identity.requests import requested_key

Issued = pki.Credential

DEFAULT_NAME = "fleetnet"


@dataclass(frozen=True)
class Authority:
    """A snapshot of FOLDER/ca; made by ``load`` and ``create``."""

    folder: Path
    ledger: Ledger
    generations: Mapping[int, Generation]

    @classmethod
    def load(cls, folder: str | Path) -> "Authority":
        """Read FOLDER/ca.

        Raises:
            CredentialError: there is no CA, or a file of it is missing or damaged. A missing
                key is no error until something must be signed with it.
        """
        folder = Path(folder)
        ledger = read_ledger(folder)
        numbers = {*ledger.trusted, *ledger.accepted, ledger.issuing, ledger.server}
        return cls(folder, ledger, {each: read_generation(folder, each) for each in numbers})

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        name: str = DEFAULT_NAME,
        key_type: str = P256,
        permit: Iterable[str] = (),
        root_days: int = pki.CA_DAYS,
        issuing_days: int = pki.ISSUING_DAYS,
        root_key_file: Path | None = None,
        is_flat: bool = False,
    ) -> "Authority":
        """Make the first CA of a fleet.

        Args:
            folder: the fleet's; FOLDER/ca is made where it is missing.
            permit: for which hosts, and names below them, it may sign; LOCAL is added.
            root_key_file: where the root's key goes instead of the folder.
            is_flat: one CA that is root and issuing at once, for hubs: a MicroPython server
                can present one certificate only.

        Raises:
            CredentialError: wrong key type or permit. FolderError: there is a CA, or
                ``root_key_file`` exists. OSError: disk full, no permission.
        """
        folder = Path(folder)
        pairs = make_pairs(name, key_type, permit, root_days, issuing_days, is_flat)
        if not (folder / "ca").exists():
            make_private_folder(folder / "ca")
        number = write_generation(folder, *pairs, root_key_file).number
        write_ledger(folder, Ledger(number, number, (number,)))
        authority = cls.load(folder)
        authority.write_crls(folder, ())
        return authority

    # Who counts

    @property
    def generation(self) -> int:
        """The number of the CA that signs devices."""
        return self.ledger.issuing

    @property
    def trusted(self) -> tuple[int, ...]:
        """The numbers of this fleet's CAs that count, the newest first."""
        return self.ledger.trusted

    @property
    def anchors(self) -> tuple[bytes, ...]:
        """Roots, DER, that devices must trust now, the newest first."""
        return _unique(self.generations[number].root for number in self.trusted)

    @property
    def bundle_anchor(self) -> bytes:
        """The root that the server's chain leads to now: what a new device can begin with."""
        return self.generations[self.ledger.server].root

    @property
    def client_anchors(self) -> tuple[bytes, ...]:
        """What listeners trust: roots and issuing CAs of every CA that counts, DER.

        A device sends its leaf alone, so the issuing CAs must be known here.
        """
        numbers = (*self.trusted, *self.ledger.accepted)
        counting = [self.generations[number] for number in numbers]
        return _unique(der for one in counting for der in (one.root, one.issuing.certificate))

    @property
    def issuers(self) -> tuple[frozenset[bytes], frozenset[bytes]]:
        """Who may have issued a device's certificate, by crl.issuer_hash: (this fleet's CAs that
        count, the accepted ones)."""
        ours, others = (
            frozenset(
                subject_hash(der)
                for number in numbers
                for der in (self.generations[number].root,
                            self.generations[number].issuing.certificate)
            )
            for numbers in (self.trusted, self.ledger.accepted)
        )  # fmt: skip
        return ours, others - ours

    @property
    def issuing_certificate(self) -> bytes:
        """Certificate of the CA that signs devices, DER."""
        return self.generations[self.generation].issuing.certificate

    @property
    def marks(self) -> str:
        """Text that changes when devices need other anchors or another issuer."""
        everything = b"".join((*self.anchors, self.issuing_certificate))
        return hashlib.sha256(everything).hexdigest()[:16]

    # Signing

    def issue_device(
        self, name: str, *, public_key: bytes | None = None, lifetime: timedelta | None = None
    ) -> Issued:
        """Make a device's certificate, and its key unless ``public_key`` (SPKI DER) is its own.

        Raises:
            IdentityError: no device name. CredentialError: a key that devices cannot use, a
                life below 5 s, or the issuing CA's key is not here.
        """
        issuing = self.generations[self.generation].issuing
        return pki.issue_device(issuing, name, public_key=public_key, lifetime=lifetime)

    def issue_server(
        self,
        hosts: Iterable[str],
        *,
        key: bytes | None = None,
        lifetime: timedelta | None = None,
    ) -> Issued:
        """Make the server's certificate, by the CA that devices know already in a rollover.

        Args:
            key: private key to certify, DER; None: a new one.

        Raises:
            CredentialError: no host, an unusable one, one outside the name constraints, or
                the issuing CA's key is not here.
        """
        one = self.generations[self.ledger.server]
        return pki.issue_server(one.issuing, hosts, key=key, lifetime=lifetime, root=one.root)

    def server_chain(self, leaf: bytes) -> bytes:
        """Return server/chain.pem for a certificate of ``issue_server``."""
        return self.generations[self.ledger.server].chain(leaf)

    def sign_request(self, csr_der: bytes, name: str, lifetime: timedelta | None = None) -> Issued:
        """Certify the key of a request (identity/requests.py) for the device ``name``.

        Raises:
            IdentityError: no device name. CredentialError: as requested_key, issue_device.
        """
        return self.issue_device(name, public_key=requested_key(csr_der), lifetime=lifetime)

    # Revocation

    def crl(self, revoked: Iterable[Revoked], generation: int) -> bytes:
        """Return the revocation list of one CA, DER, with a number above the last one's.

        Raises:
            CredentialError: that CA's key is not here.
        """
        return make_crl(
            self.generations[generation].issuing, _of(revoked, generation),
            _read_or_none(self.folder / "ca" / f"crl-{generation}.der"),
        )  # fmt: skip

    def write_crls(self, folder: Path, revoked: Iterable[Revoked]) -> None:
        """Write FOLDER/ca/crl-N.der of each trusted CA, crl.der (the issuing one's) and
        crl.pem (all), each file whole.

        A CA whose key is not here keeps the list that it has.

        Raises:
            OSError: disk full, no permission.
        """
        everybody = list(revoked)
        lists: dict[int, bytes] = {}
        for number in self.trusted:
            path = folder / "ca" / f"crl-{number}.der"
            if self.generations[number].issuing.key:
                lists[number] = self.crl(everybody, number)
                replace_file(path, lists[number], PUBLIC)
            elif path.exists():
                lists[number] = path.read_bytes()
        if self.generation in lists:
            replace_file(folder / "ca" / "crl.der", lists[self.generation], PUBLIC)
        texts = b"".join(crl_to_pem(crl) for crl in lists.values())
        replace_file(folder / "ca" / "crl.pem", texts, PUBLIC)


def make_pairs(
    name: str,
    key_type: str,
    permit: Iterable[str],
    root_days: int = pki.CA_DAYS,
    issuing_days: int = pki.ISSUING_DAYS,
    is_flat: bool = False,
) -> tuple[pki.Credential, pki.Credential]:
    """Make a root and the issuing CA below it; twice the same pair for a flat CA.

    The root has no name constraints: a new issuing CA with others asks nothing of the devices.
    """
    constraints = name_constraints(permit)
    if is_flat:
        only = pki.create_ca(f"{name} CA", root_days, key_type, constraints)
        return only, only
    root = pki.create_root(f"{name} root CA", key_type, root_days)
    issuing = pki.create_issuing(root, f"{name} issuing CA", key_type, constraints, issuing_days)
    return root, issuing


def _of(revoked: Iterable[Revoked], generation: int) -> list[Revoked]:
    return [one for one in revoked if one.generation in (None, generation)]


def _unique(items: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(items))


def _read_or_none(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
