"""Who tries to come as somebody else, or in spite of a revocation."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509

from fail_closed.guest import Guest, bundle_of, make_fleet
from fail_closed.hostile import leaf_of
from fleetnet import errors
from fleetnet.errors import CredentialError, FleetError
from fleetnet_server.app import Backend
from fleetnet_server.cli.main import main
from fleetnet_server.errors import IdentityError
from fleetnet_server.identity import pki, rollover
from fleetnet_server.identity.certificate import identity
from fleetnet_server.identity.crl import Revoked, make_crl
from fleetnet_server.identity.crl_folder import CrlFolder
from fleetnet_server.identity.names import URI_PREFIX
from fleetnet_server.store.audit import AuditTable
from fleetnet_server.store.sqlite import SqliteStore

OURS = URI_PREFIX + "cam-1"
CA = pki.create_ca("anybody's")


def names(uris: Iterable[str]) -> list[x509.GeneralName]:
    return [x509.UniformResourceIdentifier(uri) for uri in uris]


@pytest.mark.parametrize(
    "uris",
    [
        (OURS, OURS),
        (OURS, "URN:fleetnet:device:cam-2"),
        ("urn:Fleetnet:Device:cam-2", OURS),
        ("URN:FLEETNET:DEVICE:cam-1",),
        (URI_PREFIX + "CAM-1",),
        (OURS + "\0.evil",),
        (OURS + "\n",),
        (OURS + "%00",),
        (URI_PREFIX + "cam%2D1",),
        (OURS + "#x", ),
        (OURS + "?x",),
        (URI_PREFIX,),
        (URI_PREFIX + "a" * 64,),
    ],
)  # fmt: skip
def test_a_name_is_read_in_one_way_only(uris: tuple[str, ...]) -> None:
    with pytest.raises(IdentityError):
        identity(leaf_of(CA, names(uris)).certificate)


def test_other_names_beside_it_are_nobodys() -> None:
    others = [x509.DNSName("cam-2"), x509.RFC822Name("cam-2@example"), *names(["urn:other:cam-2"])]
    assert identity(leaf_of(CA, [*names([OURS]), *others]).certificate)[0] == "cam-1"


class Lists:
    """A fleet that takes devices of a CA which revoked one certificate."""

    def __init__(self, folder: Path):
        make_fleet(folder)
        self.ca = pki.create_ca("theirs")
        rollover.accept(folder, self.ca, self.ca)
        self.place = folder / "ca" / "crls"
        self.place.mkdir()
        self.path = self.place / "theirs.der"
        self.path.write_bytes(make_crl(self.ca, [Revoked(5, 1_700_000_000_000)], None))


@pytest.mark.parametrize("case", ["a list that is away", "a folder that is none"])
def test_a_list_that_cannot_be_looked_at_opens_no_door(case: str, tmp_path: Path) -> None:
    lists = Lists(tmp_path / "fleet")
    folder = CrlFolder(tmp_path / "fleet")
    before = folder.revoked
    assert len(before) == 1
    if case == "a list that is away":
        (lists.place / "more.der").symlink_to(tmp_path / "not-mounted" / "more.der")
        name = "more.der"
    else:
        lists.path.unlink()
        lists.place.rmdir()
        lists.place.write_bytes(b"")
        name = "crls"
    assert not folder.refresh()
    assert folder.revoked == before
    assert name in folder.problem
    # A server that starts says it, and does not run with less than is revoked.
    with pytest.raises(CredentialError, match=name):
        CrlFolder(tmp_path / "fleet")


async def test_a_ca_that_is_forgotten_takes_its_list_along(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    settings = make_fleet(folder, "cam-1")
    ca = pki.create_ca("theirs")
    (tmp_path / "ca.pem").write_bytes(pki.to_pem(ca.certificate))
    (tmp_path / "crl").write_bytes(make_crl(ca, [Revoked(5, 1_700_000_000_000)], None))

    def run(*arguments: object) -> None:
        done = CliRunner().invoke(main, ["-C", str(folder), "ca", *map(str, arguments)])
        assert done.exit_code == 0, done.output

    run("import", "--cert", tmp_path / "ca.pem", "--crl", tmp_path / "crl")
    with SqliteStore(settings.store_path(folder)) as store:
        store.add_device("tag-1")
    theirs = pki.issue_device(ca, "tag-1")
    async with Backend(folder, settings) as backend, Guest(backend, theirs) as guest:
        await guest.until_answered()
        assert not guest.endings()
        run("forget", 2)
        # Its session ends with the acceptance of its CA.
        await guest.until(lambda: guest.endings() == [errors.REVOKED], "dismissed")
    async with Backend(folder, settings) as backend:
        with pytest.raises(FleetError):
            async with Guest(backend, theirs) as guest:
                await guest.until_answered()
        async with Guest(backend, bundle_of(folder, "cam-1")) as guest:
            await guest.until_answered()
            assert not guest.endings()
    notes: list[Any] = [
        (entry.action, entry.detail["number"], entry.detail["accepted"])
        for entry in entries_of(folder)
        if entry.action.startswith("ca-")
    ]
    assert notes == [("ca-import", 2, [2]), ("ca-forget", 2, [])]


async def test_another_ca_cannot_speak_for_a_device_of_ours(tmp_path: Path) -> None:
    """Whoever runs an imported CA is any device that has no certificate of this fleet."""
    folder = tmp_path / "fleet"
    settings = make_fleet(folder, "cam-1")
    ca = pki.create_ca("theirs")
    rollover.accept(folder, ca, ca)
    with SqliteStore(settings.store_path(folder)) as store:
        store.add_device("tag-1")
    async with Backend(folder, settings) as backend:
        for name, expected in (("cam-1", [errors.NO_IDENTITY]), ("tag-1", [])):
            async with Guest(backend, pki.issue_device(ca, name)) as guest:
                await guest.until_answered()
                assert guest.endings() == expected
        async with Guest(backend, bundle_of(folder, "cam-1")) as guest:
            await guest.until_answered()
            assert guest.endings() == []


def entries_of(folder: Path) -> list[Any]:
    with SqliteStore(folder / "fleet.db") as store:
        return AuditTable(store).entries()
