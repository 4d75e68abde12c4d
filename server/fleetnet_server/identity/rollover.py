"""CA rollover in the folder: A, A and B, B; and which devices hold it up.

1. begin: B is made. Devices are to trust A and B, and their new certificates are B's; the
   server still presents A's, which everybody knows.
2. switch_server: the server presents B's. A device that has not learnt of B is lost to it.
3. finish: A counts no more. A device whose certificate is A's is lost to the server.

A new issuing CA under the same root (`begin_issuing`) needs no second step: the anchors stay.

Each step is one change of the ledger (identity/generations.py), made last; a step that was cut
short is taken again.
"""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from cryptography import x509

from fleetnet.errors import CredentialError
from fleetnet_server.identity import pki
from fleetnet_server.identity.authority import Authority, make_pairs
from fleetnet_server.identity.constraints import ANY, name_constraints, permitted
from fleetnet_server.identity.crl import keep_crl
from fleetnet_server.identity.files import make_private_folder
from fleetnet_server.identity.generations import (
    Ledger,
    adopt_first_layout,
    has_authority,
    read_root,
    write_generation,
    write_ledger,
)
from fleetnet_server.identity.key_types import name_of_key
from fleetnet_server.identity.server_keys import ServerKeys

SETTLED = "settled"
BEGUN = "begun"
SWITCHED = "switched"


def phase(authority: Authority) -> str:
    """Return SETTLED, BEGUN (the server is still A's) or SWITCHED (A still counts)."""
    ledger = authority.ledger
    if len(ledger.trusted) == 1:
        return SETTLED
    return BEGUN if ledger.server != ledger.issuing else SWITCHED


def begin(
    folder: Path,
    *,
    name: str,
    key_type: str | None = None,
    permit: Iterable[str] = (),
    root_key_file: Path | None = None,
) -> Authority:
    """Begin a rollover to a new root.

    Args:
        key_type: None: as now. permit: hosts beside those that are permitted now.

    Raises:
        CredentialError: a rollover is under way, wrong key type or permit. FolderError:
            ``root_key_file`` exists. OSError: disk full, no permission.
    """
    authority = _settled(folder)
    now = authority.generations[authority.generation]
    pairs = make_pairs(
        name, key_type or key_type_of(now.issuing.certificate),
        _permit(now.issuing.certificate, permit), is_flat=now.is_flat,
    )  # fmt: skip
    return begin_with(folder, *pairs, root_key_file)


def begin_with(
    folder: Path, root: pki.Credential, issuing: pki.Credential, root_key_file: Path | None = None,
    crl: bytes | None = None,
) -> Authority:  # fmt: skip
    """Begin a rollover to a CA that exists; ``crl`` as in accept."""
    authority = _settled(folder)
    ledger = authority.ledger
    number = _put(folder, root, issuing, root_key_file, crl)
    write_ledger(folder, Ledger(number, ledger.server, (number, *ledger.trusted), ledger.accepted))
    return Authority.load(folder)


def begin_issuing(
    folder: Path,
    *,
    name: str,
    permit: Iterable[str] = (),
    root_key_file: Path | None = None,
    lifetime: timedelta | None = None,
) -> Authority:
    """Put a new issuing CA under the same root; the server gets its certificate at once.

    Args:
        root_key_file: the root's key where it is kept offline.

    Raises:
        CredentialError: a rollover is under way, the CA is flat, or the root's key is not here.
    """
    authority = _settled(folder)
    now = authority.generations[authority.generation]
    if now.is_flat:
        raise CredentialError(
            "this CA is its own root, so a new issuing CA is a new root: `fleetnet ca rotate`"
        )
    root = read_root(folder, now.number, root_key_file)
    issuing = pki.create_issuing(
        root, f"{name} issuing CA", key_type_of(root.certificate),
        name_constraints(_permit(now.issuing.certificate, permit)),
    )  # fmt: skip
    kept = root if root_key_file is None else pki.Credential(root.certificate, b"")
    number = write_generation(folder, kept, issuing).number
    ledger = authority.ledger
    write_ledger(folder, Ledger(number, number, (number, *ledger.trusted), ledger.accepted))
    authority = Authority.load(folder)
    ServerKeys(folder).renew(authority, lifetime=lifetime)
    return authority


def switch_server(folder: Path, lifetime: timedelta | None = None) -> Authority:
    """Give the server a certificate of the new CA, for the same key.

    Raises:
        CredentialError: no rollover is under way.
    """
    authority = Authority.load(folder)
    if phase(authority) == SETTLED:
        raise CredentialError("no rollover is under way: `fleetnet ca rotate` begins one")
    write_ledger(folder, authority.ledger._replace(server=authority.generation))
    authority = Authority.load(folder)
    ServerKeys(folder).renew(authority, lifetime=lifetime)
    return authority


