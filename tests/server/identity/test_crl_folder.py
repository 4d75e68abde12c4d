"""Lists of imported CAs: a device on one is refused, and a broken list opens no door."""

from pathlib import Path

import pytest

from fleetnet import errors
from fleetnet.errors import CredentialError
from fleetnet_server.identity.authenticate import LinkIdentity, Refusal, authenticate
from fleetnet_server.identity.authority import Authority
from fleetnet_server.identity.crl import Revoked, issuer_hash, make_crl
from fleetnet_server.identity.crl_folder import CrlFolder
from fleetnet_server.identity.registry import Device
from server.identity.test_policy import Devices


def test_lists_are_read_again_and_kept_when_broken(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    issuing = authority.generations[1].issuing
    lists = tmp_path / "ca" / "crls"
    folder = CrlFolder(tmp_path)
    assert (folder.revoked, folder.refresh()) == (frozenset(), False)
    device = authority.issue_device("cam-1")
    known = Devices({"cam-1": Device(1, "cam-1", "enabled", valid=frozenset({device.serial}))})
    link = LinkIdentity(device.certificate)
    assert not isinstance(authenticate(link, known, "refuse", folder.revoked), Refusal)

    lists.mkdir()
    (lists / "theirs.der").write_bytes(make_crl(issuing, [Revoked(device.serial, 1)], None))
    assert folder.refresh()
    assert not folder.refresh()
    assert folder.revoked == {(issuer_hash(device.certificate), device.serial)}
    for registry in (known, Devices()):
        refused = authenticate(link, registry, "accept", folder.revoked)
        assert isinstance(refused, Refusal)
        assert refused.reason == errors.REVOKED
    other = authority.issue_device("cam-2")
    known["cam-2"] = Device(2, "cam-2", "enabled")
    found = authenticate(LinkIdentity(other.certificate), known, "refuse", folder.revoked)
    assert not isinstance(found, Refusal)

    (lists / "theirs.der").write_bytes(b"half of a li")
    assert not folder.refresh()
    assert "theirs.der" in folder.problem
    assert len(folder.revoked) == 1
    with pytest.raises(CredentialError, match=r"theirs\.der"):
        CrlFolder(tmp_path)
