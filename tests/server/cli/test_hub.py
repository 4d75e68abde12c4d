"""`fleetnet hub`: assignments, and the certificate by which sensors know a hub."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509

from fleetnet_server.cli.main import main
from fleetnet_server.fleet_folder import create_fleet
from fleetnet_server.store.audit import AuditTable
from fleetnet_server.store.hubs import HubTable
from fleetnet_server.store.sqlite import SqliteStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_fleet(tmp_path / "fleet", ("localhost",), is_flat=True)
    with SqliteStore(tmp_path / "fleet" / "fleet.db") as store:
        for name in ("hub-1", "hub-2", "cam-1", "cam-2"):
            store.add_device(name)
    return tmp_path / "fleet"


def run(folder: Path, *arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["-C", str(folder), "hub", *arguments])
    assert result.exit_code == code, result.output
    return result


def pairs(folder: Path, *arguments: str) -> list[tuple[str, str]]:
    listed = json.loads(run(folder, "list", *arguments, "--json").output)
    return [(each["hub"], each["sensor"]) for each in listed]


def test_assign_list_and_unassign(folder: Path) -> None:
    run(folder, "assign", "hub-1", "cam-2", "cam-1")
    shown = json.loads(run(folder, "assign", "hub-2", "cam-1", "--json").output)
    assert shown == {"hub": "hub-2", "assigned": ["cam-1"]}
    assert "0 assigned" in run(folder, "assign", "hub-2", "cam-1").output
    assert pairs(folder) == [("hub-1", "cam-1"), ("hub-1", "cam-2"), ("hub-2", "cam-1")]
    assert pairs(folder, "hub-2") == [("hub-2", "cam-1")]
    assert "cam-2" in run(folder, "list").output
    shown = json.loads(run(folder, "unassign", "hub-1", "cam-1", "hub-2", "--json").output)
    assert shown == {"hub": "hub-1", "unassigned": ["cam-1"]}
    assert pairs(folder) == [("hub-1", "cam-2"), ("hub-2", "cam-1")]
    with SqliteStore(folder / "fleet.db") as store:
        rows = [(e.action, e.device, e.detail.get("hub")) for e in AuditTable(store).entries()]
        assert rows[-4:] == [
            ("device-assign", "cam-2", "hub-1"), ("device-assign", "cam-1", "hub-1"),
            ("device-assign", "cam-1", "hub-2"), ("device-unassign", "cam-1", "hub-1"),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("assign", "hub-1", "cam-1", "nobody"), "'nobody' is not registered"),
        (("assign", "nobody", "cam-1"), "'nobody' is not registered"),
        (("assign", "hub-1", "hub-1"), "its own hub"),
        (("unassign", "nobody", "cam-1"), "'nobody' is not registered"),
        (("list", "nobody"), "'nobody' is not registered"),
        (("cert", "nobody", "--host", "localhost"), "'nobody' is not registered"),
    ],
)
def test_what_is_refused_changes_nothing(
    arguments: tuple[str, ...], said: str, folder: Path
) -> None:
    assert said in run(folder, *arguments, code=1).output
    assert pairs(folder) == [] and not (folder / "hubs").exists()


def test_a_removed_device_is_nobodys_sensor_and_nobodys_hub(folder: Path) -> None:
    with SqliteStore(folder / "fleet.db") as store:
        table = HubTable(store)
        table.assign("hub-1", ["cam-1", "cam-2"])
        table.assign("hub-2", ["cam-1"])
        store.registry.remove("cam-1")
        assert [each.sensor for each in table.assignments()] == ["cam-2"]
        store.registry.remove("hub-1")
        assert table.assignments() == []


def test_the_certificate_by_which_sensors_know_a_hub(folder: Path) -> None:
    made = run(
        folder, "cert", "hub-1", "--host", "hub-1.localhost", "--host", "127.0.0.7", "--json"
    )
    shown = json.loads(made.output)
    place = folder / "hubs" / "hub-1"
    assert shown["folder"] == str(place) and len(shown["pin"]) == 64
    assert sorted(path.name for path in place.iterdir()) == ["ca.der", "cert.der", "key.der"]
    assert (place / "key.der").stat().st_mode & 0o777 == 0o600
    assert (place / "key.der").read_bytes() != (folder / "server" / "key.der").read_bytes()
    leaf = x509.load_der_x509_certificate((place / "cert.der").read_bytes())
    leaf.verify_directly_issued_by(x509.load_der_x509_certificate((place / "ca.der").read_bytes()))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["hub-1.localhost"]
    assert "was left alone" in run(folder, "cert", "hub-1", "--host", "localhost", code=1).output


def test_a_fleet_with_an_issuing_ca_has_no_hubs_of_micropython(tmp_path: Path) -> None:
    create_fleet(tmp_path / "fleet", ("localhost",))
    with SqliteStore(tmp_path / "fleet" / "fleet.db") as store:
        store.add_device("hub-1")
    said = run(tmp_path / "fleet", "cert", "hub-1", "--host", "localhost", code=1).output
    assert "--flat-ca" in said