def finish(folder: Path) -> Authority:
    """Drop the CAs that are no longer used; their files stay where they are.

    Raises:
        CredentialError: no rollover is under way, or the server still presents the old CA's.
    """
    authority = Authority.load(folder)
    if phase(authority) == SETTLED:
        raise CredentialError("no rollover is under way: `fleetnet ca rotate` begins one")
    issuing = authority.generations[authority.generation].issuing.certificate
    if phase(authority) == BEGUN or not pki.is_issued_by(ServerKeys(folder).cert, issuing):
        raise CredentialError(
            "the server still presents a certificate of the old CA: "
            "`fleetnet ca rotate --switch-server` first"
        )
    write_ledger(folder, authority.ledger._replace(trusted=(authority.generation,)))
    return Authority.load(folder)


def accept(
    folder: Path, root: pki.Credential, issuing: pki.Credential, crl: bytes | None = None
) -> Authority:
    """Let the devices of a foreign CA in; nothing is signed by it, and no device trusts it.

    Args:
        crl: its revocation list, DER or PEM, which counts no later than the CA does.
    """
    adopt_first_layout(folder)
    ledger = Authority.load(folder).ledger
    number = _put(folder, root, issuing, None, crl)
    write_ledger(folder, ledger._replace(accepted=(*ledger.accepted, number)))
    return Authority.load(folder)


def forget(folder: Path, number: int) -> Authority:
    """End the acceptance of a foreign CA. Raises CredentialError when it is none of those."""
    ledger = Authority.load(folder).ledger
    if number not in ledger.accepted:
        raise CredentialError(f"CA {number} is no accepted one: `fleetnet ca show` lists them")
    left = tuple(each for each in ledger.accepted if each != number)
    write_ledger(folder, ledger._replace(accepted=left))
    return Authority.load(folder)


def lagging(folder: Path, devices: Iterable[tuple[str, str]], authority: Authority) -> list[str]:
    """Return the devices that the next step of a rollover would cut off, by name.

    A device is up to date when its last working identity was made with today's anchors and
    issuer, or when it lives on a bundle with the newest ones.

    Args:
        devices: (name, marks of its newest identity that works, "" when it lives on its bundle).
    """
    return [
        name
        for name, marks in devices
        if marks != authority.marks
        and (marks or not _has_new_bundle(folder / "devices" / name, authority))
    ]


def key_type_of(certificate: bytes) -> str:
    """Return the type of a certificate's key, one of KEY_TYPES where it is ours."""
    return name_of_key(x509.load_der_x509_certificate(certificate).public_key())


def known_as(folder: Path, root: pki.Credential, issuing: pki.Credential) -> int | None:
    """Return the number under which a CA counts already, for as much as it would count now.

    An import that was repeated would let the same CA in twice, or begin a rollover to itself.

    Args:
        issuing: with its key, where it is to sign.
    """
    if not has_authority(folder):
        return None
    authority = Authority.load(folder)
    ledger = authority.ledger
    for number in (*ledger.trusted, *(() if issuing.key else ledger.accepted)):
        one = authority.generations[number]
        is_same = (one.root, one.issuing.certificate) == (root.certificate, issuing.certificate)
        if is_same and (one.issuing.key or not issuing.key):
            return number
    return None


def begin_imported(
    folder: Path, root: pki.Credential, issuing: pki.Credential, crl: bytes | None = None
) -> Authority:
    """Make a CA that exists the first one of a folder; ``crl`` as in accept."""
    if not (folder / "ca").exists():
        make_private_folder(folder / "ca")
    number = _put(folder, root, issuing, None, crl)
    write_ledger(folder, Ledger(number, number, (number,)))
    return Authority.load(folder)


def _put(
    folder: Path, root: pki.Credential, issuing: pki.Credential, root_key_file: Path | None,
    crl: bytes | None,
) -> int:  # fmt: skip
    """Put a CA beside the others, with its list; return its number. The ledger comes last."""
    number = write_generation(folder, root, issuing, root_key_file).number
    if crl is not None:
        keep_crl(folder, number, crl)
    return number


def _settled(folder: Path) -> Authority:
    adopt_first_layout(folder)
    authority = Authority.load(folder)
    if phase(authority) != SETTLED:
        raise CredentialError(
            "a rollover is under way already: `fleetnet ca show` says what it waits for"
        )
    return authority


def _permit(issuing: bytes, more: Iterable[str]) -> list[str]:
    known = permitted(issuing)
    return [ANY] if known is None else [*known, *more]


def _has_new_bundle(bundle: Path, authority: Authority) -> bool:
    try:
        anchor, leaf = (bundle / "ca.der").read_bytes(), (bundle / "cert.der").read_bytes()
    except OSError:
        return False
    return anchor == authority.anchors[0] and pki.is_issued_by(leaf, authority.issuing_certificate)
