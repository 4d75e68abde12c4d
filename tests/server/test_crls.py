"""Revocation lists follow what rotation supersedes."""

from pathlib import Path

from cryptography import x509

from fleetnet_server.config import Settings
from fleetnet_server.crls import Crls
from fleetnet_server.device_bundles import add_device
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.store.sqlite import SqliteStore


def listed(folder: Path) -> set[int]:
    """Serial numbers in the list of the CA that signs."""
    crl = x509.load_der_x509_crl((folder / "ca" / "crl.der").read_bytes())
    return {one.serial_number for one in crl}


async def test_the_lists_follow_within_seconds(tmp_path: Path) -> None:
    """One list for many, the last ones when the server stops."""
    folder = tmp_path / "fleet"
    create_fleet(folder, ("localhost",))
    serials = []
    with SqliteStore(folder / "fleet.db") as store:
        for name in ("cam-1", "cam-2"):
            bundle = add_device(folder, Settings(), store, name)
            der = (bundle / "cert.der").read_bytes()
            serials.append(x509.load_der_x509_certificate(der).serial_number)
        crls = Crls(folder, store.registry.revoked)
        crls.look()
        assert crls._task is None
        store.revoke_certificate(serials[0])
        crls.soon()
        crls.look()
        assert crls._task is not None
        await crls._task
        assert listed(folder) == {serials[0]}
        store.revoke_certificate(serials[1])
        crls.soon()
        crls.look()
        assert crls._task is None, "not before the period is over"
        await crls.stop()
        assert listed(folder) == set(serials)


async def test_a_list_that_cannot_be_written_is_no_end(tmp_path: Path) -> None:
    """No CA there: the server goes on, and tries again with the next revocation."""
    crls = Crls(tmp_path / "nothing", lambda: [])
    for _ in range(2):
        crls.soon()
        await crls.stop()
    assert crls._task is None
